"""The folder of an evaluation: one folder per benchmark, and evaluation.json with the results of all.

evaluation.json
math500/settings.json    what was asked of whom, and how: an evaluation that differs does not go on with these samples
math500/samples.jsonl    one line per sample
math500/problems.jsonl   one line per problem
math500/result.json
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from oprime.evaluation.results import ProblemResult
from oprime.evaluation.samples import SAMPLES, SampleFile
from oprime.runtime.errors import OprimeError, SettingsError, UnusableInputError
from oprime.runtime.whole_files import whole_file

EVALUATION, SETTINGS, PROBLEMS, RESULT = "evaluation.json", "settings.json", "problems.jsonl", "result.json"


_WORDS = {"problems_sha256": "problems", "prompts_sha256": "prompts"}
"""What people call fields of the settings."""


class EvaluationFolder:
    """Where an evaluation keeps what it found."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def samples(self, benchmark: str, settings: Mapping[str, Any], *, fresh: bool) -> SampleFile:
        """The samples of a benchmark that were made with these settings. Raises SettingsError where others are there."""
        folder = self.path / benchmark
        written = None if fresh else read_json(folder / SETTINGS)
        wanted: dict[str, Any] = json.loads(json.dumps(settings))
        if written is not None and written != wanted:
            names: set[str] = {*written, *wanted}
            different = ", ".join(sorted(_WORDS.get(name, name) for name in names if written.get(name) != wanted.get(name)))
            raise SettingsError(
                f"{folder} has samples that were made with other settings ({different}): name another --out to keep them, or add --fresh "
                "to replace them"
            )
        self._require_same_target(benchmark, wanted)
        if fresh:
            for name in (SAMPLES, PROBLEMS, RESULT):
                (folder / name).unlink(missing_ok=True)
        if written is None:
            write_json(folder / SETTINGS, wanted)
        return SampleFile(folder / SAMPLES)

    def _require_same_target(self, benchmark: str, wanted: Mapping[str, Any]) -> None:
        for path in sorted(self.path.glob(f"*/{SETTINGS}")):
            other = read_json(path) or {}
            if path.parent.name != benchmark and other.get("target") != wanted["target"]:
                raise SettingsError(f"{self.path} has results of something else ({json.dumps(other.get('target'))}): name another --out")

    def write(self, benchmark: str, result: Mapping[str, Any], problems: Sequence[ProblemResult]) -> None:
        """Keep the result of a benchmark, and put it beside those of the others."""
        folder = self.path / benchmark
        write_whole(folder / PROBLEMS, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in problems))
        write_json(folder / RESULT, dict(result))
        found = [read_json(path) for path in sorted(self.path.glob(f"*/{RESULT}"))]
        write_json(self.path / EVALUATION, {"target": result["target"], "results": [one for one in found if one is not None]})

    def results(self) -> dict[str, dict[str, Any]]:
        """Results by benchmark. Raises SettingsError where there are none."""
        found = {path.parent.name: value for path in sorted(self.path.glob(f"*/{RESULT}")) if (value := read_json(path)) is not None}
        if not found:
            raise SettingsError(f"{self.path} has no results of `oprime eval`: evaluate it first")
        return found

    def problems(self, benchmark: str) -> list[ProblemResult]:
        """Raises UnusableInputError for a file that is damaged."""
        path = self.path / benchmark / PROBLEMS
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            return [ProblemResult(**{name: _frozen(value) for name, value in row.items()}) for row in rows]
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UnusableInputError(f"{path} cannot be read ({error}): evaluate again") from error


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is none."""
    with contextlib.suppress(OSError, ValueError):
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else None
    return None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """A file that appears whole or not at all. Raises OprimeError if the disk refuses."""
    try:
        with whole_file(path) as stream:
            stream.write(text.encode("utf-8", "surrogatepass"))
    except OSError as error:
        raise OprimeError(f"{path} cannot be written: {error.strerror or error}; make room, then run the same command again") from error
