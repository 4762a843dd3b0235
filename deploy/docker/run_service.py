"""Runs a service in a container: `python run_service.py MODULE SETTINGS`, or `MODULE COMMAND SETTINGS`.

Starts it anew when the file of settings changes. Ends as the service does, and with 0 when it was asked to stop. When the service says
that a restart is useless, the container stays, with the reason as the last line of its log, until it is stopped or the settings change: not
healthy if the run has ended, healthy if the settings leave the service nothing to do.
"""

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from oprime.runtime.errors import NOT_NEEDED, RUN_ENDED

NOTHING_TO_DO = Path(tempfile.gettempdir()) / "oprime-nothing-to-do"
"""Tells the container's health check."""
LOOK_EVERY_S = 1.0
GRACE_S = 25.0
"""What a service has to end before it is started anew; Compose gives it 30."""
STOPPED = {-signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT}
"""Codes of a service that had not begun to listen to signals when it was asked to stop."""


class Container:
    """One service after another, until one ends by itself or somebody asks to stop."""

    def __init__(self, command: list[str]) -> None:
        self._command = [sys.executable, "-m", *command]
        self._settings = Path(command[-1])
        self._service: subprocess.Popen[bytes] | None = None
        self._asked = False
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._stop)

    def run(self) -> int:
        """The container's exit code."""
        code: int | None = None
        while code is None:
            NOTHING_TO_DO.unlink(missing_ok=True)
            code = self._once(self._read())
        if self._asked and code in STOPPED:
            return 0
        # As a shell says it: 128 and the number of the signal.
        return code if code >= 0 else 128 - code

    def _once(self, began_with: bytes) -> int | None:
        """Exit code of the service; None if its settings changed."""
        with subprocess.Popen(self._command) as service:  # noqa: S603 - the command is the container's own
            self._service = service
            if self._asked:
                service.terminate()
            while service.poll() is None:
                if self._changed(began_with):
                    self._end(service)
                    return None
                self._pause(service)
        return self._held(service.returncode, began_with) if service.returncode in (RUN_ENDED, NOT_NEEDED) else service.returncode

    def _held(self, code: int, began_with: bytes) -> int | None:
        if code == NOT_NEEDED:
            NOTHING_TO_DO.touch()
        while not self._asked:
            if self._changed(began_with):
                return None
            time.sleep(LOOK_EVERY_S)
        return 0 if code == NOT_NEEDED else code

    def _end(self, service: "subprocess.Popen[bytes]") -> None:
        service.terminate()
        try:
            service.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            service.kill()
            service.wait()

    def _pause(self, service: "subprocess.Popen[bytes]") -> None:
        try:
            service.wait(LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            return

    def _changed(self, began_with: bytes) -> bool:
        return not self._asked and self._read() != began_with

    def _read(self) -> bytes:
        try:
            return self._settings.read_bytes()
        except OSError:
            return b""

    def _stop(self, number: int, _: FrameType | None) -> None:
        self._asked = True
        if self._service is not None:
            self._service.send_signal(number)


if __name__ == "__main__":
    sys.exit(Container(sys.argv[1:]).run())
