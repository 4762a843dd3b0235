"""One call of `oprime eval`: from what is named to results.

takes      a target, benchmarks, and wishes about decoding
waits for  the model's engine (only where responses are missing), then, benchmark by benchmark, for samples and their verdicts
gives      a folder with every sample and every number
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from oprime.evaluation.benchmark import Decoding
from oprime.evaluation.benchmarks.registry import BENCHMARKS, benchmark_named
from oprime.evaluation.evaluate import Evaluation, Plan, Sampling
from oprime.evaluation.folder import EvaluationFolder
from oprime.evaluation.load import DataFiles, ProblemSet, load_benchmark, load_task_file
from oprime.evaluation.of_run import decoding_for
from oprime.evaluation.results import ProblemResult, concluded, usual_ks
from oprime.evaluation.samples import Sample, SampleFile
from oprime.runtime.errors import OprimeError
from oprime.tasks.actions import short_prompt
from oprime_cli.chat.local import Adapter
from oprime_cli.console import count, say
from oprime_cli.evaluating.endpoint import Endpoint
from oprime_cli.evaluating.judges import LocalJudges
from oprime_cli.evaluating.local_model import LocalSampling, LocalSettings
from oprime_cli.evaluating.progress import Progress
from oprime_cli.evaluating.recorded import RecordedResponses
from oprime_cli.evaluating.reward_model import RewardModel, best_of, score_samples
from oprime_cli.evaluating.targets import Target, server_target
from oprime_cli.lock_file import sole_holder
from oprime_cli.overrides import apply_override
from oprime_cli.running.devices import find_gpus
from oprime_cli.running.failures import UsageError
from oprime_cli.verifying.judge_file import judges_name
from oprime_generator.config import GeneratorSettings
from oprime_verifier.config import VerifierSection, VerifierSettings

PASS_TOKENS = 16384
"""Tokens of one forward pass of a PRM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the command line says, beside the target."""

    benchmarks: Sequence[str] = ()
    tasks: Sequence[str] = ()
    reader: str = ""
    data: Sequence[str] = ()
    samples: int | None = None
    ks: Sequence[int] = ()
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    system: str | None = None
    seed: int = 0
    limit: int = 0
    out: Path | None = None
    fresh: bool = False
    jobs: int | None = None
    concurrency: int = 64
    api_key_file: Path | None = None
    reward_model: RewardModel | None = None
    overrides: Sequence[str] = ()

    @property
    def most_k(self) -> int | None:
        return self.samples or max(self.ks, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One benchmark of this call."""

    problems: ProblemSet
    plan: Plan
    file: SampleFile


async def evaluate(target: Target, wishes: Wishes) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of results, and these in the order of the benchmarks.

    Raises OprimeError; what was found before is kept, and the same call goes on from it.
    """
    if target.kind == "url" and not target.identity["model"]:
        target = server_target(target.place, await _only_model(target.place, wishes))
    folder, problems = EvaluationFolder(wishes.out or target.folder), problem_sets(wishes)
    with sole_evaluator(folder):
        return folder.path, await _evaluated(target, wishes, problems, folder)


def sole_evaluator(folder: EvaluationFolder) -> AbstractContextManager[None]:
    """Holds a folder of results. Raises BusyError while another process evaluates into it."""
    busy = f"another `oprime eval` is writing to {folder.path}"
    return sole_holder(folder.path / "lock", busy=busy, remedy="wait for it, or name another --out")


async def _evaluated(target: Target, wishes: Wishes, problems: Sequence[ProblemSet], folder: EvaluationFolder) -> list[dict[str, Any]]:
    generator, verifier = _settings(target, wishes)
    judges = judges_name(verifier)
    asked = [_asked(one, folder, target, wishes, judges) for one in problems]
    missing = sum(one.plan.responses_missing(one.file) for one in asked)
    say(f"{target.name}: {_planned(asked)}; results in {folder.path}")
    async with _sampling(target, wishes, generator, asked, missing) as sampling, LocalJudges(verifier) as local_judges:
        found = [await _evaluate_one(one, sampling, local_judges, folder, target, wishes) for one in asked]
    if wishes.reward_model is not None:
        # Only now is the model's engine gone, and with it the memory that it took.
        await asyncio.to_thread(_add_best_of, wishes.reward_model, found, folder, generator, wishes)
    return [one.result for one in found]


async def _only_model(url: str, wishes: Wishes) -> str:
    server = Endpoint(url, key_file=wishes.api_key_file)
    try:
        await server.start()
    finally:
        await server.close()
    return server.model


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """One benchmark with its results."""

    asked: Asked
    samples: Sequence[Sample]
    problems: Sequence[ProblemResult]
    result: dict[str, Any]


async def _evaluate_one(
    asked: Asked, sampling: Sampling, judges: LocalJudges, folder: EvaluationFolder, target: Target, wishes: Wishes
) -> Evaluated:
    name = asked.problems.name
    try:
        with Progress(name, asked.plan.total) as note:
            samples = await Evaluation(asked.plan, sampling, judges, asked.file, note).run()
    finally:
        asked.file.close()
    failed = sum(one.failed for one in samples)
    if failed:
        reason = next(one.grade.reason for one in samples if one.failed)
        raise OprimeError(f"{name}: {failed} samples could not be judged ({reason}): run the same command again to have them judged")
    problems, result = await concluded(
        asked.problems,
        {"kind": target.kind, "name": target.name, **target.identity},
        samples,
        judges,
        ks=_ks(wishes, asked.plan.samples),
        seed=asked.plan.seed,
        judges=asked.plan.judges,
    )
    folder.write(name, result, problems)
    return Evaluated(asked=asked, samples=samples, problems=problems, result=result)


def _add_best_of(
    model: RewardModel, found: Sequence[Evaluated], folder: EvaluationFolder, settings: GeneratorSettings, wishes: Wishes
) -> None:
    """Add to each result how well a PRM chooses among the samples."""
    from oprime_cli.prm_eval.models import LocalPrm

    prm = LocalPrm(model.source, dtype=settings.model.dtype, device="auto", pass_tokens=PASS_TOKENS)
    for one in found:
        name, samples = one.asked.problems.name, one.samples
        with Progress(f"{name}, scored by the PRM", len(samples)) as note:
            stored = score_samples(prm, model, one.asked.problems.problems, samples, folder.path / name, note)
        ks = _ks(wishes, one.asked.plan.samples)
        one.result["reward_model"] = {**model.identity, "best_of": best_of(one.problems, samples, stored, ks, wishes.seed)}
        folder.write(name, one.result, one.problems)


def problem_sets(wishes: Wishes) -> list[ProblemSet]:
    """What is asked, with the decoding that is wished for. Raises UsageError, SettingsError, UnusableInputError."""
    files = DataFiles(wishes.data)
    system = short_prompt() if wishes.system is None else wishes.system
    found = [load_benchmark(benchmark_named(name, "--on"), files, system=system) for name in _names(wishes, files)]
    found += [load_task_file(location, "--tasks", wishes.reader, Decoding()) for location in wishes.tasks]
    twice = [one.name for number, one in enumerate(found) if one.name in [other.name for other in found[:number]]]
    if twice:
        raise UsageError(f"two of what is asked are called {twice[0]}: rename a file of --tasks")
    return [_decoded(one.limited(wishes.limit), wishes) for one in found]


def _names(wishes: Wishes, files: DataFiles) -> list[str]:
    """Benchmarks that are asked for; all whose file is there for `all`, or where nothing is named."""
    if (wishes.benchmarks or wishes.tasks) and list(wishes.benchmarks) != ["all"]:
        return list(wishes.benchmarks)
    for name in files.named:
        benchmark_named(name, "--data")
    there = [name for name, benchmark in BENCHMARKS.items() if files.find(benchmark) is not None]
    if not there:
        raise UsageError("nothing to evaluate on: give --data DIR with the files of benchmarks (oprime eval list), or --tasks FILE")
    return there


def _decoded(found: ProblemSet, wishes: Wishes) -> ProblemSet:
    samples = wishes.most_k or found.samples
    # Who names a temperature means it as it stands.
    usual = (
        found.decoding if wishes.temperature is not None else decoding_for(found.decoding, samples, max_tokens=found.decoding.max_tokens)
    )
    wished = {name: value for name in ("temperature", "top_p", "max_tokens") if (value := getattr(wishes, name)) is not None}
    decoding = replace(usual, **wished)
    if samples > 1 and decoding.temperature == 0:
        raise UsageError(
            f"--temperature 0 with {samples} samples of each problem: greedy samples are all the same; give a temperature above 0"
        )
    return replace(found, decoding=decoding, samples=samples)


def _asked(found: ProblemSet, folder: EvaluationFolder, target: Target, wishes: Wishes, judges: str) -> Asked:
    settings = found.settings(target.identity, wishes.seed)
    plan = Plan(
        problems=found.problems,
        samples=found.samples,
        decoding=found.decoding,
        seed=wishes.seed,
        paper=found.paper,
        judges=judges,
        at_once=wishes.concurrency,
    )
    return Asked(problems=found, plan=plan, file=folder.samples(found.name, settings, fresh=wishes.fresh))


def _ks(wishes: Wishes, samples: int) -> list[int]:
    """The k that are reported."""
    if wishes.ks:
        return sorted(set(wishes.ks))
    return usual_ks(samples)


def _planned(asked: Sequence[Asked]) -> str:
    return ", ".join(
        f"{one.problems.name} ({count(len(one.problems.problems))} problems"
        + (f" x {one.plan.samples}" if one.plan.samples > 1 else "")
        + f", {_decoding_words(one.plan.decoding)})"
        for one in asked
    )


def _decoding_words(decoding: Decoding) -> str:
    if decoding.temperature == 0:
        return f"greedy, up to {count(decoding.max_tokens)} tokens"
    return f"T = {decoding.temperature:g}, top_p = {decoding.top_p:g}, up to {count(decoding.max_tokens)} tokens"


def _settings(target: Target, wishes: Wishes) -> tuple[GeneratorSettings, VerifierSection]:
    """The run's own settings, where it is a run, with --set on top. Raises SettingsError."""
    document: dict[str, Any] = {name: dict(section) for name, section in target.settings.items()}
    document["run"] = {"name": "evaluation", "steps": 1}
    model = document.setdefault("model", {"dtype": "bfloat16" if target.kind == "model" and find_gpus() else "float32"})
    model["path"] = target.place
    document.setdefault("verifier", {})["workers"] = wishes.jobs or os.cpu_count() or 1
    for text in wishes.overrides:
        apply_override(document, text)
    origin = f"the settings of {target.name}" + (" with --set" if wishes.overrides else "")
    return GeneratorSettings.from_document(document, origin=origin), VerifierSettings.from_document(document, origin=origin).verifier


@asynccontextmanager
async def _sampling(
    target: Target, wishes: Wishes, settings: GeneratorSettings, asked: Sequence[Asked], missing: int
) -> AsyncIterator[Sampling]:
    """Whoever samples; a model is loaded only where responses are missing."""
    if target.kind == "responses":
        yield RecordedResponses(Path(target.place))
        return
    if target.kind == "url":
        model = str(target.identity["model"])
        server: Endpoint | LocalSampling = Endpoint(target.place, model=model, key_file=wishes.api_key_file, at_once=wishes.concurrency)
    else:
        server = await asyncio.to_thread(LocalSampling, _local_settings(target, settings))
    try:
        if missing and isinstance(server, Endpoint):
            await server.start()
        elif missing and isinstance(server, LocalSampling):
            conversations = [problem.task.messages for one in asked for problem in one.plan.problems]
            await server.start(conversations, max(one.plan.decoding.max_tokens for one in asked))
        yield server
    finally:
        await server.close()


def _local_settings(target: Target, settings: GeneratorSettings) -> LocalSettings:
    return LocalSettings(
        directory=Path(target.place),
        adapter=None if target.adapter is None else Adapter(directory=target.adapter, lora=settings.learner.adapters),
        version=target.step or 0,
        generator=settings.generator,
        dtype=settings.model.dtype,
        trust_remote_code=settings.model.trust_remote_code,
    )
