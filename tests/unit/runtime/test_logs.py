"""A log line reaches its file in one write, so that processes that share a pipe never mix two lines."""

import io
import json
import os
import subprocess
import sys

import pytest
import structlog

from oprime.runtime.logs import configure_logs

LINES = 300
LOGGING = f"""
import structlog
from oprime.runtime.logs import configure_logs
configure_logs("learner")
for line in range({LINES}):
    structlog.get_logger().info("stepped", line=line, text="x" * 500)
"""


class _Writes(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str, /) -> int:
        self.writes.append(text)
        return super().write(text)


def test_an_entry_is_one_write_with_its_newline(monkeypatch: pytest.MonkeyPatch) -> None:
    file = _Writes()
    monkeypatch.setattr(sys, "stderr", file)
    try:
        configure_logs("learner")
        structlog.get_logger().info("stepped", step=3)
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
    assert [json.loads(text)["event"] for text in file.writes] == ["stepped"]
    assert file.writes[0].endswith("}\n")


def test_unbuffered_processes_on_one_pipe_keep_their_lines_apart() -> None:
    read, write = os.pipe()
    workers = [
        subprocess.Popen([sys.executable, "-c", LOGGING], stderr=write, env={**os.environ, "PYTHONUNBUFFERED": "1"}) for _ in range(3)
    ]
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as pipe:
        entries = [json.loads(line) for line in pipe]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert len(entries) == 3 * LINES
