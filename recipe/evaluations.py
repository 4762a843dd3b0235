"""The recipe's measurements as evaluations of its run, as `oprime eval` keeps them (docs/evaluation.md).

So the dashboard, the run's report and `oprime eval compare` show them, and `oprime eval RUN@STEP` goes on with their samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from oprime.core.types import rollout_seed
from oprime.evaluation.benchmark import Decoding
from oprime.evaluation.evaluate import Judging
from oprime.evaluation.folder import EvaluationFolder
from oprime.evaluation.load import ProblemSet, load_task_file
from oprime.evaluation.of_run import EVALUATIONS
from oprime.evaluation.results import concluded, usual_ks
from oprime.evaluation.samples import Grade, Sample
from oprime.tasks.prose.problem import KINDS, Kind, Problem
from oprime.tasks.prose.rows import task_row
from oprime_cli.evaluating.session import sole_evaluator
from oprime_cli.evaluating.targets import step_name
from recipe.command import read_lines, write_lines
from recipe.sampling import ANSWERS, MOST_RESPONSE_TOKENS, SEED, VERDICTS

NAMES: Mapping[Kind, str] = {"math": "word-problems", "code": "functions"}
"""What an evaluation calls the problems of a kind."""
DECODING = Decoding(temperature=1.0, max_tokens=MOST_RESPONSE_TOKENS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Responses to the held-out problems that were judged by `oprime verify`."""

    step: int
    """Of the run, after which they were sampled."""
    folder: Path
    """Where responses and verdicts are."""
    judges: str
    """Who judged them."""


async def write_evaluation(run: Path, measured: Measurement, asked: Mapping[Kind, ProblemSet], judging: Judging) -> None:
    """Write samples and results into the folder of a run, in place of what it has of these problems. `judging` tells equal answers."""
    folder = EvaluationFolder(run / EVALUATIONS / step_name(measured.step))
    identity = {"run": run.name, "step": measured.step}
    target = {"kind": "run", "name": f"{run.name}@{measured.step}", **identity}
    with sole_evaluator(folder):
        for kind, problems in asked.items():
            samples = samples_of(measured, kind, problems.samples)
            file = folder.samples(problems.name, problems.settings(identity, SEED), fresh=True)
            try:
                for sample in samples:
                    file.append(sample)
            finally:
                file.close()
            ks = usual_ks(problems.samples)
            results, result = await concluded(problems, target, samples, judging, ks=ks, seed=SEED, judges=measured.judges)
            folder.write(problems.name, result, results)


def problem_sets(problems: Sequence[Problem], responses: int, folder: Path) -> dict[Kind, ProblemSet]:
    """The held-out problems of each kind, with `responses` to each, from files of tasks that this writes."""
    found: dict[Kind, ProblemSet] = {}
    for kind in KINDS:
        file = folder / f"{NAMES[kind]}.jsonl"
        write_lines(file, (task_row(posed, place, "heldout") for place, posed in enumerate(problems) if posed.kind == kind))
        found[kind] = replace(load_task_file(str(file), "--tasks", "", DECODING), samples=responses)
    return found


def samples_of(measured: Measurement, kind: Kind, responses: int) -> list[Sample]:
    """The samples of the problems of one kind, of which there are `responses` each, in the order of the problems."""
    rows = zip(read_lines(measured.folder / ANSWERS), read_lines(measured.folder / VERDICTS), strict=True)
    of_kind = [(place, row, verdict) for place, (row, verdict) in enumerate(rows) if row["kind"] == kind]
    return [
        Sample(
            problem=str(number // responses),
            sample=place % responses,
            seed=rollout_seed(SEED, place // responses, place % responses),
            response=row["response"],
            # Lengths were not recorded.
            finish_reason="stop",
            tokens=0,
            grade=Grade(verdict=verdict["verdict"], score=verdict["score"], answer=verdict["extracted"], reason=verdict["reason"]),
            judges=measured.judges,
        )
        for number, (place, row, verdict) in enumerate(of_kind)
    ]
