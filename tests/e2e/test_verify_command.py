"""`oprime verify` and `oprime serve verifier` as a person uses them."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.command_line import OPRIME, ROOT, oprime
from oprime_cli.main import main

pytestmark = pytest.mark.e2e

EVERYWHERE = "0.0.0.0:0"
DOUBLE = json.dumps({"inputs": ["3\n"], "outputs": ["6\n"]})
ROWS: list[dict[str, Any]] = [
    {"id": "right", "kind": "math", "response": "So \\boxed{\\frac{2}{4}}.", "ground_truth": "0.5"},
    {"id": "bare", "kind": "math", "response": "2", "ground_truth": ["1", "2"], "options": {"bare": True}},
    {"id": "number", "kind": "math", "response": "\\boxed{3}", "ground_truth": 3},
    {"id": "wrong", "kind": "math", "response": "\\boxed{5}", "ground_truth": "4"},
    {"id": "cut", "kind": "math", "response": "<think>\\boxed{4}", "ground_truth": "4"},
    {"id": "empty", "kind": "math", "response": "\\boxed{4}", "ground_truth": ""},
    {"id": "code", "kind": "code", "response": "```python\nprint(int(input()) * 2)\n```", "ground_truth": DOUBLE},
    {"id": "code as object", "kind": "code", "response": "```python\nprint(7)\n```", "ground_truth": json.loads(DOUBLE)},
    {"id": 9, "kind": "chain", "response": "=1 #8", "ground_truth": "8"},
]
VERDICTS = ["CORRECT", "CORRECT", "CORRECT", "INCORRECT", "NO_ANSWER", "BAD_TASK", "CORRECT", "INCORRECT", "CORRECT"]


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: list[dict[str, Any]], *more: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in (*map(json.dumps, rows), *more)), encoding="utf-8")
    return path


def test_every_row_gets_one_verdict_in_the_order_of_the_rows(tmp_path: Path) -> None:
    out = tmp_path / "deep/out.jsonl"
    result = oprime("verify", str(write(tmp_path / "in.jsonl", ROWS)), "--out", str(out), "--jobs", "2")
    assert result.returncode == 0, result.stderr
    rows = written(out)
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS]
    assert [row["verdict"] for row in rows] == VERDICTS
    assert [row["score"] for row in rows] == [1, 1, 1, 0, 0, None, 1, 0, 1]
    assert all(set(row) == {"id", "verdict", "score", "extracted", "reason", "seconds"} for row in rows)
    assert rows[0]["extracted"] == "\\frac{2}{4}"
    assert "9 rows: 5 CORRECT" in result.stderr


def test_an_interrupted_run_goes_on_after_its_last_whole_row(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    kept = {"id": "right", "verdict": "CORRECT", "score": 1.0, "extracted": "kept as it was", "reason": "", "seconds": 0.0}
    failed = {"id": "bare", "verdict": "INFRA_ERROR", "score": None, "extracted": "", "reason": "lost", "seconds": 0.0}
    later = {"id": "number", "verdict": "CORRECT", "score": 1.0, "extracted": "kept too", "reason": "", "seconds": 0.0}
    out.write_text("".join(json.dumps(row) + "\n" for row in (kept, failed, later)) + '{"id": "wro', encoding="utf-8")
    result = oprime("verify", str(source), "--out", str(out), "--jobs", "1")
    assert result.returncode == 0, result.stderr
    rows = written(out)
    assert [row["verdict"] for row in rows] == VERDICTS
    assert (rows[0]["extracted"], rows[2]["extracted"]) == ("kept as it was", "kept too")
    assert "2 judged earlier" in result.stderr


def test_a_killed_run_is_finished_by_the_same_command(tmp_path: Path) -> None:
    rows = [{"id": number, "kind": "math", "response": f"\\boxed{{{number}}}", "ground_truth": str(number % 50)} for number in range(3000)]
    source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    command = [*OPRIME, "verify", str(source), "--out", str(out), "--jobs", "1"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        ends = time.monotonic() + 60
        while time.monotonic() < ends and not (out.exists() and out.stat().st_size > 5000):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert 0 < len(out.read_text(encoding="utf-8").splitlines()) < 3000
    result = oprime("verify", str(source), "--out", str(out), "--jobs", "1")
    assert result.returncode == 0, result.stderr
    assert [(row["id"], row["score"]) for row in written(out)] == [(number, float(number < 50)) for number in range(3000)]
    assert "judged earlier" in result.stderr


def test_rows_that_cannot_be_judged_say_why_and_the_exit_code_tells(tmp_path: Path) -> None:
    bad = [
        {"id": "kind", "kind": "maths", "response": "4", "ground_truth": "4"},
        {"id": "option", "kind": "math", "response": "\\boxed{4}", "ground_truth": "4", "options": {"bear": True}},
        {"id": "response", "kind": "math", "ground_truth": "4"},
    ]
    result = oprime("verify", str(write(tmp_path / "in.jsonl", bad, "not json", "[1]")), "--jobs", "1")
    assert result.returncode == 1
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["verdict"], row["score"]) for row in rows] == [("BAD_TASK", None)] * 5
    for row, words in zip(rows, ("unknown verifier 'maths'", "bear", "response is missing", "line 4", "line 5"), strict=True):
        assert words in row["reason"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nowhere.jsonl",), 1, "nowhere.jsonl cannot be read"),
        (("in.jsonl", "--jobs", "0"), 2, "not a whole number above 0"),
        (("in.jsonl", "--set", "verifier.works=2"), 2, "unknown setting verifier.works"),
        (("in.jsonl", "--out", "other.jsonl"), 1, "is the output of another file"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(tmp_path: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    write(tmp_path / "in.jsonl", ROWS[:1])
    write(tmp_path / "other.jsonl", [{"id": "another", "verdict": "CORRECT", "score": 1.0}])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run([*OPRIME, "verify", *arguments], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert (result.returncode, result.stdout) == (code, "")
    assert words in result.stderr


@pytest.fixture
def service(tmp_path: Path) -> Iterator[str]:
    """A verifier by itself, on a free port of all interfaces."""
    log = tmp_path / "serve.log"
    command = [*OPRIME, "serve", "verifier", "--listen", EVERYWHERE, "--insecure"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
    try:
        ends = time.monotonic() + 120
        while time.monotonic() < ends and process.poll() is None:
            text = log.read_text(encoding="utf-8")
            port = re.search(r'"port": (\d+)', text)
            if port and "sandbox_checked" in text:
                yield f"127.0.0.1:{port[1]}"
                break
            time.sleep(0.1)
        else:
            raise AssertionError(log.read_text(encoding="utf-8"))
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text(encoding="utf-8")


def test_a_verifier_served_by_itself_passes_its_own_conformance_suite(service: str) -> None:
    result = oprime("verifier", "test", service, "--kind", "math")
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_verifier_that_anybody_could_use_is_refused_unless_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "verifier", "--listen", EVERYWHERE]) == 2
    assert "the gRPC server of verifier would listen where other machines reach them" in capsys.readouterr().err
