"""What a gateway refuses of one row, and what a person who runs a command can do about it."""

import re
from http import HTTPStatus

from oprime.client.exchange import ALONE
from oprime_cli.scoring.answer_file import Answer, Row

_LIMIT = re.compile(r"answers 413: (?:prm: )?(?P<rule>.*\((?P<setting>(?P<owner>gateway|prm)\.\w+)\))")
"""The rule that gateway or PRM names; what stands before them says 413 in its own words."""
_WITH_IT = {"gateway.max_request_items": " and prm.max_score_items"}
"""Settings that hold the same number down."""
_OWNERS = {"gateway": "gateway", "prm": "PRM"}


def refused(row: Row, said: str, status: int) -> Answer:
    """The answer to a row that was sent alone and was refused with an HTTP status; `said` is why."""
    if status != HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return {"id": row.id, "error": said}
    return {"id": row.id, "error": f"line {row.number} alone is too large: {_rule_and_remedy(said.removeprefix(ALONE))}"}


def _rule_and_remedy(said: str) -> str:
    limit = _LIMIT.search(said)
    if limit is None:
        return f"{said}; shorten the row, or raise the limit of what stands before the gateway"
    settings = limit["setting"] + _WITH_IT.get(limit["setting"], "")
    return f"{limit['rule']}; shorten the row, or start the {_OWNERS[limit['owner']]} with a larger {settings}"
