"""From a request's kind to its verifier, with a cache of verdicts. Lives in the service process."""

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from oprime.core.verification import Outcome, Verdict, VerificationRequest, VerifierIdentity, no_answer, unscored
from oprime.runtime.errors import NotReadyError, UnusableInputError
from oprime_verifier.judgement import Judgement
from oprime_verifier.ports import Verifier, VerifierDescription, lasts
from oprime_verifier.texts import shown

MAX_RESPONSE_CHARS = 1_000_000

Judge = Callable[[VerificationRequest], Coroutine[Any, Any, Outcome]]


class Dispatcher:
    """Offers several verifiers by name."""

    def __init__(self, verifiers: Mapping[str, Verifier], *, cache_entries: int, config_hash: str = "") -> None:
        self.verifiers = dict(verifiers)
        self._config_hash = config_hash
        self._cache = VerdictCache(cache_entries)

    async def verify(self, request: VerificationRequest, *, patient: bool = False) -> Outcome:
        """Judge one request; siblings that say the same are judged once. Raises UnusableInputError for an unknown kind.

        A `patient` caller waits while a verifier behind a network is out (`hold_s`); others get INFRA_ERROR by their deadline.
        """
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
        return await self._cache.outcome(request, partial(self._judge, verifier), patient=patient)

    async def _judge(self, verifier: Verifier, request: VerificationRequest) -> Outcome:
        started = time.perf_counter()
        outcome = await verifier.verify(request)
        return replace(
            shown(outcome),
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

    @property
    def held(self) -> int:
        """Patient callers that wait for a verifier that is out."""
        return self._cache.held

    @property
    def outage(self) -> str:
        """Which verifiers are out, and why; empty when none is."""
        return "; ".join(known.outage for known in self.describe() if known.outage)

    async def close(self) -> None:
        await self._cache.close()
        await asyncio.gather(*(verifier.close() for verifier in self.verifiers.values()))


@dataclass(eq=False, kw_only=True)
class _UnderWay:
    task: asyncio.Task[Outcome]
    deadline_s: float
    judgement: Judgement

    async def answer(self, deadline_s: float) -> Outcome:
        """The outcome, for a caller with this deadline (0: none)."""
        self.judgement.callers += 1
        try:
            async with asyncio.timeout(deadline_s or None):
                # Shielded: when one caller gives up, the others still get the answer.
                return await asyncio.shield(self.task)
        except TimeoutError:
            return unscored(Verdict.INFRA_ERROR, f"no verdict within {deadline_s:g} s", cacheable=False)
        finally:
            self.judgement.callers -= 1


class VerdictCache:
    """The outcomes of the newest `entries` requests. Requests that differ only in ids and deadlines share one, also under way.

    A verdict that more time might have changed is never given to a caller who has more: it is not remembered, and who joined a
    judgement with a shorter deadline asks again with the time that is left.
    """

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._known: OrderedDict[bytes, Outcome] = OrderedDict()
        self._under_way: dict[tuple[bytes, bool], _UnderWay] = {}

    @property
    def held(self) -> int:
        """Callers whose judgement waits for a verifier that is out."""
        return sum(one.judgement.callers for one in self._under_way.values() if one.judgement.held)

    async def outcome(self, request: VerificationRequest, judge: Judge, *, patient: bool = False) -> Outcome:
        key = _key(request)
        if (known := self._known.get(key)) is not None:
            self._known.move_to_end(key)
            return replace(known, timings={"total": 0.0})
        # Who can wait is not given the answer of who cannot, nor made to wait the other way round.
        under_way = self._under_way.get((key, patient))
        if under_way is None:
            return await self._begin((key, patient), request, judge).answer(0.0)
        started = time.monotonic()
        outcome = await under_way.answer(request.deadline_s)
        if lasts(outcome) or _has_as_much_time(under_way.deadline_s, request.deadline_s):
            return outcome
        left_s = request.deadline_s - (time.monotonic() - started)
        if request.deadline_s and left_s <= 0:
            return outcome
        return await self.outcome(replace(request, deadline_s=left_s if request.deadline_s else 0.0), judge, patient=patient)

    def _begin(self, key: tuple[bytes, bool], request: VerificationRequest, judge: Judge) -> _UnderWay:
        judgement = Judgement()
        with judgement.patiently() if key[1] else nullcontext():
            # A task copies the context that it is made in.
            task = asyncio.create_task(judge(request))
        self._under_way[key] = begun = _UnderWay(task=task, deadline_s=request.deadline_s, judgement=judgement)
        task.add_done_callback(lambda done: self._settle(key, done))
        return begun

    def _settle(self, key: tuple[bytes, bool], done: "asyncio.Task[Outcome]") -> None:
        del self._under_way[key]
        if done.cancelled() or done.exception() is not None or not lasts(done.result()):
            return
        self._known[key[0]] = done.result()
        while len(self._known) > self._entries:
            self._known.popitem(last=False)

    async def close(self) -> None:
        """Cancel what is under way."""
        tasks = [one.task for one in self._under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _has_as_much_time(judged_s: float, asked_s: float) -> bool:
    """Whether a judgement had no less time than a caller asks for. 0 is each verifier's own deadline, which nobody else knows."""
    return judged_s == asked_s or judged_s > asked_s > 0


def _key(request: VerificationRequest) -> bytes:
    asked = (
        *(request.kind, request.response, request.golds, request.tests, dict(request.options), request.prompt, request.seed),
        *(request.data_source, dict(request.metadata)),
    )
    return hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(errors="surrogatepass"), digest_size=16).digest()
