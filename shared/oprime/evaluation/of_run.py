"""The benchmarks that a run's settings name (`run.evaluate_on`): problems, decoding, and where results go."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from oprime.evaluation.benchmark import Decoding
from oprime.evaluation.benchmarks.registry import BENCHMARKS, benchmark_named
from oprime.evaluation.load import DataFiles, ProblemSet, load_benchmark, load_task_file
from oprime.runtime.errors import SettingsError
from oprime.runtime.settings import RunSection, SamplingSection
from oprime.tasks.actions import short_prompt

EVALUATIONS = "evaluations"
"""Folder of a run for evaluations."""
PAPER_TEMPERATURE, PAPER_TOP_P = 0.3, 0.95
"""How the authors sample where they report avg@16; the decoding of their tables is greedy."""
SETTING, DATA_SETTING = "run.evaluate_on", "run.evaluate_on_data"


def benchmarks_of_run(run: RunSection, sampling: SamplingSection) -> list[ProblemSet]:
    """What a run is evaluated on, decoded as its benchmarks are, within the run's limits.

    Raises SettingsError for names and files that do not exist, UnusableInputError for rows that cannot be used.
    """
    files = DataFiles(run.evaluate_on_data)
    found = [_problem_set(name, files) for name in run.evaluate_on]
    names = [one.name for one in found]
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise SettingsError(f"{SETTING} names {twice[0]} twice: leave one out, or rename a file")
    most = sampling.max_response_tokens
    return [
        replace(
            one,
            samples=run.evaluate_on_samples,
            decoding=decoding_for(one.decoding, run.evaluate_on_samples, max_tokens=min(most, one.decoding.max_tokens)),
        )
        for one in found
    ]


def decoding_for(decoding: Decoding, samples: int, *, max_tokens: int) -> Decoding:
    """A benchmark's decoding; several samples of a greedy one are sampled as the paper does."""
    if samples == 1 or decoding.temperature > 0:
        return replace(decoding, max_tokens=max_tokens)
    return replace(decoding, max_tokens=max_tokens, temperature=PAPER_TEMPERATURE, top_p=PAPER_TOP_P)


def during_training(step: int) -> str:
    """Folder of what a run finds out of itself after a step; `oprime eval RUN@STEP` has folders of its own."""
    return f"training-{step:06d}"


def step_of(folder: str) -> int | None:
    """Of the name of such a folder."""
    kind, _, number = folder.partition("-")
    return int(number) if kind in ("training", "step") and number.isdecimal() else None


def later_evaluations(run_folder: Path, step: int) -> Sequence[Path]:
    """Folders of evaluations after later steps than `step`."""
    folder = run_folder / EVALUATIONS
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if (after := step_of(path.name)) is not None and after > step]


def _problem_set(name: str, files: DataFiles) -> ProblemSet:
    if name in BENCHMARKS or "." not in name:
        return load_benchmark(benchmark_named(name, SETTING), files, system=short_prompt())
    return load_task_file(name, SETTING, "", Decoding())
