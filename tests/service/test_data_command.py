"""`oprime data`, with an endpoint that listens and the real verifier."""

import io
import json
import logging
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from oprime.runtime.settings import TasksSection
from oprime.tasks.actions import short_prompt
from oprime.tasks.dataset import load_tasks
from oprime.tasks.sources.eurus_sources import MATH_SUFFIX
from oprime_cli.data.choices import REWRITE
from oprime_cli.main import main


@dataclass
class Endpoint:
    """An OpenAI-compatible endpoint: what it says of the messages and the seed."""

    says: Callable[[str, str, int], str]
    url: str = ""
    status: int = 200
    asked: list[str] = field(default_factory=list[str])

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        system = "".join(turn["content"] for turn in body["messages"] if turn["role"] == "system")
        user = body["messages"][-1]["content"]
        if self.status != 200:
            return self.status, {"error": {"message": "out of memory"}}
        self.asked.append(user)
        choice = {"message": {"role": "assistant", "content": self.says(system, user, body["seed"])}, "finish_reason": "stop"}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}


@contextmanager
def listening(says: Callable[[str, str, int], str]) -> Iterator[Endpoint]:
    endpoint = Endpoint(says)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, answer = endpoint.answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


PLANE = (
    "A plane travels 1200 miles in 3 hours. At the same rate, how many additional hours would it take to travel an additional 2000 miles?"
)
QUESTIONS = [
    ("easy", "What is 2 + 2?", "4"),
    ("half", "What is 3 + 3 of the apples that Anna has in her basket?", "6"),
    ("hard", "What is 5 + 5?", "10"),
    ("wrong gold", "What is 6 + 6?", "13"),
    ("same", "what is  2+2 ?", "4"),
    ("same but", "What is $2 + 2$?", "5"),
    ("near", "What is 3 + 3 of the apples that Anna has in her basket now?", "6"),
    ("other numbers", "What is 3 + 3 of the apples that Anna has in her basket today?", "7"),
    ("copy", PLANE, "5"),
    ("paraphrase", PLANE.replace("plane", "train").replace("1200", "270").replace("2000", "180"), "2"),
    ("figure", "In the figure below, find x.", "1"),
    ("proof", "Prove that 1 > 0.", "1"),
    ("no answer", "What is 7 + 7?", ""),
    ("choice", "Then 4 + 4 is ( )\n\nA: $7$\n\nB: $8$\n\nC: $9$", "B"),
    ("true choice", "Which is true? (A) 1 > 2 (B) 2 > 1 (C) 1 = 2", "B"),
    ("no math", "What is the name?", r"\frac{"),
]


def solver(system: str, user: str, seed: int) -> str:
    """Is right about sums below 12, of apples only every other time; and opens choices."""
    if system == REWRITE:
        return "OPEN: no\nQUESTION:" if "true" in user else "OPEN: yes\nQUESTION: What is 4 + 4?"
    one, other = map(int, re.findall(r"\d+", user)[:2])
    wrong = one == 5 or ("apples" in user and seed % 2)
    return f"It is \\boxed{{{one + other + (1 + seed if wrong else 0)}}}."


def settings(tmp_path: Path, url: str) -> Path:
    write_lines(tmp_path / "numina.jsonl", [_numina(text, gold) for _, text, gold in QUESTIONS])
    write_lines(tmp_path / "bench.jsonl", [{"question": PLANE, "answer": "5"}])
    path = tmp_path / "prepare.toml"
    path.write_text(f"""
folder = "{tmp_path}/out"
[[sources]]
file = "{tmp_path}/numina.jsonl"
[decontaminate]
benchmarks = ["{tmp_path}/bench.jsonl"]
[choices]
treatment = "rewrite"
model = {{ url = "{url}", name = "small", attempts = 1 }}
[solve]
samples = 2
model = {{ url = "{url}", name = "large", attempts = 1, prompt_price = 1e6 }}
[difficulty]
max_pass_rate = 0.9
""")
    return path


def _numina(text: str, gold: str) -> dict[str, Any]:
    return {"source": "cn_k12", "problem": text, "solution": f"\\boxed{{{gold}}}" if gold != r"\frac{" else "", "answer": gold}


def test_questions_become_tasks_and_what_is_dropped_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listening(solver) as endpoint:
        config = settings(tmp_path, endpoint.url)
        endpoint.status = 500
        assert main(["data", "prepare", str(config)]) == 1
        said = capsys.readouterr()
        assert f"oprime: no response after 1 attempts; the last: {endpoint.url}/chat/completions answers 500: out of memory" in said.err
        assert not (tmp_path / "out" / "train.jsonl").exists()
        endpoint.status = 200
        assert main(["data", "prepare", str(config)]) == 0
        said = capsys.readouterr()
        first = re.sub(r"\(\d+\.\d s\)", "(now)", said.out).splitlines()
        asked = list(endpoint.asked)
        # Other bounds need no new samples.
        assert main(["data", "prepare", str(config), "--set", "difficulty.max_pass_rate=1", "--set", "rows.heldout=1"]) == 0
        assert endpoint.asked == asked
    assert first == [
        "read: 16 came, 16 kept (done earlier)",
        "rules: 16 came, 13 kept (done earlier)",
        "  1 x figure",
        "  1 x proof",
        "  1 x no answer",
        "duplicates: 13 came, 9 kept (done earlier)",
        "  1 x duplicate",
        "  1 x duplicate with another answer",
        "  1 x near-duplicate",
        "  1 x near-duplicate with another answer",
        "decontaminate: 9 came, 7 kept (done earlier)",
        "  1 x in bench.jsonl",
        "  1 x nearly in bench.jsonl",
        "choices: 7 came, 6 kept (now)",
        "  1 x choice that needs its options",
        "answers: 6 came, 5 kept (now)",
        "  1 x answer that the verifier cannot compare",
        "solve: 5 came, 3 kept (now)",
        "  1 x not solved",
        "  1 x samples agree on another answer",
        "difficulty: 3 came, 1 kept (now)",
        "  2 x too easy",
        f"1 rows in {tmp_path}/out/train.jsonl",
    ]
    assert "choices: 2 responses of small, 20 + 10 tokens" in said.err
    assert "solve: 10 responses of large, 100 + 50 tokens, cost 100.0000" in said.err
    # A request that was under way when the first command gave up may still have come in.
    assert len(asked) in (12, 13)
    (train,) = load_tasks(TasksSection(train=str(tmp_path / "out" / "heldout.jsonl")), "train")
    rows = lines(tmp_path / "out" / "train.jsonl") + lines(tmp_path / "out" / "heldout.jsonl")
    assert {row["prompt"][-1]["content"].removesuffix(MATH_SUFFIX): row["extra_info"]["pass_rate"] for row in rows} == {
        "What is 2 + 2?": 1.0,
        "What is 3 + 3 of the apples that Anna has in her basket?": 0.5,
        "What is 4 + 4?": 1.0,
    }
    assert (train.messages[0].content, train.verifier, train.data_source) == (short_prompt(), "math", "numina_cn_k12")


GOOD = "[ASSESS]\n\n# Two numbers\n\nNext action: [OUTPUT]\n\n[OUTPUT]\n\nIt is \\boxed{{{0}}}."


def writer(system: str, user: str, seed: int) -> str:
    if "3 + 3" in user:
        return "It is \\boxed{6}."
    if "5 + 5" in user:
        return GOOD.format(10 + seed - 1)
    return GOOD.format(4)


def test_demonstrations_are_kept_where_form_and_answer_are_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions = [{"question": f"What is {one} + {one}?", "answer": str(2 * one) if one < 7 else None} for one in (2, 3, 5, 6, 7)]
    write_lines(tmp_path / "questions.jsonl", [*questions, {"question": "", "answer": "1"}])
    with listening(writer) as endpoint:
        config = tmp_path / "actions.toml"
        config.write_text(f"""
output = "{tmp_path}/sft.jsonl"
samples = 2
[[sources]]
file = "{tmp_path}/questions.jsonl"
[model]
url = "{endpoint.url}"
name = "m"
attempts = 1
at_once = 1
""")
        assert main(["data", "actions", str(config)]) == 0
        said, asked = capsys.readouterr(), len(endpoint.asked)
        endpoint.status = 500
        # All is known: neither model nor verifier is asked again.
        assert main(["data", "actions", str(config)]) == 0
        assert capsys.readouterr().out == said.out
    assert said.out.splitlines() == [
        f"3 demonstrations of 5 questions in {tmp_path}/sft.jsonl",
        "  1 x bad row: missing question",
        "  3 x wrong answer",
        "  2 x form: no action",
    ]
    # 2 and 7 are good at once, 5 the second time, 3 and 6 never.
    assert asked == 8
    assert "actions: 8 responses of m, 80 + 40 tokens" in said.err
    rows = lines(tmp_path / "sft.jsonl")
    assert [turn["role"] for turn in rows[0]["messages"]] == ["system", "user", "assistant"]
    assert rows[0]["messages"][0]["content"] == short_prompt()
    assert rows[0]["messages"][1]["content"] == f"What is 2 + 2?{MATH_SUFFIX}"
    assert rows[0]["actions"] == ["ASSESS", "OUTPUT"]
    assert [row["messages"][2]["content"] for row in rows] == [GOOD.format(4), GOOD.format(10), GOOD.format(4)]
    assert [row["reason"] for row in lines(tmp_path / "sft.jsonl.dropped.jsonl")] == [
        "form: no action",
        "form: no action",
        "wrong answer",
        "wrong answer",
        "wrong answer",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("sources=[{file='nothing.jsonl'}]", "sources.file = nothing.jsonl: no such file"),
        ("sources=[]", "sources"),
        ("sources=[{file='FILE', question='q', answer='a'}]", "has no row that can be read; the first: FILE, row 1, q: missing q"),
        ("sources=[{file='FILE', form='numena'}]", "there is no such format (did you mean numina?)"),
        ("decontaminate.benchmarks=['nothing.jsonl']", "decontaminate.benchmarks = nothing.jsonl: no such file"),
        ("decontaminate.shares=1", "decontaminate.shares"),
        ("choices.treatment='rewrite'", "needs [choices.model]"),
        ("rows.heldout=2", "1 questions are left, and rows.heldout = 2 of them would be held out"),
    ],
)
def test_bad_input_is_one_clear_message(tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, said: str) -> None:
    file = str(tmp_path / "file.jsonl")
    write_lines(tmp_path / "file.jsonl", [{"question": "2 + 2?", "answer": "4"}])
    config = tmp_path / "prepare.toml"
    config.write_text(f'folder = "{tmp_path}/out"\n[[sources]]\nfile = "{file}"\n[answers]\ncheck = false\n')
    assert main(["data", "prepare", str(config), "--set", change.replace("FILE", file)]) in (1, 2)
    error = capsys.readouterr().err
    assert said.replace("FILE", file) in error
    assert error.startswith("oprime: ")
    assert "Traceback" not in error


class GoneAfterAnswers(io.StringIO):
    """Standard output whose reader goes away when workers of the verifier are there, which must be ended."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file

    def write(self, text: str) -> int:
        if text.startswith("solve"):
            raise BrokenPipeError
        return super().write(text)

    def fileno(self) -> int:
        return self._file.fileno()


def test_who_reads_the_counts_may_go_away(tmp_path: Path) -> None:
    write_lines(tmp_path / "file.jsonl", [{"question": "2 + 2?", "answer": "4"}])
    config = tmp_path / "prepare.toml"
    config.write_text(f'folder = "{tmp_path}/out"\n[[sources]]\nfile = "{tmp_path}/file.jsonl"\n')
    said = io.StringIO()
    heard = logging.StreamHandler(said)
    logging.getLogger("asyncio").addHandler(heard)
    try:
        with tempfile.TemporaryFile() as file, redirect_stdout(GoneAfterAnswers(file)) as out:
            assert main(["data", "prepare", str(config)]) == 1
    finally:
        logging.getLogger("asyncio").removeHandler(heard)
    assert "answers: 1 came, 1 kept" in out.getvalue()
    assert said.getvalue() == ""
