"""Rows in the schema of Eurus-2-RL-Data."""

import json
from typing import Any

import pytest

from oprime.core.types import ChatMessage, Task
from oprime.tasks.chain import parse_problem
from oprime.tasks.formats.eurus import READER, chain_row
from oprime.tasks.formats.question_answer import RowFields
from oprime.tasks.rows import BadRowError, RawRow, read_task
from oprime.tasks.sources.layout import Layout


def task_of_row(raw: RawRow) -> Task:
    return read_task(raw, READER)


def row(**changes: Any) -> RawRow:
    value = {
        "data_source": "numina_olympiads",
        "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": "What is 2 + 2?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "4"},
        "extra_info": {"index": 0, "split": "train"},
    }
    return RawRow(origin="train.jsonl, row 7", value={**value, **changes})


def with_truth(truth: Any, **changes: Any) -> RawRow:
    return row(reward_model={"style": "rule", "ground_truth": truth}, **changes)


def test_a_row_becomes_a_task() -> None:
    assert task_of_row(row()) == Task(
        messages=(ChatMessage(role="system", content="Think."), ChatMessage(role="user", content="What is 2 + 2?")),
        verifier="math",
        ground_truth="4",
        data_source="numina_olympiads",
    )


@pytest.mark.parametrize(
    ("ability", "truth", "verifier"),
    [("math", "4", "math"), ("code", '{"inputs": ["1"], "outputs": ["1"]}', "code"), ("chain", "4", "chain")],
)
def test_the_ability_chooses_the_verifier(ability: str, truth: str, verifier: str) -> None:
    assert task_of_row(with_truth(truth, ability=ability)).verifier == verifier


def test_a_verifier_named_in_the_row_overrides_the_ability() -> None:
    assert task_of_row(row(verifier="my_checker")).verifier == "my_checker"
    assert task_of_row(row(verifier="my_checker", ability="chemistry")).verifier == "my_checker"
    # Parquet files give every row every column.
    assert task_of_row(row(verifier=None)).verifier == "math"


def test_a_missing_source_and_style_are_no_fault() -> None:
    assert task_of_row(row(data_source=None, reward_model={"ground_truth": "4"})).data_source == ""


def test_a_row_may_have_options_for_its_verifier() -> None:
    options = {"cpu_s": 2, "comparison": None}
    assert task_of_row(row(verifier_options=options)).verifier_options == {"cpu_s": 2}
    assert task_of_row(row(verifier_options=None)).verifier_options == {}


BAD = [
    (row(verifier_options={"n": 2**60}), "verifier_options", "wrong verifier options", "n is 1152921504606846976: whole numbers above"),
    (row(verifier_options={"a": {"n": float("nan")}}), "verifier_options", "wrong verifier options", "a.n is nan"),
    (row(verifier_options="fast"), "verifier_options", "wrong verifier options", "must be an object"),
    (row(prompt=[]), "prompt", "empty prompt", "at least one"),
    (row(prompt="What is 2 + 2?"), "prompt", "empty prompt", "list of at least one"),
    (row(prompt=[{"role": "user", "content": "  "}]), "prompt[0].content", "empty prompt", "not empty"),
    (row(prompt=[{"role": "user", "content": None}]), "prompt[0].content", "empty prompt", "missing"),
    (row(prompt=[{"role": "user", "content": "\ud800"}]), "prompt[0].content", "empty prompt", "must be a text"),
    (row(prompt=["hello"]), "prompt[0]", "wrong message", "{role, content}"),
    (row(prompt=[{"role": "human", "content": "hello"}]), "prompt[0].role", "wrong role", "one of system, user, assistant, not 'human'"),
    (row(prompt=[{"role": "assistant", "content": "4"}]), "prompt[0].role", "wrong role", "the last turn must be the user's"),
    (row(ability="chemistry"), "ability", "unknown ability", "one of math, code, chain, not 'chemistry'"),
    (row(ability=None), "ability", "unknown ability", "missing"),
    (row(ability=["math"]), "ability", "unknown ability", "one of math"),
    (row(reward_model=None), "reward_model", "missing ground truth", "{style, ground_truth}"),
    (with_truth(None), "reward_model.ground_truth", "missing ground truth", "missing"),
    (with_truth(" "), "reward_model.ground_truth", "missing ground truth", "not empty"),
    (with_truth(4), "reward_model.ground_truth", "missing ground truth", "write the answer as text"),
    (with_truth("4", ability="code"), "ground_truth", "missing ground truth", "must hold tests"),
    (with_truth("print(4)", ability="code"), "ground_truth", "wrong JSON", "tests of a code task are JSON"),
    (row(reward_model={"style": "model", "ground_truth": "4"}), "reward_model.style", "wrong style", 'must be "rule"'),
    (row(verifier=""), "verifier", "wrong verifier", "name of a verifier"),
    (row(data_source=3), "data_source", "wrong data source", "must be a text"),
    (RawRow(origin="train.jsonl, row 7", value=[1]), "row", "no object", "one object per line"),
    (RawRow(origin="train.jsonl, row 7", value=None, problem="Expecting value"), "row", "wrong JSON", "Expecting value"),
]


@pytest.mark.parametrize(("bad", "field", "reason", "rule"), BAD, ids=[f"{field}: {reason}: {rule}" for _, field, reason, rule in BAD])
def test_a_bad_row_is_named_by_file_row_field_reason_and_rule(bad: RawRow, field: str, reason: str, rule: str) -> None:
    with pytest.raises(BadRowError) as caught:
        task_of_row(bad)
    assert caught.value.reason == reason
    message = str(caught.value)
    assert message.startswith(f"train.jsonl, row 7, {field}: {reason}: ")
    assert rule in message
    assert "\n" not in message


def test_a_long_wrong_value_is_not_repeated_whole() -> None:
    with pytest.raises(BadRowError) as caught:
        task_of_row(row(ability="x" * 10_000))
    assert len(str(caught.value)) < 300


def test_a_chain_problem_as_a_row_is_a_task_of_the_chain_verifier() -> None:
    value = chain_row(parse_problem("3 +8 -5 ?"), 4, "heldout")
    assert value["extra_info"] == {"index": 4, "split": "heldout"}
    assert task_of_row(RawRow(origin="chain", value=json.loads(json.dumps(value)))) == Task(
        messages=(ChatMessage(role="user", content="3 +8 -5 ?"),), verifier="chain", ground_truth="6", data_source="oprime_chain"
    )


def test_questions_and_answers_are_found_by_the_names_of_their_fields() -> None:
    fields = RowFields(question="q", answer="a", ability="math", answer_after="####", data_source="gsm8k")
    question = fields.read(RawRow(origin="f, row 1", value={"q": "2 + 2?", "a": "two and #### two is #### 4 "}))
    layout = Layout(system="Think.", math_suffix=" Box it.")
    task = task_of_row(RawRow(origin="", value=layout.row(question, 0, "train")))
    assert task.messages == (ChatMessage(role="system", content="Think."), ChatMessage(role="user", content="2 + 2? Box it."))
    assert (task.ground_truth, task.data_source) == ("4", "gsm8k")


@pytest.mark.parametrize(
    ("tests", "ground_truth"),
    [
        (["assert f(1) == 1", "assert f(2) == 2"], '["assert f(1) == 1", "assert f(2) == 2"]'),
        ("assert f(1) == 1", '{"test": "assert f(1) == 1"}'),
        ('{"inputs": ["1"], "outputs": ["1"]}', '{"inputs": ["1"], "outputs": ["1"]}'),
    ],
)
def test_tests_of_a_code_task_become_json(tests: Any, ground_truth: str) -> None:
    fields = RowFields(question="q", answer="t", ability="code")
    assert fields.read(RawRow(origin="f, row 1", value={"q": "Write f.", "t": tests})).ground_truth == ground_truth


def test_an_answer_may_be_a_number() -> None:
    fields = RowFields(question="q", answer="a", ability="math")
    answers = [fields.read(RawRow(origin="f", value={"q": "?", "a": answer})).ground_truth for answer in (142.0, 0.5, 7)]
    assert answers == ["142", "0.5", "7"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"question": "2 + 2?", "a": "#### 4"}, "f, row 1, q: missing q: .* fields of this row are question, a"),
        ({"q": "2 + 2?", "a": "4"}, "f, row 1, a: missing answer: no '####' in '4'"),
        ({"q": "2 + 2?", "a": [4]}, "f, row 1, a: missing a: must be a text or a number, not .4."),
    ],
)
def test_a_row_that_cannot_be_converted_is_named(value: dict[str, str], message: str) -> None:
    fields = RowFields(question="q", answer="a", ability="math", answer_after="####")
    with pytest.raises(BadRowError, match=message):
        fields.read(RawRow(origin="f, row 1", value=value))
