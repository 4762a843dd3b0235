"""A PRM and its reference on this machine, and what they say of responses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oprime.adapters.store_weights import model_directory
from oprime.core.batching import shard
from oprime.core.token_rows import ragged, token_rows
from oprime.lm.frozen import FrozenModel
from oprime.lm.lora import fingerprint, load_adapter, require_base
from oprime.lm.models import Dtype, load_causal_lm, longest_context
from oprime.lm.responses import EncodedResponse, ResponseEncoder
from oprime.lm.tokenizers import end_token_ids, load_tokenizer, pad_token_id, same_tokenizer
from oprime.runtime.errors import SettingsError
from oprime_cli.files import read_json

RECORD = "offline_prm.json"
"""What `oprime prm train` leaves in the directory of a PRM."""
CHUNK_TOKENS = 1024


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResponseScores:
    """One value per token of a response, up to the end of the model's context."""

    process_rewards: np.ndarray
    prm_logprobs: np.ndarray
    reference_logprobs: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class PrmSource:
    """Which PRM, with which reference and beta."""

    prm: str
    reference: str
    beta: float
    adapter: str | None = None
    """In PEFT's form, of a run that publishes adapters; it goes on the model in `prm`."""


def prm_source(prm: str, reference: str | None, beta: float | None) -> PrmSource:
    """What is not given comes from the record of `oprime prm train`. Raises SettingsError where there is none."""
    record: dict[str, Any] = read_json(Path(prm) / RECORD) or {}
    reference, beta = reference or record.get("reference_model"), beta or record.get("beta")
    if not reference or not beta:
        missing = "--reference" if not reference else "--beta"
        where = prm if Path(prm).is_dir() else f"{prm} is no folder here, and a model of the Hugging Face Hub"
        raise SettingsError(f"{where} has no {RECORD} that says how it was trained: give {missing}, or correct --prm")
    return PrmSource(prm=prm, reference=str(reference), beta=float(beta))


class LocalPrm:
    """PRM and reference, loaded."""

    def __init__(self, source: PrmSource, *, dtype: Dtype, device: str, pass_tokens: int) -> None:
        """Raises SettingsError for models that cannot be loaded or do not share a tokenizer, and WeightsRefusedError for an adapter of
        another model."""
        tokenizer = load_tokenizer(source.prm)
        difference = same_tokenizer(tokenizer, load_tokenizer(source.reference))
        if difference is not None:
            raise SettingsError(f"--reference {source.reference} has another tokenizer than the PRM {source.prm}: {difference}")
        self.encoder = ResponseEncoder(tokenizer, end_token_ids(tokenizer, source.prm)[0])
        chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        models = [load_causal_lm(path, dtype=dtype, device=chosen) for path in (source.prm, source.reference)]
        if source.adapter is not None:
            base, adapter = model_directory(source.prm), Path(source.adapter)
            require_base(adapter, fingerprint(base), base)
            models[0] = load_adapter(models[0], adapter)
        self.longest = min(longest_context(model.config) for model in models)
        self._prm, self._reference = (FrozenModel(model, chunk_tokens=CHUNK_TOKENS) for model in models)
        self._beta = source.beta
        self._pad_id = pad_token_id(tokenizer)
        self._pass_tokens = pass_tokens

    def score(self, responses: Sequence[EncodedResponse], note: Callable[[int], None]) -> list[ResponseScores]:
        """Scores in the order given; `note` hears how many are done. A response with no room for a token has none."""
        lengths = [min(one.tokens, self.longest) for one in responses]
        roomy = [place for place, one in enumerate(responses) if len(one.prompt_ids) < self.longest]
        nothing = np.zeros(0)
        empty = ResponseScores(process_rewards=nothing, prm_logprobs=nothing, reference_logprobs=nothing)
        found = [empty] * len(responses)
        (passes,) = shard([lengths[place] for place in roomy], ranks=1, micro_batch_rollouts=1, micro_batch_tokens=self._pass_tokens)
        done = len(responses) - len(roomy)
        for places in ([roomy[place] for place in part] for part in passes):
            for place, scores in zip(places, self._pass([responses[place] for place in places]), strict=True):
                found[place] = scores
            done += len(places)
            note(done)
        return found

    def _pass(self, responses: Sequence[EncodedResponse]) -> list[ResponseScores]:
        kept = [one.response_ids[: self.longest - len(one.prompt_ids)] for one in responses]
        rows = token_rows([one.prompt_ids for one in responses], kept, pad_id=self._pad_id)
        prm, reference = (ragged(model.logprobs(rows).double(), rows.is_trained) for model in (self._prm, self._reference))
        return [
            ResponseScores(
                process_rewards=self._beta * (mine - theirs).numpy(), prm_logprobs=mine.numpy(), reference_logprobs=theirs.numpy()
            )
            for mine, theirs in zip(prm, reference, strict=True)
        ]
