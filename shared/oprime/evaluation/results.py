"""From samples to what is reported: avg@n, pass@k, maj@k with intervals, by subset, and where the paper's grading says otherwise."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from oprime.core.sample_statistics import estimate, majority_at_k, paired_difference, pass_at_k
from oprime.core.verification import Verdict, VerificationRequest
from oprime.evaluation.benchmark import Problem
from oprime.evaluation.evaluate import Judging
from oprime.evaluation.load import ProblemSet
from oprime.evaluation.samples import NOT_ASKED, Grade, Sample

UNJUDGED = frozenset({Verdict.UNDECIDED, Verdict.BAD_TASK, Verdict.INFRA_ERROR, Verdict.NOT_APPLICABLE, NOT_ASKED})
VOTED = frozenset({"math", "exact", "chain"})
"""Verifiers whose answers can be told to be equal; programs cannot."""
SHOWN = 200
"""Unjudged samples, and differences to the paper's grading, that a result lists at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemResult:
    """One problem with all of its samples."""

    problem: str
    subset: str
    scores: tuple[float, ...]
    """One per sample, 0 where it could not be judged."""
    paper_scores: tuple[float, ...] = ()
    """By the paper's rules; empty where they are the same."""
    answers: tuple[int | None, ...] = ()
    """Which answer each sample gives: equal numbers for equal answers. Empty where answers cannot be compared."""

    @property
    def right(self) -> int:
        return sum(score == 1.0 for score in self.scores)

    def metric(self, name: str) -> float:
        """The value of `avg@n`, `pass@k` or `maj@k` for this problem. Raises ValueError for others."""
        kind, _, number = name.partition("@")
        if kind == "avg":
            return sum(self.scores) / len(self.scores)
        if kind == "pass":
            return pass_at_k(len(self.scores), self.right, int(number))
        if kind == "maj":
            return majority_at_k(self.answers, self.scores, int(number))
        raise ValueError(f"{name} is no metric: avg@n, pass@k and maj@k are")


async def problem_results(problems: Sequence[Problem], samples: Sequence[Sample], judging: Judging) -> list[ProblemResult]:
    """In the order of the problems. `judging` tells equal answers."""
    of_problem: dict[str, list[Sample]] = {}
    for one in sorted(samples, key=lambda sample: sample.sample):
        of_problem.setdefault(one.problem, []).append(one)
    return list(await asyncio.gather(*(_problem_result(problem, of_problem[problem.id], judging) for problem in problems)))


async def _problem_result(problem: Problem, samples: Sequence[Sample], judging: Judging) -> ProblemResult:
    compared = problem.task.verifier in VOTED and len(samples) > 1
    return ProblemResult(
        problem=problem.id,
        subset=problem.subset,
        scores=tuple(one.grade.points for one in samples),
        paper_scores=tuple(one.paper.points for one in samples if one.paper is not None),
        answers=await _same_answers(problem, samples, judging) if compared else (),
    )


async def _same_answers(problem: Problem, samples: Sequence[Sample], judging: Judging) -> tuple[int | None, ...]:
    """A number for each sample's answer. Answers are equal if their text is, or if the verifier takes one for the other as the gold."""
    texts = list(dict.fromkeys(one.grade.answer for one in samples if one.grade.answer))
    numbers: dict[str, int] = {}
    for text in texts:
        numbers[text] = await _number_of(text, numbers, problem, judging)
    return tuple(numbers.get(one.grade.answer) for one in samples)


async def _number_of(text: str, known: Mapping[str, int], problem: Problem, judging: Judging) -> int:
    firsts = {number: answer for answer, number in reversed(list(known.items()))}
    options = {**problem.task.verifier_options, **({"bare": True} if problem.task.verifier == "math" else {})}
    for number, answer in sorted(firsts.items()):
        request = VerificationRequest(kind=problem.task.verifier, response=_written(text, problem), golds=(answer,), options=options)
        if (await judging.judge(request)).verdict is Verdict.CORRECT:
            return number
    return len(firsts)


def _written(answer: str, problem: Problem) -> str:
    """An answer as a response of its own."""
    return f"#{answer}" if problem.task.verifier == "chain" else answer


def usual_ks(samples: int) -> list[int]:
    """The k that are reported of so many samples where nobody asks for others: the powers of 2 up to their number, and that number."""
    return sorted({1 << power for power in range(samples.bit_length())} | {samples})


def metric_names(samples: int, ks: Sequence[int], *, voted: bool) -> list[str]:
    """avg@n, then pass@k and maj@k of each k that there are samples for; pass@1 and maj@1 are avg@n again."""
    names = [f"avg@{samples}"]
    for k in ks:
        if 1 < k <= samples:
            names += [f"pass@{k}", *([f"maj@{k}"] if voted else [])]
    return names


def scores_of(results: Sequence[ProblemResult], ks: Sequence[int], seed: int) -> dict[str, Any]:
    """The scores of these problems by name, with intervals; maj@k where answers of all of them can be compared."""
    names = metric_names(len(results[0].scores), ks, voted=all(one.answers for one in results))
    return {name: asdict(estimate([one.metric(name) for one in results], seed=seed)) for name in names}


def result_of(results: Sequence[ProblemResult], samples: Sequence[Sample], ks: Sequence[int], seed: int) -> dict[str, Any]:
    """The numbers of one benchmark, for JSON."""
    found: dict[str, Any] = {"scores": scores_of(results, ks, seed)}
    subsets = sorted({one.subset for one in results if one.subset})
    if len(subsets) > 1:
        parts = {name: [one for one in results if one.subset == name] for name in subsets}
        found["subsets"] = {name: {"problems": len(part), "scores": scores_of(part, ks, seed)} for name, part in parts.items()}
    made = [one for one in samples if one.grade.verdict != NOT_ASKED]
    found["samples"] = {
        "count": len(samples),
        "verdicts": dict(Counter(one.grade.verdict for one in samples).most_common()),
        "cut": sum(one.finish_reason == "length" for one in made),
        "mean_tokens": round(sum(one.tokens for one in made) / len(made), 1) if made else 0.0,
    }
    found["unjudged"] = _unjudged(samples)
    if results[0].paper_scores:
        found["paper"] = _paper(results, samples, seed)
    return found


async def concluded(
    asked: ProblemSet,
    target: Mapping[str, Any],
    samples: Sequence[Sample],
    judging: Judging,
    *,
    ks: Sequence[int],
    seed: int,
    judges: str,
) -> tuple[list[ProblemResult], dict[str, Any]]:
    """What a benchmark's folder ends with, from all of its samples: its problems, and its result with what was asked of which target.

    `judging` tells equal answers, `judges` names who judged the samples.
    """
    problems = await problem_results(asked.problems, samples, judging)
    head = {"target": dict(target), **asked.described(), "samples_per_problem": asked.samples, "seed": seed, "judges": judges}
    return problems, {**head, **result_of(problems, samples, ks, seed)}


def _unjudged(samples: Sequence[Sample]) -> dict[str, Any]:
    bad = [one for one in samples if one.grade.verdict in UNJUDGED]
    listed = [_row(one, one.grade) for one in bad[:SHOWN]]
    return {"count": len(bad), "listed": listed}


def _paper(results: Sequence[ProblemResult], samples: Sequence[Sample], seed: int) -> dict[str, Any]:
    """avg@n by the paper's rules, what it differs by, and on which samples."""
    theirs = [sum(one.paper_scores) / len(one.paper_scores) for one in results]
    ours = [one.metric("avg") for one in results]
    different = [one for one in samples if one.paper is not None and one.paper.points != one.grade.points]
    return {
        "score": asdict(estimate(theirs, seed=seed)),
        "difference": asdict(paired_difference(ours, theirs, seed=seed)),
        "differing_samples": len(different),
        "listed": [
            {**_row(one, one.grade), "paper_verdict": one.paper.verdict, "paper_answer": one.paper.answer}
            for one in different[:SHOWN]
            if one.paper is not None
        ],
    }


def _row(sample: Sample, grade: Grade) -> dict[str, Any]:
    return {
        "problem": sample.problem,
        "sample": sample.sample,
        "verdict": grade.verdict,
        "answer": grade.answer,
        "reason": grade.reason,
    }
