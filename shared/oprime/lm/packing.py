"""Run a backbone on the tokens of a micro-batch alone: one row of all of them, each rollout attending to itself only.

Nothing is spent on padding. Position ids start again with every rollout, and attention runs by rollouts of equal length, so that no
matrix of all tokens by all tokens exists. Where the model allows it, a prompt stands there once for all responses to it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oprime.core.prompt_families import Block, FamilyLayout, PromptFamily, lay_out
from oprime.lm.models import backbone

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "oprime_sdpa_per_rollout"
"""Name under which transformers knows `attention_per_rollout`: sdpa, until it is told what stands in a row."""
_FLASH = "flash_attention_2"
_WINDOWS = ("sliding_window", "attention_chunk_size")
_PROBE_LENGTHS = (5, 3, 3)
_PROBE_FAMILY = (4, (2, 4, 4))
"""Tokens of a prompt and of the responses to it."""
_MOST_MASKED = 2**24
"""Entries of the mask with which responses see a prompt that they share."""
MOST_PADDING = 1.25
"""Slots per token where pieces of different length share a call of attention, whose cost on short ones is the call itself."""
_WORTH_SHARING = 1 / 16
"""Share of a family's tokens that must be saved: a prompt shared costs its responses a mask and copies of its keys."""


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
        hidden = backbone(model)(input_ids=input_ids, attention_mask=attention_mask.long(), use_cache=False).last_hidden_state
        rollouts, tokens = is_trained.nonzero(as_tuple=True)
        return hidden[rollouts, tokens - 1]
    rows = _Rows(input_ids.cpu().numpy(), is_trained.cpu().numpy()) if packing.shares_prompts else None
    if rows is not None and rows.trained:
        families = rows.families(packing)
        hidden = hidden_before_shared(model, lay_out(list(families.values())), input_ids.device)
        return hidden[torch.as_tensor(rows.places(families)).to(hidden.device)]
    hidden = _packed_hidden(model, input_ids[attention_mask], lengths)
    return hidden[is_trained[attention_mask].nonzero().squeeze(-1) - 1]


def hidden_before_shared(
    model: "PreTrainedModel", layout: FamilyLayout, device: torch.device, *, pads: bool = False
) -> Float[Tensor, "response_token hidden"]:
    """Last hidden state of the backbone before each response token of families; for a model whose packing `shares_prompts`.

    With `pads` pieces of similar length share a call of attention; then nothing may want gradients, and results differ by rounding.
    """
    token_ids, positions, before = (
        torch.as_tensor(ids, dtype=torch.int64).to(device) for ids in (layout.token_ids, layout.position_ids, layout.before)
    )
    return _hidden(model, token_ids, positions, layout.blocks, pads=pads)[before]


class _Rows:
    """A micro-batch's rows by their prompts. Rows without anything trained, and what stands after the last trained token, are left out."""

    def __init__(self, input_ids: npt.NDArray[np.int64], is_trained: npt.NDArray[np.bool_]) -> None:
        self.trained: list[int] = np.flatnonzero(is_trained.any(axis=1)).tolist()
        self._ids = input_ids.astype(np.int32)
        self._is_trained = is_trained
        self._first = is_trained.argmax(axis=1)
        self._end = is_trained.shape[1] - is_trained[:, ::-1].argmax(axis=1)

    def families(self, packing: Packing) -> dict[tuple[int, ...], PromptFamily]:
        """Families with the rows of their responses. A prompt that saves nothing worth having stays with each of its responses."""
        siblings: dict[bytes, list[int]] = {}
        for row in self.trained:
            siblings.setdefault(self._prompt(row).tobytes(), []).append(row)
        together = [tuple(rows) if self._shares(rows, packing) else None for rows in siblings.values()]
        apart = [(row,) for rows, shared in zip(siblings.values(), together, strict=True) if not shared for row in rows]
        return {rows: self._family(rows) for rows in [*filter(None, together), *apart]}

    def places(self, families: Iterable[tuple[int, ...]]) -> npt.NDArray[np.int64]:
        """Which of the families' response tokens are trained on, in the order of rows."""
        found: dict[int, npt.NDArray[np.int64]] = {}
        start = 0
        for row in (row for rows in families for row in rows):
            own = slice(self._first[row], self._end[row])
            found[row] = start + self._is_trained[row, own].nonzero()[0]
            start += own.stop - own.start
        return np.concatenate([found[row] for row in self.trained])

    def _prompt(self, row: int) -> npt.NDArray[np.int32]:
        return self._ids[row, : self._first[row]]

    def _family(self, rows: Sequence[int]) -> PromptFamily:
        responses = tuple(self._ids[row, self._first[row] : self._end[row]] for row in rows)
        return PromptFamily(prompt_ids=self._prompt(rows[0]), responses=responses)

    def _shares(self, rows: Sequence[int], packing: Packing) -> bool:
        prompt = int(self._first[rows[0]])
        saved, tokens = prompt * (len(rows) - 1), sum(int(self._end[row]) for row in rows)
        longest = max(int(self._end[row]) for row in rows) - prompt
        return saved >= _WORTH_SHARING * tokens and packing.fits_family(prompt, longest)


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionRun:
    """Blocks that one call of attention computes: one, or several of similar length that begin, or go on from the same block."""

    first: int
    """Number of the first of them."""
    blocks: tuple[Block, ...]
    rows: Int[Tensor, " slot"] | None = None
    """Where blocks of several lengths are together: the place in the run of what each slot of the padded rows has."""
    slots: Int[Tensor, " token"] | None = None
    """And the slot of each token."""
    prompts: Int[Tensor, " piece"] | None = None
    """Which piece of the block that they go on from each of these pieces sees, if any."""

    @property
    def pieces(self) -> int:
        return sum(block.pieces for block in self.blocks)

    @property
    def after(self) -> int | None:
        return self.blocks[0].after


def attention_runs(blocks: Sequence[Block], device: torch.device, *, pads: bool = False) -> tuple[AttentionRun, ...]:
    """The calls of attention for a packed row. With `pads` blocks of similar length share one; then nothing may want gradients."""
    runs: list[AttentionRun] = []
    together: list[Block] = []
    for number, block in enumerate(blocks):
        if together and not (pads and _go_together([*together, block])):
            runs.append(_run_of(number - len(together), together, device))
            together = []
        together.append(block)
    return (*runs, _run_of(len(blocks) - len(together), together, device)) if together else tuple(runs)


def _go_together(blocks: Sequence[Block]) -> bool:
    if len({block.after for block in blocks}) > 1 or not all(block.tokens for block in blocks):
        return False
    padded = sum(block.pieces for block in blocks) * max(block.tokens for block in blocks)
    return padded <= MOST_PADDING * sum(block.pieces * block.tokens for block in blocks)


def _run_of(first: int, blocks: Sequence[Block], device: torch.device) -> AttentionRun:
    rows, slots = _padding(blocks, device) if len(blocks) > 1 else (None, None)
    goes_on = blocks[0].after is not None
    prompts = torch.tensor([prompt for block in blocks for prompt in block.prompts], device=device) if goes_on else None
    return AttentionRun(first=first, blocks=tuple(blocks), rows=rows, slots=slots, prompts=prompts)


def _padding(blocks: Sequence[Block], device: torch.device) -> tuple[Tensor, Tensor]:
    """`rows` and `slots` of a run. What stands in a slot behind a piece's end is its last token, which nothing before it sees."""
    own = torch.tensor([block.tokens for block in blocks for _ in range(block.pieces)])[:, None]
    column = torch.arange(int(own.max()))[None]
    rows = (own.cumsum(0) - own) + torch.minimum(column, own - 1)
    slots = (column < own).flatten().nonzero().squeeze(-1)
    return rows.flatten().to(device), slots.to(device)


def attention_per_rollout(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Causal attention of each piece to its prompt and itself, [1 head token size] each; plain sdpa without `attention_runs`."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    runs: tuple[AttentionRun, ...] | None = options.pop("attention_runs", None)
    if runs is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if options.get("position_bias") is not None:
        raise ValueError("attention with a bias by position cannot be computed rollout by rollout")
    options["is_causal"] = True
    outputs: list[Tensor] = []
    seen: dict[int, list[Tensor]] = {}
    start = 0
    for run in runs:
        for number, block in enumerate(run.blocks, run.first):
            part = slice(start, start + block.pieces * block.tokens)
            start = part.stop
            if block.after is None:
                seen[number] = [_as_rows(tensor[:, :, part], block.pieces) for tensor in (key, value)]
        own = slice(start - sum(block.pieces * block.tokens for block in run.blocks), start)
        if own.start < own.stop:
            outputs.append(_attention_of(module, [tensor[:, :, own] for tensor in (query, key, value)], run, seen, options))
    return torch.cat(outputs)[None], None


def _attention_of(
    module: torch.nn.Module, packed: Sequence[Tensor], run: AttentionRun, seen: Mapping[int, Sequence[Tensor]], options: dict[str, Any]
) -> Tensor:
    """Attention of a run, [token head size]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    queries, keys, values = (_as_rows(tensor, run.pieces) if run.rows is None else _as_padded_rows(tensor, run) for tensor in packed)
    mask = None
    if run.after is not None:
        keys, values = (torch.cat([_of_pieces(of, run), rows], dim=2) for of, rows in zip(seen[run.after], (keys, values), strict=True))
        mask = _causal_after_prompt(queries.shape[2], keys.shape[2], queries.device)
    found = sdpa_attention_forward(module, queries, keys, values, mask, **options)[0].flatten(0, 1)
    return found if run.slots is None else found.index_select(0, run.slots)


def _of_pieces(prompts: Tensor, run: AttentionRun) -> Tensor:
    """Keys or values of the prompt of each of a run's pieces, [piece head token size]."""
    if len(prompts) == 1:
        return prompts.expand(run.pieces, -1, -1, -1)
    return prompts[run.prompts]


def _causal_after_prompt(tokens: int, keys: int, device: torch.device) -> Bool[Tensor, "1 1 token key"]:
    """What each token sees: all of its prompt, and its own piece up to itself."""
    return torch.ones(tokens, keys, dtype=torch.bool, device=device).tril(keys - tokens)[None, None]


def _as_rows(packed: Tensor, count: int) -> Tensor:
    """[1 head token size] as [rollout head token size], for `count` rollouts of equal length."""
    return packed[0].unflatten(1, (count, -1)).transpose(0, 1)


def _as_padded_rows(packed: Tensor, run: AttentionRun) -> Tensor:
    """The same for the slots of a run. A token's heads lie side by side, so that they are copied together."""
    assert run.rows is not None  # noqa: S101 - the caller has looked
    return packed[0].transpose(0, 1).index_select(0, run.rows).unflatten(0, (run.pieces, -1)).transpose(1, 2)


def _packed_hidden(causal_lm: "PreTrainedModel", token_ids: Int[Tensor, " token"], lengths: Sequence[int]) -> Float[Tensor, "token hidden"]:
    blocks = tuple(Block(pieces=len(list(same)), tokens=length) for length, same in groupby(lengths) if length)
    positions = torch.cat([torch.arange(length, device=token_ids.device) for length in lengths])
    return _hidden(causal_lm, token_ids, positions, blocks)


def _hidden(
    causal_lm: "PreTrainedModel", token_ids: Tensor, positions: Tensor, blocks: tuple[Block, ...], *, pads: bool = False
) -> Float[Tensor, "token hidden"]:
    if len(blocks) == 1 and blocks[0].pieces == 1:  # A row of its own has no neighbours to be kept from.
        return backbone(causal_lm)(input_ids=token_ids[None], use_cache=False).last_hidden_state[0]
    boundaries = _boundaries(causal_lm, blocks, token_ids.device, pads=pads)
    output = backbone(causal_lm)(input_ids=token_ids[None], position_ids=positions[None], use_cache=False, **boundaries)
    return output.last_hidden_state[0]


def _boundaries(causal_lm: "PreTrainedModel", blocks: tuple[Block, ...], device: torch.device, *, pads: bool) -> dict[str, Any]:
    """How the attention in use is told where rollouts end. Flash attention knows no shared prompts."""
    if causal_lm.config._attn_implementation != _FLASH:
        # A mask of four dimensions is passed on as it is: transformers makes none of all tokens by all tokens.
        runs = attention_runs(blocks, device, pads=pads)
        return {"attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device), "attention_runs": runs}
    lengths = [block.tokens for block in blocks for _ in range(block.pieces)]
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
    # Mixtures of experts sort tokens by expert, which rounds otherwise where a neighbour goes to another one.
    if _apart(packed[first:], beside_others[first:]) > (1e-5 if packed.dtype == torch.float32 else 0.05):
        return "lets packed rollouts see each other (its tokens meet outside of attention)"
    alone = [backbone(causal_lm)(input_ids=ids[None], use_cache=False).last_hidden_state[0] for ids in token_ids.split(_PROBE_LENGTHS)]
    return _difference(packed, torch.cat(alone))


@torch.no_grad()
def _trial_of_a_family(causal_lm: "PreTrainedModel") -> str:
    """What goes wrong where responses share a prompt; empty if nothing does."""
    prompt, responses = _PROBE_FAMILY
    vocabulary, device = causal_lm.config.get_text_config().vocab_size, causal_lm.device
    first, *others = np.split(
        (np.arange(prompt + sum(responses), dtype=np.int32) * 5 + 2) % vocabulary, np.cumsum((prompt, *responses))[:-1]
    )
    layout = lay_out([PromptFamily(prompt_ids=first, responses=tuple(others))])
    shared = hidden_before_shared(causal_lm, layout, device)
    rows = [torch.as_tensor(np.concatenate([first, response[:-1]]), dtype=torch.int64, device=device)[None] for response in others]
    alone = [backbone(causal_lm)(input_ids=row, use_cache=False).last_hidden_state[0, prompt - 1 :] for row in rows]
    return _difference(shared, torch.cat(alone))


def _difference(found: Tensor, expected: Tensor) -> str:
    apart = _apart(found, expected)
    tolerance = 1e-3 if found.dtype == torch.float32 else 0.1
    return "" if apart <= tolerance else f"computes something else on packed rows (hidden states differ by {apart:.2g} of the largest)"


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max().clamp(min=1e-6))


def _window(config: Any) -> int | None:
    """Within its window a token sees all tokens before it, as packed attention assumes."""
    text = config.get_text_config()
    if getattr(text, "use_sliding_window", True) is False:
        return None
    sizes = [size for size in (getattr(text, name, None) for name in _WINDOWS) if size]
    return min(sizes, default=None)
