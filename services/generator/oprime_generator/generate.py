"""From a ticket to the rollouts of its group, counted once."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import structlog
from google.protobuf.message import DecodeError

from oprime.core.staleness import usable
from oprime.core.types import ChatMessage, DroppedRollout, Rollout, SamplingSettings, Ticket, VerificationTask
from oprime.lm.tokenizers import render_prompt
from oprime.ports import ROLLOUTS, VERDICTS, Clock, Delivery, LedgerMove, Metrics, Output, Queue
from oprime.runtime.consume import patiently
from oprime.runtime.errors import NotReadyError, UnusableInputError
from oprime.runtime.heartbeat import BusyMeter
from oprime.wire.codec import event_to_proto, ticket_from_proto, verification_task_to_proto
from oprime_generator.sampler import SampledResponse, Sampler, SampleRequest, TokenDelta
from oprime_proto.v1 import common_pb2 as pb

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = structlog.get_logger()

STALE = "dropped:stale"
GREEDY_SEED = 0
"""Recorded with a greedy response, which depends on no seed."""


class Progress:
    """What this generator has done and is doing."""

    def __init__(self) -> None:
        self.meter = BusyMeter()
        self.running_rollouts = 0
        self.finished_rollouts = 0
        self.generated_tokens = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """One rollout is under way."""
        self.running_rollouts += 1
        try:
            with self.meter:
                yield
        finally:
            self.running_rollouts -= 1


class _Group:
    """A group under way, and whether its rollouts can still be used."""

    def __init__(self, request_ids: Sequence[str]) -> None:
        self.request_ids = request_ids
        self.finished: list[Rollout] = []
        self.stale = asyncio.Event()

    def oldest_version(self, sampler: Sampler) -> int | None:
        versions = [rollout.oldest_weight_version for rollout in self.finished]
        versions += [version for request_id in self.request_ids if (version := sampler.oldest_version(request_id)) is not None]
        return min(versions, default=None)


class GenerateRollouts:
    """Renders prompts, checks them against the limits and samples one rollout per seed."""

    def __init__(self, sampler: Sampler, tokenizer: "PreTrainedTokenizerBase", metrics: Metrics) -> None:
        self.sampler = sampler
        self.progress = Progress()
        self._tokenizer = tokenizer
        self.metrics = metrics

    def prompt_ids(self, messages: Sequence[ChatMessage], sampling: SamplingSettings) -> tuple[int, ...]:
        """Raises UnusableInputError for a prompt that is longer than it may be, or leaves no room for its response."""
        ids = tuple(render_prompt(self._tokenizer, messages))
        if sampling.max_response_tokens < 1 or sampling.temperature < 0:
            raise UnusableInputError(
                f"max_response_tokens ({sampling.max_response_tokens}) must be positive and temperature ({sampling.temperature}) "
                "not negative"
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
        """Count a response and make it a rollout."""
        self.progress.finished_rollouts += 1
        self.progress.generated_tokens += len(response.response_ids)
        self.metrics.count("rollouts_total", finish_reason=response.finish_reason.value)
        self.metrics.count("generated_tokens_total", len(response.response_ids))
        return Rollout(
            group_id=group_id,
            index=index,
            seed=request.seed,
            prompt_ids=np.asarray(request.prompt_ids, dtype=np.int32),
            response_ids=np.asarray(response.response_ids, dtype=np.int32),
            text=response.text,
            behaviour_logprobs=np.asarray(response.behaviour_logprobs, dtype=np.float32),
            spans=response.spans,
            finish_reason=response.finish_reason,
        )


def sample_requests(tag: str, prompt_ids: tuple[int, ...], sampling: SamplingSettings, seeds: Sequence[int]) -> list[SampleRequest]:
    """One request per seed; `tag` makes their ids unique."""
    return [
        SampleRequest(
            request_id=f"{tag}/{index}",
            prompt_ids=prompt_ids,
            temperature=sampling.temperature,
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

    def __init__(self, queue: Queue, clock: Clock, rollouts: GenerateRollouts, *, max_staleness: int) -> None:
        self._queue = queue
        self._clock = clock
        self._rollouts = rollouts
        self._max_staleness = max_staleness
        self._running: set[_Group] = set()

    async def handle(self, delivery: Delivery, gate: VersionGate) -> None:
        """Sample a ticket's group and commit it; a ticket that comes again commits nothing new.

        Raises UnusableInputError for what no generator can sample.
        """
        ticket = _ticket_of(delivery)
        prompt_ids = self._rollouts.prompt_ids(ticket.task.messages, ticket.sampling)
        await gate.wait_for(ticket.min_weight_version)
        requests = group_requests(f"{ticket.group_id}/{delivery.entry}/{delivery.attempt}", prompt_ids, ticket)
        group = _Group([request.request_id for request in requests])
        self._running.add(group)
        try:
            rollouts = await self._sample(group, ticket, requests)
        finally:
            self._running.discard(group)
        outputs = _outputs(ticket, rollouts) if rollouts else _drops(ticket)
        moves = [] if rollouts else [LedgerMove(rollout_id=name, state=STALE) for name in ticket.rollout_ids]
        is_new = await patiently(
            lambda: self._queue.commit(f"generate:{ticket.group_id}", outputs=outputs, moves=moves, consumed=[delivery]), self._clock
        )
        log.info("group_generated", group_id=ticket.group_id, rollouts=len(rollouts), stale=not rollouts, counted=is_new)

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
    try:
        ticket = ticket_from_proto(pb.Ticket.FromString(delivery.payload))
    except DecodeError as error:
        raise UnusableInputError(f"ticket {delivery.key} ({len(delivery.payload)} bytes) is not a readable message: {error}") from error
    if not ticket.seeds:
        raise UnusableInputError(f"ticket {delivery.key} has no seeds: it needs one per rollout")
    return ticket


def _outputs(ticket: Ticket, rollouts: Sequence[Rollout]) -> list[Output]:
    return [
        Output(
            stream=ROLLOUTS,
            key=rollout.rollout_id,
            payload=verification_task_to_proto(_verification(ticket, rollout)).SerializeToString(),
        )
        for rollout in rollouts
    ]


def _verification(ticket: Ticket, rollout: Rollout) -> VerificationTask:
    request = ticket.task.verification(rollout.text, request_id=rollout.rollout_id, group_id=str(ticket.group_id))
    return VerificationTask(rollout=rollout, request=request)


def _drops(ticket: Ticket) -> list[Output]:
    drops = [DroppedRollout(group_id=ticket.group_id, index=index, reason="stale") for index in range(len(ticket.rollout_ids))]
    return [Output(stream=VERDICTS, key=drop.rollout_id, payload=event_to_proto(drop).SerializeToString()) for drop in drops]
