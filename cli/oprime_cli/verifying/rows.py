"""Rows of `oprime verify`: what is read, what is written, and what an earlier, interrupted run has written already."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oprime.core.verification import Outcome, Verdict, VerificationRequest
from oprime.runtime.errors import UnusableInputError
from oprime_cli.continued_file import OutRow, not_ours, rows_in
from oprime_cli.fingerprints import fingerprint_of
from oprime_cli.json_lines import json_of
from oprime_verifier.working.frames import request_to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the input."""

    number: int
    """Counted from 1."""
    id: Any
    request: VerificationRequest | None
    """None for a line that is no request."""
    problem: str = ""
    """What is wrong with the line, the rule and the remedy."""


def read_rows(path: Path) -> Iterator[Row]:
    """Every line but blank ones. Raises UnusableInputError when the file cannot be read."""
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield parse_row(line, number)
    except OSError as error:
        raise UnusableInputError(f"{path} cannot be read: {error.strerror or error}") from error


def parse_row(line: bytes, number: int) -> Row:
    name: Any = None
    try:
        value = json_of(line)
        name = value.get("id") if isinstance(value, dict) else None
        return Row(number=number, id=name, request=_request(value))
    except (ValueError, RecursionError) as error:
        return Row(number=number, id=name, request=None, problem=f"line {number} is no request: {error}")


def fingerprint(request: VerificationRequest, judges: str) -> str:
    """Of a row's content and of `judges`, the settings and version that judge it: equal ones are judged alike."""
    return fingerprint_of(request_to_json(request), judges)


def out_row(row: Row, outcome: Outcome, judges: str) -> dict[str, Any]:
    return {
        "id": row.id,
        "verdict": outcome.verdict.value,
        "score": outcome.score,
        "extracted": outcome.answer,
        "reason": outcome.reason,
        "seconds": round(outcome.timings.get("judge", outcome.timings.get("total", 0.0)), 6),
        "fingerprint": "" if row.request is None else fingerprint(row.request, judges),
    }


def written_rows(out: Path | None) -> list[OutRow]:
    """The rows that earlier runs wrote. Raises UnusableInputError where `out` holds something else."""
    rows = rows_in(out)
    for place, row in enumerate(rows, start=1):
        try:
            row["verdict"] = Verdict(row["verdict"])
        except (ValueError, KeyError) as error:
            raise not_ours(out or Path(), place, error) from error
    return rows


def is_settled(result: dict[str, Any], row: Row, judges: str) -> bool:
    """Whether an output row need not be judged again: it is a verdict, on this content, with these settings."""
    if row.request is None or result["verdict"] is Verdict.INFRA_ERROR:
        return False
    return result.get("fingerprint") == fingerprint(row.request, judges)


def _request(value: Any) -> VerificationRequest:
    if not isinstance(value, dict):
        raise ValueError(f"it is a {type(value).__name__}; write one JSON object per line")  # noqa: TRY004 - of the file, not of the call
    kind = _text(value, "kind", required=True)
    truth = value.get("ground_truth")
    tests, golds = (_tests(truth), ()) if kind == "code" else ("", _golds(truth))
    options = value.get("options")
    if options is not None and not isinstance(options, dict):
        raise ValueError(f"options is {options!r}; it must be an object")
    return VerificationRequest(
        kind=kind,
        response=_text(value, "response", required=True, empty=True),
        golds=golds,
        tests=tests,
        options=options or {},
        request_id=str(value.get("id", "")),
        metadata={key: str(item) for key, item in (value.get("metadata") or {}).items()},
        prompt=_text(value, "prompt"),
        task_id=_text(value, "task_id"),
        group_id=_text(value, "group_id"),
        data_source=_text(value, "data_source"),
    )


def _golds(truth: Any) -> tuple[str, ...]:
    """A text or number is one gold; a list holds several, any of which is right."""
    golds = truth if isinstance(truth, list) else [] if truth is None else [truth]
    if not all(isinstance(gold, str | int | float) and not isinstance(gold, bool) for gold in golds):
        raise ValueError(f"ground_truth is {_shown(truth)}; it must be a text, a number, or a list of them")
    return tuple(gold if isinstance(gold, str) else json.dumps(gold) for gold in golds)


def _tests(truth: Any) -> str:
    """Tests as the dataset has them: JSON, or a text that holds JSON."""
    if truth is None:
        return ""
    return truth if isinstance(truth, str) else json.dumps(truth)


def _text(value: dict[str, Any], name: str, *, required: bool = False, empty: bool = False) -> str:
    text = value.get(name, None if required else "")
    if not isinstance(text, str) or (required and not empty and not text):
        raise ValueError(f"{name} is {_shown(text)}; it must be a text{'' if empty or not required else ' that is not empty'}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds half a character (a lone surrogate) at place {error.start}; correct the row") from error
    return text


def _shown(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
