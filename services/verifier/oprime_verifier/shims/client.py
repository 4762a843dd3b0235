"""This verifier for other trainers: one client per process, callable from any thread.

The environment variable OPRIME_VERIFIER says where it is: the URL of a gateway (`http://HOST:PORT`), or the gRPC address of a
verifier service (`HOST:PORT`). Without it, worker processes are started on this machine.
"""

import asyncio
import atexit
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oprime.core.verification import Outcome, VerificationRequest
from oprime.runtime.errors import OprimeError, SettingsError
from oprime_verifier.external.grpc_verifier import GrpcVerifier
from oprime_verifier.external.settings import GrpcSection, WebhookSection
from oprime_verifier.external.webhook import WebhookVerifier

ADDRESS = "OPRIME_VERIFIER"
KEY_FILE = "OPRIME_VERIFIER_KEY_FILE"
"""File with the gateway's key."""
WORKERS = "OPRIME_VERIFIER_WORKERS"
"""Local worker processes."""
UNSCORED = "OPRIME_UNSCORED"
"""The number to use for a response that could not be judged, where a trainer needs one."""

# A trainer sends its whole batch at once; most of the time is waiting for one's turn.
_REMOTE: dict[str, Any] = {"deadline_s": 600.0, "attempts": 5, "concurrency": 64, "circuit_failures": 64}


class UnscoredError(OprimeError):
    """A response could not be judged, and the trainer needs a number."""


class VerifierClient:
    """Judges on an event loop in a thread of its own. `close` when it is not needed any more."""

    def __init__(self, address: str = "", *, key_file: Path | None = None, workers: int = 1) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="oprime-verifier", daemon=True)
        self._thread.start()
        try:
            self._backend = asyncio.run_coroutine_threadsafe(_open(address, key_file, workers), self._loop).result()
        except BaseException:
            self._stop()
            raise

    def verify(self, requests: Sequence[VerificationRequest]) -> list[Outcome]:
        """Outcomes in the order of `requests`."""
        return asyncio.run_coroutine_threadsafe(self._verify(requests), self._loop).result()

    def close(self) -> None:
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._backend.close(), self._loop).result()
            self._stop()

    async def _verify(self, requests: Sequence[VerificationRequest]) -> list[Outcome]:
        return list(await asyncio.gather(*(self._backend.verify(request) for request in requests)))

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _open(address: str, key_file: Path | None, workers: int) -> Any:
    """What judges, with `verify` and `close`. Made on the loop that it will run on."""
    if address.startswith(("http://", "https://")):
        url = f"{address.rstrip('/').removesuffix('/v1/verify')}/v1/verify"
        return WebhookVerifier(ADDRESS, WebhookSection(url=url, bearer_file=key_file, **_REMOTE))
    if address:
        return GrpcVerifier(ADDRESS, GrpcSection(address=address.removeprefix("grpc://"), **_REMOTE))
    return await _local(workers)


class _Local:
    """Worker processes on this machine."""

    def __init__(self, offer: Any) -> None:
        self._offer = offer

    async def verify(self, request: VerificationRequest) -> Outcome:
        return await self._offer.dispatcher.verify(request)

    async def close(self) -> None:
        await self._offer.close()


async def _local(workers: int) -> _Local:
    from oprime_verifier.config import VerifierSection
    from oprime_verifier.offer import Offer

    offer = Offer(VerifierSection(workers=workers))
    try:
        await offer.start()
    except BaseException:
        await offer.close()
        raise
    return _Local(offer)


_lock = threading.Lock()
_clients: dict[tuple[int, str], VerifierClient] = {}


def shared_client() -> VerifierClient:
    """The client of this process for the address in OPRIME_VERIFIER; it ends with the process."""
    address = os.environ.get(ADDRESS, "").strip()
    # A forked child has the parent's client but not its thread.
    key = (os.getpid(), address)
    with _lock:
        if key not in _clients:
            file = os.environ.get(KEY_FILE)
            _clients[key] = VerifierClient(address, key_file=Path(file) if file else None, workers=_workers())
            atexit.register(_close, key)
        return _clients[key]


def _close(key: tuple[int, str]) -> None:
    if key[0] == os.getpid() and (client := _clients.pop(key, None)) is not None:
        client.close()


def _workers() -> int:
    text = os.environ.get(WORKERS, "")
    if text and not (text.isdecimal() and int(text) > 0):
        raise SettingsError(f"{WORKERS} is {text!r}; give a number of processes above 0")
    return int(text) if text else max(1, (os.cpu_count() or 1) // 2)


def request_of(response: str, ground_truth: Any, **details: Any) -> VerificationRequest:
    """A request from what a data set has: a text, a list of accepted answers, or tests as text or structure."""
    kind = details.pop("kind", "") or kind_of(ground_truth)
    if kind == "code":
        return VerificationRequest(kind=kind, response=response, tests=_as_text(ground_truth), **details)
    golds = ground_truth if isinstance(ground_truth, list | tuple) else (ground_truth,)
    return VerificationRequest(kind=kind, response=response, golds=tuple(_as_text(gold) for gold in golds if gold is not None), **details)


def kind_of(ground_truth: Any) -> str:
    """`code` for tests, `math` for anything else."""
    if isinstance(ground_truth, Mapping):
        return "code"
    text = ground_truth.lstrip() if isinstance(ground_truth, str) else ""
    is_tests = text.startswith("{") and any(f'"{name}"' in text for name in ("inputs", "assert_case", "functional", "fn_name"))
    return "code" if is_tests else "math"


def number_of(outcome: Outcome, default: float | None) -> float:
    """The score, or `default`, or the number in OPRIME_UNSCORED. Raises UnscoredError where there is none of them."""
    if outcome.score is not None:
        return outcome.score
    if default is None:
        text = os.environ.get(UNSCORED, "").strip()
        try:
            default = float(text) if text else None
        except ValueError as error:
            raise SettingsError(f"{UNSCORED} is {text!r}; give a number, for example 0.0") from error
    if default is None:
        raise UnscoredError(
            f"a response could not be judged ({outcome.verdict}: {outcome.reason}), which is no fault of the model, so 0 would mislead it: "
            f"drop the sample, or set unscored=NUMBER or {UNSCORED}=NUMBER to train on that number"
        )
    return default


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, Mapping | list | tuple) else str(value)
