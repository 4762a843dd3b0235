"""What the recipe reports, from judged responses to numbers. Pure."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from oprime.core.sample_statistics import Estimate, estimate, paired_difference
from oprime.tasks.actions import trace_actions
from oprime.tasks.prose.problem import KINDS, Kind
from oprime.tasks.prose.tokenizer import ANSWERS, ASKS

BEST_OF = ("first", "majority", "prm_sum", "prm_mean", "prm_min_step", "pass")
"""Ways of `oprime prm eval best-of` that the table shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One problem with its responses and their scores, right 1 and wrong 0."""

    kind: Kind
    prompt: str
    responses: tuple[str, ...]
    scores: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        return sum(self.scores) / len(self.scores)

    @property
    def in_form(self) -> float:
        """Share of the responses that keep the action form."""
        return sum(trace_actions(response).keeps_form for response in self.responses) / len(self.responses)


def accuracies(before: Sequence[Judged], after: Sequence[Judged]) -> dict[str, dict[str, Any]]:
    """By kind: accuracy and action form before and after, and the gain, all with intervals over problems, which are the same."""
    if [one.prompt for one in before] != [one.prompt for one in after]:
        raise ValueError("before and after were measured on different problems: a gain needs the same ones")
    found: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        old, new = ([one for one in judged if one.kind == kind] for judged in (before, after))
        found[kind] = {
            "problems": len(old),
            "responses": sum(len(one.responses) for one in new),
            "before": asdict(estimate([one.accuracy for one in old])),
            "after": asdict(estimate([one.accuracy for one in new])),
            "gain": asdict(paired_difference([one.accuracy for one in old], [one.accuracy for one in new])),
            "in_form_before": asdict(estimate([one.in_form for one in old])),
            "in_form_after": asdict(estimate([one.in_form for one in new])),
        }
    return found


def answer_of(kind: Kind, response: str) -> str:
    """What a response answers, as far as majorities count: the answer's text, or the whole program."""
    output = trace_actions(response).output
    return output.removeprefix("\\boxed{").removesuffix("}") if kind == "math" else output


def labelled_rows(judged: Iterable[Judged], kind: Kind) -> Iterator[dict[str, Any]]:
    """Rows of the format `labelled`, for `oprime prm eval best-of`, of problems to which every response says something.

    Two problems in the same words would be one with twice as many responses, so the first stands for both.
    """
    seen: set[str] = set()
    for one in judged:
        if one.kind == kind and one.prompt not in seen and all(response.strip() for response in one.responses):
            seen.add(one.prompt)
            answers = [answer_of(kind, response) for response in one.responses]
            yield {"prompt": one.prompt, "responses": list(one.responses), "labels": list(one.scores), "answers": answers}


def rollout_rows(samples: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rollouts that a run kept in RUN/samples/step-*.jsonl, as rows of the format `labelled`."""
    for group in samples:
        rollouts = [rollout for rollout in group["rollouts"] if rollout["outcome_reward"] is not None and rollout["response"].strip()]
        yield {
            "prompt": group["prompt"].removeprefix(ASKS).removesuffix(ANSWERS),
            "responses": [rollout["response"] for rollout in rollouts],
            "labels": [rollout["outcome_reward"] for rollout in rollouts],
        }


def localisation(judged: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """F1 of the first wrong step by subset: the PRM's rewards and the log-prob of its reference, both with fitted thresholds."""
    return {
        one["subset"]: {
            "prm": one["ways"]["single_sum"]["fitted"]["f1"],
            "reference_logprob": one["ways"]["reference_logprob"]["fitted"]["f1"],
        }
        for one in judged["subsets"]
    }


def best_of(judged: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Accuracy by subset, way of choosing, and N."""
    return {one["subset"]: {way: one["ways"][way] for way in BEST_OF} for one in judged["subsets"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table for people: in recipe.md, and from recipe.json in the run's report."""

    title: str
    note: str = ""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(report: Mapping[str, Any]) -> list[Table]:
    """What was measured, as tables."""
    return [
        _accuracy_table(report["accuracy"]),
        Table(
            title="First wrong step (F1, %)",
            columns=("errors", "offline PRM", "log-prob of the reference"),
            rows=tuple((name, _per_cent(row["prm"]), _per_cent(row["reference_logprob"])) for name, row in report["localisation"].items()),
        ),
        *(_best_of_table(subset, ways) for subset, ways in report["best_of_n"].items()),
        Table(
            title="Time",
            columns=("stage", "seconds"),
            rows=tuple((stage, f"{seconds:.0f}") for stage, seconds in report["seconds"].items()),
        ),
    ]


def _accuracy_table(accuracy: Mapping[str, Mapping[str, Any]]) -> Table:
    return Table(
        title="Held-out accuracy",
        note="Per cent, with 95 % intervals over problems.",
        columns=("", "problems", "before", "after", "gain", "action form before", "after"),
        rows=tuple(
            (
                kind,
                str(row["problems"]),
                _interval(row["before"]),
                _interval(row["after"]),
                _interval(row["gain"], sign="+"),
                _per_cent(row["in_form_before"]["value"]),
                _per_cent(row["in_form_after"]["value"]),
            )
            for kind, row in accuracy.items()
        ),
    )


def _best_of_table(subset: str, ways: Mapping[str, Mapping[str, float]]) -> Table:
    sizes = list(next(iter(ways.values())))
    return Table(
        title=f"Best of N: {subset} (%)",
        columns=("chosen by", *(f"N = {n}" for n in sizes)),
        rows=tuple((way, *(_per_cent(by_n[n]) for n in sizes)) for way, by_n in ways.items()),
    )


def markdown(shown: Iterable[Table]) -> str:
    """The report for people."""
    lines = ["# The recipe in miniature"]
    for table in shown:
        lines += ["", f"## {table.title}", "", _line(table.columns), "|---" * len(table.columns) + "|", *map(_line, table.rows)]
        lines += ["", table.note] if table.note else []
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def headline(estimates: Mapping[str, Any]) -> str:
    """One line of a kind's accuracy."""
    return f"{_interval(estimates['before'])} -> {_interval(estimates['after'])}, {_interval(estimates['gain'], sign='+')} points"


def _interval(found: Mapping[str, float] | Estimate, sign: str = "") -> str:
    values = asdict(found) if isinstance(found, Estimate) else found
    value, low, high = (format(100 * values[name], f"{sign}.1f") for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _per_cent(share: float) -> str:
    return f"{100 * share:.1f}"


def dumped(report: Mapping[str, Any]) -> str:
    return json.dumps(report, indent=1) + "\n"
