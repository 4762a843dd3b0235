"""The ranks of one service: torch's process group, on the CPU, for all that is no gradient."""

import os
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, cast

import torch
from torch import Tensor, distributed
from torch._C._distributed_c10d import HashStore, PrefixStore, TCPStore

from oprime.runtime.errors import OprimeError, SettingsError
from oprime.runtime.rank_launcher import LISTENER
from oprime.runtime.ranks import to_notice

COLLECTIVE_TIMEOUT = timedelta(days=7)
"""Ranks wait for the next batch as long as it takes; a rank that fails says so, and one that died closes its connections."""
READ_WITHIN_S = 5.0
NOTICE, READERS = "notice", "readers"
LOOPBACK = "127.0.0.1"

_stores: list[Any] = []
"""Where this process's ranks met."""


class RankGroup:
    """Implements `oprime.runtime.ranks.RankChannel`, and the collective calls of `TrainEngine` that are not about a model.

    Ranks come from RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT (as `rank_launcher` and torchrun set them); without these there is one.
    """

    def __init__(self, *, on_gpu: bool) -> None:
        if not distributed.is_initialized():
            _meet(on_gpu=on_gpu)
        self.rank = distributed.get_rank()
        self.world_size = distributed.get_world_size()
        # One rank alone has nobody to talk to, and a group's threads wake a hundred times a second.
        self._group = _new_group() if self.world_size > 1 else None
        # A connection of its own: one that waits for a key of another library must not delay a notice.
        self._notices = PrefixStore("oprime", _stores[0].clone())
        self._is_reader = False

    # Notices: for one rank alone to give and to read, while others wait in a collective call

    def post(self, notice: bytes) -> None:
        """See `RankChannel.post`. A rank 0 that can no longer be reached hears nothing, and needs nothing."""
        try:
            self._notices.compare_set(NOTICE, "", notice.decode())
            self._has_read_it()
        except RuntimeError:
            return

    def notice(self) -> bytes | None:
        """See `RankChannel.notice`."""
        try:
            if not self._notices.check([NOTICE]):
                return None
            found = bytes(self._notices.get(NOTICE))
            self._has_read_it(waits=self.rank == 0)
        except RuntimeError as error:
            raise OprimeError(f"rank 0 of this service is gone without a word ({error}): its log may say why, or it was killed") from error
        return found

    def _has_read_it(self, *, waits: bool = True) -> None:
        """Count this rank as a reader, once. Rank 0 keeps the notices, so it waits for the others; so does whoever wrote."""
        if self._is_reader:
            return
        self._is_reader = True
        readers, deadline = self._notices.add(READERS, 1), time.monotonic() + READ_WITHIN_S
        while waits and readers < self.world_size and time.monotonic() < deadline:
            time.sleep(0.02)
            readers = self._notices.add(READERS, 0)

    # Collective calls

    def broadcast(self, payload: bytes | None) -> bytes:
        """See `RankChannel.broadcast`."""
        if self.rank == 0 and payload is None:
            raise ValueError("broadcast got no payload on rank 0: rank 0 gives it, the others pass None")
        if self.world_size == 1:
            return bytes(payload or b"")
        size = torch.tensor([len(payload or b"")], dtype=torch.int64)
        distributed.broadcast(size, src=0, group=self._group)
        content = _to_tensor(payload or b"", int(size)) if self.rank == 0 else torch.empty(int(size), dtype=torch.uint8)
        if int(size):
            distributed.broadcast(content, src=0, group=self._group)
        return content.numpy().tobytes()

    def gather(self, payload: bytes) -> list[bytes] | None:
        """See `TrainEngine.gather`."""
        payloads = self.everywhere(payload, only_rank_0=True)
        return payloads if self.rank == 0 else None

    def all_sum(self, values: Tensor) -> Tensor:
        result = values.detach().to("cpu", copy=True).contiguous()
        if self.world_size > 1:
            distributed.all_reduce(result, op=distributed.ReduceOp.SUM, group=self._group)
        return result

    def everywhere(self, payload: bytes, *, only_rank_0: bool = False) -> list[bytes]:
        """Every rank's payload, on every rank or, to spare the network, on rank 0 only (elsewhere the list is empty)."""
        if self.world_size == 1:
            return [payload]
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        distributed.all_gather(sizes, torch.tensor([len(payload)], dtype=torch.int64), group=self._group)
        longest = max(int(size) for size in sizes)
        if longest == 0:
            return [b""] * self.world_size
        mine = _to_tensor(payload, longest)
        receives = not only_rank_0 or self.rank == 0
        parts = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.world_size)] if receives else []
        if only_rank_0:
            distributed.gather(mine, parts if receives else None, dst=0, group=self._group)
        else:
            distributed.all_gather(parts, mine, group=self._group)
        return [part[: int(size)].numpy().tobytes() for part, size in zip(parts, sizes, strict=False)]

    def barrier(self) -> None:
        if self.world_size > 1:
            distributed.barrier(group=self._group)

    def close(self) -> None:
        """See `RankChannel.close`. Ends the groups of other libraries too: their threads must not outlive the interpreter."""
        self.barrier()
        distributed.destroy_process_group()


def _new_group() -> "distributed.ProcessGroup":
    return cast("distributed.ProcessGroup", distributed.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT))


def all_ranks_are_here(environment: Mapping[str, str]) -> bool:
    """Whether ranks need nothing but loopback. Rank 0 of several hosts may reach itself by loopback, too."""
    ranks = environment.get("WORLD_SIZE", "1")
    return environment.get("MASTER_ADDR", LOOPBACK) in (LOOPBACK, "localhost") and environment.get("LOCAL_WORLD_SIZE", ranks) == ranks


def _meet(*, on_gpu: bool) -> None:
    """Enter the process group of all ranks."""
    given = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name in os.environ]
    if 0 < len(given) < 4 and os.environ.get("WORLD_SIZE", "1") != "1":
        raise SettingsError(f"of RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT only {', '.join(given)} are set: set all four, or none")
    alone = len(given) < 4
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0" if alone else str(_local_rank())))
    if on_gpu:
        if local_rank >= torch.cuda.device_count():
            raise SettingsError(
                f"rank {os.environ.get('RANK', 0)} wants GPU {local_rank} of this host, which has {torch.cuda.device_count()}: each rank "
                "needs one of its own; lower ranks, or spread them over more hosts (OPRIME_HOSTS)"
            )
        torch.cuda.set_device(local_rank)
    if sys.platform == "linux" and all_ranks_are_here(os.environ):
        # gloo would listen where this machine's name leads, for whoever reaches it.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    rank, ranks = (0, 1) if alone else (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    store = HashStore() if alone else _joined(rank, ranks)
    _stores.append(store)
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        timeout=COLLECTIVE_TIMEOUT,
        store=PrefixStore("default_pg", store),
        rank=rank,
        world_size=ranks,
    )


def _joined(rank: int, ranks: int) -> TCPStore:
    """The store that rank 0 keeps for all ranks. Raises OprimeError in a process that comes in the place of one that was here."""
    # Under torchrun its agent keeps the store. A listener that the launcher has opened has its port to itself.
    keeps = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    listener = os.environ.pop(LISTENER, "")
    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        ranks,
        keeps,
        COLLECTIVE_TIMEOUT,
        wait_for_workers=False,
        master_listen_fd=int(listener) if listener else None,
    )
    if store.add(f"oprime/joined/{rank}", 1) > 1:
        # The others wait in calls of the process that was here before. They cannot take this one for it; all must begin anew.
        error = OprimeError(f"rank {rank} was started again while other ranks of its service still ran: all ranks must start together")
        store.compare_set(f"oprime/{NOTICE}", "", to_notice(rank, error).decode())
        raise error
    return store


def _local_rank() -> int:
    return int(os.environ["RANK"]) % max(torch.cuda.device_count(), 1)


def _to_tensor(payload: bytes, size: int) -> Tensor:
    """The payload as `size` bytes, padded with zeros."""
    return torch.frombuffer(bytearray(payload.ljust(size, b"\0")), dtype=torch.uint8) if size else torch.empty(0, dtype=torch.uint8)
