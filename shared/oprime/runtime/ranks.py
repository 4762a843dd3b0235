"""Rank 0 talks to the world; what it does to the model, every rank does with it. If one rank fails, all end with its reason.

Calls travel as collective broadcasts, in order and numbered; nothing else does, and methods decide nothing by broadcast: what they
need is in the call. A failure travels beside them, as a notice that every rank looks for all the time: the others may be waiting in
any collective call of any library, which they can neither finish nor be woken from. After a failure no rank begins another collective
call, so none takes one message for another; the processes end instead.
"""

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, Self

import structlog

from oprime.runtime.errors import OprimeError, RunEndedError, SettingsError

log = structlog.get_logger()

CALL, STOP = "call", "stop"
STILL_HERE = "still_here"
IDLE_CALL_S = 60.0
LOOK_EVERY_S = 0.25

KINDS: tuple[type[OprimeError], ...] = (RunEndedError, SettingsError)
"""Errors that keep their kind on the other ranks, as they decide the exit code; every other failure becomes an OprimeError."""


class RankChannel(Protocol):
    """How the ranks of one service reach each other."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    def broadcast(self, payload: bytes | None) -> bytes:
        """Give rank 0's payload to every rank. Collective; the others pass None."""
        ...

    def post(self, notice: bytes) -> None:
        """Leave a notice for all ranks, unless there is one; returns once the others have read it, or after some seconds."""
        ...

    def notice(self) -> bytes | None:
        """The notice, if a rank has left one. Raises OprimeError when rank 0, which keeps it, is gone."""
        ...

    def close(self) -> None:
        """Part, once all ranks have come here. Collective."""
        ...


class Ranks:
    """Calls a named method with the same payload on all ranks, one call at a time, in one thread that owns the model.

    On rank 0 use it as a context manager: leaving it releases the other ranks, with the reason if it is left by an error.
    """

    def __init__(self, channel: RankChannel, methods: Mapping[str, Callable[[bytes], Any]]) -> None:
        self._channel = channel
        self._methods = {**methods, STILL_HERE: lambda _: None}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._messages = 0
        self._ended: Exception | None = None
        """Why no rank may begin another collective call."""
        self._parting = False
        """All is done: that rank 0 is gone is then no failure."""
        self._ending = threading.RLock()
        """Held until the others have heard, so that nothing ends this process before."""

    # On rank 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception):
            await asyncio.to_thread(self._failure, error)
        else:
            # A call that is under way ends first; if it fails, or another rank does, that is raised: nobody is left to be released.
            await _first(self._in_thread(self._part), self.watch())
        self._thread.shutdown(wait=False)

    def _part(self) -> None:
        self._send(STOP)
        self._parting = True
        self._channel.close()

    async def call(self, name: str, payload: bytes = b"") -> Any:
        """Run a method everywhere and return rank 0's result."""
        return await self._in_thread(self._call, name, payload)

    def _call(self, name: str, payload: bytes) -> Any:
        with self._telling():
            self._send(CALL, name, payload)
            return self._methods[name](payload)

    def _send(self, kind: str, name: str = "", payload: bytes = b"") -> None:
        if self._ended is not None:
            raise self._ended
        self._messages += 1
        self._channel.broadcast(f"{kind} {self._messages} {name}\n".encode() + payload)

    async def stay_in_touch(self) -> None:
        """Keep idle ranks from giving up on the next collective call."""
        while True:
            await asyncio.sleep(IDLE_CALL_S)
            if self._channel.world_size > 1:
                await self.call(STILL_HERE)

    # On the other ranks

    async def follow(self) -> None:
        """Do as rank 0 does until it stops. Raises what ended this or another rank."""
        await _first(self._in_thread(self._follow), self.watch())
        self._thread.shutdown(wait=False)

    def _follow(self) -> None:
        with self._telling():
            while True:
                kind, name, payload = self._next()
                if kind == STOP:
                    self._parting = True
                    self._channel.close()
                    return
                self._methods[name](payload)

    def _next(self) -> tuple[str, str, bytes]:
        head, _, payload = self._channel.broadcast(None).partition(b"\n")
        self._messages += 1
        kind, _, rest = head.decode("ascii", "replace").partition(" ")
        number, _, name = rest.partition(" ")
        if kind not in (CALL, STOP) or number != str(self._messages) or (kind == CALL and name not in self._methods):
            raise OprimeError(
                f"rank {self._channel.rank} got {head[:40]!r} where message {self._messages} of rank 0 was due: the ranks are out of step; "
                "start them all with the same version of oprime and the same settings"
            )
        return kind, name, payload

    # On all of them

    async def watch(self) -> None:
        """Raise the failure of a rank once there is one."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if (ended := self._told()) is not None:
                raise ended

    @contextlib.contextmanager
    def _telling(self) -> Any:
        try:
            yield
        except Exception as error:
            failure = self._failure(error)
            if failure is error:
                raise
            raise failure from error

    def _failure(self, error: Exception) -> Exception:
        """The reason why this rank must end, known to all: `error`, or what another rank said before, whose consequence `error` is."""
        with self._ending:
            if self._told() is None:
                self._ended = error
                if self._channel.world_size > 1:
                    log.warning("telling_the_other_ranks", rank=self._channel.rank, error=str(error) or type(error).__name__)
                    self._channel.post(to_notice(self._channel.rank, error))
            return self._ended or error

    def _told(self) -> Exception | None:
        """What another rank has said, or that rank 0 is gone without a word."""
        with self._ending:
            if self._channel.world_size > 1 and self._ended is None and not self._parting:
                try:
                    notice = self._channel.notice()
                    self._ended = None if notice is None else _from_notice(notice)
                except OprimeError as gone:
                    self._ended = gone
            return self._ended

    def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> "asyncio.Future[Any]":
        return asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


def to_notice(rank: int, error: Exception) -> bytes:
    kind = next((kind.__name__ for kind in KINDS if isinstance(error, kind)), "")
    text = str(error) if isinstance(error, OprimeError) else f"{type(error).__name__}: {error}"
    return json.dumps({"rank": rank, "kind": kind, "error": text}).encode()


def _from_notice(notice: bytes) -> OprimeError:
    told: dict[str, Any] = json.loads(notice)
    kind = next((kind for kind in KINDS if kind.__name__ == told["kind"]), OprimeError)
    return kind(f"rank {told['rank']}: {told['error']}")


async def _first(work: "asyncio.Future[Any]", watching: Coroutine[Any, Any, None]) -> None:
    """Wait for the work or for what makes waiting for it useless."""
    watch = asyncio.create_task(watching)
    try:
        await asyncio.wait([work, watch], return_when=asyncio.FIRST_COMPLETED)
        (work if work.done() else watch).result()
    finally:
        watch.cancel()
