"""A train step of PRM and policy beside the obvious implementation, in one run: python -m bench.train_step.

One batch of uneven lengths goes through reference scores, PRM update, PRM scores and policy update, in micro-batches of equally many
rollouts (the reference's are groups). `obvious` is transformers and autograd on padded rows in the order given: all logits, log_softmax,
gather. `oprime` is the real ImplicitPrm and PolicyTrainer on the real DeepSpeedEngine of one rank (ZeRO 0), entropy metric included;
`oprime, padded` is that with packing off. Each runs in a process of its own. Memory is the most that the step takes beyond weights and
optimizer state; "matrix rate" is the share of what one large matrix product reaches on this machine that the needed products (no padding,
prompts once, no head on them, nothing recomputed) make up. On a CPU one thread computes and its CPU time counts, so that neighbours on
the machine do not matter much; on a GPU it is the time on the clock. Compare the rows of one run.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.operations import ModelShape, learner_passes, matrix_rate, prm_passes
from oprime.adapters.memory_payloads import MemoryPayloads
from oprime.core.token_rows import TokenRows, token_rows_of
from oprime.core.types import Batch, FinishReason, Rollout, VerifiedGroup, VerifiedRollout, WeightVersionSpan, sampled, untrained
from oprime.core.verification import scored
from oprime.lm.frozen import FrozenModel
from oprime.lm.models import random_causal_lm
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.runtime.rollout_payloads import RewardWriter, read_rewards, read_rollouts, write_rollouts
from oprime.runtime.settings import AlgorithmSection
from oprime_learner.config import LearnerSection
from oprime_learner.policy_trainer import PolicyTrainer
from oprime_prm.config import PrmSection
from oprime_prm.implicit_prm import ImplicitPrm
from oprime_prm.references import References, units_of

VOCABULARIES = (100, 32_000, 152_000)
VARIANTS = ("obvious", "oprime, padded", "oprime")
HIDDEN, LAYERS, HEADS, FEED_FORWARD = 256, 4, 4, 1024
GROUPS, GROUP_SIZE, MICRO_BATCH = 4, 4, 8
LONGEST_RESPONSE = 320
BETA = 0.05
PASSES = prm_passes(PrmSection()) + learner_passes(LearnerSection(), AlgorithmSection())
"""Forward equivalents of the step."""
MEBIBYTE = 2**20
STORE = MemoryPayloads()
CONTENTS = partial(read_rollouts, STORE)

Step = Callable[[Batch], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    variant: str
    vocabulary: int
    device: str
    tokens: int
    """Prompt and response tokens of the batch."""
    seconds: float
    step_mebibytes: float
    matrix_share: float


def random_batch(groups: int, vocabulary: int, *, longest: int = LONGEST_RESPONSE) -> Batch:
    """Uneven as responses are: most are short and a few run into the limit."""
    dice = np.random.default_rng(0)

    def rollout(group: int, index: int, prompt: np.ndarray) -> VerifiedRollout:
        length = int(np.clip(dice.lognormal(np.log(longest / 5), 0.9), 4, longest))
        one = Rollout(
            group_id=group,
            index=index,
            seed=index,
            segments=(
                untrained(prompt),
                *sampled(
                    dice.integers(0, vocabulary, length),
                    np.full(length, -np.log(vocabulary)),
                    [WeightVersionSpan(start=0, end=length, version=0)],
                ),
            ),
            text="",
            finish_reason=FinishReason.STOP,
        )
        return VerifiedRollout(rollout=write_rollouts(STORE, [one])[0], outcome=scored(float(index % 2)))

    def group(number: int) -> VerifiedGroup:
        prompt = dice.integers(0, vocabulary, int(dice.integers(24, 96)))
        return VerifiedGroup(group_id=number, rollouts=tuple(rollout(number, index, prompt) for index in range(GROUP_SIZE)))

    return Batch(step=1, groups=tuple(group(number) for number in range(groups)))


def model_config(vocabulary: int) -> Any:
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        use_cache=False,
    )


def new_model(vocabulary: int) -> Any:
    return random_causal_lm(model_config(vocabulary), 0)


class Obvious:
    """What one writes first: padded rows, all logits, autograd through log_softmax."""

    def __init__(self, vocabulary: int, device: str) -> None:
        self.policy, self.prm, self.reference = (new_model(vocabulary).to(device) for _ in range(3))
        self._policy_optimizer, self._prm_optimizer = (torch.optim.AdamW(model.parameters(), lr=1e-6) for model in (self.policy, self.prm))
        self._device = device

    def __call__(self, batch: Batch) -> None:
        rollouts = batch.rollouts
        parts = [rollouts[start : start + MICRO_BATCH] for start in range(0, len(rollouts), MICRO_BATCH)]
        rows = [self._rows(part) for part in parts]
        with torch.no_grad():
            reference = [self._logprobs(self.reference, row) for row in rows]
        for part, row, known in zip(parts, rows, reference, strict=True):
            outcomes = torch.tensor([one.outcome_reward for one in part], device=self._device)
            scores = BETA * (self._logprobs(self.prm, row) - known).sum(1)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, outcomes, reduction="sum") / len(rollouts)
            loss.backward()
        self._finish(self.prm, self._prm_optimizer)
        with torch.no_grad():
            rewards = [BETA * (self._logprobs(self.prm, row) - known) for row, known in zip(rows, reference, strict=True)]
        tokens = sum(one.rollout.trained_tokens for one in rollouts)
        for row, reward in zip(rows, rewards, strict=True):
            logprobs = self._logprobs(self.policy, row)
            ratio = (logprobs - logprobs.detach()).exp()
            advantages = reward.flip(1).cumsum(1).flip(1)
            per_token = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.2))
            ((per_token * row.is_trained.to(self._device)).sum() / tokens).backward()
        self._finish(self.policy, self._policy_optimizer)

    def _rows(self, part: Sequence[VerifiedRollout]) -> TokenRows:
        rollouts = CONTENTS([one.rollout for one in part])
        return token_rows_of([one.token_ids for one in rollouts], [one.is_trained for one in rollouts], pad_id=0)

    def _logprobs(self, model: Any, rows: TokenRows) -> Tensor:
        input_ids, mask = rows.input_ids.to(self._device), rows.attention_mask.long().to(self._device)
        logits = model(input_ids=input_ids, attention_mask=mask).logits
        picked = logits[:, :-1].float().log_softmax(-1).gather(-1, input_ids[:, 1:, None]).squeeze(-1)
        return torch.nn.functional.pad(picked, (1, 0)) * rows.is_trained.to(self._device)

    def _finish(self, model: Any, optimizer: torch.optim.Optimizer) -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


class Oprime:
    """The services' own trainers, without their processes."""

    def __init__(self, vocabulary: int, device: str, *, packing: bool) -> None:
        from oprime.adapters.deepspeed_engine import DeepSpeedEngine

        common = {"micro_batch_rollouts": MICRO_BATCH, "packing": packing, "device": device, "learning_rate": 1e-6}
        prm, learner = PrmSection.model_validate(common | {"beta": BETA}), LearnerSection.model_validate(common)
        engines = [
            DeepSpeedEngine(TokenLogprobModel(new_model(vocabulary), section.logprob_chunk_tokens, packing=packing), section)
            for section in (prm, learner)
        ]
        reference = FrozenModel(new_model(vocabulary).to(device), chunk_tokens=prm.logprob_chunk_tokens, packing=packing)
        self._references = References(reference, CONTENTS, STORE, prm, rank=0, ranks=1, pad_id=0)
        self._prm = ImplicitPrm(engines[0], CONTENTS, self._references, prm, pad_id=0, total_steps=100)
        self._policy = PolicyTrainer(engines[1], AlgorithmSection(), learner, CONTENTS, pad_id=0, total_steps=100)

    def __call__(self, batch: Batch) -> None:
        self._references.use(self._references.compute(units_of(batch)))
        rewards = RewardWriter(STORE, batch.step)
        self._prm.process(batch, rewards.add)
        self._policy.process(batch, read_rewards(STORE, rewards.finish(), batch))


def new_step(variant: str, vocabulary: int, device: str) -> Step:
    return Obvious(vocabulary, device) if variant == "obvious" else Oprime(vocabulary, device, packing=variant == "oprime")


def measure(variant: str, vocabulary: int, repeats: int) -> StepResult:
    """In a process of its own: peak memory is that of the process."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    step = new_step(variant, vocabulary, device)
    # Optimizer state exists from the first step on; a tiny one makes it.
    step(random_batch(1, vocabulary, longest=4))
    batch = random_batch(GROUPS, vocabulary)
    before = held_bytes(device)
    seconds: list[float] = []
    for _ in range(repeats):
        started = now(device)
        step(batch)
        seconds.append(now(device) - started)
    peak = peak_bytes(device) - before
    tokens = sum(one.rollout.tokens for one in batch.rollouts)
    return StepResult(
        variant=variant,
        vocabulary=vocabulary,
        device=torch.cuda.get_device_name() if device == "cuda" else "one CPU thread",
        tokens=tokens,
        seconds=statistics.median(seconds),
        step_mebibytes=peak / MEBIBYTE,
        matrix_share=needed_operations(batch, vocabulary) / statistics.median(seconds) / matrix_rate(lambda: now(device), device),
    )


def needed_operations(batch: Batch, vocabulary: int) -> float:
    responses = sum(one.rollout.trained_tokens for one in batch.rollouts)
    tokens = responses + sum(group.rollouts[0].rollout.tokens - group.rollouts[0].rollout.trained_tokens for group in batch.groups)
    shape = ModelShape.of(model_config(vocabulary))
    return PASSES * shape.forward_operations(tokens=tokens, predicted=responses)


def now(device: str) -> float:
    """Seconds, once what was started is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def held_bytes(device: str) -> int:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    resident_pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return resident_pages * resource.getpagesize()


def peak_bytes(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured_apart(variant: str, vocabulary: int, repeats: int) -> StepResult:
    command = [sys.executable, "-m", "bench.train_step", "--only", variant, "--vocabulary", str(vocabulary), "--repeats", str(repeats)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return StepResult(**json.loads(found.stdout.splitlines()[-1]))


def report(results: Sequence[StepResult]) -> str:
    """A table, and the ratios of each vocabulary to its `obvious` row."""
    obvious = {one.vocabulary: one for one in results if one.variant == "obvious"}
    first = results[0]
    lines = [
        f"train step on {first.device}: {GROUPS * GROUP_SIZE} rollouts, {first.tokens} tokens, micro-batches of {MICRO_BATCH}",
        f"{'vocabulary':>10}  {'variant':16}{'tokens/s':>10}{'step MiB':>10}{'matrix rate':>13}{'speed':>9}{'memory':>9}",
    ]
    for one in results:
        base = obvious[one.vocabulary]
        lines.append(
            f"{one.vocabulary:>10}  {one.variant:16}{one.tokens / one.seconds:10.0f}{one.step_mebibytes:10.0f}{one.matrix_share:13.0%}"
            f"{base.seconds / one.seconds:8.2f}x{one.step_mebibytes / base.step_mebibytes:8.2f}x"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(description="A train step beside the obvious implementation.")
    parser.add_argument("--vocabulary", type=int, action="append", help="measure these only")
    parser.add_argument("--only", choices=VARIANTS, help="measure one variant, in this process")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    vocabularies = options.vocabulary or VOCABULARIES
    if options.only:
        found = measure(options.only, vocabularies[0], options.repeats)
        print(json.dumps({name: getattr(found, name) for name in StepResult.__dataclass_fields__}))
        return
    print(report([measured_apart(variant, vocabulary, options.repeats) for vocabulary in vocabularies for variant in VARIANTS]))


if __name__ == "__main__":
    main(sys.argv[1:])
