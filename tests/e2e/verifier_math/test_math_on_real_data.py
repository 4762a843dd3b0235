"""The math verifier on golds and model solutions of public data sets."""

import random
import resource
from itertools import islice

import pytest

from e2e.verifier_math.verifier_math_data import SETS, golds, rows
from oprime.core.verification import Outcome, Verdict, VerificationRequest
from oprime_verifier.math.read.extract import final_text
from oprime_verifier.math.read.reader import read
from oprime_verifier.math.verifier import verify_math

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")

NOT_READ = {
    "math500.json": 0,
    "olympiadbench.jsonl": 2,  # a function with a condition in words; an interval with a stray letter before it
    "minerva_math.jsonl": 3,  # a call of numpy; a symbol of the sun as subscript; a derivative in two halves of mathematics
    "aime.jsonl": 0,
    "amc.jsonl": 0,
    "gsm8k_test.jsonl": 0,
}
"""Golds per set that are no mathematics that is read. They pay for the same text, and decide nothing else."""

EQUAL_IN_OTHER_WORDS = {
    ("4.0", "$4^{\\circ}$"),  # a bare number for an angle in degrees: the policy `unit_optional`
    ("-2,1", "(-2,1)"),  # the coordinates of a point, in order and without brackets
    ("-\\frac{1}{2}", "-0.5"),
}
"""Golds of different problems that are one answer."""


def judged(response: str, gold: str, **options: object) -> Outcome:
    return verify_math(VerificationRequest(kind="math", response=response, golds=(gold,), options=options))


def boxed(gold: str) -> str:
    return f"Therefore \\boxed{{{final_text(gold)}}}."


def test_the_public_cases_agree() -> None:
    wrong: list[str] = []
    for row in rows("math_cases.jsonl"):
        outcome = judged(row["pred"], row["gold"], bare=row["category"] != "extraction")
        if (outcome.verdict is Verdict.CORRECT) != row["expected"]:
            wrong.append(f"{row['id']}: {outcome.verdict} ({outcome.reason})")
    assert wrong == []


@pytest.mark.parametrize("name", SETS)
def test_every_gold_equals_itself(name: str) -> None:
    assert [gold for gold in golds(name) if judged(boxed(gold), gold).verdict is not Verdict.CORRECT] == []


@pytest.mark.parametrize("name", SETS)
def test_nearly_every_gold_is_read(name: str) -> None:
    assert sum(read(final_text(gold)).value is None for gold in golds(name)) <= NOT_READ[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_no_gold_is_paid_for_the_gold_of_a_neighbour(name: str) -> None:
    distinct = list(dict.fromkeys(final_text(gold) for gold in golds(name)))
    pairs = [(distinct[place], distinct[(place + shift) % len(distinct)]) for place in range(len(distinct)) for shift in (1, 2, 3, 5)]
    assert paid_wrongly(pairs) == []


@pytest.mark.slow
def test_no_gold_is_paid_for_a_gold_of_another_set() -> None:
    every = list(dict.fromkeys(final_text(gold) for name in SETS for gold in golds(name)))
    chance = random.Random(7)
    assert paid_wrongly([(chance.choice(every), chance.choice(every)) for _ in range(8000)]) == []


def paid_wrongly(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [
        (answer, gold)
        for answer, gold in pairs
        if judged(f"\\boxed{{{answer}}}", gold).verdict is Verdict.CORRECT
        and not _written_alike(answer, gold)
        and not _is_known(answer, gold)
    ]


def _written_alike(answer: str, gold: str) -> bool:
    return plain(answer) == plain(gold)


def plain(text: str) -> str:
    for mark in ("$", " ", ".0", "{", "}", ","):
        text = text.replace(mark, "")
    return text.replace("\\dfrac", "\\frac")


def _is_known(answer: str, gold: str) -> bool:
    return (answer, gold) in EQUAL_IN_OTHER_WORDS or (gold, answer) in EQUAL_IN_OTHER_WORDS


def test_model_solutions_of_gsm8k_are_graded_as_their_authors_graded_them() -> None:
    # 5,276 solutions of four models; all of them agree, 10 of them because a solution without an answer earns nothing.
    disagreements: list[str] = []
    for row in rows("gsm8k_model_solutions.jsonl"):
        gold = row["ground_truth"].rpartition("A:")[2].strip()
        for model in MODELS:
            outcome = judged(row[model]["solution"], gold)
            if (outcome.verdict is Verdict.CORRECT) != row[model]["is_correct"]:
                disagreements.append(f"{gold}: {outcome.answer!r} is {outcome.verdict}")
    assert disagreements == []


@pytest.mark.slow
def test_memory_stays_flat_over_many_answers() -> None:
    hard = [final_text(gold) for name in SETS for gold in golds(name)]
    chance = random.Random(3)

    def judge_many(count: int) -> int:
        for number in islice(range(10**9), count):
            judged(f"\\boxed{{{chance.choice(hard)} + {number}}}", chance.choice(hard))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    after_warm_up = judge_many(10_000)
    assert judge_many(10_000) - after_warm_up < 32 * 1024  # KiB
