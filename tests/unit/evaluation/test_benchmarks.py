"""Benchmarks: every file is read as it is published, its problems and prompts are those of the version that is written here, and what is
not the file is refused by name."""

import base64
import gzip
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from oprime.evaluation.benchmark import Decoding
from oprime.evaluation.benchmarks.livecodebench import LIVECODEBENCH
from oprime.evaluation.benchmarks.registry import BENCHMARKS, benchmark_named
from oprime.evaluation.load import DataFiles, ProblemSet, load_benchmark, load_task_file
from oprime.runtime.errors import SettingsError, UnusableInputError
from oprime_verifier.code.formats import parse_tests

DATA = Path(__file__).parents[4] / "shared" / "data"

AS_PUBLISHED = {
    "aime2024": (30, "17279dbe9d3c", "a8b5b03fda20"),
    "amc": (83, "9459dce217d4", "295832a8658a"),
    "math500": (500, "d16d2d1adede", "fa52215b90ee"),
    "minerva_math": (272, "3c02a62b4b77", "5fd2b8056cfe"),
    "olympiadbench": (675, "1d07ae1c3335", "189ffb6676c6"),
    "leetcode": (180, "748e46b6d150", "2debd1bda128"),
    "gsm8k": (1319, "5e28560742a1", "27f47b6e5622"),
    "humaneval": (164, "9d757e97cc04", "8411720146ae"),
    "mbpp": (399, "9d7215f3ffdc", "cacec7842553"),
}
"""Problems, and the beginnings of the hashes of problems and of prompts under the system turn `S`. Where one changes, the benchmark's
version must be raised."""


def of_data(name: str, *, system: str = "S") -> ProblemSet:
    if not DATA.is_dir():
        pytest.skip(f"the data sets are not at {DATA}")
    return load_benchmark(BENCHMARKS[name], DataFiles([str(DATA)]), system=system)


@pytest.mark.parametrize("name", AS_PUBLISHED)
def test_a_published_file_has_the_problems_and_prompts_of_this_version(name: str) -> None:
    found = of_data(name).described()
    number, problems, prompts = AS_PUBLISHED[name]
    assert (found["problems"], found["problems_sha256"][:12], found["prompts_sha256"][:12]) == (number, problems, prompts)


def test_prompts_are_the_papers() -> None:
    problem = of_data("math500", system="Think.").problems[0]
    assert [(turn.role, turn.content) for turn in problem.task.messages] == [
        ("system", "Think."),
        ("user", "If $2^8=4^x$, what is the value of $x$?\n\nPresent the answer in LaTex format: \\boxed{Your answer}"),
    ]
    (turn,) = of_data("leetcode", system="").problems[0].task.messages
    assert turn.content.endswith("\n\nWrite Python code to solve the problem. Present the code in \n```python\nYour code\n```\nat the end.")
    (turn,) = of_data("mbpp", system="").problems[0].task.messages
    assert "Write a Python function `similar_elements(test_tup1, test_tup2)` to solve the following problem" in turn.content


def test_an_evaluation_of_aime_2024_asks_no_other_year() -> None:
    contests = {problem.id.partition("/")[0] for problem in of_data("aime2024").problems}
    assert contests == {"2024_AIME_I_Problems", "2024_AIME_II_Problems"}


def test_aime_2025_is_read_where_its_file_is(tmp_path: Path) -> None:
    rows = [{"problem": "1+1?", "answer": "002", "id": 7}, {"problem": "No?", "answer": 0, "id": 8, "url": "https://x/8"}]
    (tmp_path / "aime2025.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_benchmark(BENCHMARKS["aime2025"], DataFiles([str(tmp_path)]), system="")
    assert [(one.id, one.task.ground_truth) for one in found.problems] == [("7", "2"), ("8", "0")]


def live_code_bench_row(**changes: Any) -> dict[str, Any]:
    """As the published files have it: private tests are base64 of zlib of a pickle of a JSON text."""
    tests = [{"input": "3\n", "output": "6\n", "testtype": "stdin"}]
    return {
        "question_title": "Double",
        "question_content": "Print twice the number.",
        "platform": "atcoder",
        "question_id": "abc300_a",
        "contest_date": "2023-05-06T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps([{"input": "1\n", "output": "2\n", "testtype": "stdin"}]),
        "private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode(),
        "metadata": "{}",
        **changes,
    }


def live_code_bench(tmp_path: Path, *rows: dict[str, Any]) -> ProblemSet:
    (tmp_path / "livecodebench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_benchmark(LIVECODEBENCH, DataFiles([str(tmp_path)]), system="")


def test_live_code_bench_is_read_in_its_published_form(tmp_path: Path) -> None:
    later = live_code_bench_row(question_id="abc400_a", contest_date="2024-06-01T00:00:00")
    starter = live_code_bench_row(
        question_id="3", starter_code="class Solution:\n    def f(self, n):\n        ", metadata='{"func_name": "f"}'
    )
    plain, with_starter = live_code_bench(tmp_path, live_code_bench_row(), later, starter).problems
    assert "### Format: Read the inputs from stdin" in plain.task.messages[0].content
    assert "```python\nclass Solution:\n    def f(self, n):" in with_starter.task.messages[0].content
    assert [case.stdin for case in parse_tests(plain.task.ground_truth).programs] == [b"1\n", b"3\n"]
    assert (LIVECODEBENCH.samples, LIVECODEBENCH.decoding.temperature, LIVECODEBENCH.decoding.top_p) == (10, 0.2, 0.95)


def test_a_hostile_pickle_in_live_code_bench_is_never_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "touched",))

    packed = base64.b64encode(zlib.compress(pickle.dumps(Hostile()))).decode()
    (problem,) = live_code_bench(tmp_path, live_code_bench_row(private_test_cases=packed)).problems
    with pytest.raises(Exception, match="only a string is loaded"):
        parse_tests(problem.task.ground_truth)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("gsm8k", {"question": "?", "answer": "4"}, r"row 1, answer: missing answer: must say what the right answer is; is it"),
        ("gsm8k", {"prompt": "?", "answer": "#### 4"}, r"row 1, question: missing question: .* fields of this row are prompt, answer"),
        ("math500", {"problem": "?", "id": 1}, r"row 1, solution: missing solution: .* fields of this row are problem, id"),
        ("olympiadbench", {"id": 1, "question": "?", "final_answer": "4"}, r"row 1, final_answer: .* must be a list of texts, not '4'"),
        ("mbpp", {"task_id": 2, "prompt": "?", "code": "def f(): pass", "test_list": []}, r"row 1, test_list: missing test_list"),
        ("mbpp", {"task_id": 2, "prompt": "?", "code": "x = 1", "test_list": ["assert f()"]}, r"row 1, code: no function"),
        ("humaneval", {"task_id": "a", "prompt": "def f():\n", "entry_point": "g", "test": "x"}, r"row 1, prompt: no signature: .* g, the"),
        ("livecodebench", {"contest_date": "May"}, r"row 1, contest_date: wrong date: .*not 'May'"),
        ("amc", ["no", "object"], r"row 1, row: no object"),
    ],
)
def test_a_row_of_another_file_is_refused_with_place_rule_and_remedy(tmp_path: Path, name: str, row: Any, said: str) -> None:
    benchmark = BENCHMARKS[name]
    file = tmp_path / f"other{Path(benchmark.files[0].removesuffix('.gz')).suffix}"
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(UnusableInputError, match=said):
        load_benchmark(benchmark, DataFiles([f"{name}={file}"]), system="")


def test_a_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"amc: none of amc.jsonl, .* is in .*AI-MO/aimo-validation-amc.*--data amc=FILE"):
        load_benchmark(BENCHMARKS["amc"], DataFiles([str(tmp_path)]), system="")
    with pytest.raises(SettingsError, match="no such folder"):
        DataFiles([str(tmp_path / "nowhere")])
    with pytest.raises(SettingsError, match=r"no such benchmark \(did you mean math500\?\)"):
        benchmark_named("math50", "--on")


def test_a_file_of_another_year_and_a_repeated_id_are_refused(tmp_path: Path) -> None:
    row = {"question": "?", "answer": "1", "url": "https://x/wiki/2022_AIME_I_Problems/Problem_1"}
    (tmp_path / "aime.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UnusableInputError, match="has no problem of aime2024"):
        load_benchmark(BENCHMARKS["aime2024"], DataFiles([str(tmp_path)]), system="")
    (tmp_path / "amc.jsonl").write_text(2 * (json.dumps({"problem": "?", "answer": 1.0, "id": 3}) + "\n"))
    with pytest.raises(UnusableInputError, match="has 2 problems with the id 3"):
        load_benchmark(BENCHMARKS["amc"], DataFiles([str(tmp_path)]), system="")


def test_a_packed_file_that_is_damaged_is_refused(tmp_path: Path) -> None:
    row = {"task_id": 1, "prompt": "def f():\n", "entry_point": "f", "test": "def check(f): pass"}
    (tmp_path / "HumanEval.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode() + b"\n")[:-6])
    with pytest.raises(SettingsError, match=r"HumanEval.jsonl.gz cannot be read: Compressed file ended"):
        load_benchmark(BENCHMARKS["humaneval"], DataFiles([str(tmp_path)]), system="")


def test_problems_of_ones_own_come_with_their_source_as_part(tmp_path: Path) -> None:
    rows = [
        {
            "data_source": source,
            "prompt": [{"role": "user", "content": "?"}],
            "ability": kind,
            "reward_model": {"style": "rule", "ground_truth": gold},
        }
        for source, kind, gold in (("sums", "math", "4"), ("programs", "code", '{"inputs": ["1"], "outputs": ["1"]}'))
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_task_file(str(path), "--tasks", "", Decoding())
    assert [(one.id, one.subset, one.task.verifier) for one in found.problems] == [("0", "sums", "math"), ("1", "programs", "code")]
    assert found.name == "mine"
    with pytest.raises(SettingsError, match="no such file"):
        load_task_file(str(tmp_path / "none.jsonl"), "--tasks", "", Decoding())


def test_a_part_of_the_problems_is_evenly_spread_and_keeps_its_seeds(tmp_path: Path) -> None:
    (tmp_path / "amc.jsonl").write_text("".join(json.dumps({"problem": "?", "answer": n, "id": n}) + "\n" for n in range(10)))
    whole = load_benchmark(BENCHMARKS["amc"], DataFiles([str(tmp_path)]), system="")
    assert [one.index for one in whole.limited(3).problems] == [0, 3, 6]
    assert whole.limited(0) == whole.limited(99) == whole
    assert whole.limited(3).described()["problems_sha256"] != whole.described()["problems_sha256"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_is_on_the_page_with_its_decoding(name: str) -> None:
    page = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith("|") and f"`{name}`" in line]
    decoding = BENCHMARKS[name].decoding
    assert f"| {decoding.max_tokens:,} |" in row
    assert ("greedy" in row) == (decoding.temperature == 0)
    assert row.endswith("| - |") == (BENCHMARKS[name].paper is None)
