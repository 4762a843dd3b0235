"""Rows of published data sets as questions."""

import json
from typing import Any

import pytest

from oprime.runtime.errors import SettingsError
from oprime.tasks.formats.eurus import READER
from oprime.tasks.rows import BadRowError, RawRow
from oprime.tasks.sources.eurus_sources import CODE_SUFFIX, MATH_SUFFIX
from oprime.tasks.sources.layout import Layout
from oprime.tasks.sources.question import Question, last_boxed
from oprime.tasks.sources.registry import SOURCES, source_named, source_of
from oprime_verifier.code.formats import parse_tests

CASES = {"inputs": ["1\n"], "outputs": ["2\n"]}
ROWS: dict[str, tuple[dict[str, Any], Question]] = {
    "dapo": (
        {
            "data_source": "math_dapo",
            "prompt": [
                {
                    "role": "user",
                    "content": "Solve the following math problem step by step. The last line is Answer: $Answer.\n\nWhat is 2 + 2?\n\n"
                    'Remember to put your answer on its own line after "Answer:".',
                }
            ],
            "ability": "MATH",
            "reward_model": {"ground_truth": "4", "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": "9a9b6eb4"},
        },
        Question(text="What is 2 + 2?", ground_truth="4", ability="math", data_source="math_dapo"),
    ),
    "eurus": (
        {
            "data_source": "numina_olympiads",
            "prompt": [{"role": "system", "content": "Act."}, {"role": "user", "content": "What is 2 + 2?" + MATH_SUFFIX}],
            "ability": "math",
            "reward_model": {"ground_truth": "4", "style": "rule"},
            "extra_info": {"index": 0, "split": "dummy"},
        },
        Question(text="What is 2 + 2?", ground_truth="4", ability="math", data_source="numina_olympiads"),
    ),
    "eurus_first_revision": (
        {"id": 1, "task": "Coding", "source": "taco", "instruction": "Add one." + CODE_SUFFIX, "reference": json.dumps(CASES)},
        Question(text="Add one.", ground_truth=json.dumps(CASES), ability="code", data_source="taco"),
    ),
    "numina": (
        {"source": "cn_k12", "problem": "What is $2 + 2$?", "solution": r"It is $\boxed{\frac{8}{2}}$.", "messages": []},
        Question(text="What is $2 + 2$?", ground_truth=r"\frac{8}{2}", ability="math", data_source="numina_cn_k12"),
    ),
    "math": (
        {"problem": "What is 2 + 2?", "level": "Level 1", "type": "Algebra", "solution": r"\boxed{4}"},
        Question(text="What is 2 + 2?", ground_truth="4", ability="math", data_source="math"),
    ),
    "minerva": (
        {"problem": "How wide?", "solution": r"\[\boxed{1.6} \mathrm{~cm}\]", "type": "Astronomy", "idx": 0},
        Question(text="How wide?", ground_truth="1.6", ability="math", data_source="minerva"),
    ),
    "gsm8k": (
        {"question": "How many?", "answer": "1000 + 234\n#### 1,234"},
        Question(text="How many?", ground_truth="1234", ability="math", data_source="gsm8k"),
    ),
    "olympiadbench": (
        {"context": "Let x be 1.", "question": "Find x and y.", "final_answer": ["$1$", "$2$"], "question_type": "Open-ended"},
        Question(text="Let x be 1.\n\nFind x and y.", ground_truth="1, 2", ability="math", data_source="olympiadbench"),
    ),
    "plain": (
        {"id": 0, "question": "What is 2 + 2?", "answer": 4.0},
        Question(text="What is 2 + 2?", ground_truth="4", ability="math", data_source=""),
    ),
    "apps": (
        {"problem_id": 1, "question": "Add one.", "input_output": json.dumps(CASES), "starter_code": "", "solutions": "[]"},
        Question(text="Add one.", ground_truth=json.dumps(CASES), ability="code", data_source="apps"),
    ),
    "codecontests": (
        {
            "description": "Add one.",
            "public_tests": {"input": ["1\n"], "output": ["2\n"]},
            "private_tests": {"input": [], "output": []},
            "generated_tests": {"input": ["5\n"], "output": ["6\n"]},
            "time_limit": {"seconds": 2, "nanos": 0},
            "input_file": "",
        },
        Question(
            text="Add one.",
            ground_truth=json.dumps(
                {
                    "public_tests": {"input": ["1\n"], "output": ["2\n"]},
                    "generated_tests": {"input": ["5\n"], "output": ["6\n"]},
                    "time_limit": {"seconds": 2, "nanos": 0},
                }
            ),
            ability="code",
            data_source="codecontests",
        ),
    ),
    "codeforces": (
        {
            "problem-description": "Add one.",
            "input-specification": "A number.",
            "output-specification": "The next.",
            "demo-input": ["1"],
            "demo-output": ["2"],
            "note": "",
            "test_cases": [{"input": "1\n", "output": "2\n"}, {"input": "12345...", "output": "12346"}],
        },
        Question(
            text="Add one.\n\nInput\nA number.\n\nOutput\nThe next.\n\nExample input\n1\n\nExample output\n2",
            ground_truth=json.dumps(CASES),
            ability="code",
            data_source="codeforces",
        ),
    ),
    "open_r1_codeforces": (
        {"description": "Add one.", "input_format": "A number.", "official_tests": [{"input": "1", "output": "2"}], "time_limit": 2.0},
        Question(
            text="Add one.\n\nInput\nA number.",
            ground_truth=json.dumps({"official_tests": [{"input": "1", "output": "2"}], "time_limit": 2.0}),
            ability="code",
            data_source="codeforces",
        ),
    ),
    "livecodebench": (
        {
            "question_content": "Add one.",
            "starter_code": "class Solution:\n    def add(self, a: int) -> int:\n        ",
            "public_test_cases": json.dumps([{"input": "1", "output": "2", "testtype": "functional"}]),
            "private_test_cases": "",
            "metadata": '{"func_name": "add"}',
        },
        Question(
            text="Add one.\n\nYour solution must begin with this code:\n```python\nclass Solution:\n    def add(self, a: int) -> int:\n```",
            ground_truth=json.dumps(
                {
                    "public_test_cases": '[{"input": "1", "output": "2", "testtype": "functional"}]',
                    "metadata": '{"func_name": "add"}',
                }
            ),
            ability="code",
            data_source="livecodebench",
        ),
    ),
    "mbpp": (
        {
            "task_id": 2,
            "prompt": "Write a function.",
            "code": "",
            "test_imports": [],
            "test_list": ["assert f(1) == 2", "assert f(5) == 6"],
        },
        Question(
            text="Write a function.\n\nYour code must pass this test:\n```python\nassert f(1) == 2\n```",
            ground_truth='{"test_list": ["assert f(1) == 2", "assert f(5) == 6"]}',
            ability="code",
            data_source="mbpp",
        ),
    ),
    "humaneval": (
        {
            "task_id": "HumanEval/0",
            "prompt": "def f(a):\n    '''Add one.'''\n",
            "canonical_solution": "    return a + 1\n",
            "entry_point": "f",
            "test": "def check(candidate):\n    assert candidate(1) == 2\n",
        },
        Question(
            text="Complete this function; give the whole function.\n```python\ndef f(a):\n    '''Add one.'''\n```",
            ground_truth=json.dumps(
                {
                    "test": "def check(candidate):\n    assert candidate(1) == 2\n",
                    "entry_point": "f",
                    "prompt": "def f(a):\n    '''Add one.'''\n",
                }
            ),
            ability="code",
            data_source="humaneval",
        ),
    ),
    "leetcode": (
        {"task_id": "x", "prompt_sft": "Add one.\n", "test": "my_solution = Solution()\nassert my_solution.add(1) == 2"},
        Question(
            text="Add one.",
            ground_truth='{"test": "my_solution = Solution()\\nassert my_solution.add(1) == 2"}',
            ability="code",
            data_source="leetcode",
        ),
    ),
    "leetcode_dataset": (
        {
            "problem_description": "Add one.",
            "starter_code": "",
            "entry_point": "Solution().add",
            "test": "def check(candidate):\n    assert candidate(1) == 2\n",
        },
        Question(
            text="Add one.",
            ground_truth='{"test": "def check(candidate):\\n    assert candidate(1) == 2\\n", "entry_point": "Solution().add"}',
            ability="code",
            data_source="leetcode",
        ),
    ),
}


def read(name: str, **changes: Any) -> Question:
    return source_named(name, "--from").read(RawRow(origin="f, row 1", value={**ROWS[name][0], **changes}))


def test_every_form_has_an_example_here() -> None:
    assert ROWS.keys() == {source.name for source in SOURCES}


@pytest.mark.parametrize("name", ROWS)
def test_a_published_row_is_recognised_and_becomes_a_task(name: str) -> None:
    value, expected = ROWS[name]
    row = RawRow(origin="f, row 1", value=value)
    source = source_of(row, "f")
    assert source.name == name
    question = source.read(row)
    assert question == expected
    written = Layout(system="Act.", math_suffix=MATH_SUFFIX, code_suffix=CODE_SUFFIX).row(question, 3, "train")
    task = READER.read(RawRow(origin="out, row 1", value=json.loads(json.dumps(written))))
    suffix = CODE_SUFFIX if question.ability == "code" else MATH_SUFFIX
    assert [turn.content for turn in task.messages] == ["Act.", question.text + suffix]
    assert (task.verifier, task.ground_truth) == (question.ability, question.ground_truth)
    if question.ability == "code":
        assert parse_tests(question.ground_truth).count > 0


def test_a_row_that_was_converted_is_converted_to_itself() -> None:
    layout = Layout(system="Act.", math_suffix=MATH_SUFFIX, code_suffix=CODE_SUFFIX)
    for _, question in ROWS.values():
        again = source_named("eurus", "--from").read(RawRow(origin="", value=layout.row(question, 0, "train")))
        assert again == question


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("numina", {"solution": "It is 4."}),
        ("numina", {"answer": "notfound"}),
        ("gsm8k", {"answer": "It is 4."}),
        ("eurus", {"reward_model": {"ground_truth": None, "style": "rule"}}),
        ("dapo", {"reward_model": {}}),
        ("eurus_first_revision", {"reference": None}),
        ("apps", {"input_output": ""}),
        ("codecontests", {"public_tests": {"input": [], "output": []}, "generated_tests": None}),
        ("codeforces", {"test_cases": [{"input": "12345...", "output": "12346"}, {"input": None, "output": ""}]}),
        ("livecodebench", {"public_test_cases": ""}),
        ("mbpp", {"test_list": []}),
        ("leetcode", {"test": None}),
        ("plain", {"answer": None}),
    ],
)
def test_a_question_without_an_answer_says_so(name: str, changes: dict[str, Any]) -> None:
    assert read(name, **changes).ground_truth == ""


def test_numina_says_what_is_a_proof_and_what_a_choice() -> None:
    kinds = [read("numina", answer="4", question_type=kind).kind for kind in ("math-word-problem", "MCQ", "proof")]
    assert kinds == ["open", "choice", "proof"]


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("numina", {"problem": ""}, "f, row 1, problem: missing problem"),
        ("numina", {"solution": 4}, "f, row 1, solution: missing solution"),
        ("eurus_first_revision", {"task": "Poetry"}, "must be Math or Coding, not 'Poetry'"),
        ("eurus", {"ability": "chain"}, "must be math or code, not chain"),
        ("dapo", {"prompt": []}, "f, row 1, prompt: missing prompt"),
    ],
)
def test_a_broken_row_is_named(name: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRowError, match=said):
        read(name, **changes)


def test_a_file_of_no_known_form_is_refused_with_what_it_has() -> None:
    with pytest.raises(SettingsError, match=r"f: its first row is of no form that is known; it has colour, size\. Forms are dapo"):
        source_of(RawRow(origin="f, row 1", value={"colour": 1, "size": 2}), "f")
    with pytest.raises(SettingsError, match="it has nothing"):
        source_of(None, "f")
    with pytest.raises(SettingsError, match=r"--from = numena: there is no such format \(did you mean numina\?\)"):
        source_named("numena", "--from")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1}, no, \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\fbox {7}", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{3} and \boxed{4", "3"),
        ("none", ""),
    ],
)
def test_the_last_whole_box_is_the_answer(text: str, answer: str) -> None:
    assert last_boxed(text) == answer
