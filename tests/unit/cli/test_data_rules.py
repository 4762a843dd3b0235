"""What is dropped by how it is worded."""

import json

import pytest

from oprime.tasks.sources.question import Ability, Kind, Question
from oprime_cli.data.choices import open_answer, read_reply
from oprime_cli.data.rules import fault_of, is_choice, options_of
from oprime_cli.data.settings import RulesSection


def question(text: str, gold: str = "4", ability: Ability = "math", kind: Kind = "open") -> Question:
    return Question(text=text, ground_truth=gold, ability=ability, data_source="s", kind=kind)


def reason(asked: Question, **rules: bool) -> str:
    fault = fault_of(asked, RulesSection(**rules))
    return fault[0] if fault else ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("In the figure below, find x.", "figure"),
        ("As shown in Figure 3, find x.", "figure"),
        ("In the diagram, find x.", "figure"),
        ("Find x. ![](https://x.org/a.png)", "figure"),
        ("Prove that x > 0.", "proof"),
        ("Find x, and show that it is unique.", "proof"),
        ("The sum is ______.", "blank to fill in"),
        (r"The sum is \_\_\_.", "blank to fill in"),
        (r"The sum is $\underline{\qquad}$.", "blank to fill in"),
        # What only looks like it.
        ("Tom sold 5 action figures. Each figure cost 3. Figure out the sum to two significant figures.", ""),
        ("Records show that he improved.", ""),
        (r"The number $\underline{A}\,\underline{B}$ has two digits.", ""),
        ("What is 2 + 2?", ""),
    ],
)
def test_figures_proofs_and_blanks_are_dropped(text: str, expected: str) -> None:
    assert reason(question(text)) == expected


def test_each_rule_can_be_switched_off() -> None:
    assert reason(question("In the figure, find x."), figures=False) == ""
    assert reason(question("Prove it."), proofs=False) == ""
    assert reason(question("It is ____."), blanks=False) == ""
    assert reason(question("Find x.", kind="proof")) == "proof"
    assert reason(question("Find x.", kind="proof"), proofs=False) == ""


def test_answers_and_tests_must_be_there() -> None:
    assert reason(question("2 + 2?", gold="")) == "no answer"
    assert reason(question("2 + 2?", gold="4" * 501)) == "answer too long"
    assert reason(question("Add.", gold="", ability="code")) == "no tests"
    assert reason(question("Add.", gold="{}", ability="code")) == "unusable tests"
    cases = json.dumps({"inputs": ["1"], "outputs": ["2"]})
    assert reason(question("Add. See the figure below.", gold=cases, ability="code")) == ""
    assert reason(question("This is an interactive problem.", gold=cases, ability="code")) == "interactive program"
    assert reason(question("x" * 20_001)) == "question too long"


CHOICES = {
    "Then the number of sides is ( )\n\nA: $12$\n\nB: $10$\n\nC: $8$\n\nD: $6$": "10",
    r"Solve. $\textbf{(A)}\ 3x\qquad \textbf{(B)}\ \frac{1}{2}\qquad \textbf{(C)}\ 7$": r"\frac{1}{2}",
    "What is x? A. 1 B. 2.5 C. 3": "2.5",
    "What is x?\nA) 1\nB) -4\nC) 3": "-4",
    "Given f(A). What is f? (A) cos x  (B) -cos x  (C) 2+cos x": "-cos x",
}


@pytest.mark.parametrize("text", CHOICES)
def test_options_are_found_in_the_usual_ways(text: str) -> None:
    assert is_choice(text)
    assert open_answer("B", text) == open_answer(r"\text{(B)}", text) == CHOICES[text]
    assert open_answer("12", text) == "12"
    assert open_answer("E", text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "He lives west of A. B. lives near C. What now?",
        "What is f(A) + f(B)?",
        "In triangle ABC, angle A is 30, B is 60, C is 90.",
        "[asy] draw((A)--(B)--(C)); [/asy] Find x.",
    ],
)
def test_names_of_points_are_no_options(text: str) -> None:
    assert options_of(text) == {}


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("OPEN: yes\nQUESTION: What is\nx?", {"open": "yes", "question": "What is\nx?"}),
        ("open: No\nQUESTION:", {"open": "no"}),
        ("OPEN: no, one has to compare", {"open": "no"}),
        ("OPEN: yes\nQUESTION:", {}),
        ("OPEN: yes\nQUESTION: Which of the following is x?", {}),
        ("OPEN: yes\nQUESTION: What is x? (A) 1 (B) 2 (C) 3", {}),
        ("What is x?", {}),
    ],
)
def test_a_rewritten_question_must_stand_without_its_options(said: str, found: dict[str, str]) -> None:
    assert read_reply(said) == found
