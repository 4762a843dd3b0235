"""Whether a service answers and says that it is ready."""

import functools
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from oprime.runtime.grpc_client import credentials
from oprime.runtime.settings import TlsSection
from oprime.runtime.tls import RenewedCertificates

TIMEOUT_S = 2.0
# A proxy of the environment must not carry calls between services.
CHANNEL_OPTIONS = (("grpc.enable_http_proxy", 0),)


def reachable(address: str) -> str:
    """The address at which this machine reaches a service that listens on all interfaces."""
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host in {"", "0.0.0.0", "[::]"} else address  # noqa: S104 - compared, not bound


def open_channel(address: str, tls: TlsSection | None = None, name: str = "") -> grpc.Channel:
    """A channel for few calls. With `tls` the server's certificate must be for `name`, or else for the host of `address`.

    Raises SettingsError for certificates that cannot be used.
    """
    if tls is None or not tls.files:
        return grpc.insecure_channel(reachable(address), options=CHANNEL_OPTIONS)
    certificates = RenewedCertificates(tls, "endpoints.tls").current()
    named = (("grpc.ssl_target_name_override", name),) if name else ()
    return grpc.secure_channel(reachable(address), credentials(certificates), options=CHANNEL_OPTIONS + named)


def listens(address: str) -> bool:
    """Whether anybody accepts connections there. Costs a hundredth of a gRPC channel, and most of a service's start is spent before."""
    host, _, port = reachable(address).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT_S).close()
    except (OSError, ValueError):
        return False
    return True


def grpc_health(address: str, tls: TlsSection | None = None, name: str = "") -> bool:
    """The standard health check of a gRPC server."""
    if not listens(address):
        return False
    with open_channel(address, tls, name) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError:
            return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING


def http_health(url: str) -> bool:
    """Whether GET answers 200."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError, ValueError):
        return False


def health_of(service: str, address: str, tls: TlsSection | None = None, name: str = "") -> Callable[[], bool]:
    """The check that fits a service: HTTP for the gateway, gRPC for the others. `tls` and `name` as in `open_channel`."""
    if service == "gateway":
        return functools.partial(http_health, f"http://{reachable(address)}/healthz")
    return functools.partial(grpc_health, address, tls, name)
