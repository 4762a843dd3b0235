"""Failures as RFC 9457 problem details."""

from collections.abc import Mapping
from http import HTTPStatus

import grpc
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from oprime_gateway.models import Problem

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = "2"

STATUS_OF_CODE: Mapping[grpc.StatusCode, HTTPStatus] = {
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.OUT_OF_RANGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION: HTTPStatus.CONFLICT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
}
"""Every other code is the other service's failure: 502."""

Described = dict[int | str, dict[str, object]]
"""Answers by status, as FastAPI takes them."""


def described(reasons: Mapping[int, str]) -> Described:
    return {status: {"content": {MEDIA_TYPE: {}}, "description": text} for status, text in reasons.items()}


PROBLEMS: Described = described(
    {
        400: "Refused by the service that does the work, or a body that is not what its headers say",
        401: "No valid key",
        403: "Without keys, a host name that is not this machine's",
        404: "No such thing",
        408: "The request came too slowly",
        409: "A setting of the service that does the work forbids it",
        413: "Too many inputs or bytes",
        415: "A content encoding other than gzip",
        422: "The request breaks a rule of this document",
        429: "A service has too much to do; see Retry-After",
        500: "The gateway failed; its log says why",
        502: "Another service failed",
        503: "Another service is not ready; see Retry-After",
        504: "Another service took too long",
    }
)
"""What any route may answer."""


class ProblemError(Exception):
    """A request that ends with a problem."""

    def __init__(self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


class ServiceFailedError(ProblemError):
    """A call to another service failed."""

    def __init__(self, service: str, code: grpc.StatusCode, detail: str) -> None:
        status = STATUS_OF_CODE.get(code, HTTPStatus.BAD_GATEWAY)
        retry = status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS)
        super().__init__(status, f"{service}: {detail or code.name}", {"Retry-After": RETRY_AFTER_S} if retry else None)


def problem(
    status: int, detail: str, *, headers: Mapping[str, str] | None = None, errors: list[dict[str, object]] | None = None
) -> JSONResponse:
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=encodable(detail), errors=errors)
    return JSONResponse(body.model_dump(exclude_none=True), status_code=status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def encodable(text: str) -> str:
    """Text that UTF-8 can write: what clients send may hold half a character."""
    return text.encode("utf-8", "backslashreplace").decode()


def answer_with_problems(app: FastAPI) -> None:
    """Turn every failure of a route into problem details."""
    app.add_exception_handler(ProblemError, _known)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unknown)


async def _known(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProblemError)  # noqa: S101 - registered for it
    return problem(error.status, error.detail, headers=error.headers)


async def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    return problem(error.status_code, str(error.detail), headers=error.headers)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    faults: list[dict[str, object]] = [
        {
            "location": encodable(".".join(str(part) for part in fault["loc"])),
            "rule": encodable(str(fault["msg"]).removeprefix("Value error, ")),
        }
        for fault in error.errors()
    ]
    detail = "; ".join(f"{fault['location']}: {fault['rule']}" for fault in faults[:3])
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=faults)


async def _unknown(request: Request, error: Exception) -> JSONResponse:
    log.error("request_failed", path=request.url.path, exc_info=error)
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the gateway failed; its log says why")
