"""Host 0 of a generator and another of its hosts, over a real connection: who may join, what is fetched, who ends when."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from moved_loop import move, run_moved
from oprime.ports import WeightVersion
from oprime.runtime.errors import NotReadyError, OprimeError, SettingsError, WeightsRefusedError
from oprime.runtime.free_ports import reserve_port
from oprime.runtime.rank_launcher import Hosts
from oprime_generator.host_line import ALIVE_EVERY_S, SILENT_S
from oprime_generator.host_zero import HostZero, work_for
from oprime_generator.other_hosts import MANIFEST, Copy, OtherHosts, require_hosts, require_same_weights
from oprime_generator.sampler import SamplerDiedError

ARGUMENTS = {"tensor_parallel_size": "2", "dtype": "'float32'"}


class IdleWorkers:
    """Workers of no engine, which end when a test wants them to."""

    agreed = ARGUMENTS

    def __init__(self) -> None:
        self.port = 0
        self.end = asyncio.Event()

    async def start(self, port: int) -> None:
        self.port = port

    async def watch(self) -> None:
        await self.end.wait()
        raise SamplerDiedError("a worker of vLLM's engine has ended: VllmWorker-1 was ended by SIGKILL")


class Network:
    """What lies between host 1 and host 0, until a test cuts it: then nothing passes, and nobody hears of it."""

    def __init__(self, to: int) -> None:
        self.to = to
        self._server: asyncio.Server | None = None
        self._passing: set[asyncio.Task[Any]] = set()
        self._is_cut = False
        self.port = 0
        self.passed = {"to host 0": 0, "to host 1": 0}
        """Lines."""

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        self._is_cut = True

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:  # host 0 does not listen yet
            writer.close()
            return
        try:
            await asyncio.gather(self._pass(reader, back, "to host 0"), self._pass(there, writer, "to host 1"))
        finally:
            writer.close()
            back.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        while line := await reader.readline():
            if self._is_cut:
                continue
            writer.write(line)
            self.passed[way] += 1
        if not self._is_cut:
            writer.close()


class Pair:
    """Both ends, joined."""

    def __init__(self, other_hosts: OtherHosts, host_0: HostZero, folder: Path) -> None:
        self.other_hosts = other_hosts
        self.host_0 = host_0
        self.workers = IdleWorkers()
        self.stopping = asyncio.Event()
        self.ready = False
        self._folder = folder
        self._work: asyncio.Task[None] | None = None

    def version(self, version: int) -> WeightVersion:
        """What the other host's store gives: version 1 alone."""
        if version != 1:
            raise WeightsRefusedError(f"no weight version {version} in /runs/weights; it holds 1")
        return WeightVersion(version=1, directory=self._folder, bytes=0)

    def note_ready(self, ready: bool) -> None:
        self.ready = ready

    async def join(self) -> int:
        """Let both meet; the port that host 0 was given."""
        self._work = asyncio.create_task(
            work_for(self.host_0, self.workers, self.version, stopping=self.stopping, note_ready=self.note_ready)
        )
        return await self.other_hosts.meet(ARGUMENTS)

    async def ended(self) -> None:
        """The end of the other host's work. Raises what ended it."""
        assert self._work is not None
        await asyncio.wait_for(self._work, 10)

    @property
    def working(self) -> bool:
        """Whether the other host's work goes on."""
        return self._work is not None and not self._work.done()

    async def end_work(self) -> None:
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)


def free_port() -> int:
    with reserve_port("127.0.0.1") as keeper:
        return keeper.getsockname()[1]


@asynccontextmanager
async def two_hosts(folder: Path, *, port: int | None = None, seen_at: int | None = None) -> AsyncIterator[Pair]:
    """Host 0 listens at `port`; host 1 finds it at `seen_at`, the same one where nothing lies between."""
    (folder / MANIFEST).write_text("{}")
    port = port or free_port()
    zero, one = (Hosts(count=2, index=index, host="127.0.0.1", port=at) for index, at in enumerate((port, seen_at or port)))
    other_hosts, host_0 = OtherHosts(zero), HostZero(one)
    pair = Pair(other_hosts, host_0, folder)
    try:
        yield pair
    finally:
        await other_hosts.close()
        await pair.end_work()
        await host_0.close()


@asynccontextmanager
async def two_hosts_apart(folder: Path) -> AsyncIterator[tuple[Pair, Network]]:
    """Two hosts that have joined over a network that can be cut."""
    network = Network(free_port())
    await network.open()
    try:
        async with two_hosts(folder, port=network.to, seen_at=network.port) as pair:
            await pair.join()
            await until(lambda: pair.ready)
            yield pair, network
    finally:
        await network.close()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.01)


async def test_all_learn_where_the_workers_meet_and_end_well_when_host_0_does(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as pair:
        port = await pair.join()
        await until(lambda: pair.ready)
        assert pair.workers.port == port > 0
        await pair.other_hosts.end()
        await pair.ended()
        assert pair.other_hosts.loss == ""


async def test_a_host_may_come_first_and_waits(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as pair:
        joining = asyncio.create_task(pair.host_0.join(ARGUMENTS))
        await asyncio.sleep(0.1)
        assert not joining.done()
        port = await pair.other_hosts.meet(ARGUMENTS)
        assert await joining == port


async def test_a_version_is_fetched_on_every_host_or_refused_in_its_words(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as pair:
        await pair.join()
        assert await pair.other_hosts.fetch(1) == (Copy.of(tmp_path),)
        # Asked for together, as a follower and a call of Activate may.
        assert await asyncio.gather(pair.other_hosts.fetch(1), pair.other_hosts.fetch(1)) == [(Copy.of(tmp_path),)] * 2
        with pytest.raises(WeightsRefusedError, match="host 1: no weight version 2 in /runs/weights; it holds 1"):
            await pair.other_hosts.fetch(2)
        assert await pair.other_hosts.fetch(1) == (Copy.of(tmp_path),)


async def test_nothing_is_asked_of_hosts_that_have_not_joined(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as pair:
        with pytest.raises(NotReadyError, match="not all hosts of this generator have joined yet"):
            await pair.other_hosts.fetch(1)
        await pair.join()
        assert await pair.other_hosts.fetch(1) == (Copy.of(tmp_path),)
    assert await OtherHosts(Hosts()).fetch(1) == ()


async def test_a_host_with_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as pair:
        meeting = asyncio.create_task(pair.other_hosts.meet(ARGUMENTS))
        with pytest.raises(
            SettingsError, match=r"host 1 has other settings than host 0: dtype = \"'bfloat16'\" there and \"'float32'\" here"
        ):
            await pair.host_0.join({**ARGUMENTS, "dtype": "'bfloat16'"})
        assert not meeting.done()
        # Host 0 goes on waiting for the right one.
        joining = asyncio.create_task(pair.host_0.join(ARGUMENTS))
        assert await meeting == await joining


async def test_nobody_joins_twice(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as pair:
        await pair.join()
        again = HostZero(Hosts(count=2, index=1, host="127.0.0.1", port=pair.other_hosts.hosts.port))
        with pytest.raises(SettingsError, match="host 1 has joined already"):
            await again.join(ARGUMENTS)
        await again.close()
        assert pair.other_hosts.loss == ""


async def test_when_host_0_goes_without_a_word_the_others_fail(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as pair:
        await pair.join()
        await pair.other_hosts.close()
        with pytest.raises(OprimeError, match="host 0 of this generator is gone: its process has ended; start all of its hosts again"):
            await pair.ended()


async def test_when_a_host_goes_host_0_fails_and_so_does_what_it_had_asked_for(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as pair:
        await asyncio.gather(pair.other_hosts.meet(ARGUMENTS), pair.host_0.join(ARGUMENTS))
        asking = asyncio.create_task(pair.other_hosts.fetch(1))
        await asyncio.sleep(0)
        await pair.host_0.close()
        with pytest.raises(SamplerDiedError, match="host 1 of this generator is gone"):
            await pair.other_hosts.watch()
        with pytest.raises(SamplerDiedError, match="host 1 of this generator is gone"):
            await asking
        with pytest.raises(SamplerDiedError, match="host 1 of this generator is gone"):
            await pair.other_hosts.fetch(1)


def test_when_the_network_between_them_breaks_in_silence_both_sides_fail_after_a_minute(tmp_path: Path) -> None:
    async def a_cut() -> None:
        async with two_hosts_apart(tmp_path) as (pair, network):
            network.cut()
            asking = asyncio.create_task(pair.other_hosts.fetch(1))
            lost = asyncio.create_task(pair.other_hosts.watch())
            await asyncio.sleep(0.05)
            # The rest of the minute is more than a slow machine takes for these lines.
            move(SILENT_S / 2)
            await asyncio.sleep(0.05)
            assert not lost.done()
            assert pair.working
            move(SILENT_S / 2)
            with pytest.raises(
                OprimeError, match="host 0 of this generator is gone: it has said nothing for 60 s; start all of its hosts again"
            ):
                await pair.ended()
            with pytest.raises(SamplerDiedError, match="host 1 of this generator is gone: it has said nothing for 60 s"):
                await asyncio.wait_for(lost, 10)
            with pytest.raises(SamplerDiedError, match="host 1 of this generator is gone: it has said nothing for 60 s"):
                await asyncio.wait_for(asking, 10)

    run_moved(a_cut())


def test_hosts_that_have_nothing_to_say_stay_joined(tmp_path: Path) -> None:
    async def two_quiet_minutes() -> None:
        async with two_hosts_apart(tmp_path) as (pair, network):
            for _ in range(int(2 * SILENT_S / ALIVE_EVERY_S)):
                before = dict(network.passed)
                move(ALIVE_EVERY_S)
                # A sign of life each way, and nothing else.
                await until(lambda before=before: all(network.passed[way] > before[way] for way in before))
            assert pair.working
            assert await pair.other_hosts.fetch(1) == (Copy.of(tmp_path),)
            assert pair.other_hosts.loss == ""

    run_moved(two_quiet_minutes())


async def test_host_0_hears_why_a_host_fails(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as pair:
        await pair.join()
        await until(lambda: pair.ready)
        pair.workers.end.set()
        with pytest.raises(SamplerDiedError, match="VllmWorker-1 was ended by SIGKILL"):
            await pair.ended()
        with pytest.raises(
            SamplerDiedError, match="host 1 of this generator has failed: a worker of vLLM's engine has ended: VllmWorker-1"
        ):
            await pair.other_hosts.watch()


async def test_a_host_that_waits_for_host_0_can_be_stopped(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as pair:
        pair.stopping.set()
        await asyncio.wait_for(work_for(pair.host_0, pair.workers, pair.version, stopping=pair.stopping, note_ready=pair.note_ready), 10)
        assert pair.workers.port == 0


async def test_who_speaks_otherwise_is_no_host(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as pair:
        meeting = asyncio.create_task(pair.other_hosts.meet(ARGUMENTS))
        await asyncio.sleep(0.05)
        for said in (b"GET / HTTP/1.1\r\n", b"[1]\n", b'{"host": 7}\n', b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", pair.other_hosts.hosts.port)
            writer.write(said)
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 10)
            writer.close()
            await writer.wait_closed()
        assert not meeting.done()
        assert await pair.host_0.join(ARGUMENTS) == await meeting


def test_weights_that_differ_are_noticed_before_an_engine_mixes_them() -> None:
    own = Copy(Path("/runs/weights/v3"), "one")
    require_same_weights(3, own, (own,))
    with pytest.raises(
        WeightsRefusedError, match=r"host 2 has other weights than host 0 as version 3 \(/disk/v3 there, /runs/weights/v3 here"
    ):
        require_same_weights(3, own, (own, Copy(Path("/disk/v3"), "another")))


@pytest.mark.parametrize(
    ("backend", "tensor_parallel", "message"),
    [
        ("vllm", 3, "generator.tensor_parallel = 3 with OPRIME_HOSTS = 2: .* set generator.tensor_parallel to a multiple of 2, such as 4"),
        ("transformers", 2, 'generator.backend = "transformers" with OPRIME_HOSTS = 2: only vllm spreads a model over hosts'),
    ],
)
def test_what_cannot_be_spread_is_refused(backend: str, tensor_parallel: int, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        require_hosts(Hosts(count=2), backend=backend, tensor_parallel=tensor_parallel)
    require_hosts(Hosts(), backend=backend, tensor_parallel=tensor_parallel)
    require_hosts(Hosts(count=2), backend="vllm", tensor_parallel=4)
