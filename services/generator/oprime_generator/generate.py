"""From a ticket to the rollouts of its group, counted once.

takes      tickets, as many at once as generator.max_running_groups
waits for  weights as new as the ticket asks for, then for the sampler
woken by   each new weight version: groups that have become too old for the next step are given up
gives      generate:G  the group's rollouts, written as payloads, one entry each; or that they were dropped
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from oprime.core.staleness import usable
from oprime.core.types import (
    ChatMessage,
    DroppedRollout,
    Rollout,
    RolloutRecord,
    SamplingSettings,
    Ticket,
    VerificationTask,
    sampled,
    untrained,
)
from oprime.lm.tokenizers import render_prompt
from oprime.ports import ROLLOUTS, VERDICTS, Clock, Delivery, LedgerMove, Metrics, Output, Payloads, Queue, Span
from oprime.runtime.consume import patiently
from oprime.runtime.decision import Decision, settle
from oprime.runtime.entries import read_entry
from oprime.runtime.errors import NotReadyError, UnusableInputError
from oprime.runtime.heartbeat import BusyMeter
from oprime.runtime.rollout_payloads import write_rollouts
from oprime.runtime.tracing import span
from oprime.wire.codec import event_to_proto, ticket_from_proto, verification_task_to_proto
from oprime_generator.sampler import SampleAbortedError, SampledResponse, Sampler, SampleRequest, TokenDelta
from oprime_proto.v1 import common_pb2 as pb

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = structlog.get_logger()

STALE = "dropped:stale"
GREEDY_SEED = 0
"""Recorded with a greedy response, which depends on no seed."""


class Progress:
    """What this generator has done and is doing."""

    def __init__(self, metrics: Metrics) -> None:
        self.meter = BusyMeter(metrics)
        self._metrics = metrics
        self.running_rollouts = 0
        self.finished_rollouts = 0
        self.generated_tokens = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """One rollout is under way."""
        self._run(1)
        try:
            with self.meter:
                yield
        finally:
            self._run(-1)

    def _run(self, change: int) -> None:
        self.running_rollouts += change
        self._metrics.gauge("running_rollouts", self.running_rollouts)


class _Group:
    """A group under way, and whether its rollouts can still be used."""

    def __init__(self, request_ids: Sequence[str]) -> None:
        self.request_ids = request_ids
        self.finished: list[Rollout] = []
        self.stale = asyncio.Event()

    def oldest_version(self, sampler: Sampler) -> int | None:
        versions = [segment.weight_version for rollout in self.finished for segment in rollout.trained_segments]
        versions += [version for request_id in self.request_ids if (version := sampler.oldest_version(request_id)) is not None]
        return min(versions, default=None)


class GenerateRollouts:
    """Renders prompts, checks them against the limits and samples one rollout per seed."""

    def __init__(self, sampler: Sampler, tokenizer: "PreTrainedTokenizerBase", metrics: Metrics) -> None:
        self.sampler = sampler
        self.progress = Progress(metrics)
        self._tokenizer = tokenizer
        self.metrics = metrics

    def prompt_ids(self, messages: Sequence[ChatMessage], sampling: SamplingSettings) -> tuple[int, ...]:
        """Raises UnusableInputError for a prompt that is longer than it may be, or leaves no room for its response."""
        ids = tuple(render_prompt(self._tokenizer, messages))
        if sampling.max_response_tokens < 1 or sampling.temperature < 0 or not 0 < sampling.top_p <= 1:
            raise UnusableInputError(
                f"max_response_tokens ({sampling.max_response_tokens}) must be positive, temperature ({sampling.temperature}) "
                f"not negative, and top_p ({sampling.top_p}) above 0 and at most 1"
            )
        if len(ids) > sampling.max_prompt_tokens:
            raise UnusableInputError(
                f"the prompt has {len(ids)} tokens, max_prompt_tokens is {sampling.max_prompt_tokens}: shorten it or raise the limit"
            )
        room = self.sampler.max_model_tokens
        if room == 0:
            raise NotReadyError("the sampler is still starting: ask again when the generator is healthy")
        if len(ids) + sampling.max_response_tokens > room:
            raise UnusableInputError(
                f"{len(ids)} prompt tokens and up to {sampling.max_response_tokens} response tokens are more than the {room} tokens "
                "that this generator was started for: lower max_response_tokens, or raise the limits in [sampling] and restart it"
            )
        return ids

    async def sample(self, request: SampleRequest, *, group_id: int = 0, index: int) -> Rollout:
        with self.progress.running():
            response = await self.sampler.sample(request)
        return self._finish(request, response, group_id=group_id, index=index)

    async def sample_all(self, requests: Sequence[SampleRequest]) -> list[Rollout]:
        """Rollouts in the order of their requests; a failure gives the others up."""
        return await all_or_none([self.sample(request, index=index) for index, request in enumerate(requests)])

    async def stream(self, request: SampleRequest, *, index: int) -> AsyncIterator[TokenDelta | Rollout]:
        """Deltas as tokens come, then the rollout."""
        with self.progress.running():
            async for part in self.sampler.stream(request):
                yield part if isinstance(part, TokenDelta) else self._finish(request, part, group_id=0, index=index)

    def _finish(self, request: SampleRequest, response: SampledResponse, *, group_id: int, index: int) -> Rollout:
        """Count a response and make it a rollout. Raises SampleAbortedError for one without a token: there is nothing to learn from."""
        if not response.response_ids:
            raise SampleAbortedError(f"response {request.request_id} ended without a token")
        self.progress.finished_rollouts += 1
        self.progress.generated_tokens += len(response.response_ids)
        self.metrics.count("rollouts_total", finish_reason=response.finish_reason.value)
        self.metrics.count("generated_tokens_total", len(response.response_ids))
        self.metrics.count("prompt_tokens_total", len(request.prompt_ids))
        self.metrics.count("cached_prompt_tokens_total", response.cached_prompt_tokens)
        return Rollout(
            group_id=group_id,
            index=index,
            seed=request.seed,
            segments=(untrained(request.prompt_ids), *sampled(response.response_ids, response.behaviour_logprobs, response.spans)),
            text=response.text,
            finish_reason=response.finish_reason,
        )


def sample_requests(tag: str, prompt_ids: tuple[int, ...], sampling: SamplingSettings, seeds: Sequence[int]) -> list[SampleRequest]:
    """One request per seed; `tag` makes their ids unique."""
    return [
        SampleRequest(
            request_id=f"{tag}/{index}",
            prompt_ids=prompt_ids,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_response_tokens,
            seed=seed,
        )
        for index, seed in enumerate(seeds)
    ]


def group_requests(tag: str, prompt_ids: tuple[int, ...], ticket: Ticket) -> list[SampleRequest]:
    """One request per rollout of the ticket, in the order of their indices: the seeds', then the greedy baseline's."""
    requests = sample_requests(tag, prompt_ids, ticket.sampling, ticket.seeds)
    if ticket.greedy_baseline:
        (greedy,) = sample_requests(f"{tag}/greedy", prompt_ids, replace(ticket.sampling, temperature=0.0), [GREEDY_SEED])
        requests.append(greedy)
    return requests


class VersionGate(Protocol):
    async def wait_for(self, version: int) -> None: ...


class GenerateGroup:
    """Handles deliveries of tickets."""

    def __init__(self, queue: Queue, payloads: Payloads, clock: Clock, rollouts: GenerateRollouts, *, max_staleness: int) -> None:
        self._queue = queue
        self._payloads = payloads
        self._clock = clock
        self._rollouts = rollouts
        self._max_staleness = max_staleness
        self._running: set[_Group] = set()

    async def handle(self, delivery: Delivery, gate: VersionGate) -> None:
        """Sample a ticket's group and commit it; a ticket that comes again commits nothing new.

        Raises UnusableInputError for what no generator can sample.
        """
        ticket = _ticket_of(delivery)
        with span("generate", kind="consumer", parent=ticket.trace, group_id=ticket.group_id, attempt=delivery.attempt) as traced:
            await self._generate(delivery, ticket, gate, traced)

    async def _generate(self, delivery: Delivery, ticket: Ticket, gate: VersionGate, traced: Span) -> None:
        prompt_ids = self._rollouts.prompt_ids(ticket.messages, ticket.sampling)
        began = self._clock.now()
        await gate.wait_for(ticket.min_weight_version)
        self._rollouts.metrics.count("wait_seconds_total", self._clock.now() - began, **{"for": "weights"})
        requests = group_requests(f"{ticket.group_id}/{delivery.entry}/{delivery.attempt}", prompt_ids, ticket)
        group = _Group([request.request_id for request in requests])
        self._running.add(group)
        try:
            rollouts = await self._sample(group, ticket, requests)
        finally:
            self._running.discard(group)
        records = await patiently(lambda: asyncio.to_thread(write_rollouts, self._payloads, rollouts), self._clock)
        decision = Decision(
            mark=f"generate:{ticket.group_id}",
            outputs=_outputs(ticket, records, traced.context) if records else _drops(ticket, group.finished),
            moves=[] if records else [LedgerMove(rollout_id=name, state=STALE) for name in ticket.rollout_ids],
            consumed=[delivery],
            written=[name for record in records for name in record.payloads],
        )
        committed = await settle(self._queue, decision, self._clock, payloads=self._payloads)
        known = _versions(records) | {"rollouts": len(rollouts), "stale": not rollouts}
        traced.note(**known, tokens=sum(record.trained_tokens for record in records))
        log.debug("group_generated", group_id=ticket.group_id, **known, counted=committed.value)

    def drop_stale(self, version: int) -> None:
        """Give up groups whose oldest token is too old for the next step, now that `version` samples."""
        for group in self._running:
            oldest = group.oldest_version(self._rollouts.sampler)
            if oldest is not None and not usable(version + 1, oldest, self._max_staleness):
                group.stale.set()

    async def _sample(self, group: _Group, ticket: Ticket, requests: list[SampleRequest]) -> list[Rollout]:
        """The group's rollouts in order of index; none if it became stale."""

        async def sample_one(index: int, request: SampleRequest) -> Rollout:
            rollout = await self._rollouts.sample(request, group_id=ticket.group_id, index=index)
            group.finished.append(rollout)
            return rollout

        sampled = asyncio.create_task(all_or_none([sample_one(index, request) for index, request in enumerate(requests)]))
        stale = asyncio.create_task(group.stale.wait())
        try:
            await asyncio.wait([sampled, stale], return_when=asyncio.FIRST_COMPLETED)
            return await sampled if sampled.done() else []
        finally:
            for task in (sampled, stale):
                task.cancel()
            await asyncio.gather(sampled, stale, return_exceptions=True)


async def all_or_none(work: Sequence[Coroutine[Any, Any, Rollout]]) -> list[Rollout]:
    """All results in order; the first failure cancels the rest and is raised."""
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _ticket_of(delivery: Delivery) -> Ticket:
    ticket = read_entry(delivery, pb.Ticket, ticket_from_proto)
    if not ticket.seeds:
        raise UnusableInputError(f"ticket {delivery.key} has no seeds: it needs one per rollout")
    return ticket


def _versions(records: Sequence[RolloutRecord]) -> dict[str, int]:
    """The weights that sampled a group; empty for a group that was given up."""
    if not records:
        return {}
    return {
        "oldest_weight_version": min(record.oldest_weight_version for record in records),
        "newest_weight_version": max(record.newest_weight_version for record in records),
    }


def _outputs(ticket: Ticket, records: Sequence[RolloutRecord], trace: str) -> list[Output]:
    tasks = [VerificationTask(rollout=record, material=ticket.material, trace=trace) for record in records]
    return [
        Output(stream=ROLLOUTS, key=task.rollout.rollout_id, payload=verification_task_to_proto(task).SerializeToString()) for task in tasks
    ]


def _drops(ticket: Ticket, finished: Sequence[Rollout]) -> list[Output]:
    """What a group that became stale leaves: the length of each response that had come to its end."""
    lengths = {rollout.index: len(rollout.trained_ids) for rollout in finished}
    drops = [
        DroppedRollout(group_id=ticket.group_id, index=index, reason="stale", response_tokens=lengths.get(index, 0))
        for index in range(len(ticket.rollout_ids))
    ]
    return [Output(stream=VERDICTS, key=drop.rollout_id, payload=event_to_proto(drop).SerializeToString()) for drop in drops]
