"""Samples of a batch, for people to look at."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from oprime.adapters.memory_payloads import MemoryPayloads
from oprime.core.types import Batch, ScoredBatch, VerifiedGroup, VerifiedRollout, WeightVersionSpan, sampled, untrained
from oprime.core.verification import scored
from oprime.runtime.rollout_payloads import RewardWriter, write_reference, write_rollouts
from oprime.tasks.chain_tokenizer import chain_tokenizer
from oprime_prm.samples import write_samples
from rollouts import of_segments


def samples(
    folder: Path, *, with_reference: bool, groups: int = 1, tokenizer: PreTrainedTokenizerBase | None = None
) -> list[dict[str, Any]]:
    """Two groups of one rollout; its first two tokens are of weight version 3, the third of version 4. Returns the lines written."""
    payloads = MemoryPayloads()
    spans = [WeightVersionSpan(start=0, end=2, version=3), WeightVersionSpan(start=2, end=3, version=4)]
    made = [of_segments(group, 0, (untrained([5, 6]), *sampled([7, 8, 9], [-0.5, -0.25, -0.125], spans))) for group in (10, 11)]
    records = write_rollouts(payloads, made)
    writer = RewardWriter(payloads, 2)
    for place in range(2):
        writer.add(place, np.array([0.5, -0.5, 0.25], dtype=np.float32))
    verified = [
        VerifiedGroup(group_id=record.group_id, rollouts=(VerifiedRollout(rollout=record, outcome=scored(1.0)),)) for record in records
    ]
    batch = ScoredBatch(batch=Batch(step=2, groups=tuple(verified)), process_rewards=tuple(writer.finish()), prm_version=2)
    names = write_reference(payloads, [(record, np.array([-1.0, -2.0, -3.0], dtype=np.float32)) for record in records])
    references = dict(zip((record.payload for record in records), names, strict=True)) if with_reference else None
    write_samples(folder, payloads, batch, tokenizer or chain_tokenizer(), references, groups=groups)
    path = folder / "step-000002.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


@pytest.mark.parametrize("with_reference", [True, False])
def test_every_token_that_is_trained_on_has_its_numbers(tmp_path: Path, with_reference: bool) -> None:
    (group,) = samples(tmp_path, with_reference=with_reference)
    assert (group["step"], group["group_id"], group["prm_version"]) == (2, 10, 2)
    (rollout,) = group["rollouts"]
    assert len(rollout["tokens"]) == 3
    assert rollout["response"].replace(" ", "") == "".join(rollout["tokens"]).replace(" ", "")
    assert rollout["process_rewards"] == [0.5, -0.5, 0.25]
    assert rollout["behaviour_logprobs"] == [-0.5, -0.25, -0.125]
    assert rollout["weight_versions"] == [3, 3, 4]
    assert rollout.get("reference_logprobs") == ([-1.0, -2.0, -3.0] if with_reference else None)


def test_actions_are_named_where_a_response_takes_them(tmp_path: Path) -> None:
    words = {
        "<pad>": 0,
        **{f"w{token}": token for token in (5, 6)},
        "[ASSESS]\n\n# Two\n\n": 7,
        "Next action: [OUTPUT]\n\n": 8,
        "[OUTPUT]\n\n4": 9,
    }
    inner = Tokenizer(WordLevel(words, "<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<pad>", clean_up_tokenization_spaces=False)
    (group,) = samples(tmp_path, with_reference=False, tokenizer=tokenizer)
    (rollout,) = group["rollouts"]
    assert (rollout["actions"], rollout["keeps_action_form"]) == (["ASSESS", "OUTPUT"], True)
    (group,) = samples(tmp_path / "chain", with_reference=False)
    assert "actions" not in group["rollouts"][0]


def test_as_many_groups_are_written_as_asked_for(tmp_path: Path) -> None:
    assert [group["group_id"] for group in samples(tmp_path / "two", with_reference=True, groups=2)] == [10, 11]
    assert samples(tmp_path / "none", with_reference=True, groups=0) == []
    assert not (tmp_path / "none").exists()
