"""Channels to other services."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from oprime.runtime.grpc_server import CHANNEL_OPTIONS
from oprime.runtime.settings import TlsSection
from oprime.runtime.tls import Certificates, RenewedCertificates
from oprime.runtime.tracing import HEADER, current, is_traced, span

_RETRY_UNAVAILABLE = """{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.1s",
"maxBackoff": "2s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}"""
OPTIONS = (
    *CHANNEL_OPTIONS,
    ("grpc.service_config", _RETRY_UNAVAILABLE),
    ("grpc.lb_policy_name", "round_robin"),
    # A service that has just started is found within the retries above, not after gRPC's first second of waiting.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5000),
)
LAST_CALLS_S = 3600.0
"""How long calls that began under older certificates may go on."""


def connect(address: str, tls: TlsSection | None = None, setting: str = "endpoints.tls") -> grpc.aio.Channel:
    """Open a channel that spreads calls over all addresses of a name and retries only UNAVAILABLE.

    With `tls`, the other side must show a certificate of its authority that has the address's name. Raises SettingsError, naming
    `setting`, for files that cannot be used.
    """
    if tls is None or not tls.files:
        return grpc.aio.insecure_channel(address, interceptors=_interceptors(), options=OPTIONS)
    return RenewingChannel(address, RenewedCertificates(tls, setting))


def credentials(certificates: Certificates) -> grpc.ChannelCredentials:
    found = certificates
    return grpc.ssl_channel_credentials(found.authority or None, found.key or None, found.certificate or None)


class RenewingChannel(grpc.aio.Channel):
    """A channel whose calls use the newest certificates: gRPC's own keeps those that it was made with, also when it connects again."""

    def __init__(self, address: str, certificates: RenewedCertificates) -> None:
        self._address = address
        self._certificates = certificates
        self._used = certificates.current()
        self._channel = self._open()
        self._ending: set[asyncio.Task[None]] = set()

    def _open(self) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(self._address, credentials(self._used), interceptors=_interceptors(), options=OPTIONS)

    def _newest(self) -> grpc.aio.Channel:
        newest = self._certificates.current()
        if newest is not self._used:
            self._used, old = newest, self._channel
            self._channel = self._open()
            ending = asyncio.create_task(old.close(LAST_CALLS_S))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        return self._channel

    def _method(self, kind: str, how: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """What a stub keeps: the channel is chosen anew for each call."""

        def call(*arguments: Any, **options: Any) -> Any:
            method: Callable[..., Any] = getattr(self._newest(), kind)(*how, **named)
            return method(*arguments, **options)

        return call

    def unary_unary(self, *how: Any, **named: Any) -> Any:
        return self._method("unary_unary", how, named)

    def unary_stream(self, *how: Any, **named: Any) -> Any:
        return self._method("unary_stream", how, named)

    def stream_unary(self, *how: Any, **named: Any) -> Any:
        return self._method("stream_unary", how, named)

    def stream_stream(self, *how: Any, **named: Any) -> Any:
        return self._method("stream_stream", how, named)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._newest().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._newest().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._newest().channel_ready()

    async def close(self, grace: float | None = None) -> None:
        for ending in self._ending:
            ending.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        await self._channel.close(grace)

    async def __aenter__(self) -> "RenewingChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _interceptors() -> list[grpc.aio.ClientInterceptor] | None:
    return [TracedCalls()] if is_traced() else None


class TracedCalls(grpc.aio.UnaryUnaryClientInterceptor):
    """A call inside a span has one of its own, and tells the service of it."""

    async def intercept_unary_unary(
        self, continuation: Callable[..., Awaitable[Any]], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        if not current():
            return await continuation(client_call_details, request)
        method = client_call_details.method
        with span(method.decode() if isinstance(method, bytes) else method, kind="client") as traced:
            told = grpc.aio.ClientCallDetails(
                method=method,
                timeout=client_call_details.timeout,
                metadata=grpc.aio.Metadata(*(client_call_details.metadata or ()), (HEADER, traced.context)),
                credentials=client_call_details.credentials,
                wait_for_ready=client_call_details.wait_for_ready,
            )
            call = await continuation(told, request)
            traced.note(code=(await call.code()).name)
            return call
