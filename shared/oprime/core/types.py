"""The records that travel through the system.

A stage's result is a new record, never a field filled in later. Token arrays are numpy, so that a service that only
passes them on (the coordinator) needs no torch.
"""

from collections.abc import Mapping
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
    task: Task
    sampling: SamplingSettings
    seeds: tuple[int, ...]
    """One seed per sampled rollout; their count is K."""
    min_weight_version: int
    """Sampling may not begin with older weights."""
    greedy_baseline: bool = False
    """Besides the K rollouts, take the most probable token each time: rollout K, which is never trained on."""

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
class Rollout:
    """One response with its behaviour log-probabilities and weight versions."""

    group_id: int
    index: int
    seed: int
    prompt_ids: TokenIds
    response_ids: TokenIds
    """Includes the end token, if one was sampled."""
    text: str
    behaviour_logprobs: TokenFloats
    """log pi_behaviour of each response token, after temperature."""
    spans: tuple[WeightVersionSpan, ...]
    finish_reason: FinishReason

    @property
    def rollout_id(self) -> str:
        return rollout_id(self.group_id, self.index)

    @property
    def oldest_weight_version(self) -> int:
        return min(span.version for span in self.spans)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VerificationTask:
    """A rollout with what its verifier needs."""

    rollout: Rollout
    request: VerificationRequest
    """Its response is the rollout's text."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VerifiedRollout:
    rollout: Rollout
    outcome: Outcome

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
    """A batch with one process reward per response token, all from one PRM version."""

    batch: Batch
    process_rewards: tuple[TokenFloats, ...]
    """One array per rollout, in the order of `batch.rollouts`."""
    prm_version: int
    baseline_process_rewards: tuple[TokenFloats, ...] = ()
    """One array per greedy baseline, in the order of `batch.baselines`."""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedStep:
    step: int
    weight_version: int
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


def rollout_id(group_id: int, index: int) -> str:
    """Name a rollout in the ledger, in marks and in logs."""
    return f"{group_id}:{index}"
