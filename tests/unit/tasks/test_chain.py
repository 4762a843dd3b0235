"""Problems, the noisy teacher, and where a chain goes wrong."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oprime.runtime.errors import UnusableInputError
from oprime.tasks.chain import Problem, Teacher, first_wrong_step, is_heldout, labelled_chains, parse_problem, problem, right_result

PROMPT = "3 +8 -5 ?"
"""3 + 8 = 11, so 1; 1 - 5 = -4, so 6."""


def test_the_right_response_names_each_value_modulo_ten_and_then_the_answer() -> None:
    posed = parse_problem(PROMPT)
    assert posed == Problem(3, (("+", 8), ("-", 5)))
    assert posed.values == (1, 6)
    assert posed.right_response == "=1 =6 #6"
    assert posed.ground_truth == "6"
    assert posed.facts == ((3, "+", 8), (1, "-", 5))


@given(st.integers(0, 10**6), st.integers(1, 64))
def test_a_problem_is_read_back_from_its_prompt(index: int, operations: int) -> None:
    posed = problem("train", index, operations)
    assert parse_problem(posed.prompt) == posed
    assert len(posed.operations) == operations


@pytest.mark.parametrize("prompt", ["", "3 ?", "3 +8 -5", "+8 3 ?", "3 *8 ?", "3 +18 ?", "13 +8 ?", "3 + ?", "3 +² ?", "What is 2+2?"])
def test_what_is_no_chain_problem_is_refused_with_an_example(prompt: str) -> None:
    with pytest.raises(UnusableInputError, match=r"no chain problem: write a digit, operations such as \+8"):
        parse_problem(prompt)


@pytest.mark.parametrize(
    ("response", "wrong"),
    [
        ("=1 =6 #6", None),
        ("=1 =6 #6 <eos>", None),
        ("=2 =7 #7", 0),  # The second step is right for its own start, but the chain went wrong at the first.
        ("=1 =7 #7", 1),
        ("=1 =6 #7", 2),
        ("=1 =6", 2),
        ("=1 <eos>", 1),
        ("", 0),
        ("=1 =6 #6 #6", 3),
        ("#6", 0),
    ],
)
def test_the_first_wrong_step_is_the_first_word_that_differs_from_the_right_response(response: str, wrong: int | None) -> None:
    assert first_wrong_step(PROMPT, response) == wrong


def test_problems_are_the_same_on_every_machine() -> None:
    assert [problem("train", index, 3).prompt for index in range(3)] == GOLDEN_TRAIN
    assert [problem("heldout", index, 3).prompt for index in range(3)] == GOLDEN_HELDOUT
    assert Teacher(7).demonstration(0, 3) == GOLDEN_DEMONSTRATION


@pytest.mark.parametrize("operations", [1, 2, 8])
def test_no_training_problem_is_held_out(operations: int) -> None:
    # With one operation only 200 problems exist, so any overlap between the splits would show.
    heldout = {problem("heldout", index, operations).prompt for index in range(300)}
    trained = {problem("train", index, operations).prompt for index in range(3000)}
    teacher = Teacher(7)
    demonstrated = {teacher.demonstration(index, operations)[0] for index in range(3000)}
    assert heldout
    assert not heldout & (trained | demonstrated)


def test_one_problem_in_eight_is_held_out() -> None:
    drawn = [Problem(start, (("+", one), ("-", other))) for start in range(10) for one in range(10) for other in range(10)]
    # 1,000 draws at 1/8: 125, give or take four standard deviations of 10.5.
    assert 83 < sum(map(is_heldout, drawn)) < 167


def test_a_teacher_misconceives_a_fifth_of_the_200_facts_each_with_one_wrong_favourite() -> None:
    teacher = Teacher(7)
    assert len(teacher.confusers) == 40
    assert all(confuser != right_result(fact) for fact, confuser in teacher.confusers.items())
    assert Teacher(8).confusers != teacher.confusers


def test_a_teacher_knows_a_fact_at_97_percent_and_a_misconceived_one_at_30() -> None:
    teacher = Teacher(7)
    fact, confuser = next(iter(teacher.confusers.items()))
    known = next((3, "+", operand) for operand in range(10) if (3, "+", operand) not in teacher.confusers)
    assert teacher.probabilities(fact)[right_result(fact)] == 0.3
    assert teacher.probabilities(fact)[confuser] == 0.6
    assert teacher.probabilities(known)[right_result(known)] == 0.97
    for probabilities in (teacher.probabilities(fact), teacher.probabilities(known)):
        assert sum(probabilities) == pytest.approx(1.0)
        assert min(probabilities) > 0


def test_the_teachers_accuracy_is_designed() -> None:
    # A step is right with probability 0.8 * 0.97 + 0.2 * 0.3 = 0.836, eight in a row with 0.836^8 = 0.24; some wrong chains
    # come back to the right answer by chance.
    teacher = Teacher(7)
    posed = [problem("heldout", index, 8) for index in range(2000)]
    right = [teacher.respond(one, random.Random(str(index))).endswith(f"#{one.ground_truth}") for index, one in enumerate(posed)]
    assert 0.22 < sum(right) / len(right) < 0.32


def test_after_an_error_the_teacher_goes_on_from_its_own_value() -> None:
    teacher = Teacher(7)
    steps = right = 0
    for index in range(500):
        prompt, response = teacher.demonstration(index, 8)
        posed, words = parse_problem(prompt), response.split()
        values = [posed.start, *(int(word[1:]) for word in words[:-1])]
        assert words[-1] == f"#{values[-1]}"
        facts = [(value, sign, operand) for value, (sign, operand) in zip(values, posed.operations, strict=False)]
        right += sum(right_result(fact) == value for fact, value in zip(facts, values[1:], strict=True))
        steps += len(facts)
    # 4,000 steps at 0.836, from right and wrong values alike: four standard deviations are 0.024.
    assert right / steps == pytest.approx(0.836, abs=0.03)


def test_a_confuser_chain_has_one_wrong_step_which_is_the_teachers_favourite_error() -> None:
    teacher = Teacher(7)
    chains = labelled_chains("confuser", 50, 8, teacher)
    places = {chain.first_wrong_step for chain in chains}
    assert len(chains) == 50
    assert places <= set(range(8))
    assert len(places) > 4
    for chain in chains:
        posed = parse_problem(chain.prompt)
        values = [posed.start, *(int(word[1:]) for word in chain.response.split()[:-1])]
        facts = [(value, sign, operand) for value, (sign, operand) in zip(values, posed.operations, strict=False)]
        wrong = [place for place, (fact, value) in enumerate(zip(facts, values[1:], strict=True)) if right_result(fact) != value]
        assert wrong == [chain.first_wrong_step]
        assert values[wrong[0] + 1] == teacher.confusers[facts[wrong[0]]]
        assert is_heldout(posed)


def test_natural_chains_are_wrong_and_chains_without_errors_are_right() -> None:
    teacher = Teacher(7)
    assert all(chain.first_wrong_step is not None for chain in labelled_chains("natural", 50, 8, teacher))
    for chain in labelled_chains("none", 50, 8, teacher):
        assert chain.first_wrong_step is None
        assert chain.response == parse_problem(chain.prompt).right_response


def test_a_teacher_without_misconceptions_has_no_confuser_chains() -> None:
    teacher = Teacher(7)
    teacher.confusers.clear()
    with pytest.raises(UnusableInputError, match="only 0 of 5 chains with confuser errors"):
        labelled_chains("confuser", 5, 3, teacher)


GOLDEN_TRAIN = ["8 -8 +6 +2 ?", "7 -5 +1 -9 ?", "6 +5 -9 +2 ?"]
GOLDEN_HELDOUT = ["9 +4 -7 -2 ?", "3 -1 +1 -2 ?", "5 +0 -3 -9 ?"]
GOLDEN_DEMONSTRATION = ("6 +3 -3 +0 ?", "=9 =6 =6 #6")
