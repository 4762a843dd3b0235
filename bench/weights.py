"""What weight versions cost whole and as what changed: python -m bench.weights [--steps N] [--model DIRECTORY].

The demo's model, with versions of consecutive steps of a real run of N steps, and a model of a hundred million weights in bfloat16, whose
float32 weights AdamW moves on a language-modelling loss at two learning rates. Both go through the store that a run uses, behind a URL
that is a folder of this machine, with a cache for the writer and one for the reader: bytes are what a network would carry, seconds are
those of this machine and its disk.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from oprime.adapters.store_weights import Dtype, StoreWeights

LEARNING_RATES = (5e-7, 1e-6)
ADAM_STEPS = 5
TOKENS = 128
"""Per step of the large model."""
WHOLE, CHANGES = 1, 1_000_000
"""Every so manyth version is whole."""

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    model: str
    learning_rate: float
    changed: float
    """Share of elements that the step changed, in the type of the store."""
    whole_bytes: int
    changes_bytes: int
    seconds: dict[str, tuple[float, float]]
    """To publish and to fetch, whole and as changes."""


def measure(model: str, learning_rate: float, template: Path, dtype: Dtype, before: Tensors, after: Tensors) -> Row:
    """Publish and fetch the second of two versions, in both ways."""
    seconds: dict[str, tuple[float, float]] = {}
    stored: dict[str, int] = {}
    for name, full_every in (("whole", WHOLE), ("changes", CHANGES)):
        with tempfile.TemporaryDirectory(prefix="bench-weights-") as home:
            place = Path(home)
            writer, reader = (
                StoreWeights(f"file://{home}/store", template=template, cache=place / cache, dtype=dtype, full_every=full_every)
                for cache in ("writer", "reader")
            )
            writer.publish(1, iter(before.items()), parent=0)
            reader.fetch(1)
            published = _seconds(lambda store=writer: store.publish(2, iter(after.items()), parent=1))
            fetched = _seconds(lambda store=reader: store.fetch(2))
            seconds[name] = (published, fetched)
            stored[name] = sum(file.stat().st_size for file in (place / "store" / "v00000002").iterdir())
    kept = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    changed = sum(int((after[name].to(kept) != before[name].to(kept)).sum()) for name in before)
    return Row(
        model=model,
        learning_rate=learning_rate,
        changed=changed / sum(tensor.numel() for tensor in before.values()),
        whole_bytes=stored["whole"],
        changes_bytes=stored["changes"],
        seconds=seconds,
    )


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def demo_rows(steps: int, model: Path, home: Path) -> Iterator[Row]:
    """The last two steps of a short run of the demo, from a model that its warm-up has made or is to make."""
    changes = {
        "run.directory": home, "run.name": "demo", "run.steps": steps, "run.evaluate_every": 0, "model.path": model, "sft.output": model,
        "store.keep_versions": steps + 1,
    }  # fmt: skip
    sets = [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
    subprocess.run([sys.executable, "-m", "oprime_cli.main", "train", "deploy/config/demo.toml", *sets], check=True, stdout=sys.stderr)
    versions = [load_file(home / "demo" / "weights" / f"v{step:08d}" / "model.safetensors") for step in (steps - 1, steps)]
    from oprime_cli.overrides import load_config

    config = load_config(Path("deploy/config/demo.toml"), [f"{name}={value}" for name, value in changes.items()])
    for dtype in ("float32", "bfloat16"):
        yield measure(f"demo, {dtype}", config.learner.learning_rate, model, dtype, *versions)


def large_rows(home: Path) -> Iterator[Row]:
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=32_768, hidden_size=640, intermediate_size=2_560, num_hidden_layers=12, num_attention_heads=10, num_key_value_heads=2
    )
    template = home / "large"
    template.mkdir()
    config.save_pretrained(template)
    for learning_rate in LEARNING_RATES:
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
        before: Tensors = {}
        for step in range(ADAM_STEPS):
            if step == ADAM_STEPS - 1:
                before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
            tokens = torch.randint(0, config.vocab_size, (1, TOKENS))
            model(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        weights = sum(parameter.numel() for parameter in model.parameters())
        yield measure(f"{weights / 1e6:.0f}M, bfloat16", learning_rate, template, "bfloat16", before, dict(model.state_dict()))


def table(rows: list[Row]) -> str:
    lines = [
        "| model | learning rate | elements changed | whole, MB | as changes, MB | share | publish, s | fetch, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        publish, fetch = (f"{row.seconds['whole'][place]:.2f} → {row.seconds['changes'][place]:.2f}" for place in (0, 1))
        lines.append(
            f"| {row.model} | {row.learning_rate:g} | {row.changed:.1%} | {row.whole_bytes / 1e6:.2f} | {row.changes_bytes / 1e6:.2f} "
            f"| {row.changes_bytes / row.whole_bytes:.1%} | {publish} | {fetch} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.weights", description="Weight versions, whole and as what changed.")
    parser.add_argument("--steps", type=int, default=6, help="train steps of the demo (default 6)")
    parser.add_argument("--model", type=Path, help="the demo's starting model, such as runs/chain-sft; without it one is made first")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-weights-") as home:
        rows = [*large_rows(Path(home)), *demo_rows(arguments.steps, arguments.model or Path(home) / "model", Path(home))]
    print(table(rows))


if __name__ == "__main__":
    main()
