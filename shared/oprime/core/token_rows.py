"""Rows of tokens: prompt, response, padding. And the way from ragged per-token numbers to matrices and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Ints = Sequence[int] | npt.NDArray[np.integer[Any]]
Floats = Sequence[float | int] | npt.NDArray[np.floating[Any]] | Float[Tensor, "..."]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenRows:
    """Right-padded rows of prompt + response. All tensors are on the CPU; engines move them."""

    input_ids: Int64[Tensor, "rollout token"]
    attention_mask: Bool[Tensor, "rollout token"]
    """True for prompt and response, False for padding."""
    is_response: Bool[Tensor, "rollout token"]
    """True where the token belongs to the response."""


def token_rows(prompts: Sequence[Ints], responses: Sequence[Ints], *, pad_id: int, length: int | None = None) -> TokenRows:
    """Lay each prompt and its response side by side and pad them on the right to `length` tokens (default: the longest row).

    No rows give tensors of shape [0, length]. Raises ValueError if the counts differ, a prompt is empty (its first
    response token would have no context) or a row does not fit.
    """
    if len(prompts) != len(responses):
        raise ValueError(f"{len(prompts)} prompts for {len(responses)} responses: give one prompt per response")
    ends = [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
    longest = max(ends, default=0)
    width = longest if length is None else length
    if longest > width:
        raise ValueError(f"row {ends.index(longest)} has {longest} tokens but length is {width}: give a length of at least {longest}")

    input_ids = np.full((len(ends), width), pad_id, dtype=np.int64)
    starts = np.zeros(len(ends), dtype=np.int64)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        if len(prompt) == 0:
            raise ValueError(f"row {row} has an empty prompt: a response needs at least one token before it")
        starts[row] = len(prompt)
        input_ids[row, : len(prompt)] = prompt
        input_ids[row, len(prompt) : ends[row]] = response
    positions = np.arange(width)
    attention_mask = positions < np.asarray(ends, dtype=np.int64)[:, None]
    return TokenRows(
        input_ids=torch.as_tensor(input_ids),
        attention_mask=torch.as_tensor(attention_mask),
        is_response=torch.as_tensor(attention_mask & (positions >= starts[:, None])),
    )


def response_matrix(
    values: Sequence[Floats], is_response: Bool[Tensor, "rollout token"], *, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "rollout token"]:
    """Scatter one array of per-response-token numbers per rollout into a matrix that is 0 elsewhere.

    Raises ValueError unless each rollout has one number per response token.
    """
    given = [len(row) for row in values]
    wanted = _response_lengths(is_response)
    if given != wanted:
        raise ValueError(f"numbers per rollout {given} do not match response tokens per rollout {wanted}: give one per response token")
    matrix = torch.zeros(is_response.shape, dtype=dtype, device=is_response.device)
    if values:
        flat = np.concatenate([np.asarray(row, dtype=np.float64) for row in values])
        matrix[is_response] = torch.as_tensor(flat, dtype=dtype, device=is_response.device)
    return matrix


def ragged(values: Float[Tensor, "rollout token"], is_response: Bool[Tensor, "rollout token"]) -> list[Float[Tensor, " _"]]:
    """Gather the numbers of the response tokens, one tensor per rollout: the inverse of `response_matrix`."""
    lengths = _response_lengths(is_response)
    return list(torch.split(values[is_response], lengths)) if lengths else []


def _response_lengths(is_response: Bool[Tensor, "rollout token"]) -> list[int]:
    return [int(length) for length in is_response.sum(dim=1)]
