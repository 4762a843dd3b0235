"""`make chaos` with a few faults."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.command_line import ROOT


@pytest.mark.e2e
@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_faults_change_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chaos", "--faults", "3", "--faults-per-run", "3", "--directory", str(tmp_path / "chaos")]
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=800, cwd=ROOT, env=environment, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    undisturbed, *disturbed = [line.split("|") for line in result.stdout.splitlines() if line.endswith("| as it must be |")]
    assert int(undisturbed[4]) == 0
    assert sum(int(cells[4]) for cells in disturbed) == 3
