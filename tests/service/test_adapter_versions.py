"""Adapters as versions: published by the learner, read by samplers, by plain PEFT, and by what scores with a PRM."""

import json
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import PeftModel

from fakes import OneRank
from oprime.adapters.deepspeed_engine import DeepSpeedEngine
from oprime.adapters.memory_payloads import MemoryPayloads
from oprime.adapters.store_weights import StoreWeights
from oprime.core.token_rows import token_rows
from oprime.lm.lora import adapter_files, add_adapter, merged
from oprime.lm.models import load_causal_lm
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.runtime.rollout_payloads import read_rollouts
from oprime.runtime.training_settings import LoraSection
from oprime_generator.config import GeneratorSettings
from oprime_generator.sampler import SampleRequest
from oprime_generator.transformers_sampler import TransformersSampler
from oprime_learner.app import build_models as build_learner
from oprime_learner.config import LearnerSettings
from oprime_learner.policy_trainer import PolicyTrainer
from oprime_learner.rank_methods import Models, RankMethods
from oprime_prm.app import build_models as build_prm
from oprime_prm.config import PrmSettings, ScorerSettings
from oprime_prm.rank_methods import RankMethods as RankPrm
from oprime_prm.scoring.app import PrmModels
from plain_engine import PlainEngine
from tiny_adapters import moved, write_adapter
from tiny_policies import write_policy

PROMPT = (5, 6, 7)
ADAPTER = {"rank": 4, "alpha": 8.0, "publish": "adapter"}


@pytest.fixture
def start(tmp_path: Path) -> Path:
    write_policy(tmp_path / "model")
    return tmp_path / "model"


def document(start: Path, **sections: Any) -> dict[str, Any]:
    return {"run": {"name": "one", "directory": str(start.parent), "steps": 3}, "model": {"path": str(start)}, **sections}


def learner(start: Path, lora: dict[str, Any]) -> tuple[PlainEngine, RankMethods, StoreWeights]:
    """The learner's process, without DeepSpeed, gRPC and queue; its adapters have moved."""
    settings = LearnerSettings.model_validate(document(start, learner={"lora": lora}))
    chosen = settings.learner.lora
    model = moved(add_adapter(load_causal_lm(start), chosen, seed=0))
    engine, payloads = PlainEngine(TokenLogprobModel(model, chunk_tokens=8)), MemoryPayloads()
    contents = partial(read_rollouts, payloads)
    trainer = PolicyTrainer(engine, settings.algorithm, settings.learner, contents, pad_id=0, total_steps=3)
    files = adapter_files(model, start, start) if chosen.publishes_adapters else None
    store = StoreWeights(str(start.parent / "weights"), template=start, adapter_files=files)
    models = Models(channel=OneRank(), engine=engine, critic_engine=None, trainer=trainer, store=store, payloads=payloads)
    return engine, RankMethods(models, settings), store


def logprobs(engine: PlainEngine, response: tuple[int, ...]) -> list[float]:
    rows = token_rows([PROMPT], [response], pad_id=0)
    return engine.logprobs(rows)[0][rows.is_trained[0]].tolist()


@pytest.mark.parametrize("publish", ["merged", "adapter"])
async def test_samplers_sample_with_what_the_learner_publishes(start: Path, publish: str) -> None:
    engine, methods, store = learner(start, {**ADAPTER, "publish": publish})
    methods.load(b"")
    methods.publish(b"1")
    settings = GeneratorSettings.model_validate(document(start, learner={"learning_rate": 1e-4, "lora": {**ADAPTER, "publish": publish}}))
    sampler = TransformersSampler(
        store.fetch(0).directory, version=0, max_prompt_tokens=8, max_response_tokens=12, lora=settings.learner.adapters
    )
    await sampler.start()
    try:
        request = SampleRequest(request_id="before", prompt_ids=PROMPT, temperature=1.0, max_tokens=12, seed=3)
        before = await sampler.sample(request)
        await sampler.load(store.fetch(1).directory, 1)
        response = await sampler.sample(SampleRequest(request_id="after", prompt_ids=PROMPT, temperature=1.0, max_tokens=12, seed=3))
    finally:
        await sampler.close()
    assert response.behaviour_logprobs == pytest.approx(logprobs(engine, response.response_ids), abs=1e-4)
    assert before.behaviour_logprobs != pytest.approx(logprobs(engine, before.response_ids), abs=1e-2)
    assert [span.version for span in response.spans] == [1]


def test_a_version_of_adapters_is_an_adapter_of_peft_on_version_0(start: Path) -> None:
    engine, methods, store = learner(start, ADAPTER)
    methods.load(b"")
    methods.publish(b"1")
    whole, version = store.fetch(0), store.fetch(1)
    assert (whole.directory / "model.safetensors").read_bytes() == (start / "model.safetensors").read_bytes()
    assert {file.name for file in version.directory.glob("*.safetensors*")} == {"adapter_model.safetensors"}
    # A and B of rank 4 for both layers: four maps of 64 x 64 and three of 64 x 96, float32.
    assert version.bytes == 4 * 4 * 2 * (4 * (64 + 64) + 3 * (64 + 96))
    assert json.loads((version.directory / "base.json").read_text())["path"] == str(start)
    peft = PeftModel.from_pretrained(load_causal_lm(whole.directory), str(version.directory))
    with torch.no_grad():
        theirs = peft(input_ids=torch.tensor([[*PROMPT, 9, 10]])).logits[0].log_softmax(-1)
    assert logprobs(engine, (9, 10)) == pytest.approx([theirs[2, 9].item(), theirs[3, 10].item()], abs=1e-5)


def test_merged_versions_are_whole_models(start: Path) -> None:
    engine, methods, store = learner(start, {**ADAPTER, "publish": "merged"})
    methods.load(b"")
    methods.publish(b"1")
    model = TokenLogprobModel(load_causal_lm(store.fetch(1).directory), chunk_tokens=8)
    assert logprobs(PlainEngine(model), (9, 10)) == pytest.approx(logprobs(engine, (9, 10)), abs=1e-5)


def test_prm_reference_and_the_copy_that_answers_stand_on_one_model(start: Path) -> None:
    payloads = MemoryPayloads()
    prm = {"lora": {"rank": 4}, "learning_rate": 1e-2, "device": "cpu", "threads": 1}
    settings = PrmSettings.model_validate(document(start, prm=prm))
    models = build_prm(settings, payloads)
    assert models.serving is not None
    own, reference, served = models.engine, models.serving._reference, models.serving._copy.model
    base = pointers(reference._causal_lm)
    assert pointers(cast("DeepSpeedEngine", own)._network) >= base
    assert pointers(served._causal_lm) >= base
    rows = token_rows([PROMPT], [(9, 10, 11)], pad_id=0)
    before = own.logprobs(rows)
    torch.testing.assert_close(reference.logprobs(rows), before, rtol=0, atol=0)
    for _ in range(2):
        own.train_step([rows], lambda _, found: -found.sum(), learning_rate=1e-2)
    ranks = RankPrm(models, settings)
    models.prm.version += 1
    ranks.serve()
    assert float((own.logprobs(rows) - before).abs().max()) > 1e-3
    torch.testing.assert_close(served.logprobs(rows), own.logprobs(rows), rtol=0, atol=0)
    torch.testing.assert_close(reference.logprobs(rows), before, rtol=0, atol=0)


def test_the_policys_kl_is_measured_from_the_model_below_its_adapters(start: Path) -> None:
    of_learner = {"lora": {**ADAPTER, "publish": "merged"}, "device": "cpu", "threads": 1}
    settings = LearnerSettings.model_validate(document(start, learner=of_learner, algorithm={"kl_coefficient": 0.1}))
    models = build_learner(settings, MemoryPayloads())
    reference = models.trainer._reference
    assert reference is not None
    assert pointers(cast("DeepSpeedEngine", models.engine)._network) >= pointers(reference._causal_lm)


def pointers(model: torch.nn.Module) -> set[int]:
    return {parameter.data_ptr() for parameter in model.parameters()}


def test_what_scores_holds_the_prms_versions_on_one_model(start: Path, tmp_path: Path) -> None:
    settings = ScorerSettings.model_validate(document(start))
    models = PrmModels(settings, "cpu", str(start))
    reference = models.read(str(start))
    models.start_is(reference, models.frozen(reference))
    adapted = [moved(add_adapter(load_causal_lm(start), LoraSection(rank=2, alpha=2.0), seed=0), seed) for seed in (1, 2)]
    versions = [models.version(write_adapter(model, start, tmp_path / f"{place}")) for place, model in enumerate(adapted)]
    rows = token_rows([PROMPT], [(9, 10, 11)], pad_id=0)
    for model, version in zip(adapted, versions, strict=True):
        expected = TokenLogprobModel(model, chunk_tokens=8)(rows.input_ids, rows.attention_mask, rows.is_trained)
        torch.testing.assert_close(version.logprobs(rows), expected.detach(), rtol=0, atol=1e-6)
    shared = {parameter.data_ptr() for parameter in reference.parameters()}
    assert all(shared <= {parameter.data_ptr() for parameter in version._causal_lm.parameters()} for version in versions)
    # Version 0 is the model itself, also after others stood on it; whole models are read as before.
    whole = load_causal_lm(start)
    whole.save_pretrained(tmp_path / "whole", state_dict=dict(merged(adapted[0], adapted[0].named_parameters())))
    torch.testing.assert_close(models.version(tmp_path / "whole").logprobs(rows), versions[0].logprobs(rows), rtol=0, atol=1e-5)
    plain = TokenLogprobModel(load_causal_lm(start), chunk_tokens=8)(rows.input_ids, rows.attention_mask, rows.is_trained)
    torch.testing.assert_close(models.version(None).logprobs(rows), plain.detach(), rtol=0, atol=0)
