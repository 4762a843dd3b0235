"""Rows with solutions whose steps are known to be right or wrong: ProcessBench's format and PRMBench's."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from oprime.tasks.readers import recognised
from oprime.tasks.responses import response_texts
from oprime.tasks.row_files import read_rows
from oprime.tasks.rows import BadRowError, RawRow, row_object, shown, text_of


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSteps:
    """A solution, step by step."""

    problem: str
    steps: tuple[str, ...]
    wrong_steps: tuple[int, ...]
    """Places of wrong steps, from 0. Of ProcessBench the first one alone, as its later steps are not labelled."""
    kind: str = ""
    """The row's own class, if it has one."""


class ProcessBenchReader:
    """`{"problem", "steps": [...], "label": 2}`: the place of the first wrong step, -1 where there is none."""

    name = "processbench"
    fields = ("problem", "steps", "label")

    def recognises(self, row: Mapping[str, Any]) -> bool:
        return "steps" in row and "label" in row

    def read(self, row: RawRow) -> LabelledSteps:
        value = row_object(row)
        steps, label = response_texts(row, value, "steps"), value.get("label")
        if not isinstance(label, int) or not -1 <= label < len(steps):
            rule = f"must be the place of the first wrong step, 0 to {len(steps) - 1}, or -1 for none, not {shown(label)}; correct the row"
            raise BadRowError(row, "label", "wrong label", rule)
        return LabelledSteps(problem=text_of(row, value, "problem"), steps=steps, wrong_steps=() if label < 0 else (label,))


class PrmBenchReader:
    """`{"modified_question", "modified_process": [...], "error_steps": [2, 3], "classification"}`: all wrong steps, counted from 1."""

    name = "prmbench"
    fields = ("modified_question", "modified_process", "error_steps", "classification")

    def recognises(self, row: Mapping[str, Any]) -> bool:
        return "modified_process" in row and "error_steps" in row

    def read(self, row: RawRow) -> LabelledSteps:
        value = row_object(row)
        steps, wrong = response_texts(row, value, "modified_process"), value.get("error_steps")
        if not isinstance(wrong, list) or not all(isinstance(place, int) and 1 <= place <= len(steps) for place in wrong):
            rule = f"must be a list of places from 1 to {len(steps)}, not {shown(wrong)}; correct the row"
            raise BadRowError(row, "error_steps", "wrong label", rule)
        kind = value.get("classification")
        return LabelledSteps(
            problem=text_of(row, value, "modified_question"),
            steps=steps,
            wrong_steps=tuple(sorted({place - 1 for place in wrong})),
            kind=kind if isinstance(kind, str) else "",
        )


FORMATS = (ProcessBenchReader(), PrmBenchReader())
"""The first that recognises a file reads it."""


def read_steps(location: str, setting: str) -> Iterator[LabelledSteps]:
    """The solutions of a JSONL, JSON or parquet file. Raises SettingsError for the file and BadRowError for a row."""
    reader = recognised(next(read_rows(location, setting), None), FORMATS)
    return (reader.read(row) for row in read_rows(location, setting, reader.fields))
