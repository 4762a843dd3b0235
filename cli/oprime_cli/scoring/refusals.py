"""What a gateway refuses of one row, and what a person who runs a command can do about it."""

import re
from http import HTTPStatus

from oprime.client import RefusedError
from oprime_cli.scoring.answer_file import Answer, Row

FOR_ITSELF = frozenset({HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY})
"""Statuses that speak of what was sent, and so of some row alone."""
_LIMIT = re.compile(r"answers 413: (?P<rule>.*\((?P<setting>gateway\.\w+)\))")
"""The rule that a gateway names; what stands before one says 413 in its own words."""
_WITH_IT = {"gateway.max_request_items": " and prm.max_score_items"}
"""Settings that hold the same number down."""


def refused(row: Row, error: RefusedError) -> Answer:
    """The answer to a row that was sent alone. Raises the error where it is not about the row."""
    if error.status not in FOR_ITSELF:
        raise error
    if error.status != HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return {"id": row.id, "error": str(error)}
    return {"id": row.id, "error": f"line {row.number} alone is too large: {_rule_and_remedy(str(error))}"}


def _rule_and_remedy(said: str) -> str:
    limit = _LIMIT.search(said)
    if limit is None:
        return f"{said}; shorten the row, or raise the limit of what stands before the gateway"
    settings = limit["setting"] + _WITH_IT.get(limit["setting"], "")
    return f"{limit['rule']}; shorten the row, or start the gateway with a larger {settings}"
