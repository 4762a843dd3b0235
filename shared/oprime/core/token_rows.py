"""Rows of tokens, some of them trained on, and padding. And the way from ragged per-token numbers to matrices and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from oprime.core.checked import checked

Ints = Sequence[int] | npt.NDArray[np.integer[Any]]
Bools = Sequence[bool] | npt.NDArray[np.bool_]
Floats = Sequence[float | int] | npt.NDArray[np.floating[Any]] | Float[Tensor, "..."]


@checked
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenRows:
    """Right-padded rows, one per rollout. All tensors are on the CPU; engines move them."""

    input_ids: Int64[Tensor, "rollout token"]
    attention_mask: Bool[Tensor, "rollout token"]
    """False for padding."""
    is_trained: Bool[Tensor, "rollout token"]
    """True where the policy sampled the token and learns from it: a response, or the turns of a model between what others wrote."""


def token_rows(prompts: Sequence[Ints], responses: Sequence[Ints], *, pad_id: int) -> TokenRows:
    """Lay each prompt and its response side by side; the response is what is trained on. See `token_rows_of`."""
    if len(prompts) != len(responses):
        raise ValueError(f"{len(prompts)} prompts for {len(responses)} responses: give one prompt per response")
    pairs = list(zip(prompts, responses, strict=True))
    return token_rows_of(
        [np.concatenate([np.asarray(part, dtype=np.int64) for part in pair]) for pair in pairs],
        [np.arange(len(prompt) + len(response)) >= len(prompt) for prompt, response in pairs],
        pad_id=pad_id,
    )


def token_rows_of(token_ids: Sequence[Ints], trained: Sequence[Bools], *, pad_id: int) -> TokenRows:
    """Rows of tokens, some of them trained on, padded on the right to the longest.

    No rows give tensors of shape [0, 0]. Raises ValueError if the counts differ, or a row's first token is trained on: nothing stands
    before it that could predict it.
    """
    if len(token_ids) != len(trained):
        raise ValueError(f"{len(token_ids)} rows of tokens for {len(trained)} rows of marks: give one row of marks per row of tokens")
    lengths = np.asarray([len(ids) for ids in token_ids], dtype=np.int64)
    width = int(lengths.max(initial=0))
    input_ids = np.full((len(lengths), width), pad_id, dtype=np.int64)
    is_trained = np.zeros((len(lengths), width), dtype=np.bool_)
    for row, (ids, own) in enumerate(zip(token_ids, trained, strict=True)):
        if len(ids) != len(own):
            raise ValueError(f"row {row} has {len(ids)} tokens and {len(own)} marks: give one mark per token")
        if len(own) == 0 or own[0]:
            raise ValueError(f"row {row} has an empty prompt: what is trained on needs at least one token before it")
        input_ids[row, : len(ids)] = ids
        is_trained[row, : len(ids)] = own
    return TokenRows(
        input_ids=torch.as_tensor(input_ids),
        attention_mask=torch.as_tensor(np.arange(width) < lengths[:, None]),
        is_trained=torch.as_tensor(is_trained),
    )


@checked
def trained_tokens_alone(lengths: Sequence[int]) -> Bool[Tensor, "rollout token"]:
    """True for the tokens of each rollout that are trained on when nothing else is laid out: they move to the left."""
    return torch.arange(max(lengths, default=0)) < torch.tensor(list(lengths), dtype=torch.int64)[:, None]


@checked
def response_matrix(
    values: Sequence[Floats], is_trained: Bool[Tensor, "rollout token"], *, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "rollout token"]:
    """Scatter one array of per-response-token numbers per rollout into a matrix that is 0 elsewhere.

    Raises ValueError unless each rollout has one number per response token.
    """
    given = [len(row) for row in values]
    wanted = _response_lengths(is_trained)
    if given != wanted:
        raise ValueError(f"numbers per rollout {given} do not match response tokens per rollout {wanted}: give one per response token")
    matrix = torch.zeros(is_trained.shape, dtype=dtype, device=is_trained.device)
    if values:
        flat = np.concatenate([np.asarray(row, dtype=np.float64) for row in values])
        matrix[is_trained] = torch.as_tensor(flat, dtype=dtype, device=is_trained.device)
    return matrix


@checked
def ragged(values: Float[Tensor, "rollout token"], is_trained: Bool[Tensor, "rollout token"]) -> list[Float[Tensor, " _"]]:
    """Gather the numbers of the response tokens, one tensor per rollout: the inverse of `response_matrix`."""
    lengths = _response_lengths(is_trained)
    return list(torch.split(values[is_trained], lengths)) if lengths else []


def _response_lengths(is_trained: Bool[Tensor, "rollout token"]) -> list[int]:
    return [int(length) for length in is_trained.sum(dim=1)]
