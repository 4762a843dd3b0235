"""What a new user does wrong: one clear message, an exit code, nothing left running."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.command_line import DEMO, ROOT, metric_rows, oprime, processes_of, sets, start_oprime
from e2e.conftest import small_run, wait_for_step
from oprime.adapters.local_redis import LocalRedis

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def refused(*arguments: str, says: tuple[str, ...]) -> str:
    """Run `oprime`; it must fail with every word of `says` on stderr and no traceback."""
    result = oprime(*arguments, timeout_s=280)
    assert result.returncode != 0, result.stdout
    for words in says:
        assert words in result.stderr, f"{words!r} is not in: {result.stderr}"
    assert "Traceback" not in result.stderr
    return result.stderr


def test_unknown_setting() -> None:
    refused("train", str(DEMO), "--set", "learner.learning_rat=1e-4", "--dry-run", says=("learner.learning_rat", "docs/settings.md"))


def test_missing_config() -> None:
    refused("train", "no/such.toml", says=("no/such.toml",))


def test_missing_model_directory(tmp_path: Path) -> None:
    config = DEMO.read_text(encoding="utf-8").partition("\n[sft]")[0]
    path = tmp_path / "no-sft.toml"
    path.write_text(config, encoding="utf-8")
    refused("train", str(path), *sets({"model.path": str(tmp_path / "nothing"), "run.directory": str(tmp_path)}), says=("nothing",))


def test_one_response_per_prompt_cannot_be_compared_with_siblings(starting_model: Path, tmp_path: Path) -> None:
    says = ("group_size", "rloo")
    refused(*small_run(starting_model, tmp_path, "k1", **{"sampling.group_size": 1}), says=says)


def test_a_dataset_row_without_ground_truth(starting_model: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    assert oprime("tasks", "chain", "--out", str(rows), "--rows", "20").returncode == 0
    lines = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    del lines[7]["reward_model"]["ground_truth"]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    files = {"tasks.source": "rows", "tasks.train": str(rows), "tasks.heldout": str(rows)}
    refused(*small_run(starting_model, tmp_path, "rows", **files), says=("rows.jsonl", "8", "ground_truth"))


def test_a_port_that_is_taken(starting_model: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments = small_run(starting_model, tmp_path, "port", **{"endpoints.prm": f"127.0.0.1:{port}"})
        refused(*arguments, says=(str(port), "prm"))
    assert processes_of(tmp_path / "port") == []


@pytest.fixture
def redis_with_password(tmp_path: Path) -> Iterator[LocalRedis]:
    server = LocalRedis.start(tmp_path / "redis", port=0, password="opensesame")
    yield server
    server.stop()


def test_a_wrong_redis_password(starting_model: Path, tmp_path: Path, redis_with_password: LocalRedis) -> None:
    wrong = tmp_path / "password"
    wrong.write_text("wrong\n", encoding="utf-8")
    queue = {"queue.url": redis_with_password.url, "queue.password_file": str(wrong)}
    stderr = refused(*small_run(starting_model, tmp_path, "auth", **queue), says=("password",))
    assert "opensesame" not in stderr
    assert processes_of(tmp_path / "auth") == []


def test_a_tokenizer_that_differs_between_policy_and_prm(starting_model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(starting_model, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    words = tokenizer["model"]["vocab"]
    words["=0"], words["=1"] = words["=1"], words["=0"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    refused(*small_run(starting_model, tmp_path, "tokens", **{"prm.initial_model": str(other)}), says=("tokenizer", "prm.initial_model"))


def test_vllm_that_is_not_installed(starting_model: Path, tmp_path: Path) -> None:
    # Finders that do not find vllm stand for an environment without it.
    hide = tmp_path / "hide"
    hide.mkdir()
    (hide / "sitecustomize.py").write_text(
        "import sys\n"
        "class Without:\n"
        "    def __init__(self, finder):\n"
        "        self.finder = finder\n"
        "    def __getattr__(self, name):\n"
        "        return getattr(self.finder, name)\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        return None if name.partition('.')[0] == 'vllm' else self.finder.find_spec(name, path, target)\n"
        "sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]\n",
        encoding="utf-8",
    )
    arguments = small_run(starting_model, tmp_path, "novllm", **{"generator.backend": "vllm"})
    environment = {**os.environ, "PYTHONPATH": str(hide)}
    command = [sys.executable, "-m", "oprime_cli.main", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=ROOT, env=environment, check=False)
    assert result.returncode != 0
    assert "vllm" in result.stderr
    assert "transformers" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_too_small_for_the_run(starting_model: Path, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(b"0" * (46 << 20))
    refused(*small_run(starting_model, small_disk, "full"), says=("disk", str(small_disk)))


def test_a_disk_that_fills_up_in_mid_run(starting_model: Path, small_disk: Path, tmp_path: Path) -> None:
    arguments = small_run(starting_model, small_disk, "fills", **{"run.steps": 500, "run.checkpoint_every": 1})
    process = start_oprime(*arguments, log=tmp_path / "log")
    try:
        wait_for_step(small_disk / "fills", 2, timeout_s=200)
        with contextlib.suppress(OSError), (small_disk / "filler").open("wb") as filler:
            for _ in range(64):
                filler.write(b"0" * (1 << 20))
                filler.flush()
        assert process.wait(timeout=60) != 0
    finally:
        process.kill()
    said = (tmp_path / "log").read_text(encoding="utf-8")
    assert "space" in said, said
    assert "Traceback" not in said
    assert processes_of(small_disk) == []
    assert metric_rows(small_disk / "fills", "step")
    assert not (small_disk / "fills" / "summary.json").exists()
