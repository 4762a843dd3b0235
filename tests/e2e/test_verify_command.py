"""`oprime verify` and `oprime serve verifier` as a person uses them."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.command_line import OPRIME, ROOT, oprime
from oprime.tasks.dataset import PromptOrder, load_tasks
from oprime_cli.main import main
from oprime_cli.overrides import load_config
from oprime_cli.verifying.judge_file import Tally, judge_file
from oprime_verifier.config import VerifierSection

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


@pytest.mark.parametrize("command", [["verify", "--jobs", "1", "--fresh"], ["verify", "--jobs", "1"]])
def test_verdicts_may_go_to_a_pipe_which_stays_one(command: list[str], tmp_path: Path) -> None:
    source, pipe = write(tmp_path / "in.jsonl", ROWS[:2]), tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen([*OPRIME, *command, str(source), "--out", str(pipe)], cwd=ROOT, stderr=subprocess.PIPE) as process:
        rows = written(pipe)
        assert process.wait(60) == 0
    assert [row["verdict"] for row in rows] == VERDICTS[:2]
    assert pipe.is_fifo()
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "pipe"}


def test_every_row_gets_one_verdict_in_the_order_of_the_rows(tmp_path: Path) -> None:
    out = tmp_path / "deep/out.jsonl"
    result = oprime("verify", str(write(tmp_path / "in.jsonl", ROWS)), "--out", str(out), "--jobs", "2")
    assert result.returncode == 1, result.stderr
    assert "1 rows cannot be judged as they are; correct them:\n  1 x " in result.stderr
    rows = written(out)
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS]
    assert [row["verdict"] for row in rows] == VERDICTS
    assert [row["score"] for row in rows] == [1, 1, 1, 0, 0, None, 1, 0, 1]
    assert all(set(row) == {"id", "verdict", "score", "extracted", "reason", "seconds", "fingerprint"} for row in rows)
    assert rows[0]["extracted"] == "\\frac{2}{4}"
    assert "9 rows: 5 CORRECT" in result.stderr


def judged(source: Path, out: Path, *more: str) -> tuple[list[dict[str, Any]], str]:
    result = oprime("verify", str(source), "--out", str(out), "--jobs", "1", *more)
    assert result.returncode == 0, result.stderr
    return written(out), result.stderr


SOUND = [row for row, verdict in zip(ROWS, VERDICTS, strict=True) if verdict != "BAD_TASK"]


def test_an_interrupted_run_goes_on_after_its_last_whole_row(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", SOUND), tmp_path / "out.jsonl"
    first, _ = judged(source, out)
    first[0]["extracted"], first[2]["extracted"] = "kept as it was", "kept too"
    failed = {**first[1], "verdict": "INFRA_ERROR", "score": None, "reason": "lost"}
    out.write_text("".join(json.dumps(row) + "\n" for row in (first[0], failed, first[2])) + '{"id": "wro', encoding="utf-8")
    rows, said = judged(source, out)
    assert [row["verdict"] for row in rows] == [verdict for verdict in VERDICTS if verdict != "BAD_TASK"]
    assert (rows[0]["extracted"], rows[2]["extracted"]) == ("kept as it was", "kept too")
    assert "2 judged earlier" in said


async def test_a_run_that_ends_early_loses_no_verdict_behind_the_first_that_failed(tmp_path: Path) -> None:
    rows = [{"id": place, "kind": "exact", "response": "a", "ground_truth": "a"} for place in range(4)]
    source, live, killed = write(tmp_path / "in.jsonl", rows), tmp_path / "live/out.jsonl", tmp_path / "killed/out.jsonl"
    section = VerifierSection()
    await judge_file(source, live, io.StringIO(), section, lambda tally: None)
    first = [{**row, "extracted": f"kept {row['id']}"} for row in written(live)]
    for place in (0, 2):
        first[place] |= {"verdict": "INFRA_ERROR", "score": None}
    write(live, first)

    def interrupt(tally: Tally) -> None:
        shutil.copytree(live.parent, killed.parent)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await judge_file(source, live, io.StringIO(), section, interrupt)
    assert [row["extracted"] for row in written(live)] == ["a", "kept 1", "kept 2", "kept 3"]
    assert (await judge_file(source, killed, io.StringIO(), section, lambda tally: None)).reused == 3
    assert [row["extracted"] for row in written(killed)] == ["a", "kept 1", "a", "kept 3"]


def test_a_row_that_changed_is_judged_anew_and_so_is_every_row_when_settings_change(tmp_path: Path) -> None:
    rows = [{"id": name, "kind": "math", "response": "\\boxed{2/4}", "ground_truth": "1/2"} for name in "abc"]
    # Without ids, rows are known by their places and their content.
    rows += [{"kind": "math", "response": f"\\boxed{{{number}}}", "ground_truth": "1"} for number in (1, 2)]
    source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    found, said = judged(source, out)
    assert [row["verdict"] for row in found] == ["CORRECT", "CORRECT", "CORRECT", "CORRECT", "INCORRECT"]
    assert "2 without an id" in said
    rows[1]["response"], rows[2]["ground_truth"] = "\\boxed{1/3}", "1/4"
    found, said = judged(write(source, [*rows[:3], *rows[:2:-1]]), out)
    assert [row["verdict"] for row in found] == ["CORRECT", "INCORRECT", "INCORRECT", "INCORRECT", "CORRECT"]
    assert "1 judged earlier; 4 judged anew" in said
    found, said = judged(source, out, "--set", "verifier.math.strict_form=true")
    assert [row["verdict"] for row in found] == ["INCORRECT", "INCORRECT", "INCORRECT", "INCORRECT", "CORRECT"]
    assert "5 judged anew" in said


def test_standard_input_is_read_and_half_a_character_in_an_id_is_no_harm() -> None:
    rows = "".join(json.dumps(row) + "\n" for row in (SOUND[0], {**SOUND[1], "id": "\ud800"}))
    result = subprocess.run([*OPRIME, "verify", "-", "--jobs", "1"], input=rows, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ["right", "\ud800"]


def test_stored_rollouts_are_judged_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "run/config.toml"
    config.parent.mkdir()
    config.write_text((ROOT / "deploy/config/demo.toml").read_text(encoding="utf-8"), encoding="utf-8")
    run = load_config(config)
    order = PromptOrder(run.run.seed, len(load_tasks(run.tasks, "train")))
    truth = load_tasks(run.tasks, "train")[order.index(7)].ground_truth
    right, wrong = f"=1 #{truth}", f"=1 #{(int(truth) + 1) % 10}"
    rollouts = [
        {"index": 0, "outcome_reward": 1.0, "response": right},
        {"index": 1, "outcome_reward": 1.0, "response": wrong},
        {"index": 2, "outcome_reward": 0.0, "tokens": ["=1 ", f"#{truth}"]},
    ]
    samples = tmp_path / "run/samples"
    samples.mkdir()
    write(samples / "step-000003.jsonl", [{"step": 3, "group_id": 7, "rollouts": rollouts}])
    result = oprime("verify", "--again", str(samples / "step-000003.jsonl"), "--jobs", "1")
    assert result.returncode == 0, result.stderr
    *changed, summary = result.stdout.splitlines()
    assert [(row["index"], row["before"], row["score"]) for row in map(json.loads, changed)] == [(1, 1.0, 0.0), (2, 0.0, 1.0)]
    assert summary == "3 rollouts: 1 as before, 1 higher, 1 lower"
    out = write(tmp_path / "changed.jsonl", [{"of": "an earlier run"}])
    write(samples / "step-000004.jsonl", [{"step": 4, "group_id": 7, "rollouts": rollouts}], "no group")
    again = ["verify", "--again", str(tmp_path / "run"), "--jobs", "1", "--out", str(out)]
    assert main(again) == 1
    assert written(out) == [{"of": "an earlier run"}]
    (samples / "step-000004.jsonl").unlink()
    assert main(again) == 0
    assert [row["index"] for row in written(out)] == [1, 2]
    assert main(["verify", "--again", str(tmp_path)]) == 1
    assert "has no samples/step-*.jsonl" in capsys.readouterr().err


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
    assert "5 rows cannot be judged as they are; correct them:" in result.stderr
    assert "run the same command again" not in result.stderr
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
