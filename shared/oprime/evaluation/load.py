"""Problems of benchmarks and of files of tasks, from files that a person brings: here, or on the hub."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from oprime.evaluation.benchmark import Benchmark, Decoding, PaperRequest, Problem, problem_of, problems_hash, prompts_hash
from oprime.runtime.errors import SettingsError, UnusableInputError
from oprime.tasks.formats.registry import open_tasks
from oprime.tasks.row_files import local_file, read_rows
from oprime.tasks.rows import BadRowError, RawRow, read_task, row_object
from oprime.tasks.sources.question import text_or_nothing

SETTING = "--data"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemSet:
    """What is asked in one benchmark: problems with their prompts, and how the benchmark decodes and grades."""

    name: str
    title: str
    version: int
    """0 for a file of tasks, whose hash alone says what it holds."""
    location: str
    file_sha256: str
    problems: Sequence[Problem]
    decoding: Decoding
    samples: int
    paper: PaperRequest | None = None
    paper_rules: str = ""

    def limited(self, limit: int) -> "ProblemSet":
        """At most `limit` problems, evenly spread; all for 0."""
        if not 0 < limit < len(self.problems):
            return self
        size = len(self.problems)
        return replace(self, problems=[self.problems[size * place // limit] for place in range(limit)])

    def described(self) -> dict[str, Any]:
        """What a result says of it: results of equal hashes are of the same problems, asked alike."""
        return {
            "benchmark": self.name,
            "title": self.title,
            "version": self.version,
            "file": self.location,
            "file_sha256": self.file_sha256,
            "problems": len(self.problems),
            "problems_sha256": problems_hash(self.problems),
            "prompts_sha256": prompts_hash(self.problems),
            "decoding": asdict(self.decoding),
            "paper_rules": self.paper_rules,
        }

    def settings(self, target: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """What decides which samples are drawn from `target`: with other settings an evaluation does not go on."""
        described = self.described()
        names = ("benchmark", "version", "problems_sha256", "prompts_sha256", "decoding")
        return {"target": dict(target), "seed": seed, **{name: described[name] for name in names}}


class DataFiles:
    """Where the files of benchmarks are: folders to look into, and files named one by one."""

    def __init__(self, places: Sequence[str]) -> None:
        """Each place is a folder or BENCHMARK=FILE, where FILE may be on the hub. Raises SettingsError for a folder that is not there."""
        named = {place: place.partition("=") for place in places if "=" in place and not Path(place).is_dir()}
        self._files = {name: location for name, _, location in named.values()}
        self._folders = [Path(place) for place in places if place not in named]
        for folder in self._folders:
            if not folder.is_dir():
                raise SettingsError(f"{SETTING} {folder}: no such folder; give one that holds benchmark files, or BENCHMARK=FILE")

    @property
    def named(self) -> frozenset[str]:
        """Benchmarks whose file is named."""
        return frozenset(self._files)

    def find(self, benchmark: Benchmark) -> str | None:
        """The file of a benchmark, if there is one."""
        if benchmark.name in self._files:
            return self._files[benchmark.name]
        paths = (folder / name for folder in self._folders for name in benchmark.files)
        return next((str(path) for path in paths if path.is_file()), None)

    def required(self, benchmark: Benchmark) -> str:
        """Raises SettingsError where there is none."""
        found = self.find(benchmark)
        if found is None:
            looked = ", ".join(map(str, self._folders)) or "no folder, as --data names none"
            raise SettingsError(
                f"{benchmark.name}: none of {', '.join(benchmark.files)} is in {looked}. Get it from {benchmark.source}, and give its "
                f"folder with --data DIR, or the file with --data {benchmark.name}=FILE"
            )
        return found


def load_benchmark(benchmark: Benchmark, files: DataFiles, *, system: str) -> ProblemSet:
    """All problems of a benchmark. Raises SettingsError without its file, UnusableInputError for a row that cannot be used."""
    location = files.required(benchmark)
    path = local_file(location, SETTING)
    asked = [found for row in read_rows(location, SETTING) if (found := benchmark.read(row)) is not None]
    if not asked:
        raise UnusableInputError(f"{location} has no problem of {benchmark.name}: is it the file from {benchmark.source}?")
    problems = [problem_of(one, index, system=system) for index, one in enumerate(asked)]
    _require_distinct(problems, location)
    return ProblemSet(
        name=benchmark.name,
        title=benchmark.title,
        version=benchmark.version,
        location=location,
        file_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        problems=problems,
        decoding=benchmark.decoding,
        samples=benchmark.samples,
        paper=benchmark.paper,
        paper_rules=benchmark.paper_rules,
    )


def load_task_file(location: str, setting: str, reader: str, decoding: Decoding) -> ProblemSet:
    """All tasks of a file in a format of docs/tasks.md, with results by data source.

    Raises SettingsError without the file, UnusableInputError for a row that cannot be used.
    """
    path = local_file(location, setting)
    chosen, rows = open_tasks(location, setting, reader)
    tasks = [read_task(row, chosen) for row in rows]
    if not tasks:
        raise UnusableInputError(f"{setting} {location} has no rows: give a file with at least one")
    problems = [Problem(id=str(index), index=index, task=task, subset=task.data_source) for index, task in enumerate(tasks)]
    name = path.name.removesuffix(path.suffix)
    return ProblemSet(
        name=name,
        title=name,
        version=0,
        location=location,
        file_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        problems=problems,
        decoding=decoding,
        samples=1,
    )


def _require_distinct(problems: Sequence[Problem], location: str) -> None:
    name, number = Counter(problem.id for problem in problems).most_common(1)[0]
    if number > 1:
        raise UnusableInputError(f"{location} has {number} problems with the id {name}: give each row an id of its own")


def row_id(row: RawRow, *fields: str) -> str:
    """The first of these fields that says something, a text or a number. Raises BadRowError."""
    value = row_object(row)
    found = next((text for name in fields if (text := text_or_nothing(value.get(name)))), "")
    if not found:
        rule = f"must be a text or a number; fields of this row are {', '.join(map(str, value)) or 'none'}: is it this benchmark's file?"
        raise BadRowError(row, " or ".join(fields), f"missing {fields[0]}", rule)
    return found


def contest_id(row: RawRow) -> str:
    """Of a problem of AIME or AMC: the end of its address, 2024_AIME_I_Problems/Problem_1; else its id, else its place in the file."""
    value = row_object(row)
    address = value.get("url")
    if isinstance(address, str) and "_Problems/" in address:
        return "/".join(address.rstrip("/").split("/")[-2:])
    return next((str(value[name]) for name in ("id", "problem_idx") if value.get(name) is not None), row.origin.rpartition("row ")[2])
