"""Whatever Redis answers becomes one line of ours: what passes by waiting is QueueUnavailableError, what never will is SettingsError."""

import asyncio
import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import redis.asyncio
import structlog

from certificates import Authority
from oprime.adapters.local_redis import LocalRedis
from oprime.adapters.memory_queue import MemoryQueue
from oprime.adapters.redis_payloads import RedisPayloads
from oprime.adapters.redis_queue import RedisQueue
from oprime.adapters.system_clock import SystemClock
from oprime.ports import ROLLOUTS, DeadLetter, Delivery, LedgerMove, Output, Queue
from oprime.runtime.consume import check_server
from oprime.runtime.errors import OprimeError, QueueUnavailableError, SettingsError
from oprime.runtime.settings import TlsSection
from oprime_cli.planning.check_sources import queue_problems
from oprime_cli.run_config import RunConfig

pytestmark = pytest.mark.redis

DELIVERY = Delivery(stream=ROLLOUTS, entry="1-0", key="0:0", payload=b"", attempt=1)
LETTER = DeadLetter(entry="1-0", stream=ROLLOUTS, key="0:0", payload_bytes=0, reason="", rollout_ids=())


async def read_ledger(queue: Queue) -> list[tuple[str, str]]:
    return [row async for row in queue.ledger_entries()]


CALLS: dict[str, Callable[[RedisQueue], Awaitable[object]]] = {
    "commit": lambda queue: queue.commit("m", outputs=[Output(stream=ROLLOUTS, key="0:0", payload=b"x")]),
    "receive": lambda queue: queue.receive(ROLLOUTS, "worker", wait_s=0),
    "receive_again": lambda queue: queue.receive_again(ROLLOUTS, "worker"),
    "receive_held": lambda queue: queue.receive_held(ROLLOUTS, "worker", wait_s=0),
    "renew": lambda queue: queue.renew([DELIVERY], "worker"),
    "give_back": lambda queue: queue.give_back([DELIVERY], "worker"),
    "acknowledge": lambda queue: queue.acknowledge([DELIVERY]),
    "dead_letter": lambda queue: queue.dead_letter(DELIVERY, reason="bad"),
    "dead_letters": lambda queue: queue.dead_letters(),
    "replay": lambda queue: queue.replay(LETTER),
    "depth": lambda queue: queue.depth(ROLLOUTS),
    "entries": lambda queue: anext(queue.entries(ROLLOUTS)),
    "ledger_counts": lambda queue: queue.ledger_counts(),
    "ledger_entries": read_ledger,
    "ledger_states": lambda queue: queue.ledger_states(["0:0"]),
    "snapshot": lambda queue: queue.snapshot(),
    "restore_ledger": lambda queue: queue.restore_ledger({"0:0": "live"}),
    "set_value": lambda queue: queue.set_value("name", b"value"),
    "value": lambda queue: queue.value("name"),
    "values": lambda queue: queue.values("name"),
    "put_notice": lambda queue: queue.put_notice("name", b"value"),
    "notice": lambda queue: queue.notice("name"),
    "take_turn": lambda queue: queue.take_turn("name", "me", seconds=1),
    "end_turn": lambda queue: queue.end_turn("name", "me"),
    "ping": lambda queue: queue.ping(),
    "check_server": lambda queue: queue.check_server(),
}


@asynccontextmanager
async def answering(answer: Callable[[list[bytes]], bytes], context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that answers every command with what `answer` makes of its words. Gives its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readline():
                words: list[bytes] = []
                for _ in range(int(head[1:]) if head.startswith(b"*") else 0):
                    length = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(length + 2))[:-2])
                writer.write(b"+OK\r\n" if words and words[0] in (b"CLIENT", b"SELECT", b"AUTH") else answer(words))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, ValueError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def queue_at(url: str) -> AsyncIterator[RedisQueue]:
    queue = RedisQueue.connect(url, run=uuid4().hex)
    try:
        yield queue
    finally:
        await queue.close()


def test_every_call_of_the_port_is_tried_here() -> None:
    assert {name for name in dir(Queue) if not name.startswith("_")} - {"close"} == set(CALLS)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("text", ["ERR something new", "NOGROUP No such key", "WRONGTYPE Operation against a key"])
async def test_no_call_lets_an_error_of_the_client_out(call: str, text: str) -> None:
    async with answering(lambda _: f"-{text}\r\n".encode()) as port, queue_at(f"redis://127.0.0.1:{port}") as queue:
        with pytest.raises(OprimeError, match=rf"^Redis at 127.0.0.1:{port} ") as caught:
            await CALLS[call](queue)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("call", CALLS)
async def test_a_server_that_hangs_up_is_waited_for_in_every_call(call: str) -> None:
    async with queue_at("redis://127.0.0.1:1") as queue:
        with pytest.raises(QueueUnavailableError, match=r"does not answer .*\(rediss:// if it encrypts\); workers wait"):
            await CALLS[call](queue)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("MISCONF Redis is configured to save RDB snapshots", QueueUnavailableError, "cannot store more"),
        ("OOM command not allowed when used memory > 'maxmemory'.", QueueUnavailableError, "more memory (maxmemory)"),
        ("READONLY You can't write against a read only replica.", QueueUnavailableError, "queue.url must name the primary"),
        ("LOADING Redis is loading the dataset in memory", QueueUnavailableError, "work goes on once it can"),
        ("BUSY Redis is busy running a script.", QueueUnavailableError, "work goes on once it can"),
        ("CLUSTERDOWN The cluster is down", QueueUnavailableError, "work goes on once it can"),
        ("TRYAGAIN Multiple keys request during rehashing", QueueUnavailableError, "work goes on once it can"),
        ("MASTERDOWN Link with MASTER is down", QueueUnavailableError, "work goes on once it can"),
        ("UNBLOCKED the stream key no longer exists", QueueUnavailableError, "it was emptied while the run went on"),
        ("NOAUTH Authentication required.", SettingsError, "queue.password_file"),
        ("WRONGPASS invalid username-password pair", SettingsError, "queue.password_file"),
        ("NOPERM this user has no permissions to run the 'hget' command", SettingsError, "all commands on the keys oprime:*"),
        ("ERR Error running script: The user executing the script can't run this command", SettingsError, "what `oprime redis-acl` says"),
        ("ERR ACL failure in script: No permissions to access a key", SettingsError, "what `oprime redis-acl` says"),
        ("MOVED 3999 127.0.0.1:6381", SettingsError, "cluster mode off"),
        ("ASK 3999 127.0.0.1:6381", SettingsError, "cluster mode off"),
        ("CROSSSLOT Keys in request don't hash to the same slot", SettingsError, "cluster mode off"),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", SettingsError, "choose another run.name"),
        ("ERR unknown command 'HGET'", SettingsError, "needs Redis 6.2"),
        ("ERR DB index is out of range", SettingsError, "a smaller number at its end"),
        ("ERR a thing nobody knows", OprimeError, "refuses a command of the queue (a thing nobody knows)"),
    ],
)
async def test_an_answer_is_told_with_its_cause_and_its_remedy(text: str, error: type[OprimeError], said: str) -> None:
    async with answering(lambda _: f"-{text}\r\n".encode()) as port, queue_at(f"redis://127.0.0.1:{port}") as queue:
        with pytest.raises(OprimeError) as caught:
            await queue.value("name")
    assert type(caught.value) is error
    assert said in str(caught.value)


async def test_a_server_of_another_protocol_is_told() -> None:
    async with answering(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as port, queue_at(f"redis://127.0.0.1:{port}") as queue:
        with pytest.raises(SettingsError, match="does not speak Redis's protocol"):
            await queue.ping()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    with LocalRedis.start(tmp_path_factory.mktemp("redis"), port=0) as running:
        yield running


def url_of(server: LocalRedis, user: str = "") -> str:
    return server.url.replace("redis://", f"redis://{user}:{server.password}@")


async def test_a_database_that_the_server_does_not_have_is_told(server: LocalRedis) -> None:
    async with queue_at(f"{url_of(server)}/15") as queue:
        await queue.ping()
    async with queue_at(f"{url_of(server)}/99") as queue:
        with pytest.raises(
            SettingsError, match=r"does not have the database that queue.url names \(DB index is out of range\): put a smaller"
        ):
            await queue.ping()


@pytest.mark.parametrize("url", ["redis://localhost/one", "redis://localhost?decode_responses=yes", "redis://localhost:0", "http://x"])
def test_an_address_that_cannot_be_one_is_refused_before_anything_is_opened(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^queue.url = "):
        RedisQueue.connect(url, run="one")


# Encryption


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of localhost, signed by itself, and its key beside it."""
    path = tmp_path_factory.mktemp("tls") / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    files = ["-addext", "subjectAltName=DNS:localhost", "-keyout", path.with_name("key.pem"), "-out", path]
    try:
        subprocess.run([*command, *files], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl here")
    return path


@asynccontextmanager
async def encrypted(certificate: Path) -> AsyncIterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    async with answering(lambda _: b"+PONG\r\n", context) as port:
        yield port


async def test_a_certificate_that_is_trusted_lets_the_queue_in(certificate: Path) -> None:
    async with encrypted(certificate) as port, queue_at(f"rediss://localhost:{port}?ssl_ca_certs={certificate}") as queue:
        await queue.ping()


@pytest.mark.parametrize(
    ("host", "options", "said"),
    [
        ("localhost", "", r"self-signed certificate.*name the certificate of its authority in queue.tls.authority_file"),
        (
            "127.0.0.1",
            "?ssl_ca_certs={certificate}",
            r"not valid for '127.0.0.1'.*write the name that is in its certificate into queue.url",
        ),
        (
            "localhost",
            "?ssl_ca_certs=/nowhere/ca.pem",
            r"No such file.*check the files that queue.tls .* names, and",
        ),
        ("localhost", "?ssl_ca_certs={key}", r"check the files that queue.tls .* names, and"),
    ],
)
async def test_a_certificate_that_is_not_trusted_is_told(certificate: Path, host: str, options: str, said: str) -> None:
    given = options.format(certificate=certificate, key=certificate.with_name("key.pem"))
    async with encrypted(certificate) as port, queue_at(f"rediss://{host}:{port}{given}") as queue:
        with pytest.raises(SettingsError, match=said) as caught:
            await queue.ping()
    assert "\n" not in str(caught.value)


async def test_a_plain_server_behind_rediss_is_told() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"-ERR Protocol error\r\n")
        writer.close()

    plain = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with queue_at(f"rediss://127.0.0.1:{plain.sockets[0].getsockname()[1]}") as queue:
        with pytest.raises(SettingsError, match=r"it does not encrypt, so begin queue.url with redis://"):
            await queue.ping()
    plain.close()


async def test_a_silent_server_behind_rediss_may_be_a_plain_one(server: LocalRedis) -> None:
    # Redis itself waits for the rest of a line.
    async with queue_at(url_of(server).replace("redis://", "rediss://")) as queue:
        with pytest.raises(QueueUnavailableError, match=r"\(redis:// if it does not encrypt\)"):
            await queue.ping()


async def test_an_encrypting_server_behind_redis_is_told(certificate: Path) -> None:
    async with encrypted(certificate) as port, queue_at(f"redis://localhost:{port}") as queue:
        with pytest.raises(QueueUnavailableError, match=r"\(rediss:// if it encrypts\)"):
            await queue.ping()


@asynccontextmanager
async def asking_for_certificates(server: TlsSection) -> AsyncIterator[str]:
    assert server.certificate_file
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=server.authority_file)
    context.load_cert_chain(server.certificate_file, server.key_file)
    context.verify_mode = ssl.CERT_REQUIRED
    async with answering(lambda _: b"+PONG\r\n", context) as port:
        yield f"rediss://localhost:{port}"


async def lets_in(url: str, tls: TlsSection) -> tuple[bool, bool]:
    """Whether the server answers the queue and the payloads."""
    queue, payloads = RedisQueue.connect(url, run="one", tls=tls), RedisPayloads.connect(url, run="one", tls=tls)
    try:
        return await answered(queue), await asyncio.to_thread(answered_to, payloads)
    finally:
        await queue.close()
        payloads.close()


async def answered(queue: RedisQueue) -> bool:
    try:
        await queue.ping()
    except OprimeError as error:
        assert "\n" not in str(error)  # noqa: PT017 - an answer of either kind is looked at
        return False
    return True


def answered_to(payloads: RedisPayloads) -> bool:
    """PONG is no number of removed keys, but it is an answer."""
    try:
        payloads.delete(["rollout/0:0/000000000001-0000000000000000"])
    except OprimeError:
        return False
    return True


async def test_certificates_in_the_settings_are_shown_and_looked_at(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    client = authority.issue("client")
    async with asking_for_certificates(authority.issue("server", "localhost")) as url:
        assert await lets_in(url, client) == (True, True)
        assert await lets_in(url, TlsSection(authority_file=authority.file)) == (False, False), "shows none"
        assert await lets_in(url, client.model_copy(update={"authority_file": None})) == (False, False), "trusts the public ones alone"
        assert await lets_in(url, authority.issue("late", days=-1)) == (False, False), "has expired"


async def test_renewed_certificates_are_used_by_the_next_connection(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with asking_for_certificates(authority.issue("server", "localhost")) as url:
        tls = authority.issue("client", days=-1)
        queue, payloads = RedisQueue.connect(url, run="one", tls=tls), RedisPayloads.connect(url, run="one", tls=tls)
        assert (await answered(queue), await asyncio.to_thread(answered_to, payloads)) == (False, False)
        authority.issue("client")
        assert (await answered(queue), await asyncio.to_thread(answered_to, payloads)) == (True, True)
        await queue.close()
        payloads.close()


# Being cancelled


@pytest.mark.parametrize("is_connected", [True, False])
async def test_whoever_is_cancelled_in_a_call_is_cancelled_at_whichever_moment(server: LocalRedis, is_connected: bool) -> None:
    """Python 3.11's asyncio.wait_for, which the client sends with, can lose a cancellation: the service would then never stop."""
    moments = 0
    while True:
        async with queue_at(url_of(server)) as queue:
            if is_connected:
                await queue.ping()
            call = asyncio.create_task(queue.set_value("name", b"value"))
            for _ in range(moments):
                await asyncio.sleep(0)
            if call.done():
                break
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await queue.value("name") in {None, b"value"}, "a later call reads no answer that is not its own"
        moments += 1
    assert moments > 3


# What the server must be


@asynccontextmanager
async def administrator(server: LocalRedis) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(url_of(server))
    try:
        yield client
    finally:
        await client.config_set("maxmemory-policy", "noeviction")
        await client.config_set("appendonly", "yes")
        await client.config_set("appendfsync", "always")
        await client.aclose()


async def test_a_server_that_keeps_everything_is_accepted(server: LocalRedis) -> None:
    with structlog.testing.capture_logs() as logs:
        async with queue_at(url_of(server)) as queue:
            await queue.check_server()
    assert logs == []


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_server_that_may_evict_is_refused_also_in_mid_run(server: LocalRedis, policy: str) -> None:
    async with administrator(server) as admin, queue_at(url_of(server)) as queue:
        await queue.check_server()
        await admin.config_set("maxmemory-policy", policy)
        with pytest.raises(SettingsError, match=rf"maxmemory-policy {policy}: it would throw away .*set maxmemory-policy noeviction"):
            await queue.check_server()


@pytest.mark.parametrize(("option", "value"), [("appendonly", "no"), ("appendfsync", "everysec"), ("appendfsync", "no")])
async def test_a_server_that_may_forget_is_accepted_with_one_warning(server: LocalRedis, option: str, value: str) -> None:
    async with administrator(server) as admin, queue_at(url_of(server)) as queue:
        await admin.config_set(option, value)
        with structlog.testing.capture_logs() as logs:
            await queue.check_server()
            await queue.check_server()
    assert [(line["event"], line["log_level"]) for line in logs] == [("redis_not_durable", "warning")]
    assert f"set {option} " in logs[0]["reason"]


@pytest.mark.parametrize(("forbidden", "warned"), [("-config", []), ("-info", []), ("-config -info", ["redis_unchecked"])])
async def test_a_managed_server_that_forbids_questions_is_asked_others(server: LocalRedis, forbidden: str, warned: list[str]) -> None:
    async with administrator(server) as admin:
        await admin.execute_command("ACL", "SETUSER", "managed", "reset", "on", f">{server.password}", "~*", "+@all", *forbidden.split())
        await admin.config_set("maxmemory-policy", "allkeys-lru")
        with structlog.testing.capture_logs() as logs:
            async with queue_at(url_of(server, "managed")) as queue:
                if warned:
                    await queue.check_server()
                else:
                    with pytest.raises(SettingsError, match="maxmemory-policy allkeys-lru"):
                        await queue.check_server()
    assert [line["event"] for line in logs] == warned


@pytest.mark.parametrize(("version", "accepted"), [("6.0.16", False), ("5.0", False), ("6.2.0", True), ("7.2.4", True), ("10.0.1", True)])
async def test_a_server_that_is_too_old_is_refused(version: str, accepted: bool) -> None:
    info = f"redis_version:{version}\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\n".encode()
    async with answering(lambda _: b"$%d\r\n%s\r\n" % (len(info), info)) as port, queue_at(f"redis://127.0.0.1:{port}") as queue:
        if accepted:
            await queue.check_server()
        else:
            with pytest.raises(SettingsError, match=rf"is version {version}: oprime needs Redis 6.2"):
                await queue.check_server()


# When it is checked


def config_of(url: str, tmp_path: Path) -> RunConfig:
    return RunConfig.from_document(
        {
            "run": {"name": uuid4().hex, "directory": str(tmp_path), "steps": 1},
            "model": {"path": "model"},
            "tasks": {"source": "chain"},
            "coordinator": {"groups_per_batch": 1},
            "queue": {"url": url},
        },
        origin="test",
    )


async def test_the_plan_refuses_a_server_that_may_evict_and_hides_the_password(server: LocalRedis, tmp_path: Path) -> None:
    config = config_of(url_of(server), tmp_path)
    async with administrator(server) as admin:
        assert await asyncio.to_thread(queue_problems, config, new_run=True) == []
        await admin.config_set("maxmemory-policy", "allkeys-lfu")
        (problem,) = await asyncio.to_thread(queue_problems, config, new_run=True)
    assert problem.startswith("queue.url = redis://:***@127.0.0.1:")
    assert "set maxmemory-policy noeviction" in problem
    assert str(server.password) not in problem


async def test_a_service_waits_for_its_server_and_then_checks_it(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    with LocalRedis.start(folder) as first:
        url = first.url
    async with queue_at(url) as queue:
        waiting = asyncio.create_task(check_server(queue, SystemClock(), asyncio.Event()))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        with LocalRedis.start(folder):
            await asyncio.wait_for(waiting, 30)


async def test_a_service_that_is_told_to_stop_waits_no_longer() -> None:
    stopping = asyncio.Event()
    async with queue_at("redis://127.0.0.1:1") as queue:
        waiting = asyncio.create_task(check_server(queue, SystemClock(), stopping))
        await asyncio.sleep(0.1)
        stopping.set()
        await asyncio.wait_for(waiting, 5)


async def test_a_service_ends_on_a_server_that_will_never_do(server: LocalRedis) -> None:
    async with administrator(server) as admin, queue_at(url_of(server)) as queue:
        await admin.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(SettingsError, match="noeviction"):
            await check_server(queue, SystemClock(), asyncio.Event())


CONFIG = """
[run]
name = "one"
directory = "{directory}"
steps = 1
[queue]
url = "{url}"
password_file = "{password_file}"
[endpoints]
verifier = "127.0.0.1:0"
"""


async def test_a_service_that_is_started_by_itself_refuses_a_server_that_may_evict(server: LocalRedis, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    password = tmp_path / "password"
    password.write_text(server.password or "", encoding="utf-8")
    address = url_of(server).replace(f":{server.password}@", "")
    config.write_text(CONFIG.format(directory=tmp_path, url=address, password_file=password), encoding="utf-8")
    async with administrator(server) as admin:
        await admin.config_set("maxmemory-policy", "allkeys-lru")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "oprime_verifier", config, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 2
    lines = [json.loads(line) for line in output.decode().splitlines() if line.startswith("{")]
    (error,) = [line["error"] for line in lines if line["event"] == "settings_refused"]
    assert "set maxmemory-policy noeviction" in error


@pytest.mark.parametrize("service", ["coordinator", "generator", "verifier", "prm", "learner"])
def test_every_service_with_a_queue_checks_its_server(service: str) -> None:
    root = Path(__file__).parents[2]
    package = root / f"services/{service}/oprime_{service}"
    code = "".join(path.read_text(encoding="utf-8") for path in package.glob("*.py"))
    if "loop.run(" in code:  # The trainers' loop does it for both.
        code += (root / "shared/oprime/runtime/train_loop.py").read_text(encoding="utf-8")
    assert "await check_server(" in code


# Emptied


async def test_a_server_that_is_emptied_under_a_reader_says_so_and_works_again(server: LocalRedis) -> None:
    async with administrator(server) as admin, queue_at(url_of(server)) as queue:
        assert await queue.receive(ROLLOUTS, "worker", wait_s=0) == []
        await queue.commit("m", moves=[LedgerMove(rollout_id="0:0", state="live")])
        await admin.flushall()
        with pytest.raises(QueueUnavailableError, match="lost its streams"):
            await queue.receive(ROLLOUTS, "worker", wait_s=0)
        assert await queue.receive(ROLLOUTS, "worker", wait_s=0) == []
        assert await queue.ledger_counts() == {"issued": 0, "live": 0}


async def test_the_memory_queue_has_a_server_that_does() -> None:
    await check_server(MemoryQueue(SystemClock()), SystemClock(), asyncio.Event())
