"""Writes docs/settings.md from the settings models: `python -m oprime_cli.settings_docs docs/settings.md`."""

import argparse
import enum
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from oprime.runtime.settings import Section
from oprime_cli.data.settings import ActionsConfig, PrepareConfig
from oprime_cli.run_config import RunConfig

HEAD = """\
# Settings

Every setting of a run's TOML file, and of the files of `oprime data`. This page is generated from the settings models (`make docs`); edit
those.

A wrong name, type or value stops `oprime train` before anything starts, with one line that says which and why. `oprime train CONFIG --set
SECTION.NAME=VALUE` changes one setting without editing the file. Complete files to start from are in `deploy/config/`.
"""

_BOUNDS = {Gt: (">", "gt"), Ge: ("≥", "ge"), Lt: ("<", "lt"), Le: ("≤", "le")}


def settings_page() -> str:
    parts = [HEAD]
    for name, field in RunConfig.model_fields.items():
        section = section_type(field.annotation)
        if section is not None:
            parts.append(_section_table(name, section, optional=not field.is_required()))
    return "\n".join([*parts, *_data_parts()])


def _data_parts() -> Iterator[str]:
    """Of the files that are no run's: those of `oprime data`."""
    for command, config in (("prepare", PrepareConfig), ("actions", ActionsConfig)):
        about = f"Settings of a file for `oprime data {command}` ([data.md](data.md)). `[verifier]` is that of a run."
        yield f"# oprime data {command}\n\n{about}\n"
        plain = {name: field for name, field in config.model_fields.items() if not _sections_in(field)}
        yield "\n".join([*_HEAD_OF_TABLE, *(_line(name, field) for name, field in plain.items()), ""])
        for name, field in config.model_fields.items():
            for section in () if name == "verifier" else _sections_in(field):
                yield _section_table(name, section, optional=True)


def _sections_in(field: FieldInfo) -> list[type[Section]]:
    """The section that a field holds, alone or as the items of a tuple."""
    found = map(section_type, (field.annotation, *typing.get_args(field.annotation)))
    return list(dict.fromkeys(section for section in found if section is not None))


def section_type(annotation: Any) -> type[Section] | None:
    """The section that a field holds, also behind `| None`."""
    candidates = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, Section)), None)


def _flat(section: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        inner = section_type(field.annotation)
        if inner is None:
            yield prefix + name, field
        else:
            yield from _flat(inner, f"{prefix}{name}.")


def _section_table(name: str, section: type[Section], *, optional: bool) -> str:
    # Sections without a text of their own inherit pydantic's.
    about = " ".join((section.__doc__ or "").split()) if "__doc__" in vars(section) else ""
    lines = [f"## [{name}]", ""]
    if about:
        lines += [about, ""]
    if not optional:
        lines += ["Required.", ""]
    lines += [*_HEAD_OF_TABLE, *(_line(f"{name}.{setting}", field) for setting, field in _flat(section))]
    return "\n".join([*lines, ""])


_HEAD_OF_TABLE = ("| setting | type | default | meaning |", "| --- | --- | --- | --- |")


def _line(name: str, field: FieldInfo) -> str:
    return f"| `{name}` | {_cell(type_text(field))} | {_cell(default_text(field))} | {_cell(_meaning(field))} |"


def type_text(field: FieldInfo) -> str:
    bounds = [f"{_BOUNDS[type(rule)][0]} {getattr(rule, _BOUNDS[type(rule)][1]):g}" for rule in field.metadata if type(rule) in _BOUNDS]
    # Of a text whose values are looked up elsewhere, all of them stand as examples.
    kind = _annotation_text(Literal[tuple(field.examples)] if field.examples else field.annotation)
    return ", ".join([kind, *bounds])


def _annotation_text(annotation: Any) -> str:
    if typing.get_origin(annotation) is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in typing.get_args(annotation))
    if isinstance(annotation, types.UnionType):
        return " or ".join(_annotation_text(item) for item in typing.get_args(annotation) if item is not types.NoneType)
    if typing.get_origin(annotation) is dict:
        return "table"
    if typing.get_origin(annotation) is tuple:
        return f"list of {_annotation_text(typing.get_args(annotation)[0])}s"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " or ".join(f"`{json.dumps(member.value)}`" for member in annotation)
    return {str: "text", Path: "path", bool: "true or false", int: "whole number", float: "number"}[annotation]


def default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return "none"
    return f"`{json.dumps(str(value) if isinstance(value, Path) else value)}`"


def _meaning(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="file to write")
    parser.parse_args().path.write_text(settings_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
