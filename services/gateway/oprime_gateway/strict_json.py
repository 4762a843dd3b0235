"""Request bodies as RFC 8259 has them: UTF-8, finite numbers, whole characters. Python's own reader takes more than that."""

import json
import re
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, NoReturn

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""Escapes of which two make a character; only where there is one can there be a lone one."""


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


class StrictRoute(APIRoute):
    """A route that reads its body so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return strictly


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
