"""What `tests/gpu` checks, each with a size and a device: the same bodies run small on a CPU (`tests/e2e/test_gpu_checks_on_a_cpu.py`)."""

import asyncio
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from bench.train_step import StepResult, measured_apart
from torch import Tensor
from transformers import LlamaConfig, Qwen2Config

from e2e.command_line import metric_rows, oprime, sets, summary
from oprime.adapters.deepspeed_engine import DeepSpeedEngine
from oprime.core.token_rows import TokenRows, ragged, token_rows
from oprime.core.types import Batch, VerifiedGroup
from oprime.lm.frozen import FrozenModel
from oprime.lm.models import Attention, load_causal_lm, random_causal_lm
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.tasks.chain_tokenizer import VOCABULARY, save_chain_tokenizer
from oprime_generator.config import GeneratorSection
from oprime_generator.sampler import SampleRequest
from oprime_generator.vllm_sampler import VllmSampler
from oprime_prm.config import PrmSection
from oprime_prm.implicit_prm import ImplicitPrm
from oprime_prm.noise_meter import NoiseMeter
from oprime_prm.prm_copy import PrmCopy
from rollouts import CONTENTS, Emitted, rows_of, single_turn, verified
from tiny_models import with_weights_in

Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "bfloat16"]
BETA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Of a decoder, and of what is computed with it."""

    vocabulary: int
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    key_value_heads: int
    prompt_tokens: int
    response_tokens: int
    rollouts: int = 8

    @property
    def longest(self) -> int:
        return self.prompt_tokens + self.response_tokens

    @property
    def shape(self) -> dict[str, Any]:
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.feed_forward,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "max_position_embeddings": 2 * self.longest,
            "tie_word_embeddings": True,
        }


TINY = Size(
    vocabulary=256, hidden=64, feed_forward=96, layers=2, heads=2, key_value_heads=1, prompt_tokens=16, response_tokens=16
)  # fmt: skip
QWEN = Size(
    vocabulary=151_936, hidden=896, feed_forward=4864, layers=24, heads=14, key_value_heads=2, prompt_tokens=128, response_tokens=512
)  # fmt: skip
"""The shape of Qwen2.5-0.5B."""


def new_model(size: Size, *, attention: Attention = "sdpa") -> Any:
    """Random weights, uneven enough for distributions like a language model's."""
    return random_causal_lm(Qwen2Config(**size.shape, initializer_range=size.hidden**-0.5), 0, attention=attention)


def batch_of(size: Size, step: int = 1) -> Batch:
    """Groups of four rollouts of uneven lengths; the first two of each are right."""
    dice = np.random.default_rng(step)
    groups: list[VerifiedGroup] = []
    for group in range(size.rollouts // 4):
        prompt = dice.integers(3, size.vocabulary, size.prompt_tokens)
        lengths = dice.integers(size.response_tokens // 4, size.response_tokens + 1, 4)
        rollouts = [
            verified(single_turn(100 * step + group, index, prompt, dice.integers(3, size.vocabulary, int(length)), seed=index), index < 2)
            for index, length in enumerate(lengths)
        ]
        groups.append(VerifiedGroup(group_id=100 * step + group, rollouts=tuple(rollouts)))
    return Batch(step=step, groups=tuple(groups))


def packed_against_padded(size: Size, device: Device, dtype: Dtype, attention: Attention) -> float:
    """Largest difference, in nats, of log-probs of packed rows and of padded rows with sdpa."""
    rows = rows_of(batch_of(size))
    found: list[Tensor] = []
    for packing, chosen in ((True, attention), (False, "sdpa")):
        model = with_weights_in(new_model(size, attention=chosen), getattr(torch, dtype)).to(device)  # pyright: ignore[reportArgumentType]
        found.append(FrozenModel(model, chunk_tokens=256, packing=packing).logprobs(rows))
    return float((found[0] - found[1]).abs().max())


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """Of process rewards after one update of a PRM in bfloat16."""

    noise_nats: float
    """As the meter says."""
    error_nats: float
    """Root mean square of the difference, by beta, from float32 on a CPU."""
    copy_error_nats: float
    """The same of rewards by a float32 copy."""


def rounding_of_rewards(size: Size, device: Device) -> Rounding:
    batch = batch_of(size)
    rounded, meter = _rewards(size, device, batch, scores_in="bfloat16")
    exact, _ = _rewards(size, device, batch, scores_in="float32")
    return Rounding(noise_nats=meter["prm_reward_noise_nats"], error_nats=rounded, copy_error_nats=exact)


def _rewards(size: Size, device: Device, batch: Batch, *, scores_in: Dtype) -> tuple[float, dict[str, float]]:
    """The error of the rewards of a PRM that is trained in bfloat16, and its metrics."""
    settings = PrmSection.model_validate(
        {"learning_rate": 1e-6, "beta": BETA, "micro_batch_rollouts": 4, "device": device, "noise_rollouts": size.rollouts}
    )
    engine = DeepSpeedEngine(TokenLogprobModel(new_model(size), 256), settings, dtype="bfloat16")
    frozen = partial(_frozen, size, device)
    reference = frozen(scores_in)
    prm = ImplicitPrm(
        engine,
        CONTENTS,
        lambda micro: reference.logprobs(micro.rows),
        settings,
        pad_id=0,
        total_steps=1,
        copy=PrmCopy(frozen("float32")) if scores_in == "float32" else None,
        noise=None if scores_in == "float32" else NoiseMeter(engine, settings, partial(frozen, "float32"), partial(frozen, "float32")),
    )
    emitted = Emitted()
    metrics = prm.process(batch, emitted).metrics
    exact = _frozen(size, "cpu", "float32")
    exact.load_weights(engine.weights(master=True))
    rows = rows_of(batch)
    ratios = ragged(exact.logprobs(rows) - _frozen(size, "cpu", "float32").logprobs(rows), rows.is_trained)
    errors = [torch.from_numpy(ours) / BETA - theirs for ours, theirs in zip(emitted, ratios, strict=True)]
    engine.close()
    return float(torch.cat(errors).double().square().mean().sqrt()), metrics


def _frozen(size: Size, device: Device, dtype: Dtype) -> FrozenModel:
    return FrozenModel(with_weights_in(new_model(size), getattr(torch, dtype)).to(device), chunk_tokens=256)  # pyright: ignore[reportArgumentType]


def save_model(size: Size, directory: Path) -> None:
    """In the form of Llama, as transformers reads every Qwen2's tokenizer as Qwen's own; with the chain task's tokenizer."""
    config = LlamaConfig(
        **size.shape,
        initializer_range=size.hidden**-0.5,
        bos_token_id=VOCABULARY.index("<bos>"),
        eos_token_id=VOCABULARY.index("<eos>"),
        pad_token_id=VOCABULARY.index("<pad>"),
    )
    random_causal_lm(config, 0).save_pretrained(str(directory))
    save_chain_tokenizer(directory, 2 * size.longest)


async def vllm_against_learner(size: Size, device: Device, dtype: Dtype, folder: Path) -> float:
    """Mean absolute difference, in nats, of vLLM's log-probs of what it sampled and the learner's."""
    save_model(size, folder)
    settings = GeneratorSection(cpu_cache_gib=0.05, gpu_memory_share=0.3, max_running_rollouts=size.rollouts, eager=True)
    sampler = VllmSampler(
        folder, version=0, settings=settings, max_prompt_tokens=size.prompt_tokens, max_response_tokens=size.response_tokens, dtype=dtype
    )
    await sampler.start()
    prompt = tuple(3 + place % 50 for place in range(size.prompt_tokens))
    try:
        requests = [
            SampleRequest(request_id=f"{seed}", prompt_ids=prompt, temperature=1.0, max_tokens=size.response_tokens, seed=seed)
            for seed in range(size.rollouts)
        ]
        responses = await asyncio.gather(*map(sampler.sample, requests))
    finally:
        await sampler.close()
    rows: TokenRows = token_rows([prompt] * len(responses), [one.response_ids for one in responses], pad_id=0)
    learner = FrozenModel(load_causal_lm(folder, dtype=dtype, device=device), chunk_tokens=256)
    theirs = torch.cat([torch.tensor(one.behaviour_logprobs) for one in responses])
    return float((learner.logprobs(rows)[rows.is_trained] - theirs).abs().mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    steps: int
    ledger_closed: bool
    mismatch_kl_nats: float
    """The largest of any step."""
    noise_nats: float
    """Of process rewards, at the last step."""


def run_of_all_services(size: Size, device: Device, dtype: Dtype, folder: Path, *, steps: int, timeout_s: float) -> FinishedRun:
    """A run on the chain task whose random model is always wrong, so that nothing is filtered."""
    save_model(size, folder / "model")
    config = folder / "run.toml"
    config.write_text("", encoding="utf-8")
    settings = {
        "run.name": "shape",
        "run.directory": str(folder),
        "run.steps": steps,
        "run.evaluate_every": 0,
        "run.checkpoint_every": steps,
        "model.path": str(folder / "model"),
        "model.dtype": dtype,
        "tasks.source": "chain",
        "tasks.chain.heldout_problems": 8,
        "sampling.max_prompt_tokens": size.prompt_tokens,
        "sampling.max_response_tokens": size.response_tokens,
        "staleness.max_staleness": 1,
        "coordinator.groups_per_batch": size.rollouts // 4,
        "coordinator.filter.enabled": False,
        "generator.cpu_cache_gib": 0.25,
        "generator.gpu_memory_share": 0.3,
        "generator.eager": True,
        "learner.device": device,
        "learner.threads": 1,
        "learner.zero_stage": 1,
        "prm.device": device,
        "prm.threads": 1,
        "prm.zero_stage": 1,
        "prm.measure_noise_every": 1,
    }
    result = oprime("train", str(config), *sets(settings), timeout_s=timeout_s)
    assert result.returncode == 0, result.stdout + result.stderr
    rows, document = metric_rows(folder / "shape", "step"), summary(folder / "shape")
    return FinishedRun(
        steps=document["steps"],
        ledger_closed=document["ledger_closed"],
        mismatch_kl_nats=max(row["mismatch_kl_nats"] for row in rows),
        noise_nats=rows[-1].get("prm_reward_noise_nats", 0.0),
    )


def train_steps(vocabulary: int) -> dict[str, StepResult]:
    """`bench.train_step`: the obvious implementation and ours."""
    return {variant: measured_apart(variant, vocabulary, 1) for variant in ("obvious", "oprime")}
