"""What a benchmark is: which file its problems are in, how they are asked and decoded, and who grades the responses."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from oprime.core.types import ChatMessage, Task
from oprime.core.verification import VerificationRequest
from oprime.tasks.rows import BadRowError, RawRow
from oprime.tasks.sources.eurus_sources import MATH_SUFFIX
from oprime.tasks.sources.question import Question

GREEDY_MAX_TOKENS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How responses are sampled."""

    temperature: float = 0.0
    """0 takes the most probable token each time."""
    top_p: float = 1.0
    max_tokens: int = GREEDY_MAX_TOKENS
    stop: tuple[str, ...] = ()
    """A response ends before the first of these texts."""

    def cut(self, text: str) -> str:
        """The text up to the first stop text."""
        places = [place for stop in self.stop if (place := text.find(stop)) >= 0]
        return text[: min(places)] if places else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem of a benchmark or of a file of tasks."""

    id: str
    """Unique in its benchmark; part of every record."""
    index: int
    """Place in the file, counted from 0 over the problems that are asked. Seeds follow from it."""
    task: Task
    subset: str = ""
    """What results are also given by, such as the source of a task; empty for none."""


PaperRequest = Callable[[Task, str], VerificationRequest]
"""Asks for the verdict that the paper's own evaluation gives a response to a task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One benchmark. Each is a file in `benchmarks/`."""

    name: str
    """What `--on` and `run.evaluate_on` call it."""
    title: str
    version: int
    """Raised whenever prompts, golds or decoding change, so that results of different versions are never compared."""
    files: tuple[str, ...]
    """Names that its file goes by, looked for in this order."""
    source: str
    """Where a person gets the file."""
    read: Callable[[RawRow], "Asked | None"]
    """The problem in a row; None for a row of another benchmark in the same file. Raises BadRowError."""
    decoding: Decoding
    """The paper's."""
    samples: int = 1
    """Samples per problem in the paper."""
    paper: PaperRequest | None = None
    """The paper's grading, where it differs from the verifier's."""
    paper_rules: str = ""
    """What it does otherwise, in a few words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked(Question):
    """A problem as a benchmark's file has it. Its text is the whole turn of the user."""

    id: str
    subset: str = ""


def math_problem(published: Question, name: str, row: RawRow, *, id: str, subset: str = "") -> Asked:
    """A mathematical question of a data set as a problem of the benchmark `name`. Raises BadRowError for one without an answer."""
    if not published.ground_truth:
        raise BadRowError(row, "answer", "missing answer", "must say what the right answer is; is it this benchmark's file?")
    return Asked(
        id=id, text=published.text + MATH_SUFFIX, ground_truth=published.ground_truth, ability="math", data_source=name, subset=subset
    )


def problem_of(asked: Asked, index: int, *, system: str) -> Problem:
    """With the system turn before it, where there is one."""
    turns = [ChatMessage(role="system", content=system)] if system else []
    task = Task(
        messages=(*turns, ChatMessage(role="user", content=asked.text)),
        verifier=asked.ability,
        ground_truth=asked.ground_truth,
        data_source=asked.data_source,
        verifier_options=asked.verifier_options,
    )
    return Problem(id=asked.id, index=index, task=task, subset=asked.subset)


def prompts_hash(problems: Sequence[Problem]) -> str:
    """Equal where the same conversations are asked in the same order."""
    return _hash([[turn.role, turn.content] for turn in problem.task.messages] for problem in problems)


def problems_hash(problems: Sequence[Problem]) -> str:
    """Equal where problems of the same ids have the same golds and graders, however they are asked."""
    return _hash([one.id, one.task.verifier, one.task.ground_truth, dict(one.task.verifier_options)] for one in problems)


def _hash(values: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()
