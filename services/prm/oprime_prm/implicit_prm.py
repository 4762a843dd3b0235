"""The implicit PRM's share of a train step, the same on every rank: update on the outcomes, score every response token."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oprime.core.batching import split_groups
from oprime.core.implicit_reward import sequence_scores, token_process_rewards
from oprime.core.prm_accuracy import pairwise_accuracies, sign_matches
from oprime.core.prm_loss import GroupStatistics, PrmTokens
from oprime.core.types import Batch, VerifiedRollout
from oprime.lm.batches import Contents, MicroBatch, RowFetcher, RowsOf, by_place, empty_matrix, micro_batches
from oprime.ports import TrainEngine
from oprime_prm.config import PrmSection, pair_losses_know_scores
from oprime_prm.noise_meter import NoiseMeter
from oprime_prm.prm_copy import PrmCopy

ReferenceLogprobs = Callable[[MicroBatch], Tensor]
"""Log-prob of every token that is trained on under the reference, [rollout, token] float32."""
Emit = Callable[[int, np.ndarray], None]
"""Takes a rollout's place in the batch, and the process reward of each of its tokens that are trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What is known of a batch after it."""

    prm_version: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The rollouts of one optimizer step, dealt to this rank's micro-batches: trained on and scored alike. Or the greedy baselines."""

    rollouts: list[VerifiedRollout]
    first: int
    """Place of its first rollout in the batch; the rest follow. Baselines come after all rollouts."""
    batches: list[MicroBatch]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerStep:
    loss: float
    """Summed over the rollouts of all ranks."""
    matches: float
    """Rollouts of all ranks whose score has the sign of their outcome."""
    norm: float
    seen: list[Tensor]
    """The PRM's log-probs of each micro-batch, before the step."""


class ImplicitPrm:
    """pi_phi with its optimizer. All methods are collective."""

    def __init__(
        self,
        engine: TrainEngine,
        contents: Contents,
        reference: ReferenceLogprobs,
        settings: PrmSection,
        *,
        pad_id: int,
        total_steps: int,
        copy: PrmCopy | None = None,
        noise: NoiseMeter | None = None,
    ) -> None:
        """`contents` fetches rollouts. With `copy` that scores, in its own type, with the master weights; `noise` measures the scores'
        rounding. Raises ValueError for a pair loss without the scores that it compares with.
        """
        if problems := pair_losses_know_scores(settings):
            raise ValueError(problems[0])
        self._engine = engine
        self._reference = reference
        self._settings = settings
        self._fetcher = RowFetcher(contents, pad_id=pad_id)
        self._learning_rates = settings.learning_rates(total_steps)
        self._copy = copy
        self._noise = noise
        self.version = 0
        """Updates so far, counted in batches; a batch that was skipped counts too."""

    def process(self, batch: Batch, emit: Emit) -> Scored:
        """Update on the batch's outcomes and score it, all with one PRM version (paper, Algorithm 1, lines 7 and 8).

        The batch passes once through the training pass, and once through a scoring pass unless the training pass computes the very
        same. Greedy baselines are scored by the same version; losses and metrics never see them. `emit` gets the rewards of this rank's
        rollouts. The metrics are those of all ranks.
        """
        parts, baselines = self._parts(batch), self._baselines(batch)
        version, metrics = self.version, dict[str, float]()
        updated_first = self._settings.update == "double_forward"
        before, beside = (None, []) if updated_first else self._all_scores_now(batch.step, parts, baselines)
        if self._settings.update != "offline":
            seen, metrics = self._update(batch, parts, self._group_statistics(batch, parts, before))
            before = before or seen
            self._move_to(self.version + 1)
        if updated_first:
            version = self.version
            before, beside = self._all_scores_now(batch.step, parts, baselines)
        scores = self._emit(parts, before or [], emit, count=len(batch.rollouts))
        self._emit(baselines, beside, emit, count=len(batch.rollouts) + len(batch.baselines))
        return Scored(prm_version=version, metrics=_score_metrics(scores, batch.rollouts) | metrics | self._noise_metrics())

    def skip(self) -> None:
        """Pass over a batch: the weights stay, while version and learning rate go on, so that they belong to their step."""
        if self._settings.update != "offline":
            self._move_to(self.version + 1)

    def _move_to(self, version: int) -> None:
        self.version = version
        if self._copy is not None:
            self._copy.refresh(self._engine.weights(master=True), version)

    @property
    def scores_apart(self) -> bool:
        """Whether a copy scores, which always has the newest weights."""
        return self._copy is not None

    @property
    def _scores_while_training(self) -> bool:
        """Whether the only training pass sees the scores that are wanted: those of the version before the update."""
        return not self.scores_apart and self._settings.update == "single_forward" and self._settings.updates_per_batch == 1

    def _parts(self, batch: Batch) -> list[Part]:
        parts: list[Part] = []
        first = 0
        for groups in split_groups(batch.groups, self._settings.updates_per_batch):
            parts.append(self._part([verified for group in groups for verified in group.rollouts], first))
            first += len(parts[-1].rollouts)
        return parts

    def _baselines(self, batch: Batch) -> list[Part]:
        return [self._part(list(batch.baselines), len(batch.rollouts))] if batch.baselines else []

    def _part(self, rollouts: list[VerifiedRollout], first: int) -> Part:
        batches = micro_batches(
            [verified.rollout for verified in rollouts],
            self._fetcher,
            rank=self._engine.rank,
            ranks=self._engine.world_size,
            micro_batch_rollouts=self._settings.micro_batch_rollouts,
            micro_batch_tokens=self._settings.micro_batch_tokens,
            shares_prompts=self._engine.shares_prompts,
        )
        return Part(rollouts=rollouts, first=first, batches=batches)

    def _all_scores_now(self, step: int, parts: list[Part], baselines: list[Part]) -> tuple[list[list[Tensor]] | None, list[list[Tensor]]]:
        """The log-probs that the batch's rewards are made of, by the version at hand: of its rollouts, or None where the training pass will
        see them, and of greedy baselines."""
        if self._noise is not None:
            self._noise.begin(step, parts[0].batches)
            self._noise.compute()
        return None if self._scores_while_training else self._scores(parts), self._scores(baselines)

    def _scores(self, parts: list[Part]) -> list[list[Tensor]]:
        """The PRM's log-probs of every part's micro-batches, by the version at hand."""
        logprobs = self._engine.logprobs if self._copy is None else self._copy.model.logprobs
        return [[logprobs(micro.rows) for micro in part.batches] for part in parts]

    def _rewards(self, micro: MicroBatch, logprobs: Tensor) -> Tensor:
        return token_process_rewards(logprobs, self._reference(micro), micro.rows.is_trained, self._settings.beta)

    def _emit(self, parts: list[Part], logprobs: list[list[Tensor]], emit: Emit, *, count: int) -> Tensor:
        """Give away this rank's process rewards; returns the sum of each rollout's, of all ranks, by its place."""
        sums = torch.zeros(count, dtype=torch.float64)
        for part, known in zip(parts, logprobs, strict=True):
            for micro, found in zip(part.batches, known, strict=True):
                for place, values in by_place([micro], [self._rewards(micro, found)], first=part.first):
                    sums[place] = values.double().sum()
                    if self._noise is not None:
                        self._noise.note(place, values.numpy())
                    emit(place, values.numpy())
        return self._engine.all_sum(sums)

    def _group_statistics(self, batch: Batch, parts: list[Part], logprobs: list[list[Tensor]] | None) -> GroupStatistics:
        """What the loss needs of whole groups, their scores before the update included, for all rollouts of the batch."""
        loss = self._settings.chosen_loss
        outcomes = torch.tensor([verified.outcome_reward for verified in batch.rollouts], dtype=torch.float64)
        group_ids = torch.tensor([verified.rollout.group_id for verified in batch.rollouts])
        found = {} if loss.balance is None else dict(loss.balance(outcomes, group_ids))
        if loss.statistics is not None and logprobs is not None:
            found |= loss.statistics(self._all_scores(len(batch.rollouts), parts, logprobs), outcomes, group_ids)
        return found

    def _all_scores(self, count: int, parts: list[Part], logprobs: list[list[Tensor]]) -> Tensor:
        """The score of each of the batch's rollouts, of all ranks."""
        scores = torch.zeros(count, dtype=torch.float64)
        for part, known in zip(parts, logprobs, strict=True):
            for micro, found in zip(part.batches, known, strict=True):
                places = torch.tensor(micro.positions, dtype=torch.int64) + part.first
                scores[places] = sequence_scores(self._rewards(micro, found).double(), micro.rows.is_trained)
        return self._engine.all_sum(scores)

    def _update(self, batch: Batch, parts: list[Part], statistics: GroupStatistics) -> tuple[list[list[Tensor]], dict[str, float]]:
        """The log-probs that each part's training pass saw, and metrics."""
        rate = self._learning_rates.at(self.version + 1)
        losses, matches = 0.0, 0.0
        norms: list[float] = []
        seen: list[list[Tensor]] = []
        for part in parts:
            step = self._optimizer_step(part, _rows_of(statistics, slice(part.first, part.first + len(part.rollouts))), rate)
            losses += step.loss
            matches += step.matches
            norms.append(step.norm)
            seen.append(step.seen)
        count = len(batch.rollouts)
        return seen, {
            "prm_loss": losses / count,
            # Measured on scores from before each rollout was trained on.
            "prm_accuracy": matches / count,
            "prm_gradient_norm": sum(norms) / len(norms),
            "prm_learning_rate": rate,
        }

    def _optimizer_step(self, part: Part, statistics: GroupStatistics, rate: float) -> OptimizerStep:
        outcomes = [torch.tensor([part.rollouts[place].outcome_reward for place in micro.positions]) for micro in part.batches]
        sums = torch.zeros(2, dtype=torch.float64)
        seen = [empty_matrix(micro) for micro in part.batches]

        def loss(index: int, prm_logprobs: Tensor) -> Tensor:
            micro, device = part.batches[index], prm_logprobs.device
            seen[index] = prm_logprobs.detach().float().cpu()
            is_trained, outcome = micro.rows.is_trained.to(device), outcomes[index].to(device)
            rewards = token_process_rewards(prm_logprobs, self._reference(micro).to(device), is_trained, self._settings.beta)
            known = _rows_of(statistics, torch.tensor(micro.positions, dtype=torch.int64))
            group = {name: values.to(rewards) for name, values in known.items()}
            tokens = PrmTokens(process_rewards=rewards, is_trained=is_trained, outcome_rewards=outcome, group=group)
            terms = self._settings.chosen_loss.losses(tokens)
            with torch.no_grad():
                sums[0] += terms.sum().double().cpu()
                sums[1] += sign_matches(tokens.scores, outcome).sum().double().cpu()
            return terms.sum() / len(part.rollouts)

        norm = self._engine.train_step(RowsOf(part.batches), loss, learning_rate=rate)
        total = self._engine.all_sum(sums)
        return OptimizerStep(loss=float(total[0]), matches=float(total[1]), norm=norm, seen=seen)

    def _noise_metrics(self) -> dict[str, float]:
        if self._noise is None:
            return {}
        self._noise.finish()
        return self._noise.metrics

    def state(self) -> dict[str, Any]:
        return {"version": self.version} | ({} if self._noise is None else self._noise.state())

    def load_state(self, state: dict[str, Any]) -> None:
        """After the engine has loaded the weights of that state. Collective where a copy scores."""
        self._move_to(int(state["version"]))
        if self._noise is not None:
            self._noise.load_state(state)


def _rows_of(statistics: GroupStatistics, rows: slice | Tensor) -> GroupStatistics:
    return {name: values[rows] for name, values in statistics.items()}


def _score_metrics(scores: Tensor, rollouts: tuple[VerifiedRollout, ...]) -> dict[str, float]:
    """How the scores of the rewards that the learner gets separate right from wrong."""
    outcomes = torch.tensor([verified.outcome_reward for verified in rollouts], dtype=torch.float64)
    groups = torch.tensor([verified.rollout.group_id for verified in rollouts])
    pairwise = pairwise_accuracies(scores, outcomes, groups)
    accuracy = float(sign_matches(scores, outcomes).mean())
    return {
        # Of a PRM that is never updated; else the update's own takes its place.
        "prm_accuracy": accuracy,
        "prm_scored_accuracy": accuracy,
        "prm_pairwise_accuracy": float(pairwise.mean()) if len(pairwise) else math.nan,
        "prm_score_mean_right": _mean_where(scores, outcomes > 0.5),
        "prm_score_mean_wrong": _mean_where(scores, outcomes <= 0.5),
    }


def _mean_where(values: Tensor, chosen: Tensor) -> float:
    return float(values[chosen].mean()) if bool(chosen.any()) else math.nan
