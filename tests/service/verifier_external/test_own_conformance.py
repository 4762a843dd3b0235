"""Our own verifier passes the conformance suite: over gRPC, and through the gateway."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn

from certificates import Authority
from oprime.adapters.prometheus_metrics import PrometheusMetrics
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.settings import TlsSection
from oprime_cli.main import main
from oprime_gateway.api import Gateway, build_api
from oprime_gateway.config import GatewaySettings
from oprime_gateway.services import Services
from oprime_proto.v1.verifier_pb2_grpc import add_VerifierServiceServicer_to_server
from oprime_verifier.config import VerifierSection
from oprime_verifier.conformance.runner import Report, run
from oprime_verifier.conformance.targets import TargetFailedError, open_target
from oprime_verifier.offer import Offer
from oprime_verifier.sandbox_health import SandboxHealth
from oprime_verifier.servicer import VerifierServicer

KEY = "correct-horse-battery-staple"


@asynccontextmanager
async def service(tls: TlsSection | None = None) -> AsyncIterator[str]:
    """The address of a verifier service with the built-in verifiers; with `tls` it asks for certificates."""
    offer = Offer(VerifierSection(workers=1, deadline_s=20.0))
    health = SandboxHealth(offer.pool, PrometheusMetrics(), strict=False)
    server = GrpcServer("127.0.0.1:0", tls=tls)
    servicer = VerifierServicer(offer.dispatcher, health, concurrency=1, deadline_s=20.0)
    server.add(add_VerifierServiceServicer_to_server, servicer, "oprime_proto.v1.VerifierService")
    try:
        await offer.start()
        yield f"127.0.0.1:{await server.start()}"
    finally:
        await server.stop(0)
        await offer.close()


@asynccontextmanager
async def gateway(verifier: str, folder: Path) -> AsyncIterator[str]:
    """The URL of a gateway in front of a verifier service."""
    document = {
        "run": {"name": "demo", "steps": 1, "directory": str(folder)},
        "model": {"path": "tiny"},
        "endpoints": {"verifier": verifier},
    }
    settings = GatewaySettings.from_document(document, origin="test")
    services = Services.open({"verifier": verifier}, timeout_s=60.0)
    api = build_api(Gateway(settings=settings, services=services, metrics=PrometheusMetrics(), of_run=PrometheusMetrics, keys=(KEY,)))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(api, log_config=None, access_log=False, lifespan="off"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()
        await services.close()


async def report_of(target: str, kind: str, key_file: Path | None = None) -> Report:
    opened = open_target(target, key_file=key_file)
    try:
        return await run(opened, kind=kind)
    finally:
        await opened.close()


def is_passed(report: Report) -> None:
    assert [(result.name, result.detail, result.failures) for result in report.results if result.status == "failed"] == []
    assert report.passed


@pytest.mark.parametrize("kind", ["math", "exact", "chain"])
async def test_the_service_passes_over_grpc(kind: str) -> None:
    async with service() as address:
        is_passed(await report_of(address, kind))


async def test_the_command_shows_the_certificates_of_the_settings(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with service(authority.issue("server", "127.0.0.1")) as address:
        command = ["verifier", "test", address, "--kind", "exact"]
        for name, path in authority.issue("client").files.items():
            command += ["--set", f"endpoints.tls.{name}={path}"]
        assert await asyncio.to_thread(main, command) == 0
        plain = open_target(address)
        with pytest.raises(TargetFailedError, match="UNAVAILABLE"):
            await plain.describe()
        await plain.close()


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.toml").write_text(f'[endpoints.tls]\nauthority_file = "{tmp_path}/ca.crt"\n', encoding="utf-8")
    assert main(["verifier", "test", "127.0.0.1:1", "--config", str(tmp_path / "run.toml")]) == 2
    assert "endpoints.tls" in capsys.readouterr().err


@pytest.mark.slow
async def test_the_service_passes_with_hostile_programs() -> None:
    async with service() as address:
        report = await report_of(address, "code")
    is_passed(report)
    assert any(result.name == "attacks get their verdicts" for result in report.results)


async def test_the_service_passes_through_the_gateway(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(KEY + "\n", encoding="utf-8")
    async with service() as address, gateway(address, tmp_path) as url:
        is_passed(await report_of(url, "math", key_file))
