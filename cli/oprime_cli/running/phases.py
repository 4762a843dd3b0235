"""How long the phases of a run took, over all of its sessions."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from oprime_cli.files import read_json, write_json

PHASES = ("sft", "start", "train", "evaluate", "report")
SAVE_EVERY_S = 30.0


class PhaseTimer:
    """Seconds by phase, kept in a file so that a resumed run goes on counting. A killed session loses at most its last 30 s."""

    def __init__(self, path: Path) -> None:
        self._path = path
        kept = read_json(path) or {}
        self._seconds = {phase: float(kept.get(phase, 0.0)) for phase in PHASES}
        self._open: tuple[str, float] | None = None
        self._saved = time.monotonic()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._open = (name, time.monotonic())
        try:
            yield
        finally:
            self._settle()
            self._open = None
            self.save()

    def tick(self) -> None:
        """Call now and then during a phase."""
        self._settle()
        if time.monotonic() - self._saved > SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        write_json(self._path, self._seconds)
        self._saved = time.monotonic()

    def seconds(self) -> dict[str, float]:
        """Seconds of each phase and in total."""
        self._settle()
        rounded = {phase: round(seconds, 3) for phase, seconds in self._seconds.items()}
        return {**rounded, "total": round(sum(self._seconds.values()), 3)}

    def _settle(self) -> None:
        if self._open is not None:
            name, since = self._open
            now = time.monotonic()
            self._seconds[name] += now - since
            self._open = (name, now)
