"""The OpenAPI document: what FastAPI makes of the routes, and what it does not know of keys and problems."""

from typing import Any, cast

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from oprime_gateway.auth import OPEN_PATHS
from oprime_gateway.models import Problem, RewardsBegin, RewardsEnd, StreamedItem
from oprime_gateway.problems import MEDIA_TYPE
from oprime_gateway.streaming import NDJSON

REF = "#/components/schemas/{model}"
LINES = (RewardsBegin, StreamedItem, RewardsEnd, Problem)
"""What the lines of a stream are."""

SECURITY = {"type": "http", "scheme": "bearer", "description": "A key of gateway.api_keys_file. Without such a file none is asked for."}


def document(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        components = made.setdefault("components", {})
        _, lines = models_json_schema([(line, "serialization") for line in LINES], ref_template=REF)
        components["schemas"] = {**lines["$defs"], **components.get("schemas", {})}
        components["securitySchemes"] = {"key": SECURITY}
        for path, methods in made["paths"].items():
            for operation in methods.values():
                _complete(path, operation)
        app.openapi_schema = made
    return app.openapi_schema


def _complete(path: str, operation: dict[str, Any]) -> None:
    """Keys where they are asked for, and problems in their own media type alone."""
    if path not in OPEN_PATHS:
        operation["security"] = [{"key": []}, {}]
    for answer in operation["responses"].values():
        content = cast(dict[str, Any], answer.get("content", {}))
        if MEDIA_TYPE in content:
            answer["content"] = {MEDIA_TYPE: {"schema": _ref("Problem")}}
        if NDJSON in content:
            content[NDJSON] = {"schema": {"description": "Each line.", "oneOf": [_ref(line.__name__) for line in LINES]}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": REF.format(model=name)}
