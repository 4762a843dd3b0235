"""A batch's rollouts as rows for the model, spread over ranks and micro-batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from oprime.core.batching import shard
from oprime.core.token_rows import TokenRows, ragged, token_rows
from oprime.core.types import VerifiedRollout
from oprime.ports import TrainEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    positions: list[int]
    """Places of its rows in the list of rollouts that was dealt."""
    rows: TokenRows


def micro_batches(
    rollouts: Sequence[VerifiedRollout], *, rank: int, ranks: int, micro_batch_rollouts: int, micro_batch_tokens: int = 0, pad_id: int
) -> list[MicroBatch]:
    """This rank's micro-batches; every rank gets equally many, some of them empty."""
    prompts = [verified.rollout.prompt_ids for verified in rollouts]
    responses = [verified.rollout.response_ids for verified in rollouts]
    lengths = [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
    shards = shard(lengths, ranks=ranks, micro_batch_rollouts=micro_batch_rollouts, micro_batch_tokens=micro_batch_tokens)
    return [
        MicroBatch(
            positions=positions,
            rows=token_rows([prompts[place] for place in positions], [responses[place] for place in positions], pad_id=pad_id),
        )
        for positions in shards[rank]
    ]


def pack_by_position(batches: Sequence[MicroBatch], matrices: Sequence[Tensor]) -> bytes:
    """Response values of this rank's rows with their positions, for `gather`."""
    parts: list[bytes] = []
    for batch, matrix in zip(batches, matrices, strict=True):
        for position, values in zip(batch.positions, ragged(matrix, batch.rows.is_response), strict=True):
            data = values.to(torch.float32).numpy().astype("<f4").tobytes()
            parts.append(np.asarray([position, len(data)], dtype="<i8").tobytes() + data)
    return b"".join(parts)


def unpack_by_position(payloads: Sequence[bytes], count: int) -> list[np.ndarray]:
    """All ranks' values, in the order of the rollouts."""
    values: dict[int, np.ndarray] = {}
    for payload in payloads:
        offset = 0
        while offset < len(payload):
            position, size = np.frombuffer(payload, dtype="<i8", count=2, offset=offset)
            values[int(position)] = np.frombuffer(payload, dtype="<f4", count=int(size) // 4, offset=offset + 16)
            offset += 16 + int(size)
    return [values[position] for position in range(count)]


def gather_responses(engine: TrainEngine, batches: Sequence[MicroBatch], matrices: Sequence[Tensor], count: int) -> list[np.ndarray] | None:
    """Per-token values of all ranks' rows on rank 0, in the order of the rollouts; None elsewhere. Collective."""
    payloads = engine.gather(pack_by_position(batches, matrices))
    return None if payloads is None else unpack_by_position(payloads, count)
