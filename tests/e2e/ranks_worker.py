"""One rank of the tests of `oprime.runtime.ranks`, without a model: `python ranks_worker.py CASE OUT CONFIG`, with RANK, WORLD_SIZE, ...

Every rank appends a line to OUT/rank-N for each call that it takes part in. It ends as a service's process does.
"""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from oprime.adapters.rank_group import RankGroup
from oprime.runtime import process
from oprime.runtime.errors import OprimeError, RunEndedError
from oprime.runtime.process import Lifecycle
from oprime.runtime.rank_launcher import end_with_launcher
from oprime.runtime.ranks import Ranks
from oprime.runtime.settings import RunSection, ServiceSettings

SECONDS_IN_A_CALL, SECONDS_IN_A_LONG_CALL = 1.5, 60


class Settings(ServiceSettings):
    run: RunSection


class Methods:
    """Each does something that all ranks must do together, as training does."""

    def __init__(self, group: RankGroup, case: str, out: Path) -> None:
        self._group = group
        self._case = case
        self._out = out
        self._log = out / f"rank-{group.rank}"

    def process(self, payload: bytes) -> float:
        """Fails on the rank that the case names, before its collective call."""
        self._note(f"process {payload.decode()}")
        if payload == b"2" and f"rank {self._group.rank} raises" in self._case and "late" not in self._case:
            raise OprimeError(f"batch 2 is odd, says rank {self._group.rank}")
        if payload == b"2" and "all raise" in self._case:
            raise RunEndedError("the gradient norm is nan")
        if payload == b"2" and f"rank {self._group.rank} is killed" in self._case:
            os.kill(os.getpid(), signal.SIGKILL)
        if payload == b"2" and "sigterm" in self._case:
            (self._out / f"in-call-{self._group.rank}").write_text(str(os.getpid()), encoding="utf-8")
            time.sleep(SECONDS_IN_A_LONG_CALL if "long" in self._case else SECONDS_IN_A_CALL)
        if payload == b"2" and f"rank {self._group.rank} raises late" in self._case:
            raise OprimeError(f"batch 2 is odd late, says rank {self._group.rank}")
        return float(self._group.all_sum(torch.ones(3)).sum())

    def save(self, payload: bytes) -> None:
        self._note(f"save {payload.decode()}")
        Path(payload.decode()).mkdir(exist_ok=True)

    def _note(self, line: str) -> None:
        with self._log.open("a", encoding="utf-8") as log:
            log.write(line + "\n")


async def serve(case: str, out: Path, _: Settings, lifecycle: Lifecycle) -> None:
    (out / f"waiting-{os.environ['RANK']}").touch()
    group = await lifecycle.before_serving(lambda: RankGroup(on_gpu=False))
    methods = Methods(group, case, out)
    ranks = Ranks(group, {"process": methods.process, "save": methods.save})
    if group.rank != 0:
        await ranks.follow()
        return
    async with ranks:
        await lifecycle.run(train(case, out, ranks, lifecycle), ranks.watch())


async def train(case: str, out: Path, ranks: Ranks, lifecycle: Lifecycle) -> None:
    for step in range(1, 4):
        if step == 2 and "between calls" in case:
            raise OprimeError("the queue holds batch 3, but not batch 2")
        result: Any = await ranks.call("process", str(step).encode())
        assert result == 3 * int(os.environ["WORLD_SIZE"])
        await ranks.call("save", str(out / f"step-{step}").encode())
    lifecycle.stopping.set()


def main() -> None:
    case, out, config = sys.argv[1:]
    end_with_launcher()
    torch.set_num_threads(1)
    sys.argv = [sys.argv[0], config]
    process.main("ranks", Settings, partial(serve, case, Path(out)))


if __name__ == "__main__":
    main()
