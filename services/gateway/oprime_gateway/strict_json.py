"""Request bodies as RFC 8259 has them: UTF-8, finite numbers, whole characters. Python's own reader takes more than that."""

import json
import re
from collections.abc import Awaitable, Callable, Coroutine
from email.message import Message
from http import HTTPStatus
from typing import Any, NoReturn

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""Escapes of which two make a character; only where there is one can there be a lone one."""
JSON = frozenset({"application/json", "application/json; charset=utf-8"})
"""What clients commonly call it."""


class StrictRequest(Request):
    async def json(self) -> Any:
        """Raises HTTPException (422) with what is wrong."""
        body = await self.body()
        try:
            value = json.loads(body.decode(), parse_constant=_refuse)
        except UnicodeDecodeError as error:
            raise _unusable(f"byte {error.start} is no UTF-8: JSON is UTF-8") from error
        except json.JSONDecodeError as error:
            raise _unusable(f"{error.msg} at line {error.lineno}, column {error.colno}") from error
        except (ValueError, RecursionError) as error:
            raise _unusable(str(error)) from error
        if HALF.search(body):
            _check_characters(value)
        return value


Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class StrictRoute(APIRoute):
    """A route that reads its body so."""

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            asked = StrictRequest(request.scope, request.receive)
            if self.body_field is not None:
                await _check_name(asked)
            return await handler(asked)

        return strictly


def direct_route(model: type[BaseModel], answer: Callable[[Any, Request], Awaitable[Response]]) -> type[StrictRoute]:
    """A strict route on which bodies that are a `model` are answered at once by `answer`; the others go the long way, which says what is
    wrong with them. FastAPI's own way to an endpoint takes longer than reading the body. `model` is strict: it takes nothing more from JSON
    than from Python's values."""

    class DirectRoute(StrictRoute):
        def get_route_handler(self) -> Handler:
            the_long_way = APIRoute.get_route_handler(self)

            async def directly(request: Request) -> Response:
                asked = StrictRequest(request.scope, request.receive)
                read = _read(model, await asked.body()) if asked.headers.get("content-type") in JSON else None
                if read is not None:
                    return await answer(read, asked)
                await _check_name(asked)
                return await the_long_way(asked)

            return directly

    return DirectRoute


async def _check_name(asked: Request) -> None:
    """Raises HTTPException (422) for a body that is not called JSON: it would be taken for bytes."""
    given = Message()
    given["content-type"] = name = asked.headers.get("content-type", "")
    subtype = given.get_content_subtype() if given.get_content_maintype() == "application" else ""
    if (subtype == "json" or subtype.endswith("+json")) or not await asked.body():
        return
    said = f"Content-Type is {name}" if name else "there is no Content-Type"
    raise HTTPException(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        f"the request body is not called JSON ({said}): send JSON, with the header `Content-Type: application/json`",
    )


def _read(model: type[BaseModel], body: bytes) -> BaseModel | None:
    try:
        return model.model_validate_json(body)
    except ValidationError:
        return None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON: leave it out, or send null")


def _check_characters(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _unusable(
            f"a text holds half a character (the lone surrogate \\u{ord(error.object[error.start]):04x}): it has no UTF-8; correct the text"
        ) from error


def _unusable(why: str) -> HTTPException:
    return HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, f"the request body is no JSON that can be used: {why}")
