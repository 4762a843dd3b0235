"""What `oprime prm eval` measures, from files to numbers."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from oprime.core.types import ChatMessage
from oprime.lm.responses import EncodedResponse
from oprime.runtime.errors import UnusableInputError
from oprime.tasks.response_formats.registry import open_responses
from oprime.tasks.responses import LabelledResponses, read_responses
from oprime.tasks.step_records import LabelledSteps, read_steps
from oprime_cli.console import count, duration, say
from oprime_cli.prm_eval import best_of
from oprime_cli.prm_eval.best_of import Candidates, best_of_n
from oprime_cli.prm_eval.every_step import every_step
from oprime_cli.prm_eval.first_errors import first_errors
from oprime_cli.prm_eval.models import LocalPrm, ResponseScores
from oprime_cli.prm_eval.step_scores import PROCESS, WAYS, ScoredSteps, step_scores, steps_of_tokens

SAY_EVERY_S = 5.0
RANKINGS = ("sum", "mean", "min_step")
"""How a response's score comes from process rewards: their sum, their mean, or the smallest sum over one of its steps."""

UNCLASSED, ALL_CLASSES = "without class", "all classes"
RowT = TypeVar("RowT")
Answer = Callable[[str], str]
"""What a response answers; empty for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One subset with its numbers."""

    subset: str
    sizes: Mapping[str, int]
    ways: Mapping[str, Mapping[str, Any]]
    """By the way in which steps are scored, or responses are chosen."""


def judge_first_errors(prm: LocalPrm, files: Sequence[str], separator: str, limit: int) -> list[Judged]:
    """ProcessBench: F1 of naming the first wrong step, with a fitted threshold and with 0, on the same half of each file."""
    found: list[Judged] = []
    for file in files:
        solutions = _spread(read_steps(file, "FILE"), limit)
        scored = score_solutions(prm, solutions, separator, Path(file).stem)
        labels = [solution.wrong_steps[0] if solution.wrong_steps else -1 for solution in solutions]
        wrong = sum(label >= 0 for label in labels)
        sizes = {"wrong": wrong, "right": len(labels) - wrong, "cut": sum(one.cut for one in scored)}
        ways = _at_both_thresholds(scored, partial(first_errors, first_wrong=labels), file)
        found.append(Judged(subset=Path(file).stem, sizes=sizes, ways=ways))
    return found


def judge_every_step(prm: LocalPrm, files: Sequence[str], separator: str, limit: int) -> list[Judged]:
    """PRMBench: F1 of calling steps right and wrong, by class of solutions, with a fitted threshold and with 0."""
    solutions = [solution for file in files for solution in _spread(read_steps(file, "FILE"), limit)]
    scored = score_solutions(prm, solutions, separator, "PRMBench")
    kinds = dict.fromkeys(solution.kind or UNCLASSED for solution in solutions)
    found: list[Judged] = []
    for kind in (*kinds, *([ALL_CLASSES] if len(kinds) > 1 else [])):
        places = [place for place, solution in enumerate(solutions) if kind in (ALL_CLASSES, solution.kind or UNCLASSED)]
        wrong, those = [solutions[place].wrong_steps for place in places], [scored[place] for place in places]
        sizes = {"solutions": len(places), "wrong steps": sum(map(len, wrong)), "cut": sum(one.cut for one in those)}
        found.append(Judged(subset=kind, sizes=sizes, ways=_at_both_thresholds(those, partial(every_step, wrong_steps=wrong), kind)))
    return found


def _at_both_thresholds(scored: Sequence[ScoredSteps], measure: Callable[..., Any], subset: str) -> dict[str, dict[str, Any]]:
    """What `measure` says of each way to score steps: with a threshold of its choice, and of rewards with 0 as well."""
    ways: dict[str, dict[str, Any]] = {}
    try:
        for way in WAYS:
            scores = [one.scores[way] for one in scored]
            ways[way] = {"fitted": asdict(measure(scores))}
            if way in PROCESS:
                ways[way]["at_zero"] = asdict(measure(scores, threshold=0.0))
    except ValueError as error:
        raise UnusableInputError(f"{subset}: {error}") from error
    return ways


def judge_best_of(prm: LocalPrm, files: Sequence[str], separator: str, limit: int, reader: str, answer: Answer) -> list[Judged]:
    """Best of N: the mean outcome of what the PRM ranks first, beside the first response, the majority's and any right one (pass@N)."""
    found: list[Judged] = []
    for file in files:
        prompts = _prompts(file, reader, limit)
        candidates = _candidates(prm, prompts, separator, answer, Path(file).stem)
        most = max(map(len, candidates))
        ways: dict[str, dict[str, Any]] = {}
        for n in (size for size in (1, 2, 4, 8, 16, 32, 64, 128, 256) if size <= most):
            for name, choose in _strategies().items():
                ways.setdefault(name, {})[str(n)] = best_of_n(candidates, n, choose)
        sizes = {"prompts": len(prompts), "responses": sum(map(len, candidates))}
        found.append(Judged(subset=Path(file).stem, sizes=sizes, ways=ways))
    return found


def score_solutions(prm: LocalPrm, solutions: Sequence[LabelledSteps], separator: str, name: str) -> list[ScoredSteps]:
    """Scores of every step, in the order given."""
    encoded = [
        tokens
        for one in solutions
        for tokens in prm.encoder.encode((ChatMessage(role="user", content=one.problem),), [separator.join(one.steps)])
    ]
    scores = prm.score(encoded, Progress(name, len(encoded)))
    return [_scored(one, tokens, found, separator) for one, tokens, found in zip(solutions, encoded, scores, strict=True)]


def _scored(solution: LabelledSteps, tokens: EncodedResponse, found: ResponseScores, separator: str) -> ScoredSteps:
    owners = steps_of_tokens(_text_ends(tokens), solution.steps, separator)
    known = len(owners)
    return step_scores(
        found.process_rewards[:known], found.reference_logprobs[:known], found.prm_logprobs[:known], owners, len(solution.steps)
    )


def _text_ends(tokens: EncodedResponse) -> tuple[int, ...]:
    """How many characters of the text there are up to the end of each of its tokens; the end token is none of them."""
    return tuple(end for _, end in tokens.spans[:-1])


def _prompts(file: str, reader_name: str, limit: int) -> list[LabelledResponses]:
    """Prompts with all of their responses: rows with the same prompt are one."""
    reader, rows = open_responses(file, "FILE", reader_name, "--reader")
    merged: dict[tuple[ChatMessage, ...], list[LabelledResponses]] = {}
    for row in rows:
        found = read_responses(row, reader)
        merged.setdefault(found.messages, []).append(found)
    prompts = (
        LabelledResponses(
            messages=messages,
            responses=tuple(text for part in parts for text in part.responses),
            outcome_rewards=tuple(outcome for part in parts for outcome in part.outcome_rewards),
            answers=tuple(text for part in parts for text in part.answers),
        )
        for messages, parts in merged.items()
    )
    return _spread(prompts, limit)


def _candidates(prm: LocalPrm, prompts: Sequence[LabelledResponses], separator: str, answer: Answer, name: str) -> list[Candidates]:
    encoded = [tokens for prompt in prompts for tokens in prm.encoder.encode(prompt.messages, prompt.responses)]
    scores = iter(prm.score(encoded, Progress(name, len(encoded))))
    tokens = iter(encoded)
    found: list[Candidates] = []
    for prompt in prompts:
        ranked = [ranked_response(response, next(tokens), next(scores), separator) for response in prompt.responses]
        found.append(
            Candidates(
                outcome_rewards=prompt.outcome_rewards,
                answers=prompt.answers or tuple(answer(response) for response in prompt.responses),
                scores={way: [one[way] for one in ranked] for way in RANKINGS},
            )
        )
    return found


def ranked_response(response: str, tokens: EncodedResponse, found: ResponseScores, separator: str) -> dict[str, float]:
    """Scores of a whole response in all RANKINGS; as bad as can be where the model's context does not hold it."""
    rewards = found.process_rewards
    if len(rewards) < len(tokens.response_ids):
        return dict.fromkeys(RANKINGS, -np.inf)
    steps = response.split(separator)
    owners = np.append(steps_of_tokens(_text_ends(tokens), steps, separator), len(steps) - 1)
    by_step = np.bincount(owners, weights=rewards, minlength=len(steps))
    return {"sum": float(rewards.sum()), "mean": float(rewards.mean()), "min_step": float(by_step.min())}


def _strategies() -> dict[str, best_of.Choose]:
    ranked = {f"prm_{way}": best_of.best_scored(way) for way in RANKINGS}
    voted = {f"votes_{way}": best_of.weighted_majority(way) for way in RANKINGS}
    return {"first": best_of.first, "majority": best_of.majority, **ranked, **voted, "pass": best_of.any_right}


def _spread(rows: Iterable[RowT], limit: int) -> list[RowT]:
    """At most `limit` rows, evenly spread: files may be sorted. All where it is 0."""
    found = list(rows)
    return [found[len(found) * place // limit] for place in range(limit)] if 0 < limit < len(found) else found


class Progress:
    """Says every few seconds how many responses are scored."""

    def __init__(self, name: str, total: int) -> None:
        self._name = name
        self._total = total
        self._began = self._said = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._said >= SAY_EVERY_S or done == self._total:
            self._said = now
            say(f"  {self._name}: {count(done)} of {count(self._total)} responses, {duration(now - self._began)}")
