"""gRPC with certificates on both sides: who is let in, what is refused, and renewal without a restart."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from certificates import Authority
from oprime.runtime.errors import SettingsError
from oprime.runtime.grpc_client import RenewingChannel, connect
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.settings import EndpointsSection, TlsSection
from oprime.runtime.tls import LOOK_EVERY_S, RenewedCertificates
from oprime_cli.files import write_toml
from oprime_cli.running.health import grpc_health, health_of

HEALTH_CHECK = Path(__file__).parents[2] / "deploy/docker/healthcheck.py"
NAMES = ("localhost", "127.0.0.1")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def serving(tls: TlsSection) -> AsyncIterator[str]:
    server = GrpcServer("127.0.0.1:0", tls=tls)
    port = await server.start()
    await server.set_serving(True)
    try:
        yield f"localhost:{port}"
    finally:
        await server.stop(0)


async def answers(channel: grpc.aio.Channel) -> bool:
    """Whether the server answers a call on this channel."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
    except grpc.aio.AioRpcError:
        return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING


async def lets_in(address: str, tls: TlsSection | None) -> bool:
    async with connect(address, tls) as channel:
        return await answers(channel)


async def test_services_of_one_authority_reach_each_other(authority: Authority) -> None:
    async with serving(authority.issue("server", *NAMES)) as address:
        assert await lets_in(address, authority.issue("client"))


async def test_a_container_s_health_check_shows_the_certificates_of_the_settings(authority: Authority, tmp_path: Path) -> None:
    client, settings = authority.issue("client"), tmp_path / "run.toml"

    async def healthy(address: str, tls: TlsSection, name: str = "prm") -> bool:
        files = {setting: str(path) for setting, path in tls.files.items()}
        write_toml(settings, {"endpoints": {"prm": f"{name}:50054", "tls": files}})
        command = [sys.executable, str(HEALTH_CHECK), "prm", address.partition(":")[2], str(settings)]
        # Its file that says that a service has nothing to do is in the folder of temporary files.
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, "TMPDIR": str(tmp_path)})
        return await process.wait() == 0

    # As in a cluster: the certificate is for the service's name, and the check asks on loopback.
    async with serving(authority.issue("server", "prm")) as address:
        assert await healthy(address, client)
        assert not await healthy(address, TlsSection())
        assert not await healthy(address, client, name="learner")


async def test_nobody_else_is_let_in(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other").issue("client")
    known = authority.issue("client")
    async with serving(authority.issue("server", *NAMES)) as address:
        assert await lets_in(address, known)
        assert not await lets_in(address, None), "in plain text"
        assert not await lets_in(address, TlsSection(authority_file=authority.file)), "without a certificate"
        assert not await lets_in(address, stranger.model_copy(update={"authority_file": authority.file})), "of another authority"
        assert not await lets_in(address, authority.issue("late", days=-1)), "that has expired"


async def test_a_server_that_cannot_prove_its_name_is_not_spoken_to(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    client = authority.issue("client")
    async with serving(authority.issue("server", "elsewhere")) as address:
        assert not await lets_in(address, client)
    async with serving(Authority(tmp_path / "other").issue("server", *NAMES)) as address:
        assert not await lets_in(address, client)


async def test_the_command_line_speaks_to_servers_with_certificates(authority: Authority) -> None:
    async with serving(authority.issue("server", *NAMES)) as address:
        tls = authority.issue("operator")
        assert await asyncio.to_thread(grpc_health, address, tls)
        assert not await asyncio.to_thread(grpc_health, address)
        endpoints = EndpointsSection(bind="0.0.0.0", prm=address, tls=tls)  # noqa: S104 - a setting
        assert await asyncio.to_thread(health_of("prm", endpoints.local("prm"), tls))


async def test_renewed_certificates_are_used_by_both_sides_without_a_restart(authority: Authority) -> None:
    server, client = authority.issue("server", *NAMES, days=-1), authority.issue("client")
    async with serving(server) as address, connect(address, client) as channel:
        assert not await answers(channel), "the server's has expired"
        authority.issue("server", *NAMES)
        await asyncio.sleep(LOOK_EVERY_S)
        assert await answers(channel), "the server's was renewed"
    async with serving(server) as address, connect(address, authority.issue("client", days=-1)) as channel:
        assert not await answers(channel), "the client's has expired"
        authority.issue("client")
        await asyncio.sleep(LOOK_EVERY_S)
        assert await answers(channel), "the client's was renewed"


async def test_an_authority_may_be_replaced_as_well(authority: Authority, tmp_path: Path) -> None:
    server, client = authority.issue("server", *NAMES), authority.issue("client")
    async with serving(server) as address, connect(address, client) as channel:
        assert await answers(channel)
        # The same files from now on.
        successor = Authority(tmp_path)
        successor.issue("server", *NAMES)
        successor.issue("client")
        await asyncio.sleep(LOOK_EVERY_S)
        async with connect(address, client) as second:
            assert await answers(second)
        assert await answers(channel)


async def test_a_call_under_way_outlives_the_certificates_it_began_with(authority: Authority) -> None:
    client = authority.issue("client")
    async with serving(authority.issue("server", *NAMES)) as address, connect(address, client) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watching = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
        authority.issue("client")
        await asyncio.sleep(LOOK_EVERY_S)
        assert await answers(channel)
        assert not watching.done()
        watching.cancel()


async def test_half_a_renewal_is_waited_out(authority: Authority) -> None:
    tls = authority.issue("server", *NAMES)
    assert tls.key_file is not None
    certificates = RenewedCertificates(tls, "endpoints.tls")
    first, key = certificates.current(), tls.key_file.read_bytes()
    authority.issue("server", *NAMES)
    renewed = tls.key_file.read_bytes()
    tls.key_file.write_bytes(key)
    with structlog.testing.capture_logs() as logs:
        await asyncio.sleep(LOOK_EVERY_S)
        assert certificates.current() is first
        await asyncio.sleep(LOOK_EVERY_S)
        assert certificates.current() is first
    assert [line["event"] for line in logs] == ["certificates_not_renewed"]
    tls.key_file.write_bytes(renewed)
    await asyncio.sleep(LOOK_EVERY_S)
    assert certificates.current().key == renewed


async def test_unchanged_files_keep_their_channel(authority: Authority) -> None:
    async with serving(authority.issue("server", *NAMES)) as address:
        channel = connect(address, authority.issue("client"))
        assert isinstance(channel, RenewingChannel)
        before = channel._newest()
        await asyncio.sleep(LOOK_EVERY_S)
        assert channel._newest() is before
        await channel.close()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"key_file": "missing.key"}, r"endpoints.tls.key_file \(.*missing.key\) cannot be read: No such file"),
        ({"key_file": "client.key"}, r"endpoints.tls.certificate_file .*endpoints.tls.key_file .*are no pair: .*the certificate's own"),
        ({"certificate_file": "junk"}, r"endpoints.tls.certificate_file .*are no pair"),
        ({"authority_file": "junk"}, r"endpoints.tls.authority_file \(.*junk\) holds no certificates in PEM"),
    ],
)
async def test_files_that_cannot_be_used_are_named_before_anything_listens(
    authority: Authority, tmp_path: Path, damage: dict[str, str], said: str
) -> None:
    (tmp_path / "junk").write_text("junk")
    authority.issue("client")
    tls = authority.issue("server", *NAMES).model_copy(update={name: tmp_path / file for name, file in damage.items()})
    server = GrpcServer("127.0.0.1:0", tls=tls)
    with pytest.raises(SettingsError, match=said):
        await server.start()
    await server.stop(0)
    with pytest.raises(SettingsError, match=said):
        connect("localhost:1", tls)
