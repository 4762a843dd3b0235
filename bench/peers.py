"""oprime beside TRL in one run: python -m bench.peers [--steps N] [--cores N] [--staleness S].

The same model (the large size), prompts in the same order, rendered alike, group size, longest response, optimizer, verifier and cores,
for TRL's GRPOTrainer (outcome rewards), oprime on outcomes alone (`algorithm.process_weight = 0`), PRIME, and PRIME with a PRM that
scores while it trains (`prm.update = "single_forward"`). TRL is installed, pinned, into an environment of its own under runs/.
Ratios are to TRL. CPU seconds per rollout say the same where neighbours on the machine take time away.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import large
from bench.loop import STAGES, WARM_UP_STEPS, LoopResult, run_loop
from bench.operations import SAMPLING, TRAINING, ModelShape, learner_passes, matrix_rate, prm_passes
from bench.peer_environment import PeerError, peer_python
from oprime_cli.overrides import load_config
from oprime_cli.run_config import RunConfig

OUTCOME_ONLY: dict[str, Any] = {"algorithm.process_weight": 0.0, "algorithm.estimator": "grpo"}
VARIANTS: dict[str, dict[str, Any]] = {
    "oprime, outcomes": OUTCOME_ONLY,
    "PRIME": {},
    "PRIME, single_forward": {"prm.update": "single_forward"},
}
TRL_WITHIN_S = 1800.0
TRL_MICRO_BATCH = 128
"""Rollouts per forward pass. Its rows are padded to the longest of the step in any case; the whole step at once was faster than 32."""
NOTE = (
    "TRL samples with transformers' generate: on a CPU its vLLM mode fails when it first gives weights to the engine, and continuous\n"
    "batching in transformers takes several times as long. Its phases follow each other; oprime's stages overlap, so that their seconds\n"
    "may add up to more than a step. The learner's seconds are all of TRL's that are neither sampling nor rewards."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerResult:
    """Of the steps after the first ones."""

    name: str
    steps: int
    seconds: float
    cpu: dict[str, float]
    """CPU seconds, by service where there are services."""
    sampled_rollouts: float
    trained_rollouts: float
    sampled_tokens: float
    """Response tokens."""
    trained_tokens: float
    passes: int
    """Forward equivalents per trained token."""
    phases: dict[str, float]
    """Seconds per step."""
    bound: str

    @property
    def rollouts_per_second(self) -> float:
        return self.trained_rollouts / self.seconds

    @property
    def cpu_per_rollout(self) -> float:
        return sum(self.cpu.values()) / self.trained_rollouts

    def operations(self, shape: ModelShape, prompt_tokens: float) -> float:
        """That its sampled and trained tokens need."""
        return needed(shape, SAMPLING, self.sampled_rollouts, self.sampled_tokens, prompt_tokens) + needed(
            shape, self.passes, self.trained_rollouts, self.trained_tokens, prompt_tokens
        )


def needed(shape: ModelShape, passes: int, rollouts: float, response_tokens: float, prompt_tokens: float) -> float:
    """Operations of so many forward equivalents over rollouts that have `prompt_tokens` each: their share of a prompt with siblings."""
    return passes * shape.forward_operations(tokens=response_tokens + rollouts * prompt_tokens, predicted=response_tokens)


def of_loop(name: str, config: RunConfig, found: LoopResult) -> PeerResult:
    trained = learner_passes(config.learner, config.algorithm) + (prm_passes(config.prm) if config.algorithm.needs_prm else 0)
    stages = [stage for stage in STAGES if stage != "prm" or config.algorithm.needs_prm]
    return PeerResult(
        name=name,
        steps=found.steps,
        seconds=found.seconds,
        cpu=found.cpu,
        sampled_rollouts=found.sampled_rollouts,
        trained_rollouts=found.trained_rollouts,
        sampled_tokens=found.sampled_tokens,
        trained_tokens=found.trained_tokens,
        passes=trained,
        phases={stage: found.busy[stage] * found.seconds / found.steps for stage in stages},
        bound=found.bound,
    )


def of_trl(rows: Sequence[Mapping[str, float]], version: str, rollouts_per_step: int) -> PeerResult:
    """`rows` are the worker's notes at the end of each step, all of them sums."""
    first, last, steps = rows[WARM_UP_STEPS - 1], rows[-1], len(rows) - WARM_UP_STEPS
    took = {name: last[name] - first[name] for name in first}
    sampling, rewards = took["generating"] / steps, took["rewarding"] / steps
    phases = {"generator": sampling, "verifier": rewards, "learner": took["at"] / steps - sampling - rewards}
    longest = max(phases, key=lambda phase: phases[phase])
    return PeerResult(
        name=f"TRL {version}",
        steps=steps,
        seconds=took["at"],
        cpu={"all": took["cpu"]},
        sampled_rollouts=steps * rollouts_per_step,
        trained_rollouts=steps * rollouts_per_step,
        sampled_tokens=took["tokens"],
        trained_tokens=took["tokens"],
        passes=TRAINING,
        phases=phases,
        bound=f"its phases, one after the other; {longest} is the longest",
    )


def run_trl(config: RunConfig, settings: Mapping[str, Any], *, steps: int, cores: int) -> PeerResult:
    """Raises PeerError."""
    python = peer_python()
    asked = {
        "config": str(large.CONFIG),
        "overrides": [f"{key}={json.dumps(value)}" for key, value in settings.items()],
        "steps": steps,
        "micro_batch": TRL_MICRO_BATCH,
        "threads": cores,
    }
    with tempfile.TemporaryDirectory(prefix="oprime-bench-") as folder:
        request = Path(folder) / "request.json"
        request.write_text(json.dumps(asked), encoding="utf-8")
        env = os.environ | {"OMP_NUM_THREADS": str(cores), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [str(python), "-m", "bench.trl_grpo", str(request)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=TRL_WITHIN_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise PeerError(f"TRL took longer than {TRL_WITHIN_S:.0f} s for {steps} steps: give fewer --steps") from error
    if done.returncode:
        last = (done.stderr.strip() or "it gave no reason").splitlines()[-1]
        raise PeerError(f"TRL failed: {last}\nIf its environment is damaged, delete {python.parent.parent} and repeat")
    found = json.loads(done.stdout.splitlines()[-1])
    return of_trl(found["rows"], found["versions"]["trl"], config.coordinator.groups_per_batch * config.sampling.group_size)


def report(results: Sequence[PeerResult], shape: ModelShape, prompt_tokens: float, rate: float) -> str:
    """A table with one column per peer. The first is what the others are compared with."""
    lines = [f"{'':36}" + "".join(f"{one.name:>23}" for one in results)]

    def row(name: str, values: Sequence[float], shown: str) -> None:
        lines.append(f"{name:36}" + "".join(f"{format(value, shown):>23}" for value in values))

    row("rollouts sampled per second", [one.sampled_rollouts / one.seconds for one in results], ".2f")
    row("rollouts trained per second", [one.rollouts_per_second for one in results], ".2f")
    row("seconds per step", [one.seconds / one.steps for one in results], ".2f")
    for phase in STAGES:
        row(f"{phase}: seconds per step", [one.phases.get(phase, 0.0) for one in results], ".2f")
    row("response tokens per trained rollout", [one.trained_tokens / one.trained_rollouts for one in results], ".1f")
    row("CPU seconds per rollout", [one.cpu_per_rollout for one in results], ".4f")
    row("forward equivalents, trained token", [one.passes for one in results], "d")
    row("share of the matrix rate", [one.operations(shape, prompt_tokens) / one.seconds / rate for one in results], ".0%")
    base = results[0]
    row("speed", [one.rollouts_per_second / base.rollouts_per_second for one in results], ".2f")
    row("speed by CPU seconds", [base.cpu_per_rollout / one.cpu_per_rollout for one in results], ".2f")
    for one in results:
        shares = ", ".join(f"{name} {seconds / one.steps:.2f}" for name, seconds in sorted(one.cpu.items(), key=lambda item: -item[1]))
        lines.append(f"{one.name} is bound by {one.bound}; CPU seconds per step: {shares}")
    return "\n".join([*lines, NOTE])


def compare(options: argparse.Namespace) -> str:
    import torch
    from transformers import AutoConfig

    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < options.cores:
        raise PeerError(f"--cores {options.cores}, but this process may use {len(allowed)}: give that many or fewer")
    # All processes of both sides inherit it.
    os.sched_setaffinity(0, allowed[: options.cores])
    torch.set_num_threads(options.cores)
    threads = max(1, options.cores // 2)
    with tempfile.TemporaryDirectory(prefix="oprime-bench-") as folder:
        model = Path(folder) / "model"
        large.save_model(model)
        shape = ModelShape.of(AutoConfig.from_pretrained(str(model)))
        base: dict[str, Any] = {"model.path": str(model), "staleness.max_staleness": options.staleness} | {
            f"{section}.threads": threads for section in ("generator", "prm", "learner")
        }
        config = chosen(base)
        results = [run_trl(config, base, steps=options.steps, cores=options.cores)]
        for name, settings in VARIANTS.items():
            found = run_loop(large.CONFIG, base | settings, steps=options.steps)
            results.append(of_loop(name, chosen(base | settings), found))
    rate = matrix_rate(time.perf_counter, repeats=20)
    batch = f"{config.coordinator.groups_per_batch} prompts of {config.sampling.group_size} rollouts a step"
    window = f"{options.steps - WARM_UP_STEPS} steps after {WARM_UP_STEPS} of warm-up; oprime at S = {options.staleness}"
    heading = f"cores: {options.cores}, with {rate / 1e9:.0f} billion float32 operations per second; {batch}, {window}"
    return f"{heading}\n{report(results, shape, prompt_tokens(config) / config.sampling.group_size, rate)}"


def chosen(settings: Mapping[str, Any]) -> RunConfig:
    return load_config(large.CONFIG, [f"{key}={json.dumps(value)}" for key, value in settings.items()])


def prompt_tokens(config: RunConfig) -> int:
    """A start value, the operations, and the question mark."""
    return config.tasks.chain.operations + 2


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(description="oprime beside TRL, on one machine in one run.")
    parser.add_argument("--steps", type=int, default=WARM_UP_STEPS + 6, help=f"of each, the first {WARM_UP_STEPS} left out")
    parser.add_argument("--cores", type=int, default=2, help="that each side has, with all of its processes")
    parser.add_argument("--staleness", type=int, default=2, help="oprime's bound S")
    options = parser.parse_args(arguments)
    if options.steps <= WARM_UP_STEPS:
        parser.error(f"--steps {options.steps} leaves nothing to measure after {WARM_UP_STEPS} steps of warm-up: give more")
    try:
        print(compare(options))
    except PeerError as error:
        raise SystemExit(f"bench.peers: {error}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
