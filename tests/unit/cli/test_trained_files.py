"""What `oprime sft` and `oprime prm train` write of a model that also takes images or sound has all that its files had."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

import more_than_text
from oprime.lm.models import load_causal_lm
from oprime.lm.tokenizers import end_token_ids, load_tokenizer
from oprime_cli.model_training.files import Start
from tiny_policies import BOS, END, PAD, VOCABULARY, write_tokenizer

SIZES = {"vocab_size": VOCABULARY, "bos_token_id": BOS, "eos_token_id": END, "pad_token_id": PAD}


@pytest.mark.parametrize("family", more_than_text.FAMILIES)
def test_the_result_has_new_weights_for_text_and_the_rest_as_it_was(family: str, tmp_path: Path) -> None:
    start, result = tmp_path / "start", tmp_path / "result"
    more_than_text.FAMILIES[family](start, more_than_text.SIZES | SIZES)
    write_tokenizer(start)
    tokenizer = load_tokenizer(start)
    model = load_causal_lm(start)
    trained = {name: parameter.detach() + float(parameter.requires_grad) for name, parameter in model.named_parameters()}
    Start(model, tokenizer, end_token_ids(tokenizer, start)).write(result, trained)
    before, after = load_file(start / "model.safetensors"), load_file(result / "model.safetensors")
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert after[name].equal(tensor if more_than_text.is_beside_text(name) else tensor + 1), name
    first, second = (json.loads((directory / "config.json").read_text()) for directory in (start, result))
    assert (second["architectures"], second["model_type"]) == (first["architectures"], first["model_type"])
    found = dict(load_causal_lm(result).named_parameters())
    assert all(found[name].equal(tensor) for name, tensor in trained.items())
