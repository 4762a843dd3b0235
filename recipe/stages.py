"""The stages of the recipe. Each leaves files; one whose result is there is passed over. Returns are for the line that is printed."""

import asyncio
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from oprime.tasks.prose.problem import KINDS, Problem
from oprime.tasks.prose.rows import demonstration_row, steps_rows
from oprime.tasks.prose.teacher import ErrorKind, Teacher, problem
from oprime_cli.evaluating.judges import LocalJudges
from oprime_cli.overrides import load_config, verifier_section
from oprime_cli.run_config import RunConfig, SftSection
from oprime_cli.verifying.judge_file import judges_name
from recipe import figures
from recipe.command import oprime, read_lines, write_lines
from recipe.evaluations import Measurement, problem_sets, write_evaluation
from recipe.figures import Judged
from recipe.sampling import judged_responses

WRONG: tuple[ErrorKind, ...] = ("natural", "confuser")
SEPARATOR = r"\n\n"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of one recipe, and where its files are."""

    config: Path
    overrides: tuple[str, ...] = ()
    problems: int = 256
    """Held-out problems of the measurements before and after, half of each kind."""
    responses: int = 8
    """To each of them."""
    solutions: int = 512
    """To judge step scores with: so many with errors of each sort, and as many right ones."""

    @cached_property
    def run(self) -> RunConfig:
        return load_config(self.config, list(self.overrides))

    @property
    def sft(self) -> SftSection:
        if self.run.sft is None:
            raise SystemExit(f"{self.config} has no section [sft]: the recipe begins with it")
        return self.run.sft

    @property
    def folder(self) -> Path:
        """The run's."""
        return self.run.run.folder

    @property
    def work(self) -> Path:
        """Everything that the recipe writes besides the run and its models."""
        return self.folder.with_name(f"{self.folder.name}-work")

    @property
    def prm(self) -> Path:
        if self.run.offline_prm is None:
            raise SystemExit(f"{self.config} has no section [offline_prm]: the recipe ends with it")
        return Path(self.run.offline_prm.output)

    @property
    def heldout(self) -> list[Problem]:
        """The problems of the measurements before and after."""
        return [problem("heldout", index) for index in range(self.problems)]

    @property
    def words(self) -> list[str]:
        """The settings for a command line."""
        return [str(self.config), *(word for text in self.overrides for word in ("--set", text))]


def demonstrations(recipe: Recipe) -> str:
    teacher, sft = Teacher(recipe.run.tasks.prose.teacher_seed), recipe.sft
    number = sft.steps * sft.batch_rows
    if not Path(sft.demonstrations).exists():
        write_lines(Path(sft.demonstrations), (demonstration_row(*teacher.demonstration(index)) for index in range(number)))
    for kind in WRONG:
        if not (recipe.work / f"{kind}.jsonl").exists():
            write_lines(recipe.work / f"{kind}.jsonl", steps_rows(kind, recipe.solutions, teacher))
    return f"{number} solutions by a teacher who misunderstands {len(teacher.misconceived)} phrasings"


def sft(recipe: Recipe) -> str:
    oprime("sft", *recipe.words)
    return recipe.run.model.path


def before(recipe: Recipe) -> str:
    return _accuracy(measured(recipe, "before", Path(recipe.run.model.path)))


def prime(recipe: Recipe) -> str:
    if not (recipe.folder / "summary.json").exists():
        command = ["resume", str(recipe.folder)] if (recipe.folder / "config.toml").exists() else ["train", *recipe.words]
        oprime(*command)
    return f"{recipe.run.run.steps} steps in {recipe.folder}"


def after(recipe: Recipe) -> str:
    return _accuracy(measured(recipe, "after", newest_weights(recipe.folder)))


def newest_weights(folder: Path) -> Path:
    """The last policy that a run published."""
    return max((folder / "weights").glob("v[0-9]*"))


def version_of(weights: Path) -> int:
    """The train step after which a run published these weights."""
    return int(weights.name.removeprefix("v"))


def measured(recipe: Recipe, name: str, model: Path) -> list[Judged]:
    """Responses to the held-out problems, judged; sampled once."""
    return judged_responses(model, recipe.heldout, recipe.responses, recipe.work / name, recipe.run.generator.backend)


def _accuracy(judged: list[Judged]) -> str:
    shares = {kind: [one.accuracy for one in judged if one.kind == kind] for kind in KINDS}
    return ", ".join(f"{kind} {100 * sum(values) / len(values):.1f} %" for kind, values in shares.items())


def prm(recipe: Recipe) -> str:
    section = recipe.run.offline_prm
    rollouts = Path(section.data) if section is not None else recipe.work
    if not rollouts.exists():
        samples = itertools.chain.from_iterable(map(read_lines, sorted((recipe.folder / "samples").glob("step-*.jsonl"))))
        write_lines(rollouts, figures.rollout_rows(samples))
    oprime("prm", "train", *recipe.words)
    return str(recipe.prm)


def judge(recipe: Recipe) -> str:
    responses = measured(recipe, "before", Path(recipe.run.model.path))
    for kind in KINDS:
        write_lines(recipe.work / f"{kind}.jsonl", figures.labelled_rows(responses, kind))
    _judge(recipe, "best-of", KINDS)
    _judge(recipe, "processbench", WRONG)
    return f"{len(responses)} problems, {2 * recipe.solutions} solutions of each kind of error"


def _judge(recipe: Recipe, what: str, names: tuple[str, ...]) -> None:
    files, out = [str(recipe.work / f"{name}.jsonl") for name in names], recipe.work / f"{what}.json"
    if not out.exists():
        oprime("prm", "eval", what, *files, "--prm", str(recipe.prm), "--separator", SEPARATOR, "--out", str(out))


def report(recipe: Recipe) -> str:
    accuracy = figures.accuracies(
        measured(recipe, "before", Path(recipe.run.model.path)), measured(recipe, "after", newest_weights(recipe.folder))
    )
    judged = {what: json.loads((recipe.work / f"{what}.json").read_text(encoding="utf-8")) for what in ("best-of", "processbench")}
    found = {
        "accuracy": accuracy,
        "localisation": figures.localisation(judged["processbench"]),
        "best_of_n": figures.best_of(judged["best-of"]),
        "seconds": json.loads((recipe.work / "seconds.json").read_text(encoding="utf-8")),
    }
    tables = figures.tables(found)
    document = {**found, "tables": [asdict(table) for table in tables]}
    (recipe.folder / "recipe.json").write_text(figures.dumped(document), encoding="utf-8")
    (recipe.folder / "recipe.md").write_text(figures.markdown(tables), encoding="utf-8")
    asyncio.run(_evaluations(recipe))
    oprime("report", str(recipe.folder))
    return "\n".join([str(recipe.folder / "recipe.md"), *(f"  {kind}: {figures.headline(values)}" for kind, values in accuracy.items())])


async def _evaluations(recipe: Recipe) -> None:
    """Both measurements as evaluations of the run."""
    verifier = verifier_section(None, [])
    asked = problem_sets(recipe.heldout, recipe.responses, recipe.work)
    steps = {"before": 0, "after": version_of(newest_weights(recipe.folder))}
    async with LocalJudges(verifier) as judging:
        for name, step in steps.items():
            measured = Measurement(step=step, folder=recipe.work / name, judges=judges_name(verifier))
            await write_evaluation(recipe.folder, measured, asked, judging)


Stage = Callable[[Recipe], str]
STAGES: tuple[Stage, ...] = (demonstrations, sft, before, prime, after, prm, judge, report)


def run(recipe: Recipe, say: Callable[[str], None]) -> None:
    """All stages. The time that a stage took is that of its first run to the end."""
    times = recipe.work / "seconds.json"
    for stage in STAGES:
        began = time.monotonic()
        said = stage(recipe)
        known: dict[str, float] = json.loads(times.read_text(encoding="utf-8")) if times.exists() else {}
        known.setdefault(stage.__name__, time.monotonic() - began)
        times.parent.mkdir(parents=True, exist_ok=True)
        times.write_text(json.dumps(known), encoding="utf-8")
        say(f"[{stage.__name__}] {said} ({time.monotonic() - began:.0f} s)")
