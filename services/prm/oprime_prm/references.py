"""The frozen reference's log-probs: computed once per rollout, when the PRM has time, and read with the rows that need them.

They are computed group by group, so that they do not depend on when: siblings are always in the same micro-batches.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

import structlog
from torch import Tensor

from oprime.core.token_rows import response_matrix
from oprime.core.types import Batch, FinishReason, RolloutRecord, TokenFloats, VerifiedRollout
from oprime.lm.batches import Contents, MicroBatch, RowFetcher, by_place, micro_batches
from oprime.lm.frozen import FrozenModel
from oprime.ports import Payloads
from oprime.runtime.errors import UnusableInputError
from oprime.runtime.rollout_payloads import read_reference, write_reference
from oprime_prm.config import PrmSection

log = structlog.get_logger()

Unit = tuple[RolloutRecord, ...]
"""Rollouts whose log-probs are computed together: the siblings of a group, or a greedy baseline."""

REMEMBERED = 100_000
"""Rollouts whose reference log-probs are known by name; older ones were filtered or dropped."""


def units_of(batch: Batch) -> list[Unit]:
    groups = [tuple(verified.rollout for verified in group.rollouts) for group in batch.groups]
    return groups + [(verified.rollout,) for verified in batch.baselines]


def complete_units(verified: Iterable[VerifiedRollout], *, group_size: int) -> list[Unit]:
    """Units of which every rollout is verified and that can teach something: siblings of one outcome are mostly filtered out."""
    groups: dict[int, dict[int, VerifiedRollout]] = {}
    for one in verified:
        groups.setdefault(one.rollout.group_id, {})[one.rollout.index] = one
    units: list[Unit] = []
    for _, members in sorted(groups.items()):
        siblings = [members[index] for index in range(group_size) if index in members]
        if len(siblings) < group_size or len({one.outcome_reward for one in siblings}) == 1:
            continue
        units.append(tuple(one.rollout for one in siblings))
        units += [(one.rollout,) for index, one in members.items() if index == group_size]
    return units


class KnownReferences:
    """On rank 0: which rollouts have reference log-probs, and under which names."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, str] = OrderedDict()

    def add(self, names: Mapping[str, str]) -> None:
        """`names` of log-probs, by the name of the rollout's own payload."""
        self._names.update(names)
        while len(self._names) > REMEMBERED:
            self._names.popitem(last=False)

    def missing(self, units: Iterable[Unit]) -> list[Unit]:
        return [unit for unit in units if any(record.payload not in self._names for record in unit)]

    def of(self, units: Iterable[Unit]) -> dict[str, str]:
        return {record.payload: self._names[record.payload] for unit in units for record in unit if record.payload in self._names}

    def forget(self, rollouts: Iterable[str]) -> None:
        for name in rollouts:
            self._names.pop(name, None)


class References:
    """On every rank: computes its share, and reads what micro-batches need."""

    def __init__(
        self, frozen: FrozenModel, contents: Contents, payloads: Payloads, settings: PrmSection, *, rank: int, ranks: int, pad_id: int
    ) -> None:
        self._frozen = frozen
        self._fetcher = RowFetcher(contents, pad_id=pad_id, kept_tokens=0)
        self._payloads = payloads
        self._settings = settings
        self._rank, self._ranks = rank, ranks
        self._names: Mapping[str, str] = {}

    def compute(self, units: Sequence[Unit]) -> dict[str, str]:
        """Write the log-probs of this rank's share of the units; returns their names by the rollouts' own.

        A unit of which something is gone has none: it was filtered meanwhile.
        """
        written: dict[str, str] = {}
        for unit in units[self._rank :: self._ranks]:
            try:
                rows = [row for micro in self._micro_batches(unit) for row in self._computed(micro)]
            except UnusableInputError as error:
                log.info("reference_left_out", rollout_id=unit[0].rollout_id, reason=str(error))
                continue
            written.update(zip((record.payload for record, _ in rows), write_reference(self._payloads, rows), strict=True))
        return written

    def _computed(self, micro: MicroBatch) -> list[tuple[RolloutRecord, TokenFloats]]:
        values = by_place([micro], [self._frozen.logprobs(micro.rows)])
        return [(record, row.numpy()) for record, (_, row) in zip(micro.records, values, strict=True)]

    def _micro_batches(self, unit: Unit) -> list[MicroBatch]:
        settings = self._settings
        return micro_batches(
            unit,
            self._fetcher,
            rank=0,
            ranks=1,
            micro_batch_rollouts=settings.micro_batch_rollouts,
            micro_batch_tokens=settings.micro_batch_tokens,
        )

    def use(self, names: Mapping[str, str]) -> None:
        """Names of the log-probs of all rollouts of the next batch."""
        self._names = names

    def __call__(self, micro: MicroBatch) -> Tensor:
        """Log-probs of a micro-batch, [rollout, token] float32."""
        values = read_reference(self._payloads, [self._names[record.payload] for record in micro.records]) if micro.records else []
        return response_matrix(values, micro.rows.is_trained)


def units_to_bytes(units: Sequence[Unit]) -> bytes:
    return json.dumps([[asdict(record) for record in unit] for unit in units]).encode()


def units_from_bytes(data: bytes) -> list[Unit]:
    return [
        tuple(RolloutRecord(**{**record, "finish_reason": FinishReason(record["finish_reason"])}) for record in unit)
        for unit in json.loads(data)
    ]
