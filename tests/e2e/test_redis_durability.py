"""What a real Redis does to a run when it dies, fills up, or cannot be started."""

import asyncio
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from oprime.adapters.local_redis import LocalRedis, find_server
from oprime.adapters.redis_queue import RedisQueue
from oprime.ports import BATCHES, LIVE, ROLLOUTS, Committed, LedgerMove, Output
from oprime.runtime.errors import QueueUnavailableError, SettingsError

pytestmark = [pytest.mark.redis, pytest.mark.e2e]

LEASE_S = 0.3
HARD_TO_QUOTE = 'p"a ss\\wörd'
WRONG = "guess-1234"

Connect = Callable[..., RedisQueue]
StartRedis = Callable[..., LocalRedis]


@pytest.fixture(scope="module", autouse=True)
def binary() -> Path:
    try:
        return find_server()
    except QueueUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def start_redis() -> Iterator[StartRedis]:
    started: list[LocalRedis] = []

    def start(folder: Path, **options: object) -> LocalRedis:
        started.append(LocalRedis.start(folder, **options))  # pyright: ignore[reportArgumentType]
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    opened: list[RedisQueue] = []

    def open_queue(url: str, **options: object) -> RedisQueue:
        options = {"run": "durability", "lease_s": LEASE_S, "max_deliveries": 3} | options
        opened.append(RedisQueue.connect(url, **options))  # pyright: ignore[reportArgumentType]
        return opened[-1]

    yield open_queue
    for queue in opened:
        await queue.close()


async def put(queue: RedisQueue, number: int, payload: bytes = b"work") -> Committed:
    name = f"{number}:0"
    moves = [LedgerMove(rollout_id=name, state=LIVE)]
    return await queue.commit(f"issue:{name}", outputs=[Output(stream=ROLLOUTS, key=name, payload=payload)], moves=moves)


# --- kill -9 ---


async def test_a_killed_server_restarts_with_everything_it_ever_confirmed(
    tmp_path: Path, start_redis: StartRedis, connect: Connect
) -> None:
    server = start_redis(tmp_path)
    queue = connect(server.url)
    confirmed: set[str] = set()
    enough = asyncio.Event()

    async def put_until_it_dies() -> None:
        number = 0
        while True:
            await put(queue, number)
            confirmed.add(f"{number}:0")
            number += 1
            if number == 500:
                enough.set()

    writing = asyncio.create_task(put_until_it_dies())
    await asyncio.wait_for(enough.wait(), 60)
    server.kill()
    with pytest.raises(QueueUnavailableError, match=rf"Redis at {tmp_path}/redis.sock does not answer .*workers wait"):
        await writing

    start_redis(tmp_path)
    # The same client goes on.
    states = {rollout_id async for rollout_id, _ in queue.ledger_entries()}
    assert confirmed <= states
    # At most the one commit that was under way may have happened without an answer.
    assert len(states) <= len(confirmed) + 1
    counts = await queue.ledger_counts()
    assert counts == {"issued": len(states), LIVE: len(states)}
    keys = [delivery.key for delivery in await queue.receive(ROLLOUTS, "worker", most=len(states) + 1, wait_s=0)]
    assert set(keys) == states
    assert len(keys) == len(states)


SLOW_DISK = """
#include <sys/syscall.h>
#include <unistd.h>
int fdatasync(int file) { usleep(950000); return syscall(SYS_fdatasync, file); }
"""


@pytest.fixture
def slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server started from here on has a disk that takes a second to say that something is on it."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build the slow disk with")
    source, library = tmp_path / "slow_disk.c", tmp_path / "slow_disk.so"
    source.write_text(SLOW_DISK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))


@pytest.mark.usefixtures("slow_disk")
async def test_nothing_confirmed_waits_for_a_slow_disk_when_its_server_is_killed(
    tmp_path: Path, start_redis: StartRedis, connect: Connect
) -> None:
    """Where it syncs once a second, a server keeps what it confirmed in its memory while the sync before is under way."""
    server = start_redis(tmp_path / "redis")
    queue = connect(server.url)
    confirmed, ends = 0, time.monotonic() + 2.2
    while time.monotonic() < ends:
        await put(queue, confirmed)
        confirmed += 1
    server.kill()
    again = start_redis(tmp_path / "redis")
    assert await connect(again.url).ledger_counts() == {"issued": confirmed, LIVE: confirmed}


async def test_loans_marks_values_and_letters_survive_a_killed_server(tmp_path: Path, start_redis: StartRedis, connect: Connect) -> None:
    server = start_redis(tmp_path)
    queue = connect(server.url)
    for number in range(3):
        await put(queue, number)
    await queue.set_value("state", b"\x00saved")
    _, second, third = await queue.receive(ROLLOUTS, "worker", most=3, wait_s=0)
    await queue.dead_letter(second, reason="bad")
    assert await queue.commit("verify:2:0", moves=[LedgerMove(rollout_id="2:0", state="dropped:error")], consumed=[third])
    server.kill()
    start_redis(tmp_path)
    await asyncio.sleep(LEASE_S * 1.1)
    assert [(again.key, again.attempt) for again in await queue.receive(ROLLOUTS, "worker", most=9, wait_s=0)] == [("0:0", 2)]
    assert [letter.key for letter in await queue.dead_letters()] == ["1:0"]
    assert not await queue.commit("verify:2:0")
    assert await queue.value("state") == b"\x00saved"
    assert await queue.ledger_counts() == {"issued": 3, LIVE: 1, "dead:rollouts": 1, "dropped:error": 1}


async def test_a_worker_that_waits_while_the_server_dies_hears_of_it_and_goes_on(
    tmp_path: Path, start_redis: StartRedis, connect: Connect
) -> None:
    server = start_redis(tmp_path)
    worker, sender = connect(server.url), connect(server.url)
    waiting = asyncio.create_task(worker.receive_held(BATCHES, "prm", wait_s=60))
    await asyncio.sleep(0.1)
    server.kill()
    with pytest.raises(QueueUnavailableError, match="does not answer"):
        await waiting
    start_redis(tmp_path)
    assert await sender.commit("cut:1", outputs=[Output(stream=BATCHES, key="step-1", payload=b"batch")])
    assert [delivery.key for delivery in await worker.receive_held(BATCHES, "prm", wait_s=5)] == ["step-1"]


async def test_a_stopped_server_keeps_its_data(tmp_path: Path, start_redis: StartRedis, connect: Connect) -> None:
    server = start_redis(tmp_path)
    await put(connect(server.url), 1)
    server.stop()
    assert not server.running
    again = start_redis(tmp_path)
    assert await connect(again.url).ledger_counts() == {"issued": 1, LIVE: 1}


class AnswerEater:
    """Stands between client and server, and cuts the connection instead of passing on the answer to a read of new entries."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._server: asyncio.Server | None = None
        self.hungry = False
        self.eaten = 0

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        reader, writer = await asyncio.open_unix_connection(self._socket_path)
        there = asyncio.create_task(self._pass_on(client_reader, writer))
        while answer := await reader.read(65_536):
            if self.hungry and b"step-" in answer:
                self.hungry = False
                self.eaten += 1
                break
            client_writer.write(answer)
            await client_writer.drain()
        there.cancel()
        with suppress(asyncio.CancelledError):
            await there
        for side in (writer, client_writer):
            side.close()
            with suppress(ConnectionError):
                await side.wait_closed()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while request := await reader.read(65_536):
                writer.write(request)
                await writer.drain()
        writer.close()


async def test_held_entries_whose_delivery_got_lost_on_the_way_are_delivered_again(
    tmp_path: Path, start_redis: StartRedis, connect: Connect
) -> None:
    start_redis(tmp_path)
    eater = AnswerEater(tmp_path / "redis.sock")
    async with eater as url:
        queue = connect(url)
        outputs = [Output(stream=BATCHES, key=f"step-{step}", payload=b"batch") for step in range(1, 5)]
        assert await queue.commit("cut", outputs=outputs)
        assert [delivery.key for delivery in await queue.receive_held(BATCHES, "prm", wait_s=0)] == ["step-1"]
        eater.hungry = True
        with pytest.raises(QueueUnavailableError, match="does not answer"):
            await queue.receive_held(BATCHES, "prm", most=2, wait_s=0)
        assert eater.eaten == 1
        rest = [await queue.receive_held(BATCHES, "prm", wait_s=0) for _ in range(4)]
        assert [[delivery.key for delivery in deliveries] for deliveries in rest] == [["step-2"], ["step-3"], ["step-4"], []]
        await queue.close()


# --- memory ---


async def put_until_full(queue: RedisQueue, payload: bytes) -> None:
    for number in range(100):
        await put(queue, number, payload)


async def test_a_full_server_says_so_and_loses_nothing(tmp_path: Path, start_redis: StartRedis, connect: Connect) -> None:
    server = start_redis(tmp_path, max_memory="12mb")
    queue = connect(server.url)
    await queue.depth(ROLLOUTS)
    payload = bytes(256 * 1024)
    with pytest.raises(QueueUnavailableError, match=r"cannot store more \(.*command not allowed.*more memory \(maxmemory\)"):
        await put_until_full(queue, payload)
    number = (await queue.ledger_counts())["issued"]
    assert 10 < number < 100
    # The refused commit left no trace.
    assert await queue.ledger_counts() == {"issued": number, LIVE: number}
    assert (await queue.depth(ROLLOUTS)).waiting == number
    with pytest.raises(QueueUnavailableError, match="cannot store more"):
        await queue.set_value("state", payload)

    deliveries = await queue.receive(ROLLOUTS, "worker", most=number, wait_s=0)
    assert [delivery.key for delivery in deliveries] == [f"{index}:0" for index in range(number)]
    assert all(delivery.payload == payload for delivery in deliveries)
    await queue.renew(deliveries, "worker")
    # Giving entries back is possible however full the server is.
    await queue.acknowledge(deliveries[:10])
    # There is room again, and the commit that was refused is still new.
    assert await put(queue, number, payload)
    assert (await queue.depth(ROLLOUTS)).pending == number - 10


# --- passwords ---


async def test_a_wrong_password_is_named_but_not_shown(tmp_path: Path, start_redis: StartRedis, connect: Connect) -> None:
    server = start_redis(tmp_path, port=0, password=HARD_TO_QUOTE)
    await connect(server.url, password=HARD_TO_QUOTE).ping()
    for wrong in (WRONG, None):
        with pytest.raises(SettingsError, match=r"Redis at 127.0.0.1:\d+ refuses the password .*queue.password_file") as refused:
            await connect(server.url, password=wrong).ping()
        assert HARD_TO_QUOTE not in str(refused.value)
        assert WRONG not in str(refused.value)


def everything_readable(server: LocalRedis, folder: Path) -> bytes:
    """What others could see of a server: its command line and its files."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return b"".join(path.read_bytes() for path in [Path(f"/proc/{server.pid}/cmdline"), *files])


async def test_a_server_on_a_port_always_has_a_password_and_hides_it(tmp_path: Path, start_redis: StartRedis, connect: Connect) -> None:
    server = start_redis(tmp_path, port=0)
    assert server.password is not None
    assert len(server.password) >= 24
    await connect(server.url, password=server.password).ping()
    assert server.password not in server.url
    assert server.password.encode() not in everything_readable(server, tmp_path)


async def test_a_password_in_the_address_is_not_shown_either(connect: Connect) -> None:
    with pytest.raises(QueueUnavailableError, match=r"Redis at 127.0.0.1:1 does not answer") as refused:
        await connect("redis://:hidden-word@127.0.0.1:1").ping()
    assert "hidden-word" not in str(refused.value)


async def test_an_address_that_is_none_is_refused(connect: Connect) -> None:
    with pytest.raises(SettingsError, match=r"queue.url = .http.*write .embedded., or an address"):
        connect("http://127.0.0.1:6379")


# --- starting ---


def test_a_taken_port_is_named(tmp_path: Path, start_redis: StartRedis) -> None:
    server = start_redis(tmp_path / "first", port=0)
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(QueueUnavailableError, match=rf"port {port} for Redis is taken .*choose another port"):
        start_redis(tmp_path / "second", port=port)


def test_servers_that_start_at_once_choose_different_ports(tmp_path: Path, start_redis: StartRedis) -> None:
    with ThreadPoolExecutor() as pool:
        servers = list(pool.map(lambda number: start_redis(tmp_path / str(number), port=0), range(4)))
    ports = {int(server.url.rpartition(":")[2]) for server in servers}
    assert len(ports) == 4
    servers[0].kill()
    # The port stays this server's until it is stopped in order.
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind(("127.0.0.1", int(servers[0].url.rpartition(":")[2])))


async def test_a_folder_in_use_is_refused_and_its_server_left_alone(tmp_path: Path, start_redis: StartRedis, connect: Connect) -> None:
    server = start_redis(tmp_path)
    with pytest.raises(QueueUnavailableError, match=rf"a Redis server \(process {server.pid}\) already uses {tmp_path}: stop it"):
        start_redis(tmp_path)
    await connect(server.url).ping()


def test_a_server_with_another_password_in_the_folder_is_named(tmp_path: Path, start_redis: StartRedis) -> None:
    start_redis(tmp_path, password=HARD_TO_QUOTE)
    with pytest.raises(QueueUnavailableError, match=r"refuses the password .*another server listens there"):
        start_redis(tmp_path, password=WRONG)


def test_a_socket_that_a_killed_server_left_behind_is_no_obstacle(tmp_path: Path, start_redis: StartRedis) -> None:
    start_redis(tmp_path).kill()
    assert (tmp_path / "redis.sock").exists()
    assert start_redis(tmp_path).running


def test_a_server_that_does_not_start_shows_the_end_of_its_log(tmp_path: Path, start_redis: StartRedis) -> None:
    (tmp_path / "redis.log").write_text("an older line\n")
    with pytest.raises(
        QueueUnavailableError, match=r"Redis did not start \(exit status 1\); the end of .*redis.log:[^$]*maxmemory"
    ) as failed:
        start_redis(tmp_path, max_memory="plenty")
    assert "an older line" not in str(failed.value)


def test_a_damaged_file_is_not_started_over(tmp_path: Path, start_redis: StartRedis) -> None:
    server = start_redis(tmp_path)
    server.stop()
    # Redis 6.2 has one file, later ones a folder of them; the damage is in the middle, where a cut-off write cannot be the cause.
    for file in [*tmp_path.glob("*.aof"), *tmp_path.glob("appendonlydir/*.aof")]:
        file.write_bytes(b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\nnonsense\r\n*1\r\n$4\r\nPING\r\n")
    with pytest.raises(QueueUnavailableError, match=r"Redis did not start[^$]*(Bad file format|reading the append only file)"):
        start_redis(tmp_path)


def test_the_folder_and_the_socket_belong_to_this_user_alone(tmp_path: Path, start_redis: StartRedis) -> None:
    start_redis(tmp_path / "run" / "redis")
    assert stat.S_IMODE((tmp_path / "run" / "redis").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "run" / "redis" / "redis.sock").stat().st_mode) == 0o700


async def test_a_folder_with_a_long_path_gets_its_socket_elsewhere(tmp_path: Path, start_redis: StartRedis, connect: Connect) -> None:
    folder = tmp_path / ("a long name with spaces, ünïcode and #?% " + "x" * 100)
    server = start_redis(folder)
    socket_path = Path(server.url.removeprefix("unix://"))
    assert len(os.fsencode(socket_path)) <= 107
    assert stat.S_IMODE(socket_path.parent.stat().st_mode) == 0o700
    await put(connect(server.url), 1)
    assert any(folder.rglob("*.aof"))
    server.stop()
    assert not socket_path.parent.exists()
    assert await connect(start_redis(folder).url).ledger_counts() == {"issued": 1, LIVE: 1}


async def test_odd_characters_in_a_short_path_work(tmp_path: Path, start_redis: StartRedis, connect: Connect) -> None:
    folder = tmp_path / 'a "b" ü#?%41'
    await connect(start_redis(folder).url).ping()
    assert (folder / "redis.sock").exists()


def test_without_any_server_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(QueueUnavailableError, match="no Redis server on this machine: install redis-server or valkey-server"):
        find_server()


@pytest.mark.parametrize(("told", "taken"), [("Redis server v=6.0.16 sha=0", False), ("Redis server v=6.2.0 sha=0", True)])
def test_a_server_on_the_path_is_preferred_unless_it_is_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, taken: bool
) -> None:
    program = tmp_path / "redis-server"
    program.write_text(f"#!/bin/sh\necho '{told}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert (find_server() == program) is taken
