"""What is written once and read by name: rollouts and their texts, what verifiers need of a task, and the PRM's token rewards.

docs/architecture.md says who writes and who reads what, and when a payload ends.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import structlog
from google.protobuf.message import DecodeError

from oprime.core.payload_needs import MATERIAL, REFERENCE, REWARDS, ROLLOUT, TEXT
from oprime.core.types import Batch, ProcessRewards, Rollout, RolloutRecord, TokenFloats
from oprime.core.verification import VerificationRequest
from oprime.ports import Payloads
from oprime.runtime.errors import PayloadsUnavailableError, UnusableInputError
from oprime.wire.codec import floats_from_bytes, floats_to_bytes, rollout_from_proto, rollout_to_proto
from oprime.wire.verification import request_from_proto, request_to_proto
from oprime_proto.v1 import common_pb2 as pb
from oprime_proto.v1 import verification_pb2

log = structlog.get_logger()

ResultT = TypeVar("ResultT")

REWARD_BYTES = 64 * 1024 * 1024
"""About how large a payload of rewards grows before the next one begins."""
GIVE_UP_S = 300.0
"""How long a rank waits for a store that is away before its process ends, to begin again from its checkpoint."""
RETRY_S = 1.0


def rollout_owner(rollout_id: str) -> str:
    return f"{ROLLOUT}/{rollout_id}"


def text_owner(rollout_id: str) -> str:
    return f"{TEXT}/{rollout_id}"


def reference_owner(rollout_id: str) -> str:
    return f"{REFERENCE}/{rollout_id}"


def material_owner(group_id: int) -> str:
    return f"{MATERIAL}/{group_id}"


def rewards_owner(step: int) -> str:
    return f"{REWARDS}/{step}"


def insistently(call: Callable[[], ResultT]) -> ResultT:
    """Repeat a call of the store for up to five minutes while it is away: what a rank does, which holds up all others."""
    until = time.monotonic() + GIVE_UP_S
    while True:
        try:
            return call()
        except PayloadsUnavailableError as error:
            if time.monotonic() > until:
                raise
            log.warning("payloads_unavailable", error=str(error))
            time.sleep(RETRY_S)


# Rollouts


def write_rollouts(payloads: Payloads, rollouts: Sequence[Rollout]) -> list[RolloutRecord]:
    """Write each rollout and, apart from it, its text; returns what travels on."""
    parts: list[tuple[str, bytes]] = []
    for rollout in rollouts:
        parts.append((rollout_owner(rollout.rollout_id), rollout_to_proto(replace(rollout, text="")).SerializeToString()))
        parts.append((text_owner(rollout.rollout_id), rollout.text.encode("utf-8", "surrogatepass")))
    names = payloads.put_many(parts)
    return [rollout.record(payload=names[2 * place], text=names[2 * place + 1]) for place, rollout in enumerate(rollouts)]


def read_rollouts(payloads: Payloads, records: Sequence[RolloutRecord]) -> list[Rollout]:
    """The rollouts without their texts, in order. Raises UnusableInputError for one that is gone or not what its record says."""
    found = insistently(lambda: payloads.get_many([record.payload for record in records]))
    return [_rollout_of(record, payload) for record, payload in zip(records, found, strict=True)]


def _rollout_of(record: RolloutRecord, payload: bytes | None) -> Rollout:
    if payload is None:
        raise UnusableInputError(_gone(record.payload, f"the tokens of rollout {record.rollout_id}"))
    try:
        rollout = rollout_from_proto(pb.Rollout.FromString(payload))
    except (DecodeError, LookupError, ValueError) as error:
        raise UnusableInputError(f"payload {record.payload} ({len(payload)} bytes) is no readable rollout: {error}") from error
    found = rollout.record(payload=record.payload, text=record.text)
    if found != record:
        raise UnusableInputError(f"payload {record.payload} holds {found}, but what travels says {record}")
    return rollout


def require_present(payloads: Payloads, names: Sequence[str], of: str) -> None:
    """Raise UnusableInputError if a payload is gone; reads none of them."""
    for name, size in zip(names, payloads.sizes(names), strict=True):
        if size is None:
            raise UnusableInputError(_gone(name, of))


def _gone(name: str, what: str) -> str:
    return f"payload {name} ({what}) is gone: somebody removed it from the store ([payloads]), or it lost its data"


# What verifiers need


def material_of(request: VerificationRequest) -> bytes:
    """What the verifier needs to judge any response to a task: a request whose response is empty."""
    return request_to_proto(request).SerializeToString()


def request_of(material: bytes, *, name: str) -> VerificationRequest:
    """Raises UnusableInputError for bytes that are none."""
    try:
        return request_from_proto(verification_pb2.VerifyRequest.FromString(material))
    except (DecodeError, LookupError, ValueError) as error:
        raise UnusableInputError(f"payload {name} ({len(material)} bytes) is no readable VerifyRequest: {error}") from error


# Token rewards


class RewardWriter:
    """Writes a rank's token rewards of one batch, in payloads of bounded size."""

    def __init__(self, payloads: Payloads, step: int, *, most_bytes: int = REWARD_BYTES) -> None:
        self._payloads = payloads
        self._owner = rewards_owner(step)
        self._most = most_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._names: list[str] = []

    def add(self, place: int, values: TokenFloats) -> None:
        """Rewards of the rollout at `place` of the batch; baselines come after all rollouts."""
        data = floats_to_bytes(values)
        self._parts.append(np.asarray([place, len(data)], dtype="<i8").tobytes() + data)
        self._size += len(data)
        if self._size >= self._most:
            self._write()

    def finish(self) -> list[str]:
        """Names of what was written."""
        if self._parts:
            self._write()
        return self._names

    def _write(self) -> None:
        payload = b"".join(self._parts)
        self._names.append(insistently(lambda: self._payloads.put(self._owner, payload)))
        self._parts, self._size = [], 0


def read_rewards(payloads: Payloads, names: Sequence[str], batch: Batch) -> ProcessRewards:
    """All token rewards of a batch. Raises UnusableInputError unless each rollout has one per token that is trained on."""
    issued = (*batch.rollouts, *batch.baselines)
    found: dict[int, TokenFloats] = {}
    for name in names:
        (payload,) = insistently(lambda name=name: payloads.get_many([name]))
        if payload is None:
            raise UnusableInputError(_gone(name, f"token rewards of batch {batch.step}"))
        try:
            found.update(_unpacked(payload))
        except ValueError as error:
            raise UnusableInputError(f"payload {name} ({len(payload)} bytes) holds no readable token rewards: {error}") from error
    for place, verified in enumerate(issued):
        given, wanted = len(found.get(place, ())), verified.rollout.trained_tokens
        if given != wanted:
            name = verified.rollout.rollout_id
            raise UnusableInputError(f"batch {batch.step}: rollout {name} has {given} token rewards for {wanted} trained tokens")
    if len(found) != len(issued):
        raise UnusableInputError(f"batch {batch.step}: there are token rewards of {len(found)} rollouts, but it has {len(issued)}")
    values = [found[place] for place in range(len(issued))]
    return ProcessRewards(rollouts=values[: len(batch.rollouts)], baselines=values[len(batch.rollouts) :])


def _unpacked(payload: bytes) -> Iterator[tuple[int, TokenFloats]]:
    offset = 0
    while offset < len(payload):
        place, size = (int(number) for number in np.frombuffer(payload, dtype="<i8", count=2, offset=offset))
        if size < 0:
            raise ValueError(f"rollout {place} has {size} bytes")
        # A view: the rewards of a large batch exist once.
        yield place, np.frombuffer(payload, dtype="<f4", count=size // 4, offset=offset + 16)
        offset += 16 + size


def payload_names(batch: Batch) -> list[str]:
    """Names of all that is written of a batch's rollouts."""
    return [name for verified in (*batch.rollouts, *batch.baselines) for name in verified.rollout.payloads]


# Reference log-probs


def write_reference(payloads: Payloads, values: Sequence[tuple[RolloutRecord, TokenFloats]]) -> list[str]:
    """Write the reference log-probs of rollouts; returns the names in order."""
    parts = [(reference_owner(record.rollout_id), floats_to_bytes(row)) for record, row in values]
    return insistently(lambda: payloads.put_many(parts))


def read_reference(payloads: Payloads, names: Sequence[str]) -> list[TokenFloats]:
    """Raises UnusableInputError for one that is gone or unreadable."""
    values: list[TokenFloats] = []
    for name, payload in zip(names, insistently(lambda: payloads.get_many(names)), strict=True):
        if payload is None:
            raise UnusableInputError(_gone(name, "reference log-probs"))
        try:
            values.append(floats_from_bytes(payload))
        except ValueError as error:
            raise UnusableInputError(f"payload {name} ({len(payload)} bytes) holds no readable reference log-probs: {error}") from error
    return values
