"""A model that only scores: the PRM's reference, or the copy of the PRM that answers requests."""

from collections.abc import Iterator, Sequence
from itertools import compress
from operator import not_
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from oprime.core.batching import padded_passes
from oprime.core.prompt_families import PromptFamily
from oprime.core.token_rows import TokenRows, ragged, token_rows
from oprime.lm.token_logprobs import TokenLogprobModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class FrozenModel:
    """Token log-probs, after temperature, under weights that no optimizer touches."""

    def __init__(
        self,
        causal_lm: "PreTrainedModel",
        *,
        chunk_tokens: int,
        packing: bool = True,
        temperature: float = 1.0,
        device: torch.device | None = None,
    ) -> None:
        """Moves `causal_lm` to `device`, if one is given."""
        if device is not None:
            torch.nn.Module.to(causal_lm, device)
        self._causal_lm = causal_lm.requires_grad_(False)
        self._model = TokenLogprobModel(causal_lm, chunk_tokens, packing=packing, temperature=temperature).eval()
        self._device = causal_lm.device
        self.weights = sum(parameter.numel() for parameter in causal_lm.parameters())
        """How many there are."""

    @torch.no_grad()
    def logprobs(self, rows: TokenRows) -> Float[Tensor, "rollout token"]:
        """Log-prob of every response token given those before it, float32 on the CPU; 0 outside the response."""
        if len(rows.input_ids) == 0:
            return torch.zeros(rows.is_trained.shape)
        inputs = (rows.input_ids, rows.attention_mask, rows.is_trained)
        return self._model(*(tensor.to(self._device) for tensor in inputs)).cpu()

    def shares(self, prompt_tokens: int, longest_response: int) -> bool:
        """Whether responses of up to so many tokens to one prompt cost that prompt once."""
        return self._model.packing.fits_family(prompt_tokens, longest_response)

    @torch.inference_mode()
    def family_logprobs(self, families: Sequence[PromptFamily], *, pad_id: int, most_tokens: int) -> list[list[Tensor]]:
        """Log-probs of each response of each family, [token] float32 on the CPU; where the model allows it, a prompt is computed once.

        They are inference tensors, which no loss may use. A model that keeps padded rows takes at most `most_tokens` at a time, padding
        included, or a single row.
        """
        fitting = [self._fits(family) for family in families]
        if all(fitting):
            return self._together(families)
        together, apart = (tuple(compress(families, chosen)) for chosen in (fitting, map(not_, fitting)))
        found = [*self._together(together), *self._apart(apart, pad_id, most_tokens)]
        by_family = {id(family): values for family, values in zip([*together, *apart], found, strict=True)}
        return [by_family[id(family)] for family in families]

    def _fits(self, family: PromptFamily) -> bool:
        prompt, longest = len(family.prompt_ids), max(map(len, family.responses))
        packing = self._model.packing
        return packing.fits_family(prompt, longest) if len(family.responses) > 1 else packing.fits([prompt + longest])

    def _together(self, families: Sequence[PromptFamily]) -> list[list[Tensor]]:
        if not families:
            return []
        flat = self._model.of_families(families).cpu().split([len(response) for family in families for response in family.responses])
        return _by_family(flat, families)

    def _apart(self, families: Sequence[PromptFamily], pad_id: int, most_tokens: int) -> list[list[Tensor]]:
        """Every response in a row of its own, after its prompt."""
        pairs = [(family.prompt_ids, response) for family in families for response in family.responses]
        lengths = [len(prompt) + len(response) for prompt, response in pairs]
        found: dict[int, Tensor] = {}
        for places in [list(range(len(pairs)))] if self._model.packing.fits(lengths) else padded_passes(lengths, most_tokens):
            rows = token_rows([pairs[place][0] for place in places], [pairs[place][1] for place in places], pad_id=pad_id)
            found |= dict(zip(places, ragged(self.logprobs(rows), rows.is_trained), strict=True))
        return _by_family([found[place] for place in range(len(pairs))], families)

    @torch.no_grad()
    def load_weights(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        """Copy tensors, by their Hugging Face names, into this model. Raises KeyError for a name it does not have."""
        own = {**dict(self._causal_lm.named_parameters()), **dict(self._causal_lm.named_buffers())}
        for name, tensor in weights:
            own[name].copy_(tensor)


def _by_family(values: Sequence[Tensor], families: Sequence[PromptFamily]) -> list[list[Tensor]]:
    """One value per response, in order, as lists of the families' own."""
    rest = iter(values)
    return [[next(rest) for _ in family.responses] for family in families]
