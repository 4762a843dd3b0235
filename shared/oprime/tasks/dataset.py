"""The tasks of a run, and the order in which their prompts come."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar, overload

import numpy as np
import structlog

from oprime.core.types import ChatMessage, Task
from oprime.runtime.errors import SettingsError, UnusableInputError
from oprime.runtime.settings import ChainSection, ProseSection, TasksSection
from oprime.tasks.chain import Split, problem
from oprime.tasks.formats import eurus
from oprime.tasks.formats.registry import open_tasks
from oprime.tasks.prose import teacher
from oprime.tasks.prose.rows import task_row
from oprime.tasks.record_file import RecordFile
from oprime.tasks.rows import BadRowError, RawRow, Render, read_task

log = structlog.get_logger()

SHOWN_BAD_ROWS = 10
_T = TypeVar("_T")


class MadeTasks(Sequence[Task]):
    """Problems of a built-in task, made when asked for."""

    def __init__(self, origin: str, size: int, row: Callable[[int], dict[str, Any]]) -> None:
        """`row` makes the row of a place, in the format `eurus`; `origin` is what errors call all of them."""
        self._origin = origin
        self._size = size
        self._row = row

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | Sequence[Task]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._size))]
        place = _place(index, self._size)
        return eurus.READER.read(RawRow(origin=f"{self._origin}, row {place + 1}", value=self._row(place)))


def chain_tasks(settings: ChainSection, split: Split) -> MadeTasks:
    size = settings.train_problems if split == "train" else settings.heldout_problems
    return MadeTasks(f"chain {split}", size, lambda place: eurus.chain_row(problem(split, place, settings.operations), place, split))


def prose_tasks(settings: ProseSection, split: Split) -> MadeTasks:
    size = settings.train_problems if split == "train" else settings.heldout_problems
    return MadeTasks(f"prose {split}", size, lambda place: task_row(teacher.problem(split, place), place, split))


class StoredTasks(Sequence[Task]):
    """Tasks of a file, kept on disk and decoded when asked for."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._records = RecordFile()
        for task in tasks:
            self._records.append(_task_to_bytes(task))

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | Sequence[Task]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return _task_from_bytes(self._records[_place(index, len(self))])


def load_tasks(settings: TasksSection, split: Split, render: Render | None = None) -> Sequence[Task]:
    """The tasks of a split, in the order of their file; empty only for a held-out split that is not configured.

    `render`, where given, is tried on the prompt of each row of a file: one that it refuses makes a bad row. Raises
    SettingsError when there is no usable file, or when it has bad rows and tasks.skip_bad_rows is off.
    """
    if settings.source == "chain":
        return chain_tasks(settings.chain, split)
    if settings.source == "prose":
        return prose_tasks(settings.prose, split)
    location = settings.train if split == "train" else settings.heldout
    setting = f"tasks.{split}"
    if not location:
        if split == "heldout":
            return ()
        raise SettingsError('tasks.train is empty: name a JSONL or parquet file, or set tasks.source = "chain" for the built-in task')
    reader, rows = open_tasks(location, setting, settings.reader)
    convert = partial(read_task, reader=reader, render=render)
    tasks = StoredTasks(usable_rows(rows, convert, f"{setting} = {location}", "tasks.skip_bad_rows", skip=settings.skip_bad_rows))
    log.info("tasks_loaded", split=split, location=location, reader=reader.name, tasks=len(tasks))
    return tasks


def usable_rows(rows: Iterable[RawRow], convert: Callable[[RawRow], _T], origin: str, skip_setting: str, *, skip: bool) -> Iterator[_T]:
    """Convert rows one by one. Bad ones are counted by reason and left out if `skip`; else all of them are read, then refused.

    `skip_setting` names what would leave them out: a setting or an option.

    Raises SettingsError for bad rows that may not be skipped and for a file without a usable row.
    """
    used, shown, reasons = 0, list[str](), Counter[str]()
    for row in rows:
        try:
            converted = convert(row)
        except BadRowError as error:
            reasons[error.reason] += 1
            shown += [str(error)] if len(shown) < SHOWN_BAD_ROWS else []
            continue
        used += 1
        # After the first bad row the file will be refused: go on only to name the others.
        if skip or not reasons:
            yield converted
    _report(origin, shown, reasons, skip_setting, skip=skip)
    if not used:
        raise SettingsError(f"{origin} has no usable row: give a file with at least one")


def _report(origin: str, shown: Sequence[str], reasons: Counter[str], skip_setting: str, *, skip: bool) -> None:
    if not reasons:
        return
    number = sum(reasons.values())
    if skip:
        log.warning("bad_rows_skipped", location=origin, rows=number, reasons=dict(reasons), first=shown[0])
        return
    how = skip_setting if skip_setting.startswith("--") else f"{skip_setting} = true"
    more = f"\n  and {number - len(shown)} more ({_counted(reasons)})" if number > len(shown) else ""
    raise SettingsError(
        f"{origin} has {number} bad {'row' if number == 1 else 'rows'}; correct them, or leave them out with {how}:\n  "
        + "\n  ".join(shown)
        + more
    )


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(f"{number} x {reason}" for reason, number in reasons.most_common())


class PromptOrder:
    """A seeded order of prompts, newly shuffled in each epoch. A position alone says which prompt comes there."""

    def __init__(self, seed: int, size: int) -> None:
        if size < 1:
            raise SettingsError("there is no task to train on: the training split is empty")
        self._seed = seed
        self._size = size
        self._epochs: dict[int, np.ndarray] = {}

    def index(self, position: int) -> int:
        """Index of the task at a position, counted from 0 over all epochs."""
        epoch, place = divmod(position, self._size)
        return int(self._permutation(epoch)[place])

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            if len(self._epochs) > 1:
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[epoch] = np.random.Generator(np.random.PCG64([self._seed, epoch])).permutation(self._size)
        return self._epochs[epoch]


class PromptFeed:
    """The task at each position of the order; None where its prompt is too long or the chat template refuses it."""

    def __init__(self, tasks: Sequence[Task], order: PromptOrder, render: Render, max_prompt_tokens: int) -> None:
        self._tasks = tasks
        self._order = order
        self._render = render
        self._limit = max_prompt_tokens
        self._passed_over_in_turn = 0

    def __call__(self, position: int) -> Task | None:
        """Raises SettingsError when no prompt of the whole data set can be sampled from."""
        index = self._order.index(position)
        task = self._tasks[index]
        problem = prompt_problem(task, self._render, self._limit)
        if not problem:
            self._passed_over_in_turn = 0
            return task
        log.warning("prompt_passed_over", position=position, task=index, reason=problem)
        self._passed_over_in_turn += 1
        if self._passed_over_in_turn >= 2 * len(self._tasks):
            raise SettingsError(f"none of the {len(self._tasks)} training prompts can be sampled from; of the last one, {problem}")
        return None


def prompt_problem(task: Task, render: Render, max_prompt_tokens: int) -> str:
    """Why no response can be sampled to a task's prompt; empty where one can."""
    try:
        tokens = len(render(task.messages))
    except UnusableInputError as error:
        return f"{error}; correct or remove the row"
    if tokens > max_prompt_tokens:
        return (
            f"the prompt has {tokens} tokens, more than sampling.max_prompt_tokens = {max_prompt_tokens}: raise the limit or remove the row"
        )
    return ""


def require_prompts_fit(tasks: Sequence[Task], render: Render, max_prompt_tokens: int, *, split: Split) -> None:
    """Refuse a split with a prompt that cannot be sampled from. For small splits: renders every prompt. Raises SettingsError."""
    for place, task in enumerate(tasks):
        if problem := prompt_problem(task, render, max_prompt_tokens):
            raise SettingsError(f"{split} task {place} ({task.messages[-1].content[:40]!r}...): {problem}")


def _place(index: int, size: int) -> int:
    if not -size <= index < size:
        raise IndexError(f"task {index} of {size}")
    return index % size


def _task_to_bytes(task: Task) -> bytes:
    messages = [[message.role, message.content] for message in task.messages]
    return json.dumps(
        [messages, task.verifier, task.ground_truth, task.data_source, dict(task.verifier_options)], ensure_ascii=False
    ).encode()


def _task_from_bytes(data: bytes) -> Task:
    messages, verifier, ground_truth, data_source, verifier_options = json.loads(data)
    return Task(
        messages=tuple(ChatMessage(role=role, content=content) for role, content in messages),
        verifier=verifier,
        ground_truth=ground_truth,
        data_source=data_source,
        verifier_options=verifier_options,
    )
