"""One rank of the tests of adapters in the train engine.

`python lora_engine_worker.py plain OUT` trains with plain PEFT, on the whole batch, with full vocabulary rows.
`python lora_engine_worker.py engine OUT` is one rank (RANK, WORLD_SIZE, ...) of the engine; rank 0 writes.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from e2e.train_engine_worker import (
    CLIPS,
    CONFIG,
    EPSILON,
    LEARNING_RATES,
    PROMPTS,
    STAGES,
    dealt,
    rows_of,
    share_of_loss,
    write,
)
from oprime.adapters.deepspeed_engine import DeepSpeedEngine
from oprime.lm.lora import add_adapter
from oprime.lm.models import random_causal_lm
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.runtime.training_settings import LoraSection, TrainerSection
from tiny_adapters import moved, trained

LORA = LoraSection(rank=4, alpha=8.0)
CLIP = CLIPS["clipped"]
EVERYTHING = list(range(len(PROMPTS)))


def start() -> PreTrainedModel:
    return moved(add_adapter(random_causal_lm(CONFIG, 0), LORA, seed=0))


def plain(out: Path) -> None:
    model: Any = get_peft_model(random_causal_lm(CONFIG, 0), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    ours = trained(start())
    with torch.no_grad():
        for name, parameter in trained(model).items():
            parameter.copy_(ours[name.removeprefix("base_model.model.")])
    optimizer = torch.optim.AdamW(list(trained(model).values()), lr=1.0, betas=(0.9, 0.999), eps=EPSILON, weight_decay=0.01)
    rows = rows_of(EVERYTHING)
    norms: list[float] = []
    for learning_rate in LEARNING_RATES:
        logits = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask.long()).logits
        chosen = logits.log_softmax(-1)[:, :-1].gather(-1, rows.input_ids[:, 1:, None]).squeeze(-1)
        share_of_loss(EVERYTHING, rows, torch.cat([torch.zeros(len(EVERYTHING), 1), chosen], dim=1) * rows.is_trained).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained(model).values(), CLIP)))
        optimizer.param_groups[0]["lr"] = learning_rate
        optimizer.step()
        optimizer.zero_grad()
    adapters = {name.removeprefix("base_model.model."): tensor.detach().clone() for name, tensor in trained(model).items()}
    whole = dict(model.merge_and_unload().named_parameters())
    weights = {f"adapters/{name}": tensor for name, tensor in adapters.items()} | {f"merged/{name}": whole[name] for name in whole}
    write(out, "plain", {"norms": norms}, {name: tensor.detach() for name, tensor in weights.items()})


class Rank:
    """This process's engines, one after another."""

    def __init__(self, out: Path, ranks: int) -> None:
        self.out = out
        self.ranks = ranks
        self.results: dict[str, Any] = {}
        self.weights: dict[str, Tensor] = {}

    def engine(self, stage: int, model: PreTrainedModel, **settings: Any) -> Any:
        section = TrainerSection.model_validate(
            {"adam_eps": EPSILON, "learning_rate": 1.0, "weight_decay": 0.01, "device": "cpu", "threads": 1, "gradient_clip": CLIP}
            | {"zero_stage": stage, "ranks": self.ranks}
            | {name: value for name, value in settings.items() if name != "dtype"}
        )
        return DeepSpeedEngine(TokenLogprobModel(model, 4), section, settings.get("dtype", "float32"))

    def step(self, engine: Any, step: int) -> float:
        positions = dealt(step, 3, engine.rank, engine.world_size)
        rows = [rows_of(micro) for micro in positions]
        return engine.train_step(
            rows, lambda index, logprobs: share_of_loss(positions[index], rows[index], logprobs), learning_rate=LEARNING_RATES[step]
        )

    def keep(self, name: str, engine: Any) -> None:
        self.weights |= {f"{name} adapters/{key}": tensor for key, tensor in engine.trained_weights()}
        self.weights |= {f"{name} merged/{key}": tensor for key, tensor in engine.weights()}

    def training(self, stage: int, **settings: Any) -> None:
        engine = self.engine(stage, start(), **settings)
        self.results[f"norms {stage}"] = [self.step(engine, step) for step in range(len(LEARNING_RATES))]
        self.keep(str(stage), engine)
        whole = random_causal_lm(CONFIG, 0)
        whole.load_state_dict(dict(engine.weights()))
        rows = rows_of(EVERYTHING)
        with torch.no_grad():
            of_merged = TokenLogprobModel(whole, 4)(rows.input_ids, rows.attention_mask, rows.is_trained)
        self.results[f"apart {stage}"] = float((engine.logprobs(rows) - of_merged).abs().max())
        engine.close()

    def resuming(self, stage: int) -> None:
        """Two steps in a row, and two with a process death, a new engine of other adapters, between them."""
        engine = self.engine(stage, start())
        self.step(engine, 0)
        directory = self.out / f"saved-{self.ranks}-{stage}"
        engine.save(directory)
        self.step(engine, 1)
        self.keep(f"straight {stage}", engine)
        engine.close()
        engine = self.engine(stage, add_adapter(random_causal_lm(CONFIG, 0), LORA, seed=9))
        engine.load(directory)
        self.step(engine, 1)
        self.keep(f"resumed {stage}", engine)
        engine.close()

    def half(self, stage: int) -> None:
        """A base in bfloat16, whose adapters move by less than it can tell."""
        model = moved(add_adapter(random_causal_lm(CONFIG, 0).bfloat16(), LORA, seed=0))
        base = {name: parameter.clone() for name, parameter in model.named_parameters() if not parameter.requires_grad}
        engine = self.engine(stage, model, dtype="bfloat16", adam_eps=1e-8, weight_decay=0.0)
        before = {name: tensor.float() for name, tensor in engine.trained_weights()}
        rows = [rows_of(micro) for micro in dealt(0, 3, engine.rank, engine.world_size)]
        for _ in range(10):
            engine.train_step(rows, lambda _, logprobs: -logprobs.sum(), learning_rate=2e-4)
        after = dict(engine.trained_weights())
        directory = self.out / f"half-{self.ranks}-{stage}"
        engine.save(directory)
        found = dict(engine._held_weights(master=False))
        self.results[f"half {stage}"] = {
            "types": sorted({str(tensor.dtype) for tensor in found.values()}),
            "moved": max(float((after[name].float() - before[name]).abs().mean()) for name in before),
            "base": all(torch.equal(found[name], tensor) for name, tensor in base.items()),
        }
        engine.close()


def main() -> None:
    mode, out = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    if mode == "plain":
        plain(out)
        return
    rank = Rank(out, int(os.environ.get("WORLD_SIZE", "1")))
    for stage in STAGES:
        rank.training(stage)
        rank.resuming(stage)
    for stage in (0, 3):
        rank.half(stage)
    if os.environ.get("RANK", "0") == "0":
        write(out, f"{mode}-{rank.ranks}", rank.results, rank.weights)


if __name__ == "__main__":
    main()
