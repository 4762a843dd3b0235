"""Judge a run's stored rollouts once more, as its settings and the verifier are today, and show what changed."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from oprime.core.verification import Outcome, Verdict
from oprime.runtime.errors import UnusableInputError
from oprime.runtime.whole_files import whole_file
from oprime_cli.in_order import in_order
from oprime_cli.output_files import check_outputs
from oprime_cli.overrides import verifier_section
from oprime_cli.verifying.judge_file import judge
from oprime_verifier.offer import Offer

if TYPE_CHECKING:
    from oprime.core.types import Task
    from oprime_cli.run_config import RunConfig

SAMPLES = "samples"
SHOWN_CHARS = 200
AT_ONCE = 16
"""Rollouts under way for each worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A rollout of RUN/samples."""

    step: int
    group_id: int
    index: int
    response: str
    reward: float
    """The outcome reward that it was trained with."""


async def judge_again(place: Path, out: Path | None, sink: IO[str], config: Path | None, overrides: Sequence[str], *, jobs: int) -> int:
    """Write a row for each rollout whose reward is another today to `out` or `sink`, and how many there are to `sink`.

    `place` is a run's folder or one file of its samples; `config` and `overrides` stand for the run's own verifier settings. Returns the
    exit code: 0 when all could be judged. Raises UnusableInputError, SettingsError.
    """
    folder, files = _files(place)
    check_outputs({f"{path.parent.name}/{path.name}": path for path in files}, {"--out": out})
    run = _settings(folder)
    tasks = _Tasks(run)
    section = verifier_section(config or folder / "config.toml", [*overrides, f"verifier.workers={jobs}"])
    seen: Counter[str] = Counter()
    offer = Offer(section)
    await offer.start()
    try:
        async with AsyncExitStack() as stack:
            write = stack.enter_context(_opened(out, sink))
            outcomes = in_order(_rollouts(files), partial(_judged, offer, tasks), at_once=AT_ONCE * jobs)
            async for rollout, outcome in await stack.enter_async_context(aclosing(outcomes)):
                seen[_kind(rollout, outcome)] += 1
                if outcome.score != rollout.reward:
                    write(json.dumps(_row(rollout, outcome), ensure_ascii=False) + "\n")
    finally:
        await offer.close()
    sink.write(_summary(seen) + "\n")
    return 0 if not (seen["failed"] or seen["cannot be judged"]) else 1


@contextmanager
def _opened(out: Path | None, sink: IO[str]) -> Iterator[Callable[[str], object]]:
    """Writes to `sink`, or to `out`, which stays as it was unless all of it is written. Raises UnusableInputError where it cannot be."""
    if out is None:
        yield sink.write
        return
    try:
        with whole_file(out) as stream:
            yield lambda text: stream.write(text.encode())
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UnusableInputError(f"--out {out} cannot be written: {error.strerror or error}") from error


async def _judged(offer: Offer, tasks: "_Tasks", rollout: Stored) -> Outcome:
    return await judge(offer, tasks.of(rollout.group_id).verification(rollout.response))


def _files(place: Path) -> tuple[Path, list[Path]]:
    if place.is_dir():
        files = sorted((place / SAMPLES).glob("step-*.jsonl"))
        if not files:
            raise UnusableInputError(
                f"{place} has no {SAMPLES}/step-*.jsonl: name a run's folder (prm.sampled_groups keeps some of each step)"
            )
        return place, files
    if not place.is_file() or place.parent.name != SAMPLES:
        raise UnusableInputError(f"{place} is neither a run's folder nor a file RUN/{SAMPLES}/step-NNNNNN.jsonl")
    return place.resolve().parent.parent, [place]


def _settings(folder: Path) -> "RunConfig":
    from oprime_cli.overrides import load_config

    config = folder / "config.toml"
    if not config.exists():
        raise UnusableInputError(f"{folder} has no config.toml, which names the tasks of its rollouts")
    return load_config(config)


class _Tasks:
    """The task of each group of a run."""

    def __init__(self, run: "RunConfig") -> None:
        from oprime.tasks.dataset import PromptOrder, load_tasks

        self._tasks = load_tasks(run.tasks, "train")
        self._order = PromptOrder(run.run.seed, len(self._tasks))

    def of(self, group_id: int) -> "Task":
        return self._tasks[self._order.index(group_id)]


def _rollouts(files: Iterable[Path]) -> Iterator[Stored]:
    for path in files:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield from _of_group(json.loads(line))
                except (ValueError, KeyError, TypeError) as error:
                    raise UnusableInputError(f"{path}, line {number} is no group of a run's samples ({error})") from error


def _of_group(row: dict[str, Any]) -> Iterator[Stored]:
    for rollout in row["rollouts"]:
        # Samples of older runs have the tokens alone.
        response = rollout["response"] if "response" in rollout else "".join(rollout["tokens"])
        yield Stored(
            step=row["step"], group_id=row["group_id"], index=rollout["index"], response=response, reward=float(rollout["outcome_reward"])
        )


def _kind(rollout: Stored, outcome: Outcome) -> str:
    if outcome.verdict is Verdict.INFRA_ERROR:
        return "failed"
    if outcome.verdict is Verdict.BAD_TASK:
        return "cannot be judged"
    if outcome.score is None:
        return "without a score now"
    if outcome.score == rollout.reward:
        return "as before"
    return "higher" if outcome.score > rollout.reward else "lower"


def _row(rollout: Stored, outcome: Outcome) -> dict[str, Any]:
    return {
        "step": rollout.step,
        "group_id": rollout.group_id,
        "index": rollout.index,
        "before": rollout.reward,
        "score": outcome.score,
        "verdict": outcome.verdict.value,
        "extracted": outcome.answer[:SHOWN_CHARS],
        "reason": outcome.reason,
    }


def _summary(seen: Counter[str]) -> str:
    kinds = ("as before", "higher", "lower", "without a score now", "cannot be judged", "failed")
    return f"{seen.total()} rollouts: " + ", ".join(f"{seen[kind]} {kind}" for kind in kinds if seen[kind])
