"""The sandbox's suite as another user and inside a simulated container."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take on other users and restrictions")


@pytest.mark.slow
@as_root
@pytest.mark.parametrize("mode", ["docker", "restricted", "nobody"])
def test_every_attack_fails_and_every_way_out_is_shut(mode: str) -> None:
    found = _confined(mode, str(HERE / "confined_suite.py"))
    assert found["missing"] == []
    assert found["wrong"] == {}
    assert found["numpy"] == "3\n"


@as_root
def test_without_landlock_strict_mode_learns_what_is_missing_and_writing_is_refused_still() -> None:
    script = "import json\nfrom oprime_verifier.sandbox.report import self_test\nreport = self_test('native')\n"
    missing, found = _confined("old-kernel", "-c", script + "print(json.dumps([report.missing(), report.to_dict()]))")
    assert "landlock" in missing
    assert "read a host file" in missing
    still_shut = {probe["name"] for probe in found["probes"] if probe["blocked"]}
    assert still_shut >= {"write to shared folders", "TCP to loopback", "UDP", "fork", "execute a program", "signal the parent"}


def _confined(mode: str, *arguments: str) -> Any:
    """What a Python script printed as JSON."""
    command = [sys.executable, str(HERE / "confine.py"), mode, sys.executable, *arguments]
    environment = {**os.environ, "PYTHONPATH": ":".join(path for path in sys.path if path)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout)
