"""The records that travel through the system.

A stage's result is a new record, never a field filled in later. A rollout's tokens and text are written once, as payloads; what travels
from stage to stage is its `RolloutRecord`, which names them.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from oprime.core.verification import Outcome, VerificationRequest

TokenIds = npt.NDArray[np.int32]
TokenFloats = npt.NDArray[np.float32]


class FinishReason(StrEnum):
    """Why a response ended."""

    STOP = "stop"
    """The policy sampled an end token."""
    LENGTH = "length"
    """The response was cut at the token limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings:
    temperature: float
    max_prompt_tokens: int
    max_response_tokens: int
    top_p: float = 1.0
    """Below 1 only in evaluations: what is trained is the whole distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One prompt with what its verifier needs."""

    messages: tuple[ChatMessage, ...]
    verifier: str
    ground_truth: str
    data_source: str
    verifier_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Options of the verifier for this task, by name."""

    def verification(self, response: str, *, request_id: str = "", group_id: str = "") -> VerificationRequest:
        """What to ask the verifier about a response to this task."""
        return VerificationRequest(
            kind=self.verifier,
            response=response,
            golds=(self.ground_truth,),
            options=self.verifier_options,
            prompt=self.messages[-1].content if self.messages else "",
            request_id=request_id,
            group_id=group_id,
            data_source=self.data_source,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Permission to sample one group: K rollouts, and the greedy response that ReMax compares them with."""

    group_id: int
    """Only grows; also the place in the seeded order of prompts, counted over epochs."""
    messages: tuple[ChatMessage, ...]
    material: str
    """Payload name of what the verifier needs to judge the responses: written once for all of them."""
    sampling: SamplingSettings
    seeds: tuple[int, ...]
    """One seed per sampled rollout; their count is K."""
    min_weight_version: int
    """Sampling may not begin with older weights."""
    greedy_baseline: bool = False
    """Besides the K rollouts, take the most probable token each time: rollout K, which is never trained on."""
    trace: str = ""
    """Where its trace begins (W3C traceparent); empty when nobody traces it. Here and in what follows from it."""

    @property
    def group_size(self) -> int:
        """K, without the greedy baseline."""
        return len(self.seeds)

    @property
    def rollout_ids(self) -> tuple[str, ...]:
        """Ledger names of all rollouts, the greedy baseline last."""
        return tuple(rollout_id(self.group_id, index) for index in range(self.group_size + self.greedy_baseline))


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightVersionSpan:
    """Tokens [start, end) of a response were sampled with `version`."""

    start: int
    end: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segment:
    """Tokens that follow each other and have one origin: a prompt, what the policy sampled with one weight version, or what others
    (tools, environments) wrote in between."""

    token_ids: TokenIds
    trained: bool
    """Whether the policy sampled them, and learns from them."""
    logprobs: TokenFloats
    """log pi_behaviour of each token, after temperature; empty where not trained on."""
    weight_version: int = 0
    """What sampled them; says nothing where not trained on."""


def untrained(token_ids: npt.ArrayLike | Sequence[int]) -> Segment:
    """A segment that the policy did not sample."""
    return Segment(token_ids=np.asarray(token_ids, dtype=np.int32), trained=False, logprobs=np.zeros(0, dtype=np.float32))


def sampled(
    token_ids: npt.ArrayLike | Sequence[int], logprobs: npt.ArrayLike | Sequence[float], spans: Iterable[WeightVersionSpan]
) -> tuple[Segment, ...]:
    """A model's turn: one segment per weight version. `spans` cover every token once, in order."""
    ids, values = np.asarray(token_ids, dtype=np.int32), np.asarray(logprobs, dtype=np.float32)
    return tuple(
        Segment(token_ids=ids[span.start : span.end], trained=True, logprobs=values[span.start : span.end], weight_version=span.version)
        for span in spans
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rollout:
    """What was sampled for one prompt: the prompt, the model's turns, and what others wrote in between."""

    group_id: int
    index: int
    seed: int
    segments: tuple[Segment, ...]
    """In order; the first is not trained on, since nothing stands before it. A response's end token is part of it, if one was sampled."""
    text: str
    """The response as the verifier reads it."""
    finish_reason: FinishReason

    @property
    def rollout_id(self) -> str:
        return rollout_id(self.group_id, self.index)

    @property
    def token_ids(self) -> TokenIds:
        """All tokens in order."""
        return np.concatenate([segment.token_ids for segment in self.segments])

    @property
    def is_trained(self) -> npt.NDArray[np.bool_]:
        """Per token, whether it is trained on."""
        return np.repeat([segment.trained for segment in self.segments], [len(segment.token_ids) for segment in self.segments])

    @property
    def trained_ids(self) -> TokenIds:
        """The tokens that are trained on, in order."""
        return np.concatenate([segment.token_ids for segment in self.trained_segments])

    @property
    def behaviour_logprobs(self) -> TokenFloats:
        """log pi_behaviour of each token that is trained on, after temperature."""
        return np.concatenate([segment.logprobs for segment in self.trained_segments])

    @property
    def prompt_ids(self) -> TokenIds:
        """What stands before the first token that is trained on."""
        return self.token_ids[: int(self.is_trained.argmax())]

    @property
    def trained_segments(self) -> tuple[Segment, ...]:
        return tuple(segment for segment in self.segments if segment.trained)

    def record(self, *, payload: str, text: str) -> "RolloutRecord":
        """What decisions need of it; `payload` and `text` name what was written of it."""
        versions = [segment.weight_version for segment in self.trained_segments]
        return RolloutRecord(
            group_id=self.group_id,
            index=self.index,
            tokens=sum(len(segment.token_ids) for segment in self.segments),
            trained_tokens=sum(len(segment.token_ids) for segment in self.trained_segments),
            oldest_weight_version=min(versions),
            newest_weight_version=max(versions),
            finish_reason=self.finish_reason,
            payload=payload,
            text=text,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRecord:
    """A rollout as it travels: the few numbers that decisions need, and the names of what is written once and read by name."""

    group_id: int
    index: int
    tokens: int
    """Of all segments."""
    trained_tokens: int
    """Those of the model's turns."""
    oldest_weight_version: int
    newest_weight_version: int
    finish_reason: FinishReason
    payload: str
    """Name of the `Rollout` without its text."""
    text: str
    """Name of the text that the verifier reads."""

    @property
    def rollout_id(self) -> str:
        return rollout_id(self.group_id, self.index)

    @property
    def payloads(self) -> tuple[str, str]:
        """Names of all that is written of it."""
        return self.payload, self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationTask:
    """A rollout on its way to the verifier."""

    rollout: RolloutRecord
    material: str
    """Payload name of what its verifier needs besides the text; siblings share it."""
    trace: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedRollout:
    rollout: RolloutRecord
    outcome: Outcome
    trace: str = ""
    actions: int = 0
    """Named actions that the response took, where the prompt asks for them; 0 where it took none."""
    keeps_action_form: bool = False
    """Whether it keeps the form that the prompt asks for."""

    @property
    def outcome_reward(self) -> float:
        """The verifier's score; a rollout without one never becomes part of a group."""
        if self.outcome.score is None:
            raise ValueError(f"rollout {self.rollout.rollout_id} has no score ({self.outcome.reason}): drop it before grouping")
        return self.outcome.score


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedRollout:
    """A rollout that will never be verified; the ledger already counts it as dropped."""

    group_id: int
    index: int
    reason: str
    response_tokens: int = 0
    """Tokens of its response when it was given up; 0 when nobody counted."""

    @property
    def rollout_id(self) -> str:
        return rollout_id(self.group_id, self.index)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VerifiedGroup:
    """The verified rollouts of one prompt; siblings of each other."""

    group_id: int
    rollouts: tuple[VerifiedRollout, ...]
    """What was sampled, and is trained on."""
    baseline: VerifiedRollout | None = None
    """The greedy response, with which ReMax compares the rollouts. Never trained on."""
    trace: str = ""

    @property
    def issued(self) -> tuple[VerifiedRollout, ...]:
        """Every rollout that the ledger knows of, the baseline last."""
        return self.rollouts if self.baseline is None else (*self.rollouts, self.baseline)

    @property
    def outcome_rewards(self) -> tuple[float, ...]:
        return tuple(verified.outcome_reward for verified in self.rollouts)

    @property
    def oldest_weight_version(self) -> int:
        """Of any token, the baseline's included: a group is compared within one policy, and is too old as a whole."""
        return min(verified.rollout.oldest_weight_version for verified in self.issued)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """The groups of train step `step`; steps count from 1 and batch t turns weight version t-1 into t."""

    step: int
    groups: tuple[VerifiedGroup, ...]
    trace: str = ""
    """Of the step, which is another trace than those of its prompts."""

    @property
    def rollouts(self) -> tuple[VerifiedRollout, ...]:
        """What is trained on: groups first, then their rollouts."""
        return tuple(verified for group in self.groups for verified in group.rollouts)

    @property
    def baselines(self) -> tuple[VerifiedRollout, ...]:
        """The greedy baselines in the order of their groups; empty unless the estimator is ReMax."""
        return tuple(group.baseline for group in self.groups if group.baseline is not None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredBatch:
    """A batch with one process reward per token that is trained on, all from one PRM version; with none where the run has no PRM."""

    batch: Batch
    process_rewards: tuple[str, ...]
    """Payload names: together they hold one array per rollout, and one per greedy baseline."""
    prm_version: int
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProcessRewards:
    """The PRM's reward of each token that is trained on; none where the run has no PRM."""

    rollouts: Sequence[TokenFloats] = ()
    """One array per rollout, in the order of `batch.rollouts`."""
    baselines: Sequence[TokenFloats] = ()
    """One array per greedy baseline, in the order of `batch.baselines`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedStep:
    step: int
    weight_version: int
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


def rollout_id(group_id: int, index: int) -> str:
    """Name a rollout in the ledger, in marks and in logs."""
    return f"{group_id}:{index}"


def rollout_seed(run_seed: int, group_id: int, index: int) -> int:
    """Seed of rollout `index` of a group, in [0, 2**63): a hash, so it is the same on every machine and never runs in step with another."""
    name = f"oprime rollout {run_seed} {group_id} {index}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
