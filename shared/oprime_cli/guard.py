"""Ends the processes of a run whose supervisor was killed.

Started by the supervisor as `python -I -S guard.py MARKER` with a pipe as standard input. The pipe closes when the
supervisor ends, however it ends; without the word `done` before that, the guard ends what is left.
"""

import contextlib
import signal
import sys
from pathlib import Path

DONE = b"done"
GRACE_S = 5.0


def main() -> None:
    # A terminal sends Ctrl-C to the guard as well, and it must outlive the supervisor.
    for name in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    said = b""
    with contextlib.suppress(OSError):
        said = sys.stdin.buffer.read()
    if said == DONE:
        return
    sys.path.append(str(Path(__file__).parent))
    from processes import sweep  # pyright: ignore[reportMissingImports]

    sweep(sys.argv[1], grace_s=GRACE_S)


if __name__ == "__main__":
    main()
