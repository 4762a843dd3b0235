"""What rounding leaves of process rewards in the first updates: python -m bench.precision, or with --model a model of the built-in task.

A PRM is trained on the real DeepSpeedEngine in bfloat16 with float32 master weights, from a start that is its own reference, as
`ImplicitPrm` does. After some updates the log-ratios log(pi_phi / pi_ref) of the batch are computed in several precisions and compared
with float64 on the master weights: noise is the root mean square of the difference over tokens, and the correlation is that of all tokens
of the batch. Without --model the start has random weights, wide enough for distributions as uneven as a language model's (about 4 nats of
entropy at a vocabulary of 4,096), and a response is right if it has more tokens of the vocabulary's first half than the median one. The
last column is CPU time of PRM and reference for the batch; one thread computes.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oprime.adapters.memory_payloads import MemoryPayloads
from oprime.core.reward_noise import RewardNoise, reward_noise
from oprime.core.token_rows import TokenRows, ragged, token_rows_of
from oprime.core.types import Batch, FinishReason, Rollout, VerifiedGroup, VerifiedRollout, WeightVersionSpan, sampled, untrained
from oprime.core.verification import scored
from oprime.lm.frozen import FrozenModel
from oprime.lm.models import load_causal_lm, random_causal_lm
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.tokenizers import end_token_ids, load_tokenizer, render_prompt
from oprime.runtime.rollout_payloads import read_rollouts, write_rollouts
from oprime.runtime.settings import TasksSection
from oprime.tasks.dataset import load_tasks
from oprime_prm.config import PrmSection
from oprime_prm.implicit_prm import ImplicitPrm

VOCABULARY, HIDDEN, LAYERS = 4096, 256, 8
HEAD_WIDTH = 3.0
"""Standard deviation of logits."""
GROUP_SIZE = 4
STORE = MemoryPayloads()
CONTENTS = partial(read_rollouts, STORE)

Batches = Iterator[Batch]
Weights = Callable[[], Iterator[tuple[str, Tensor]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """A PRM and its reference in a type. `weights` are what the PRM takes after an update."""

    name: str
    prm: FrozenModel
    reference: FrozenModel
    weights: Weights

    def log_ratios(self, rows: TokenRows) -> list[Tensor]:
        return list(ragged(self.prm.logprobs(rows) - self.reference.logprobs(rows), rows.is_trained))


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    update: int
    name: str
    noise: RewardNoise
    correlation: float
    changed: float
    """Share of the bfloat16 weights that differ from the start's."""
    seconds: float


def synthetic_start() -> Any:
    from transformers import Qwen2Config

    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=3 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        initializer_range=HIDDEN**-0.5,
    )
    model: Any = random_causal_lm(config, 0)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(HEAD_WIDTH)
    return model


def synthetic_batches(model: Any, *, rollouts: int = 16, prompt_tokens: int = 16, response_tokens: int = 96) -> Batches:
    dice = torch.Generator().manual_seed(1)
    for step in count(1):
        prompts = torch.randint(0, VOCABULARY, (rollouts // GROUP_SIZE, prompt_tokens), generator=dice).repeat_interleave(GROUP_SIZE, 0)
        responses = sample(model, prompts, response_tokens, dice)
        first_half = (responses < VOCABULARY // 2).double().mean(1)
        right = (first_half > first_half.median()).double()
        yield batch_of(step, prompts.tolist(), responses.tolist(), right.tolist())


def chain_batches(path: str, model: Any, *, groups: int = 32, response_tokens: int = 12) -> Batches:
    """Problems of the built-in task with sampled responses. What follows the end token is cut off."""
    tokenizer, ends = load_tokenizer(path), set(end_token_ids(load_tokenizer(path), path))
    tasks, dice = load_tasks(TasksSection(source="chain"), "train"), torch.Generator().manual_seed(1)
    for step in count(1):
        chosen = [tasks[(step - 1) * groups + group] for group in range(groups)]
        prompts = [render_prompt(tokenizer, task.messages) for task in chosen for _ in range(GROUP_SIZE)]
        responses = [cut(row, ends) for row in sample(model, torch.tensor(prompts), response_tokens, dice).tolist()]
        texts = [str(tokenizer.decode(row, skip_special_tokens=True)) for row in responses]
        truths = [f"#{task.ground_truth}" for task in chosen for _ in range(GROUP_SIZE)]
        yield batch_of(step, prompts, responses, [float(text.split()[-1:] == [truth]) for text, truth in zip(texts, truths, strict=True)])


@torch.no_grad()
def sample(model: Any, prompts: Tensor, tokens: int, dice: torch.Generator) -> Tensor:
    """At temperature 1, [rollout token]."""
    ids, cache, found = prompts, None, list[Tensor]()
    for _ in range(tokens):
        outputs = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        ids = torch.multinomial(outputs.logits[:, -1].float().softmax(-1), 1, generator=dice)
        found.append(ids)
    return torch.cat(found, 1)


def cut(tokens: list[int], ends: set[int]) -> list[int]:
    end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens) - 1)
    return tokens[: end + 1]


def batch_of(step: int, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], outcomes: Sequence[float]) -> Batch:
    rollouts = [
        Rollout(
            group_id=step * 1000 + place // GROUP_SIZE,
            index=place % GROUP_SIZE,
            seed=place,
            segments=(
                untrained(prompt),
                *sampled(response, np.zeros(len(response)), [WeightVersionSpan(start=0, end=len(response), version=0)]),
            ),
            text="",
            finish_reason=FinishReason.STOP,
        )
        for place, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
    ]
    records = write_rollouts(STORE, rollouts)
    verified = [VerifiedRollout(rollout=one, outcome=scored(outcome)) for one, outcome in zip(records, outcomes, strict=True)]
    groups = [verified[start : start + GROUP_SIZE] for start in range(0, len(verified), GROUP_SIZE)]
    return Batch(step=step, groups=tuple(VerifiedGroup(group_id=one[0].rollout.group_id, rollouts=tuple(one)) for one in groups))


def rows_of(batch: Batch) -> TokenRows:
    rollouts = CONTENTS([one.rollout for one in batch.rollouts])
    return token_rows_of([one.token_ids for one in rollouts], [one.is_trained for one in rollouts], pad_id=0)


def frozen(start: Any, dtype: torch.dtype, *, through: torch.dtype | None = None, float32_head: bool = False) -> FrozenModel:
    """The start in a type, after rounding `through` another."""
    model = copy.deepcopy(start)
    made = FrozenModel(model, chunk_tokens=1024)
    for kind in (through, dtype):
        if kind is not None:
            cast_weights(model, kind)
    if float32_head:
        head = made._model.head
        head.weight.data = head.weight.data.float()
        head.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(), *inputs[1:]))
    return made


def cast_weights(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Weights alone: rotary frequencies stay float32, as in a model that is loaded in a type, or that DeepSpeed casts."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def precisions(start: Any, rounded: Weights, masters: Weights) -> list[Precision]:
    """The last one is what the others are compared with."""
    half, single, double = torch.bfloat16, torch.float32, torch.float64
    of_head = partial(frozen, start, half, float32_head=True)
    of_rounded = partial(frozen, start, single, through=half)
    return [
        Precision(name="bfloat16", prm=frozen(start, half), reference=frozen(start, half), weights=rounded),
        Precision(name="bfloat16, head in float32", prm=of_head(), reference=of_head(), weights=rounded),
        Precision(name="float32 arithmetic on bfloat16 weights", prm=of_rounded(), reference=of_rounded(), weights=rounded),
        Precision(name="float32", prm=frozen(start, single), reference=frozen(start, single), weights=masters),
        Precision(name="float64", prm=frozen(start, double), reference=frozen(start, double), weights=masters),
    ]


def measure(start: Any, batches: Batches, settings: PrmSection, updates: Sequence[int]) -> Iterator[Compared]:
    """Of the PRM after each of these updates, on the batch of the update."""
    from oprime.adapters.deepspeed_engine import DeepSpeedEngine

    engine = DeepSpeedEngine(TokenLogprobModel(copy.deepcopy(start), settings.logprob_chunk_tokens), settings, dtype="bfloat16")
    tried = precisions(start, engine.weights, partial(engine.weights, master=True))
    first = {name: tensor.clone() for name, tensor in engine.weights()}
    reference = tried[0].reference
    prm = ImplicitPrm(engine, CONTENTS, lambda micro: reference.logprobs(micro.rows), settings, pad_id=0, total_steps=max(updates))
    for update in range(1, max(updates) + 1):
        batch = next(batches)
        prm.process(batch, lambda place, values: None)
        if update in updates:
            changed = sum(int((tensor != first[name]).sum()) for name, tensor in engine.weights())
            yield from compared(update, tried, rows_of(batch), changed / sum(tensor.numel() for tensor in first.values()))
    engine.close()


def compared(update: int, tried: Sequence[Precision], rows: TokenRows, changed: float) -> Iterator[Compared]:
    found: dict[str, tuple[list[Tensor], float]] = {}
    for one in tried:
        one.prm.load_weights(one.weights())
        began = time.process_time()
        found[one.name] = one.log_ratios(rows), time.process_time() - began
    exact, _ = found[tried[-1].name]
    for one in tried[:-1]:
        ratios, seconds = found[one.name]
        both = torch.stack([torch.cat(ratios).double(), torch.cat(exact).double()])
        yield Compared(
            update=update,
            name=one.name,
            noise=reward_noise([row.double() for row in ratios], [row.double() for row in exact]),
            correlation=float(torch.corrcoef(both)[0, 1]),
            changed=changed,
            seconds=seconds,
        )


def line_of(one: Compared) -> str:
    return (
        f"{one.update:>6}  {one.changed:>7.1%}  {one.noise.signal_nats:>9.5f}  {one.name:40}{one.noise.nats:>10.2g}"
        f"{one.noise.signal_to_noise:>10.2g}{one.correlation:>13.2f}{one.seconds:>9.2f}"
    )


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(description="What rounding leaves of process rewards.")
    parser.add_argument("--model", help="a model of the built-in task, for example runs/chain-sft")
    parser.add_argument("--learning-rate", type=float, default=1e-6, help="of the PRM; the paper's by default")
    parser.add_argument("--beta", type=float, default=0.05)
    parser.add_argument("--updates", type=int, nargs="+", default=[1, 2, 5, 10, 20], help="measure after these")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    start = load_causal_lm(options.model) if options.model else synthetic_start()
    batches = chain_batches(options.model, start) if options.model else synthetic_batches(start)
    settings = PrmSection.model_validate(
        {"learning_rate": options.learning_rate, "beta": options.beta, "gradient_clip": 10.0, "device": "cpu", "micro_batch_rollouts": 128}
    )
    print(f"{options.model or 'random weights'}, learning rate {options.learning_rate:g}, beta {options.beta:g}")
    print(f"update  changed  signal    {'rewards in':40}{'noise':>10}{'signal/':>10}{'correlation':>13}{'seconds':>9}")
    for one in measure(start, batches, settings, options.updates):
        print(line_of(one), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
