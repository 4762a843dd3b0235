"""One rank that meets gradients and losses that are no numbers, after a good step: `python non_finite_worker.py OUT` (RANK, ...)."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from e2e.train_engine_worker import TOKENS, Rank, message, rows_of

NAN, INFINITE = float("nan"), float("inf")
SETUPS: dict[str, dict[str, Any]] = {
    **{f"stage {stage}": {"stage": stage} for stage in range(4)},
    **{f"stage {stage}, bfloat16": {"stage": stage, "dtype": "bfloat16"} for stage in range(4)},
    **{f"stage {stage}, offloaded": {"stage": stage, "offload_optimizer": True} for stage in (1, 2, 3)},
}


def faults(guilty: bool) -> dict[str, Any]:
    """Losses by name. Only the guilty rank's is no number; the others must hear of it."""
    return {
        "nan gradient": lambda _, logprobs: logprobs.sum() * (NAN if guilty else 1.0),
        "infinite gradient": lambda _, logprobs: logprobs.sum() * (INFINITE if guilty else 1.0),
        # A constant: every gradient is finite.
        "nan loss": lambda _, logprobs: logprobs.sum() / TOKENS + (NAN if guilty else 0.0),
    }


def main() -> None:
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    rank = Rank(out)
    rank.ranks = int(os.environ["WORLD_SIZE"])
    results: dict[str, dict[str, Any]] = {}
    for setup, options in SETUPS.items():
        engine = rank.engine(**options)
        guilty = engine.rank == engine.world_size - 1
        engine.train_step([rows_of([0])], lambda _, logprobs: logprobs.sum() / TOKENS, learning_rate=1e-2)
        for name, loss in faults(guilty).items():
            before = state(engine)
            said = message(lambda engine=engine, loss=loss: engine.train_step([rows_of([0])], loss, learning_rate=1e-2))
            after = state(engine)
            unharmed = before.keys() == after.keys() and all(torch.equal(tensor, after[key]) for key, tensor in before.items())
            results[f"{setup}, {name}"] = {"said": said, "unharmed": unharmed}
        engine.close()
    (out / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(results), encoding="utf-8")


def state(engine: Any) -> dict[str, Tensor]:
    """Weights, master weights and moments."""
    kept = {f"weights/{name}": tensor.clone() for name, tensor in engine.weights()}
    for name, parameter in engine._trained():
        kept |= {f"{key}/{name}": engine._full_state(parameter, key).clone() for key in ("master", "exp_avg", "exp_avg_sq")}
    return kept | {"steps": torch.tensor(engine._adam_steps())}


if __name__ == "__main__":
    main()
