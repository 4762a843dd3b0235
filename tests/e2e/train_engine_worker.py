"""One rank of the train engine's tests: trains a tiny model under many splits and writes what came out.

`python train_engine_worker.py reference OUT` trains without DeepSpeed, on the whole batch, with full vocabulary rows.
`python train_engine_worker.py engine OUT` is one rank (RANK, WORLD_SIZE, ...) of the engine; rank 0 writes.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Qwen2Config

from oprime.core.token_rows import TokenRows, token_rows
from oprime.lm.models import random_causal_lm
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.runtime.training_settings import TrainerSection

STAGES = (0, 1, 2, 3)
MICRO_BATCHES = (1, 3, 7)
LEARNING_RATES = (1e-2, 3e-3, 1e-3)
# Some gradients are 0 but for rounding (a key's bias shifts all scores alike); a large epsilon keeps AdamW from amplifying that.
EPSILON = 1e-3
CLIPS = {"clipped": 0.05, "unclipped": 100.0}
PROMPTS = ([1, 2, 3], [4], [5, 6], [7, 8, 9, 10, 11], [12], [13, 14], [15, 16, 17])
RESPONSES = ([20], [21, 22, 23], [24, 25], [26], [27, 28, 29, 30, 31, 32, 33, 34, 35], [36, 37], [38, 39, 40, 41])
TOKENS = sum(len(response) for response in RESPONSES)
# Odd sizes: ZeRO cuts tensors into equal pieces, so these need padding.
SIZES: dict[str, Any] = {
    "vocab_size": 53,
    "hidden_size": 63,
    "intermediate_size": 97,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 64,
    "attention_dropout": 0.5,
}
CONFIG = Qwen2Config(**SIZES, tie_word_embeddings=False)
TIED = Qwen2Config(**SIZES, tie_word_embeddings=True)


def rows_of(positions: list[int]) -> TokenRows:
    return token_rows([PROMPTS[place] for place in positions], [RESPONSES[place] for place in positions], pad_id=0)


def behaviour_and_advantages(positions: list[int], shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Numbers that depend on the rollout and the token only, however rows are padded and dealt."""
    places = torch.tensor(positions, dtype=torch.float32)[:, None]
    prompts = torch.tensor([len(PROMPTS[place]) for place in positions], dtype=torch.float32)[:, None]
    tokens = torch.arange(shape[1], dtype=torch.float32)[None] - prompts
    return -4.0 + 0.3 * torch.sin(places * 5 + tokens), torch.cos(places * 3 + tokens)


def share_of_loss(positions: list[int], rows: TokenRows, logprobs: Tensor) -> Tensor:
    """This micro-batch's share of the clipped policy loss per response token of the whole batch."""
    behaviour, advantages = behaviour_and_advantages(positions, logprobs.shape)
    ratio = (logprobs - behaviour).exp()
    per_token = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.2))
    return (per_token * rows.is_trained).sum() / TOKENS


def dealt(step: int, micro_batch: int, rank: int, ranks: int) -> list[list[int]]:
    """Positions of this rank's micro-batches. In the last step rank 0 gets everything and the others only empty ones."""
    everything = list(range(len(PROMPTS)))
    last = step == len(LEARNING_RATES) - 1
    shards = [everything if owner == 0 else [] for owner in range(ranks)] if last else [everything[owner::ranks] for owner in range(ranks)]
    count = max(-(-len(shard) // micro_batch) for shard in shards)
    return [shards[rank][index * micro_batch : (index + 1) * micro_batch] for index in range(count)]


def gradients(model: torch.nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def reference(out: Path) -> None:
    results: dict[str, Any] = {}
    weights: dict[str, Tensor] = {}
    for name, clip in CLIPS.items():
        model = random_causal_lm(CONFIG, 0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.999), eps=EPSILON, weight_decay=0.01)
        everything = list(range(len(PROMPTS)))
        rows = rows_of(everything)
        norms: list[float] = []
        losses: list[float] = []
        for learning_rate in LEARNING_RATES:
            logits = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask.long()).logits
            chosen = logits.log_softmax(-1)[:, :-1].gather(-1, rows.input_ids[:, 1:, None]).squeeze(-1)
            logprobs = torch.cat([torch.zeros(len(everything), 1), chosen], dim=1) * rows.is_trained
            loss = share_of_loss(everything, rows, logprobs)
            loss.backward()
            norms.append(float(torch.stack([gradient.double().norm() for gradient in gradients(model)]).norm()))
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.param_groups[0]["lr"] = learning_rate
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        results[name] = {"norms": norms, "losses": losses}
        weights |= {f"{name}/{key}": value.detach().contiguous() for key, value in model.named_parameters()}
    write(out, "reference", results, weights)


class Rank:
    """This process's engines, one after another."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.results: dict[str, Any] = {}
        self.weights: dict[str, Tensor] = {}
        self.ranks = 1

    def engine(
        self, stage: int, *, clip: float = 100.0, config: Qwen2Config = CONFIG, seed: int = 0, dtype: Any = "float32", **settings: Any
    ) -> Any:
        from oprime.adapters.deepspeed_engine import DeepSpeedEngine

        checkpointing, packing = settings.pop("gradient_checkpointing", False), settings.get("packing", True)
        model = TokenLogprobModel(random_causal_lm(config, seed, gradient_checkpointing=checkpointing), 4, packing=packing)
        assert bool(model.packing.refusal) != packing
        section = TrainerSection.model_validate(
            {"adam_eps": EPSILON, "learning_rate": 1.0, "weight_decay": 0.01, "device": "cpu", "threads": 1}
            | {"gradient_clip": clip, "zero_stage": stage, "ranks": self.ranks}
            | settings
        )
        return DeepSpeedEngine(model, section, dtype)

    def step(self, engine: Any, step: int, micro_batch: int) -> tuple[float, float]:
        positions = dealt(step, micro_batch, engine.rank, engine.world_size)
        rows = [rows_of(micro) for micro in positions]
        total = torch.zeros((), dtype=torch.float64)

        def loss(index: int, logprobs: Tensor) -> Tensor:
            nonlocal total
            share = share_of_loss(positions[index], rows[index], logprobs)
            total = total + share.detach().double()
            return share

        norm = engine.train_step(rows, loss, learning_rate=LEARNING_RATES[step])
        return norm, float(engine.all_sum(total))

    def train(self, name: str, engine: Any, micro_batch: int) -> None:
        steps = [self.step(engine, step, micro_batch) for step in range(len(LEARNING_RATES))]
        self.results[name] = {"norms": [norm for norm, _ in steps], "losses": [loss for _, loss in steps]}
        self.weights |= {f"{name}/{key}": value for key, value in engine.weights()}

    def invariance(self) -> None:
        for stage in STAGES:
            for micro_batch in MICRO_BATCHES:
                engine = self.engine(stage)
                self.train(f"unclipped stage {stage} micro {micro_batch}", engine, micro_batch)
                engine.close()
            engine = self.engine(stage, packing=False)
            self.train(f"padded stage {stage}", engine, 3)
            engine.close()
            engine = self.engine(stage, clip=CLIPS["clipped"], gradient_checkpointing=True)
            self.train(f"clipped stage {stage} micro 3", engine, 3)
            engine.close()

    def scoring(self) -> None:
        """What training sees and what scoring sees, and that both leave no trace."""
        for stage in STAGES:
            engine = self.engine(stage, config=TIED)
            positions = dealt(0, 3, engine.rank, engine.world_size)
            rows = [rows_of(micro) for micro in positions]
            scored = [engine.logprobs(micro) for micro in rows]
            seen: list[Tensor] = []

            def loss(_: int, logprobs: Tensor, seen: list[Tensor] = seen) -> Tensor:
                seen.append(logprobs.detach().clone())
                return logprobs.sum() / TOKENS

            engine.train_step(rows, loss, learning_rate=0.0)
            measured: list[Tensor] = []

            def rewarded(_: int, logprobs: Tensor, entropies: Tensor, measured: list[Tensor] = measured) -> Tensor:
                measured.append(entropies.detach().double())
                return (logprobs.sum() + entropies.sum()) / TOKENS

            norm = engine.train_step(rows, rewarded, learning_rate=0.0, entropies=True)
            self.results[f"scoring stage {stage}"] = {
                "same": all(torch.equal(one, other) for one, other in zip(scored, seen, strict=True)),
                "sum": float(engine.all_sum(torch.stack([one.double().sum() for one in scored]).sum())),
                "names": [name for name, _ in engine.weights()],
                "entropy": float(engine.all_sum(torch.stack([one.sum() for one in measured]).sum())),
                "entropy_norm": norm,
                "shapes_of_nothing": list(engine.logprobs(token_rows([], [], pad_id=0)).shape),
            }
            engine.close()

    def resume(self) -> None:
        """Two steps in a row, and two steps with a process death (a new engine) between them."""
        for stage in STAGES:
            engine = self.engine(stage)
            self.step(engine, 0, 3)
            directory = self.out / f"saved-{self.ranks}-{stage}"
            engine.save(directory)
            torch.rand(3)
            self.step(engine, 1, 3)
            self.weights |= {f"straight {stage}/{name}": tensor for name, tensor in engine.weights()}
            engine.close()
            self.continue_from(f"resumed {stage}", directory, stage)

    def continue_from(self, name: str, directory: Path, stage: int) -> None:
        engine = self.engine(stage, seed=1)
        torch.manual_seed(99)
        engine.load(directory)
        self.results[f"{name} random"] = torch.rand(1).item()
        self.step(engine, 1, 3)
        self.weights |= {f"{name}/{key}": value for key, value in engine.weights()}
        engine.close()

    def fresh(self) -> None:
        """A checkpoint from before the first step."""
        for stage in (0, 3):
            engine = self.engine(stage)
            engine.save(self.out / f"fresh-{self.ranks}-{stage}")
            engine.close()
            engine = self.engine(stage, seed=1)
            engine.load(self.out / f"fresh-{self.ranks}-{stage}")
            self.train(f"fresh stage {stage}", engine, 3)
            engine.close()

    def bfloat16(self) -> None:
        """Many steps, each too small for a bfloat16 weight to notice: only float32 master weights add them up."""
        for stage in (0, 2, 3):
            engine = self.engine(stage, dtype="bfloat16", adam_eps=1e-8, weight_decay=0.0)
            before = {name: tensor.float() for name, tensor in engine.weights()}
            start, first = dict(random_causal_lm(CONFIG, 0).named_parameters()), dict(engine.weights(master=True))
            for _ in range(10):
                positions = dealt(0, 3, engine.rank, engine.world_size)
                rows = [rows_of(micro) for micro in positions]
                engine.train_step(rows, lambda _, logprobs: -logprobs.sum() / TOKENS, learning_rate=1e-5)
            after, masters = dict(engine.weights()), dict(engine.weights(master=True))
            directory = self.out / f"half-{self.ranks}-{stage}"
            engine.save(directory)
            self.results[f"bfloat16 stage {stage}"] = {
                "types": sorted({str(tensor.dtype) for tensor in after.values()}),
                "moved": float((after["lm_head.weight"].float() - before["lm_head.weight"]).abs().mean()),
                "masters at the start": all(torch.equal(tensor, start[name]) for name, tensor in first.items()),
                "masters rounded": all(torch.equal(after[name], tensor.to(torch.bfloat16)) for name, tensor in masters.items()),
                "types of masters": sorted({str(tensor.dtype) for tensor in masters.values()}),
            }
            engine.close()
        engine = self.engine(1, dtype="bfloat16", seed=1)
        engine.load(self.out / f"half-{self.ranks}-3")
        engine.save(self.out / f"half-again-{self.ranks}")
        engine.close()

    def offload(self) -> None:
        for stage in (1, 2, 3):
            engine = self.engine(stage, offload_optimizer=True)
            self.train(f"offloaded stage {stage}", engine, 1)
            engine.close()

    def talking(self) -> None:
        engine = self.engine(0)
        me = engine.rank
        long = bytes(range(256)) * 9
        self.results["talking"] = {
            "broadcast": engine.group.broadcast(long if me == 0 else None) == long,
            "broadcast nothing": engine.group.broadcast(b"" if me == 0 else None) == b"",
            "gathered": [payload.decode() for payload in engine.gather(b"rank" * me) or []],
            "gathered nothing": [payload.decode() for payload in engine.gather(b"") or []],
            "sum": engine.all_sum(torch.tensor([1.0, me])).tolist(),
        }
        self.results["others gather"] = [text == b"None" for text in (engine.gather(str(engine.gather(b"x")).encode()) or [])[1:]]
        engine.close()

    def failures(self) -> None:
        engine = self.engine(2)
        before = {name: tensor.clone() for name, tensor in engine.weights()}
        for stage in STAGES:
            engine.close()
            engine = self.engine(stage)
            self.results[f"infinite stage {stage}"] = message(
                lambda engine=engine: engine.train_step(
                    [rows_of([0])], lambda _, logprobs: logprobs.sum() * float("inf"), learning_rate=0.1
                )
            )
            unharmed = all(torch.equal(before[name], tensor) for name, tensor in engine.weights())
            self.results[f"unharmed stage {stage}"] = unharmed
        self.results["nothing"] = message(lambda: engine.train_step([], lambda _, logprobs: logprobs.sum(), learning_rate=0.1))
        engine.close()
        engine = self.engine(0, config=TIED)
        self.results["another model"] = message(lambda: engine.load(self.out / f"saved-{self.ranks}-0"))
        self.results["no checkpoint"] = message(lambda: engine.load(self.out / "absent"))
        self.results["no directory"] = message(lambda: engine.save(Path("/proc/oprime")))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        self.results["full disk"] = message(lambda: engine.save(self.out / f"full-{self.ranks}"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        engine.close()


def message(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:  # noqa: BLE001  (any error is a result here)
        return f"{type(error).__name__}: {error}"
    return "no error"


def write(out: Path, name: str, results: dict[str, Any], weights: dict[str, Tensor]) -> None:
    save_file({key: value.contiguous() for key, value in weights.items()}, out / f"{name}.safetensors")
    (out / f"{name}.json").write_text(json.dumps(results), encoding="utf-8")


def main() -> None:
    mode, out = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    if mode == "reference":
        reference(out)
        return
    rank = Rank(out)
    rank.ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if mode == "cross":
        for stage in (0, 3):
            rank.continue_from(f"crossed {stage}", out / "saved-2-3", stage)
    else:
        for part in (rank.invariance, rank.scoring, rank.resume, rank.fresh, rank.bfloat16, rank.offload, rank.talking, rank.failures):
            part()
    if os.environ.get("RANK", "0") == "0":
        write(out, f"{mode}-{rank.ranks}", rank.results, rank.weights)


if __name__ == "__main__":
    main()
