"""Word problems and functions, the teacher who misunderstands phrasings, and where a solution goes wrong."""

import json
from itertools import product

import pytest

from oprime.core.types import ChatMessage
from oprime.runtime.settings import ProseSection, TasksSection
from oprime.tasks.actions import trace_actions
from oprime.tasks.dataset import load_tasks
from oprime.tasks.prose import functions, word_problems
from oprime.tasks.prose.chance import chance
from oprime.tasks.prose.functions import CHANGES, SIGNATURES, FunctionProblem
from oprime.tasks.prose.problem import Choice, Problem, all_right, misread
from oprime.tasks.prose.rows import demonstration_row, steps_row, task_row
from oprime.tasks.prose.teacher import Teacher, is_heldout, labelled_solutions, phrasing_names, problem, right_response
from oprime.tasks.prose.word_problems import Move, WordProblem
from oprime.tasks.prose.writing import blocks, first_wrong_block, written

SAYS = {phrasing.name: phrasing for phrasing in word_problems.PHRASINGS}
PAIR, LARGER = SIGNATURES[0], SIGNATURES[0].phrasings[0]
CHANGE = {phrasing.name: phrasing for phrasing in CHANGES}
RIGHT, CONFUSER, MISREAD, SKIP = Choice.RIGHT, Choice.CONFUSER, Choice.MISREAD, Choice.SKIP

APPLES = WordProblem("Ana", "apples", 12, (Move(SAYS["exceeded"], "Ben", 5), Move(SAYS["twice"], "Cleo", 2)))
"""Ana's 12 are 5 more than Ben's, so he has 7, and Cleo 14."""
CAPPED = FunctionProblem("a, b", LARGER, ((CHANGE["take away"], 3), (CHANGE["no more"], 5)), ((9, 1), (2, -4)))
"""max(9, 1) - 3 = 6, which is more than 5; max(2, -4) - 3 = -1."""


def test_a_word_problem_says_each_operation_in_a_sentence() -> None:
    assert APPLES.prompt == "Ana has 12 apples. Ana has 5 more than Ben. Cleo has twice as many as Ben. How many does Cleo have?"
    assert APPLES.ground_truth == "14"


def test_a_right_solution_takes_the_actions_and_boxes_the_answer() -> None:
    assert right_response(APPLES).split("\n\n") == [
        "[ASSESS]", "# Ana has 12", "Next action: [ADVANCE]",
        "[ADVANCE]", "# Ben has 12 - 5 = 7", "# Cleo has 7 * 2 = 14", "Next action: [OUTPUT]",
        "[OUTPUT]", r"\boxed{14}",
    ]  # fmt: skip
    assert trace_actions(right_response(APPLES)).keeps_form


def test_a_word_problem_is_solved_as_its_choices_say() -> None:
    assert APPLES.solution((CONFUSER, RIGHT)).steps == ("Ben has 12 + 5 = 17", "Cleo has 17 * 2 = 34")
    assert APPLES.solution((MISREAD, RIGHT)).steps == ("Ben has 12 - 6 = 6", "Cleo has 6 * 2 = 12")
    assert APPLES.solution((RIGHT, SKIP)).output == r"\boxed{7}"


def test_a_number_that_the_text_fixes_is_not_misread() -> None:
    assert APPLES.solution((RIGHT, MISREAD)) == APPLES.solution((RIGHT, RIGHT))


def test_misreading_stays_between_two_and_nine() -> None:
    assert [misread(number) for number in (2, 8, 9)] == [3, 9, 8]


def test_a_function_problem_describes_a_statement_in_each_sentence_and_has_tests() -> None:
    assert CAPPED.prompt == "Write f(a, b). Start with the larger of a and b. Take away 3. Make it no more than 5."
    assert json.loads(CAPPED.ground_truth) == ["assert f(9, 1) == 5", "assert f(2, -4) == -1"]
    assert CAPPED.solution((RIGHT, RIGHT, RIGHT)).output.splitlines() == [
        "```python", "def f(a, b):", "    x = max(a, b)", "    x = x - 3", "    x = min(x, 5)", "    return x", "```",
    ]  # fmt: skip


def test_a_function_is_written_as_its_choices_say() -> None:
    assert CAPPED.solution((CONFUSER, MISREAD, CONFUSER)).steps == ("x = min(a, b)", "x = x - 4", "x = max(x, 5)")
    assert CAPPED.solution((RIGHT, SKIP, RIGHT)).steps == ("x = max(a, b)", "x = min(x, 5)")


def test_written_programs_return_what_the_tests_expect_and_wrong_ones_do_not() -> None:
    for posed in (problem("train", index) for index in range(1, 400, 2)):
        assert isinstance(posed, FunctionProblem)
        assert passes(posed, all_right(posed)), posed.prompt
        for place in range(len(posed.phrasings)):
            wrong = tuple(CONFUSER if other == place else RIGHT for other in range(len(posed.phrasings)))
            assert not passes(posed, wrong), (posed.prompt, wrong)


def passes(posed: FunctionProblem, choices: tuple[Choice, ...]) -> bool:
    """Whether the program as it is written passes the tests."""
    program = posed.solution(choices).output.removeprefix("```python\n").removesuffix("\n```")
    names: dict[str, object] = {}
    exec(program, names)  # noqa: S102 - a program of this repository
    try:
        for test in json.loads(posed.ground_truth):
            exec(test, names)  # noqa: S102
    except AssertionError:
        return False
    return True


def test_numbers_of_a_word_problem_stay_in_range_and_divide_whatever_is_confused() -> None:
    for index in range(0, 400, 2):
        posed = problem("train", index)
        assert isinstance(posed, WordProblem)
        values = [posed.value(choices) for choices in product((RIGHT, CONFUSER), repeat=word_problems.MOVES)]
        assert word_problems.SMALLEST <= min(values) <= max(values) <= word_problems.LARGEST
        assert int(posed.ground_truth) == values[0]


def test_both_kinds_of_problems_come_by_turns_and_are_the_same_each_time() -> None:
    assert [problem("train", index).kind for index in range(4)] == ["math", "code", "math", "code"]
    assert problem("train", 5).prompt == problem("train", 5).prompt != problem("train", 7).prompt
    # One text for all platforms and versions of Python: a change here makes the shipped model's training another one.
    assert problem("train", 0).prompt == GOLDEN[0]
    assert problem("train", 1).prompt == GOLDEN[1]


GOLDEN = (
    "Ana has 10 books. Ana keeps half. Cleo beats Ana by 3. Cleo doubles that. How many does Cleo have?",
    "Write f(a, b). Start with a less b. Make it no less than 9. Take it from 6.",
)


def test_no_problem_is_in_both_splits() -> None:
    assert not any(is_heldout(problem("train", index, stream=stream)) for index in range(50) for stream in ("problems", "demonstrations"))
    assert all(is_heldout(problem("heldout", index)) for index in range(50))


def test_a_teacher_misunderstands_a_third_of_the_phrasings_of_each_kind() -> None:
    teacher = Teacher(7)
    for kind, names in phrasing_names(wide=False).items():
        assert len(set(names)) == len(names)
        assert sum(name.startswith(kind) for name in teacher.misconceived) == round(len(names) / 3)
    assert Teacher(7).misconceived == teacher.misconceived != Teacher(8).misconceived


def test_a_teacher_is_right_about_as_often_as_its_beliefs_say() -> None:
    # Three sentences, each known with 2/3 and then right at .97, else at .32: (2/3 * .97 + 1/3 * .32)^3 = .43.
    teacher = Teacher(7)
    right = 0
    for index in range(600):
        posed = problem("train", index)
        right += teacher.respond(posed, chance("test", index)) == right_response(posed)
    assert 0.33 < right / 600 < 0.53


def test_the_first_sentence_is_never_passed_over() -> None:
    teacher = Teacher(7)
    posed = problem("train", 0)
    assert all(teacher.choices(posed, chance("test", index))[0] is not SKIP for index in range(300))


@pytest.mark.parametrize(
    ("response", "wrong"),
    [("a\n\nb\n\nc", None), ("a\n\nb \n\nc", None), ("a\n\nx\n\nc", 1), ("a\n\nb", 2), ("a\n\nb\n\nc\n\nd", 3), ("", 0)],
)
def test_the_first_wrong_block_is_the_first_that_differs(response: str, wrong: int | None) -> None:
    assert first_wrong_block(response, "a\n\nb\n\nc") == wrong


def test_an_error_is_labelled_where_its_step_stands() -> None:
    assert first_wrong_block(written(APPLES.solution((RIGHT, CONFUSER))), right_response(APPLES)) == 5
    # The last step is missing, so the action ends where it should be.
    assert first_wrong_block(written(APPLES.solution((RIGHT, SKIP))), right_response(APPLES)) == 5


def test_confuser_errors_have_one_misunderstood_phrasing() -> None:
    teacher = Teacher(7)
    for labelled in labelled_solutions("confuser", 20, teacher):
        posed, wrong = labelled.problem, labelled.first_wrong
        assert wrong is not None
        assert blocks(labelled.response)[wrong] != blocks(right_response(posed))[wrong]
        # After [ASSESS], what is given, the next action and [ADVANCE].
        first = wrong - 4 if posed.kind == "math" or wrong < 4 + len(posed.phrasings) else None
        assert first is not None
        assert posed.phrasings[first] in teacher.misconceived


def test_right_solutions_have_no_label_and_natural_errors_have_one() -> None:
    assert all(labelled.first_wrong is None for labelled in labelled_solutions("none", 10, Teacher(7)))
    assert all(labelled.first_wrong is not None for labelled in labelled_solutions("natural", 10, Teacher(7)))


def test_rows_are_tasks_of_both_verifiers() -> None:
    tasks = load_tasks(TasksSection(source="prose", prose=ProseSection(heldout_problems=6)), "heldout")
    assert [task.verifier for task in tasks] == ["math", "code"] * 3
    assert tasks[1].messages == (ChatMessage(role="user", content=problem("heldout", 1).prompt),)
    assert tasks[-1].ground_truth == problem("heldout", 5).ground_truth
    assert len(tasks[2:4]) == 2
    assert task_row(APPLES, 0, "train")["data_source"] == "oprime_prose_math"


def test_rows_of_demonstrations_and_steps() -> None:
    prompt, response = Teacher(7).demonstration(3)
    assert [turn["content"] for turn in demonstration_row(prompt, response)["messages"]] == [prompt, response]
    (labelled,) = labelled_solutions("natural", 1, Teacher(7))
    row = steps_row(labelled)
    assert "\n\n".join(row["steps"]) == labelled.response
    assert row["label"] == labelled.first_wrong


def test_draws_are_problems_of_their_kind() -> None:
    drawn: list[Problem] = [word_problems.draw(chance("test")), functions.draw(chance("test"))]
    assert [posed.kind for posed in drawn] == ["math", "code"]
