"""`python -m oprime_NAME CONFIG.toml` refuses what `oprime train` refuses, in the same words and before it does anything else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from oprime_cli.main import main

CONFIG = """
[run]
name = "one"
directory = "{directory}"
steps = 1
[model]
path = "model"
attention = "flash_attention_2"
[tasks]
source = "chain"
[coordinator]
groups_per_batch = 4
[endpoints]
generator = "nowhere"
[prm]
loss = "dpo"
"""


@pytest.mark.parametrize("service", ["prm", "verifier"])
def test_a_service_that_is_started_by_itself_refuses_contradictions(
    service: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(CONFIG.format(directory=tmp_path / "runs"), encoding="utf-8")
    assert main(["explain", str(config)]) == 2
    said = [line.removeprefix("  - ") for line in capsys.readouterr().err.splitlines()[1:]]
    result = subprocess.run([sys.executable, "-m", f"oprime_{service}", config], capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 2, result.stderr
    lines = [json.loads(line) for line in (result.stdout + result.stderr).splitlines() if line.startswith("{")]
    (error,) = [line["error"] for line in lines if line["event"] == "settings_refused"]
    reads = {"endpoints.generator": True, "model.attention": service != "verifier", "prm.loss": service == "prm"}
    wanted = [line for line in said if reads[line.partition(" ")[0]]]
    assert error == f"{config}: {'; '.join(wanted)}"
    assert not (tmp_path / "runs").exists()


def test_a_prm_that_nobody_needs_says_so_and_does_nothing(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    document = CONFIG.format(directory=tmp_path / "runs").replace('"flash_attention_2"', '"sdpa"').partition("[endpoints]")[0]
    config.write_text(f"{document}[algorithm]\nprocess_weight = 0.0\n", encoding="utf-8")
    result = subprocess.run([sys.executable, "-m", "oprime_prm", config], capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 4, result.stderr
    (line,) = [json.loads(line) for line in (result.stdout + result.stderr).splitlines() if line.startswith("{")]
    assert line["event"] == "settings_refused"
    assert line["error"].startswith("nothing to do: this run has no PRM: algorithm.process_weight = 0")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("service", "environment", "said"),
    [
        (
            "learner",
            {"OPRIME_HOSTS": "3", "OPRIME_HOST_INDEX": "0", "OPRIME_HOST_ADDRESS": "a:29500"},
            "learner.ranks = 2 with OPRIME_HOSTS",
        ),
        ("prm", {"OPRIME_HOSTS": "2", "OPRIME_HOST_INDEX": "1", "OPRIME_HOST_ADDRESS": "a:29500"}, "prm.ranks = 1 with OPRIME_HOSTS = 2"),
        ("prm", {"OPRIME_HOSTS": "2"}, "OPRIME_HOST_INDEX = ''"),
        (
            "learner",
            {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
            "WORLD_SIZE = 4 with learner.ranks = 2",
        ),
    ],
)
def test_hosts_and_ranks_that_do_not_fit_are_refused_before_any_rank_starts(
    service: str, environment: dict[str, str], said: str, tmp_path: Path
) -> None:
    config = tmp_path / "run.toml"
    document = CONFIG.format(directory=tmp_path / "runs").replace('"flash_attention_2"', '"sdpa"').partition("[endpoints]")[0]
    config.write_text(f"{document}[learner]\nranks = 2\n", encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", f"oprime_{service}", config],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    (line,) = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]
    assert (line["event"], said in line["error"]) == ("settings_refused", True), line
