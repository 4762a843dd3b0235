"""From a request's kind to its verifier, with a cache of verdicts. Lives in the service process."""

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

from oprime.core.verification import Outcome, Verdict, VerificationRequest, VerifierIdentity, no_answer
from oprime.runtime.errors import NotReadyError, UnusableInputError
from oprime_verifier.ports import Verifier, VerifierDescription

MAX_RESPONSE_CHARS = 1_000_000
MAX_SHOWN_CHARS = 1000

Judge = Callable[[], Coroutine[Any, Any, Outcome]]


class Dispatcher:
    """Offers several verifiers by name."""

    def __init__(self, verifiers: Mapping[str, Verifier], *, cache_entries: int, config_hash: str = "") -> None:
        self.verifiers = dict(verifiers)
        self._config_hash = config_hash
        self._cache = VerdictCache(cache_entries)

    async def verify(self, request: VerificationRequest) -> Outcome:
        """Judge one request; siblings that say the same are judged once. Raises UnusableInputError for an unknown kind."""
        if not self.verifiers:
            raise NotReadyError("the verifier has no worker yet: retry")
        verifier = self.verifiers.get(request.kind)
        if verifier is None:
            offered = ", ".join(sorted(self.verifiers))
            raise UnusableInputError(
                f"unknown verifier {request.kind!r}: this service offers {offered}; add others under [verifier.plugins]"
            )
        if len(request.response) > MAX_RESPONSE_CHARS:
            return no_answer(f"the response has {len(request.response)} characters; at most {MAX_RESPONSE_CHARS} are judged")
        return await self._cache.outcome(request, lambda: self._judge(verifier, request))

    async def _judge(self, verifier: Verifier, request: VerificationRequest) -> Outcome:
        started = time.perf_counter()
        outcome = await verifier.verify(request)
        return replace(
            outcome,
            reason=outcome.reason[:MAX_SHOWN_CHARS],
            answer=outcome.answer[:MAX_SHOWN_CHARS],
            timings={**outcome.timings, "total": time.perf_counter() - started},
            verifier=VerifierIdentity(
                name=request.kind,
                version=verifier.describe().version,
                config_hash=self._config_hash,
                sandbox_profile=outcome.verifier.sandbox_profile,
            ),
        )

    def describe(self) -> list[VerifierDescription]:
        return [verifier.describe() for verifier in self.verifiers.values()]

    async def close(self) -> None:
        await asyncio.gather(*(verifier.close() for verifier in self.verifiers.values()))


class VerdictCache:
    """The outcomes of the newest `entries` requests. Requests that differ only in ids share one, also while it is under way."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._known: OrderedDict[bytes, Outcome] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Task[Outcome]] = {}

    async def outcome(self, request: VerificationRequest, judge: Judge) -> Outcome:
        key = _key(request)
        if (known := self._known.get(key)) is not None:
            self._known.move_to_end(key)
            return replace(known, timings={"total": 0.0})
        task = self._under_way.get(key)
        if task is None:
            # A task of its own: when one caller gives up, the others still get the answer.
            task = asyncio.create_task(judge())
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._settle(key, done))
        return await asyncio.shield(task)

    def _settle(self, key: bytes, done: "asyncio.Task[Outcome]") -> None:
        del self._under_way[key]
        if done.cancelled() or done.exception() is not None or not _stands(done.result()):
            return
        self._known[key] = done.result()
        while len(self._known) > self._entries:
            self._known.popitem(last=False)


def _stands(outcome: Outcome) -> bool:
    """Whether another try would end alike; a failure of ours may not."""
    return outcome.cacheable and outcome.verdict is not Verdict.INFRA_ERROR


def _key(request: VerificationRequest) -> bytes:
    asked = (
        *(request.kind, request.response, request.golds, request.tests, dict(request.options), request.prompt, request.seed),
        *(request.data_source, dict(request.metadata)),
    )
    return hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(errors="surrogatepass"), digest_size=16).digest()
