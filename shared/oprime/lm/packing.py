"""Run a backbone on the tokens of a micro-batch alone: one row of all of them, each rollout attending to itself only.

Nothing is spent on padding. Position ids start again with every rollout, and attention runs rollout by rollout (those of equal length
together), so that no matrix of all tokens by all tokens exists. Where responses to one prompt are scored, the prompt may stand there once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oprime.core.prompt_families import FamilyLayout, FamilyLengths

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "oprime_sdpa_per_rollout"
"""Name under which transformers knows `attention_per_rollout`: sdpa, until it is told the rollouts' lengths."""
_FLASH = "flash_attention_2"
_WINDOWS = ("sliding_window", "attention_chunk_size")
_PROBE_LENGTHS = (5, 3, 3)
_PROBE_FAMILY: FamilyLengths = (4, (1, 3, 3))
_MOST_MASKED = 2**24
"""Entries of the mask with which responses see a prompt that they share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Whether, and up to which length, a model's rollouts may share a row. See `choose_packing`."""

    refusal: str = ""
    """Why rows stay padded; empty where rollouts are packed."""
    longest: int | None = None
    """Rollouts longer than the model's attention window run in padded rows."""
    shares_prompts: bool = False
    """Whether responses to one prompt may stand after it side by side, so that it is computed once."""

    def fits_family(self, prompt_tokens: int, longest_response: int) -> bool:
        """Whether responses of up to so many tokens may share a prompt."""
        length = prompt_tokens + longest_response
        return self.shares_prompts and self.fits([length]) and longest_response * length <= _MOST_MASKED

    def fits(self, lengths: Sequence[int]) -> bool:
        return not self.refusal and (self.longest is None or max(lengths, default=0) <= self.longest)


PADDED = Packing(refusal="packing is off")


def hidden_before_response(
    model: "PreTrainedModel",
    packing: Packing,
    input_ids: Int[Tensor, "rollout token"],
    attention_mask: Bool[Tensor, "rollout token"],
    is_trained: Bool[Tensor, "rollout token"],
) -> Float[Tensor, "response_token hidden"]:
    """Last hidden state of `model`, or of its backbone, at the token before each response token, in the order of `is_trained.nonzero()`.

    Rows are padded on the right and none is a response from its first token on.
    """
    lengths = attention_mask.sum(1).tolist()
    if not packing.fits(lengths):
        hidden = model.base_model(input_ids=input_ids, attention_mask=attention_mask.long(), use_cache=False).last_hidden_state
        rollouts, tokens = is_trained.nonzero(as_tuple=True)
        return hidden[rollouts, tokens - 1]
    hidden = _packed_hidden(model, input_ids[attention_mask], lengths)
    return hidden[is_trained[attention_mask].nonzero().squeeze(-1) - 1]


def hidden_before_shared(model: "PreTrainedModel", layout: FamilyLayout, device: torch.device) -> Float[Tensor, "response_token hidden"]:
    """Last hidden state of the backbone before each response token of families; for a model whose packing `shares_prompts`."""
    token_ids, positions, before = (
        torch.as_tensor(ids, dtype=torch.int64).to(device) for ids in (layout.token_ids, layout.position_ids, layout.before)
    )
    return _hidden(model, token_ids, positions, layout.lengths)[before]


def choose_packing(causal_lm: "PreTrainedModel") -> Packing:
    """Prepare `causal_lm` for packed rows, after trying that its rollouts neither see each other nor compute anything else than alone.

    A model whose tokens meet outside of attention (state spaces, convolutions) keeps padded rows, as does one with another
    attention than sdpa and flash_attention_2; `refusal` says why.
    """
    attention = causal_lm.config._attn_implementation
    if attention not in ("sdpa", ATTENTION, _FLASH):
        return Packing(refusal=f"attention is {attention}, and only sdpa and flash_attention_2 keep packed rollouts apart without waste")
    _register()
    with trial_attention(causal_lm, ATTENTION):
        refusal = _trial(causal_lm)
        shares_prompts = not refusal and attention != _FLASH and not _trial_of_a_family(causal_lm)
    if refusal:
        return Packing(refusal=f"{type(causal_lm).__name__} {refusal}")
    if attention == "sdpa":
        causal_lm.config._attn_implementation = ATTENTION
    return Packing(longest=_window(causal_lm.config), shares_prompts=shares_prompts)


def at_responses(values: Float[Tensor, " response_token"], is_trained: Bool[Tensor, "rollout token"]) -> Float[Tensor, "rollout token"]:
    """Put one value per response token, in the order of `is_trained.nonzero()`, where it belongs; 0 elsewhere."""
    return values.new_zeros(is_trained.shape).masked_scatter(is_trained, values)


@contextmanager
def trial_attention(causal_lm: "PreTrainedModel", name: str = "sdpa") -> Iterator[None]:
    """Eval mode, and `name` where the model has flash attention: that runs on GPUs only, where a model is not yet when it is tried."""
    before, was_training = causal_lm.config._attn_implementation, causal_lm.training
    if before == _FLASH or name == ATTENTION:
        causal_lm.config._attn_implementation = name
    causal_lm.eval()
    try:
        yield
    finally:
        causal_lm.config._attn_implementation = before
        causal_lm.train(was_training)


def attention_per_rollout(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Causal attention within each family of a packed row, [1 head token size] each; plain sdpa without `family_lengths`."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    families: tuple[FamilyLengths, ...] | None = options.pop("family_lengths", None)
    if families is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if options.get("position_bias") is not None:
        raise ValueError("attention with a bias by position cannot be computed rollout by rollout")
    options["is_causal"] = True
    outputs: list[Tensor] = []
    start = 0
    for (shared, responses), run in groupby(families):
        count = len(list(run))
        # Families with responses of their own are computed one by one, those without together.
        for together in [count] if not responses else [1] * count:
            first = slice(start, start + together * shared)
            rows = [_as_rows(tensor[:, :, first], together) for tensor in (query, key, value)]
            outputs.append(sdpa_attention_forward(module, *rows, None, **options)[0].flatten(0, 1))
            start = first.stop
            for length, same in groupby(responses):
                part = slice(start, start + length * len(list(same)))
                outputs.append(_attend_to_prompt(module, [tensor[:, :, part] for tensor in (query, key, value)], rows, length, options))
                start = part.stop
    return torch.cat(outputs)[None], None


def _attend_to_prompt(
    module: torch.nn.Module, packed: Sequence[Tensor], prompt: Sequence[Tensor], length: int, options: dict[str, Any]
) -> Tensor:
    """Attention of responses of equal length to their prompt and, causally, to themselves, [token head size]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    count = packed[0].shape[2] // length if length else 0
    if not count:
        return packed[0].new_empty(0, packed[0].shape[1], packed[0].shape[3])
    query, key, value = (_as_rows(tensor, count) for tensor in packed)
    keys, values = (torch.cat([seen.expand(count, -1, -1, -1), own], dim=2) for seen, own in zip(prompt[1:], (key, value), strict=True))
    mask = torch.ones(length, keys.shape[2], dtype=torch.bool, device=query.device).tril(keys.shape[2] - length)
    return sdpa_attention_forward(module, query, keys, values, mask[None, None], **options)[0].flatten(0, 1)


def _as_rows(packed: Tensor, count: int) -> Tensor:
    """[1 head token size] as [rollout head token size], for `count` rollouts of equal length."""
    return packed[0].unflatten(1, (count, -1)).transpose(0, 1)


def _packed_hidden(causal_lm: "PreTrainedModel", token_ids: Int[Tensor, " token"], lengths: Sequence[int]) -> Float[Tensor, "token hidden"]:
    families = tuple((length, ()) for length in lengths if length)
    positions = torch.cat([torch.arange(length, device=token_ids.device) for length, _ in families])
    return _hidden(causal_lm, token_ids, positions, families)


def _hidden(
    causal_lm: "PreTrainedModel", token_ids: Tensor, positions: Tensor, families: tuple[FamilyLengths, ...]
) -> Float[Tensor, "token hidden"]:
    output = causal_lm.base_model(
        input_ids=token_ids[None], position_ids=positions[None], use_cache=False, **_boundaries(causal_lm, families, token_ids.device)
    )
    return output.last_hidden_state[0]


def _boundaries(causal_lm: "PreTrainedModel", families: tuple[FamilyLengths, ...], device: torch.device) -> dict[str, Any]:
    """How the attention in use is told where rollouts end. Flash attention knows no shared prompts."""
    if causal_lm.config._attn_implementation != _FLASH:
        # A mask of four dimensions is passed on as it is: transformers makes none of all tokens by all tokens.
        return {"attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device), "family_lengths": families}
    lengths = [length for length, _ in families]
    ends = torch.tensor((0, *lengths), device=device).cumsum(0, dtype=torch.int32)
    longest = max(lengths)
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, attention_per_rollout)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


@torch.no_grad()
def _trial(causal_lm: "PreTrainedModel") -> str:
    """What goes wrong with packed rows; empty if nothing does."""
    vocabulary, device = causal_lm.config.get_text_config().vocab_size, causal_lm.device
    token_ids = (torch.arange(sum(_PROBE_LENGTHS), device=device) * 7 + 3) % vocabulary
    others = token_ids.clone()
    first = _PROBE_LENGTHS[0]
    others[:first] = (others[:first] + 1) % vocabulary
    try:
        packed, beside_others = (_packed_hidden(causal_lm, ids, _PROBE_LENGTHS) for ids in (token_ids, others))
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError) as error:
        return f"cannot be run on packed rows: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
    if not torch.equal(packed[first:], beside_others[first:]):
        return "lets packed rollouts see each other (its tokens meet outside of attention)"
    alone = [causal_lm.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0] for ids in token_ids.split(_PROBE_LENGTHS)]
    return _difference(packed, torch.cat(alone))


@torch.no_grad()
def _trial_of_a_family(causal_lm: "PreTrainedModel") -> str:
    """What goes wrong where responses share a prompt; empty if nothing does."""
    prompt, responses = _PROBE_FAMILY
    vocabulary, device = causal_lm.config.get_text_config().vocab_size, causal_lm.device
    token_ids = (torch.arange(prompt + sum(responses), device=device) * 5 + 2) % vocabulary
    positions = torch.cat([torch.arange(prompt), *(torch.arange(prompt, prompt + length) for length in responses)])
    shared = _hidden(causal_lm, token_ids, positions.to(device), (_PROBE_FAMILY,))
    first, *others = token_ids.split((prompt, *responses))
    alone = [causal_lm.base_model(input_ids=torch.cat([first, ids])[None], use_cache=False).last_hidden_state[0] for ids in others]
    return _difference(shared, torch.cat([alone[0][:prompt], *(states[prompt:] for states in alone)]))


def _difference(found: Tensor, expected: Tensor) -> str:
    apart = float((found - expected).abs().max() / found.abs().max().clamp(min=1e-6))
    tolerance = 1e-3 if found.dtype == torch.float32 else 0.1
    return "" if apart <= tolerance else f"computes something else on packed rows (hidden states differ by {apart:.2g} of the largest)"


def _window(config: Any) -> int | None:
    """Within its window a token sees all tokens before it, as packed attention assumes."""
    text = config.get_text_config()
    if getattr(text, "use_sliding_window", True) is False:
        return None
    sizes = [size for size in (getattr(text, name, None) for name in _WINDOWS) if size]
    return min(sizes, default=None)
