"""TRL's GRPOTrainer on the benchmark's model and prompts: python -m bench.trl_grpo REQUEST.json, in the environment of TRL.

Sampling is that of transformers. All settings that cost time are those of the oprime runs: float32, AdamW, no KL, no checkpoints, one
optimizer step per batch, no gradient checkpointing. Prints one line of JSON.
"""

import importlib
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from oprime.core.types import Task
from oprime.lm.models import load_causal_lm
from oprime.lm.tokenizers import load_tokenizer, render_prompt
from oprime.tasks.dataset import PromptOrder, load_tasks
from oprime_cli.overrides import load_config
from oprime_cli.run_config import RunConfig
from oprime_verifier.exact_verifier import verify_chain


@dataclass(slots=True)
class Meter:
    """Seconds and tokens so far, noted at the end of each step."""

    generating: float = 0.0
    rewarding: float = 0.0
    tokens: int = 0
    rows: list[dict[str, float]] = field(default_factory=list[dict[str, float]])

    def note(self) -> None:
        self.rows.append(
            {
                "at": time.perf_counter(),
                "cpu": time.process_time(),
                "generating": self.generating,
                "rewarding": self.rewarding,
                "tokens": self.tokens,
            }
        )


def tasks_of(config: RunConfig, number: int) -> list[Task]:
    """The first prompts of a run with these settings, in the order in which its coordinator gives them out."""
    tasks = load_tasks(config.tasks, "train")
    order = PromptOrder(config.run.seed, len(tasks))
    return [tasks[order.index(position)] for position in range(number)]


def reward_function(tasks: Sequence[Task], meter: Meter) -> Callable[..., list[float]]:
    def chain(prompts: Any, completions: Any, completion_ids: Any, place: Sequence[int], **_: Any) -> list[float]:
        started = time.perf_counter()
        meter.tokens += sum(map(len, completion_ids))
        texts = [completion[-1]["content"] for completion in completions]
        scores = [verify_chain(tasks[at].verification(text)).score or 0.0 for at, text in zip(place, texts, strict=True)]
        meter.rewarding += time.perf_counter() - started
        return scores

    return chain


def trainer_of(config: RunConfig, meter: Meter, folder: str, *, steps: int, micro_batch: int) -> Any:
    trl, datasets, transformers = (importlib.import_module(name) for name in ("trl", "datasets", "transformers"))
    groups, siblings, learner = config.coordinator.groups_per_batch, config.sampling.group_size, config.learner
    tasks = tasks_of(config, steps * groups)
    tokenizer: Any = load_tokenizer(config.model.path)
    model: Any = load_causal_lm(config.model.path)
    prompts = [[{"role": message.role, "content": message.content} for message in task.messages] for task in tasks]
    own = tokenizer.apply_chat_template(prompts[0], add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
    if list(own) != render_prompt(tokenizer, tasks[0].messages):
        raise SystemExit("TRL would render the prompts otherwise than oprime: the two cannot be compared")
    generate = model.generate

    def timed(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return generate(*arguments, **named)
        finally:
            meter.generating += time.perf_counter() - started

    model.generate = timed

    class Notes(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            meter.note()

    return trl.GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=reward_function(tasks, meter),
        train_dataset=datasets.Dataset.from_list([{"prompt": prompt, "place": place} for place, prompt in enumerate(prompts)]),
        callbacks=[Notes()],
        args=trl.GRPOConfig(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=groups * siblings // micro_batch,
            num_generations=siblings,
            max_completion_length=config.sampling.max_response_tokens,
            temperature=config.sampling.temperature,
            shuffle_dataset=False,
            optim="adamw_torch",
            learning_rate=learner.learning_rate,
            lr_scheduler_type="constant",
            adam_beta1=learner.adam_beta1,
            adam_beta2=learner.adam_beta2,
            adam_epsilon=learner.adam_eps,
            weight_decay=learner.weight_decay,
            max_grad_norm=learner.gradient_clip,
            epsilon=dict(config.algorithm)["clip_low"],
            beta=0.0,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=steps,
            seed=config.run.seed,
        ),
    )


def main(request: Path) -> None:
    """The request: config, overrides (as of --set), steps, micro_batch (rollouts), threads."""
    warnings.simplefilter("ignore")
    asked = json.loads(request.read_text(encoding="utf-8"))
    torch.set_num_threads(asked["threads"])
    meter = Meter()
    with tempfile.TemporaryDirectory(prefix="oprime-bench-") as folder:
        config = load_config(Path(asked["config"]), asked["overrides"])
        trainer_of(config, meter, folder, steps=asked["steps"], micro_batch=asked["micro_batch"]).train()
    versions = {name: importlib.import_module(name).__version__ for name in ("trl", "transformers", "torch")}
    print(json.dumps({"rows": meter.rows, "versions": versions}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
