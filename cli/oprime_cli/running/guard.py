"""Ends the processes of a run whose supervisor was killed.

Started by the supervisor as `python -I -S guard.py MARKER` with a pipe as standard input, on which it hears of processes
(`ID START_TICKS`, a line each). The pipe closes when the supervisor ends, however it ends; without the line `done` before
that, the guard ends what is left: processes that carry the marker, and the families of those it heard of. The latter
because some programs overwrite their environment, and with it the marker, when they set a title.
"""

import os
import select
import signal
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from processes import family, sweep  # pyright: ignore[reportMissingImports]

DONE = b"done"
GRACE_S = 5.0
LOOK_EVERY_S = 2.0


def main() -> None:
    # A terminal sends Ctrl-C to the guard as well, and it must outlive the supervisor.
    for name in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    known: dict[int, int] = {}
    heard = b""
    while True:
        readable, _, _ = select.select([0], [], [], LOOK_EVERY_S)
        piece = os.read(0, 65_536) if readable else None
        if piece == b"":
            break
        *lines, heard = (heard + (piece or b"")).split(b"\n")
        if DONE in lines:
            return
        for line in lines:
            pid, ticks = line.split()
            known[int(pid)] = int(ticks)
        # Children are noted while their parent lives; later nothing would tell whose they were.
        known = family(known)
    sweep(sys.argv[1], known, grace_s=GRACE_S)


if __name__ == "__main__":
    main()
