"""A grpc.aio server with health, reflection, message limits and one place that turns errors into codes."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from oprime.runtime.errors import (
    NotReadyError,
    OprimeError,
    QueueUnavailableError,
    SettingsError,
    TooBusyError,
    TooManyError,
    UnusableInputError,
    WeightsRefusedError,
    WeightVersionMissingError,
)
from oprime.runtime.settings import EndpointsSection, TlsSection
from oprime.runtime.tls import RenewedCertificates
from oprime.runtime.tracing import HEADER, span

log = structlog.get_logger()

MESSAGE_LIMIT = 256 * 1024 * 1024
SERVER_OPTIONS = (("grpc.so_reuseport", 0),)
"""A taken port is refused; otherwise two servers would share it in silence."""
CHANNEL_OPTIONS = (("grpc.max_send_message_length", MESSAGE_LIMIT), ("grpc.max_receive_message_length", MESSAGE_LIMIT))

REQUEST_ID = "x-request-id"
"""Metadata key of a call's id; a caller may choose it."""

CODES: tuple[tuple[type[OprimeError], grpc.StatusCode], ...] = (
    (TooManyError, grpc.StatusCode.OUT_OF_RANGE),
    (UnusableInputError, grpc.StatusCode.INVALID_ARGUMENT),
    (NotReadyError, grpc.StatusCode.UNAVAILABLE),
    (TooBusyError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (QueueUnavailableError, grpc.StatusCode.UNAVAILABLE),
    (WeightVersionMissingError, grpc.StatusCode.NOT_FOUND),
    (WeightsRefusedError, grpc.StatusCode.DATA_LOSS),
    (SettingsError, grpc.StatusCode.FAILED_PRECONDITION),
)
"""First match wins."""


def code_of(error: OprimeError) -> grpc.StatusCode:
    return next((code for kind, code in CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Answers named errors with their code and message, and unknown ones with INTERNAL and a log entry."""

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(("/grpc.health", "/grpc.reflection")):
            return handler
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                _unary(handler.unary_unary, handler_call_details.method), handler.request_deserializer, handler.response_serializer
            )
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                _stream(handler.unary_stream, handler_call_details.method), handler.request_deserializer, handler.response_serializer
            )
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(
                _stream(handler.stream_stream, handler_call_details.method), handler.request_deserializer, handler.response_serializer
            )
        return handler


def _unary(method: Callable[..., Awaitable[Any]], name: str) -> Callable[..., Awaitable[Any]]:
    async def answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
        async with _answering(name, context):
            return await method(request, context)

    return answer


def _stream(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    async def answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
        async with _answering(name, context):
            async for part in method(request, context):
                yield part

    return answer


@asynccontextmanager
async def _answering(name: str, context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
    """Give the call an id that its log entries carry and its caller gets back; turn named errors into their codes."""
    told = dict(context.invocation_metadata() or ())
    request_id = str(told.get(REQUEST_ID) or uuid.uuid4().hex)
    trailing = ((REQUEST_ID, request_id),)
    context.set_trailing_metadata(trailing)
    with (
        structlog.contextvars.bound_contextvars(request_id=request_id, rpc=name),
        span(name, kind="server", parent=str(told.get(HEADER, "")), request_id=request_id),
    ):
        try:
            yield
        except OprimeError as error:
            await context.abort(code_of(error), str(error), trailing)
        except grpc.aio.AbortError:
            raise
        except Exception:
            log.exception("rpc_failed")
            raise


def _credentials(certificates: RenewedCertificates) -> grpc.ServerCredentials:
    """gRPC asks for the newest certificates before each handshake."""

    def newest() -> grpc.ServerCertificateConfiguration:
        found = certificates.current()
        return grpc.ssl_server_certificate_configuration([(found.key, found.certificate)], root_certificates=found.authority)

    return grpc.dynamic_ssl_server_credentials(newest(), newest, require_client_authentication=True)


class GrpcServer:
    """Add servicers, start, then say when the service is ready."""

    def __init__(
        self, address: str, *, reflection: bool = True, tls: TlsSection | None = None, on_serving: Callable[[bool], object] = bool
    ) -> None:
        """With `tls`, only callers with a certificate of its authority are answered. `on_serving` hears whether it serves, too."""
        self.address = address
        self._tls = tls if tls and tls.files else None
        self._on_serving = on_serving
        self._reflection = reflection
        self._server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=(*CHANNEL_OPTIONS, *SERVER_OPTIONS))
        self._health = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue]
        self._names: list[str] = []

    @classmethod
    def of(cls, endpoints: EndpointsSection, service: str, on_serving: Callable[[bool], object] = bool) -> Self:
        """The server of a service, where and as its settings say."""
        return cls(endpoints.listen(service), reflection=endpoints.reflection, tls=endpoints.tls, on_serving=on_serving)

    def add(self, register: Callable[[Any, Any], None], servicer: object, service_name: str) -> None:
        register(servicer, self._server)
        self._names.append(service_name)

    async def start(self) -> int:
        """Listen and answer NOT_SERVING; returns the port. SettingsError: the address is taken, the certificates cannot be used."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if self._reflection:
            reflection.enable_server_reflection((*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        trusted = self._tls and _credentials(RenewedCertificates(self._tls, "endpoints.tls"))
        try:
            port = self._server.add_secure_port(self.address, trusted) if trusted else self._server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise SettingsError(
                f"cannot listen on {self.address}: the port is taken or the address is not of this machine; change [endpoints]"
            ) from error
        await self.set_serving(False)
        await self._server.start()
        log.info("listening", address=self.address, port=port, tls=trusted is not None)
        return port

    async def set_serving(self, serving: bool) -> None:
        self._on_serving(serving)
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, status)

    async def stop(self, grace_s: float = 5) -> None:
        """Answer NOT_SERVING, let calls in flight end, then close."""
        self._on_serving(False)
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)
