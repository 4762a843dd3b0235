"""One rank of a learner with two DeepSpeed engines, policy and critic, in one process and one process group.

`python two_engines_worker.py OUT`: trains PPO for two steps under many splits, once with a restart between the steps; rank 0 writes the
weights to OUT/ranks-N.safetensors.
"""

import os
import sys
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from oprime.adapters.deepspeed_engine import DeepSpeedEngine
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.token_values import TokenValueModel
from oprime_learner.config import CriticSection, LearnerSection
from oprime_learner.critic_trainer import CriticTrainer
from oprime_learner.policy_trainer import PolicyTrainer
from rollouts import CONTENTS
from tiny_models import tiny_model
from two_engines import ALGORITHM, SECTION, STAGES, batch

RANKS = int(os.environ.get("WORLD_SIZE", "1"))


class Learner:
    def __init__(self, stage: int, micro_batch: int, *, seed: int = 0, dtype: Literal["float32", "bfloat16"] = "float32") -> None:
        shared = SECTION | {"zero_stage": stage, "micro_batch_rollouts": micro_batch}
        section = LearnerSection.model_validate(shared | {"ranks": RANKS, "device": "cpu", "threads": 1})
        critic = CriticSection.model_validate(shared)
        self.engines = {
            "policy": DeepSpeedEngine(TokenLogprobModel(tiny_model(seed), 7), section, dtype),
            "critic": DeepSpeedEngine(TokenValueModel(tiny_model(seed)), section.training(critic), dtype),
        }
        trained = CriticTrainer(self.engines["critic"], ALGORITHM, critic, total_steps=10)
        self.trainer = PolicyTrainer(self.engines["policy"], ALGORITHM, section, CONTENTS, pad_id=0, total_steps=10, critic=trained)

    def finish(self) -> dict[str, Tensor]:
        weights = {f"{name}/{key}": tensor for name, engine in self.engines.items() for key, tensor in engine.weights()}
        for engine in self.engines.values():
            engine.close()
        return weights


def main() -> None:
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    results: dict[str, Tensor] = {}
    for stage in STAGES:
        for micro_batch in (1, 5):
            loop = Learner(stage, micro_batch)
            loop.trainer.process(*batch(1))
            saved = out / f"ranks-{RANKS}-stage-{stage}-micro-{micro_batch}"
            for name, engine in loop.engines.items():
                engine.save(saved / name)
            loop.trainer.process(*batch(2))
            results |= {f"stage {stage} micro {micro_batch}/{key}": tensor for key, tensor in loop.finish().items()}
        resumed = Learner(stage, 5, seed=1)
        for name, engine in resumed.engines.items():
            engine.load(out / f"ranks-{RANKS}-stage-{stage}-micro-5" / name)
        resumed.trainer.process(*batch(2))
        results |= {f"stage {stage} resumed/{key}": tensor for key, tensor in resumed.finish().items()}
    half = Learner(3, 5, dtype="bfloat16")
    for step in (1, 2):
        half.trainer.process(*batch(step))
    results |= {f"bfloat16/{key}": tensor for key, tensor in half.finish().items()}
    if os.environ.get("RANK", "0") == "0":
        save_file({name: tensor.contiguous() for name, tensor in results.items()}, out / f"ranks-{RANKS}.safetensors")


if __name__ == "__main__":
    main()
