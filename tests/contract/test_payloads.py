"""The contract of the Payloads port, in memory, on a real Redis, in a directory and behind fsspec URLs."""

import errno
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest
import redis
from fsspec.implementations.memory import MemoryFileSystem

from oprime.adapters.directory_payloads import ABANDONED_S, DirectoryPayloads
from oprime.adapters.local_redis import LocalRedis, find_server
from oprime.adapters.memory_payloads import MemoryPayloads
from oprime.adapters.open_payloads import open_payloads
from oprime.adapters.redis_payloads import READ_PAGE, WRITE_BYTES, RedisPayloads
from oprime.adapters.url_payloads import UrlPayloads
from oprime.ports import Payloads, payload_owner, payload_written_at
from oprime.ports.payloads import payload_name
from oprime.runtime.errors import PayloadsUnavailableError, QueueUnavailableError, SettingsError, UnusableInputError
from oprime.runtime.setting_rules import payload_store_is_usable
from oprime.runtime.settings import PayloadsSection, QueueSection

MIB = 2**20


@dataclass
class Bench:
    """The store of one run as one process sees it, as others see it, and that of another run."""

    payloads: Payloads
    another_worker: Callable[[], Payloads]
    another_run: Callable[[], Payloads]


def redis_server(folder: Path, **options: str) -> LocalRedis:
    try:
        find_server()
    except QueueUnavailableError as error:
        pytest.skip(str(error))
    return LocalRedis.start(folder, **options)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


def bench_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    if kind == "memory":
        payloads = MemoryPayloads()
        return Bench(payloads, lambda: payloads, MemoryPayloads)
    section = {
        "redis": lambda: PayloadsSection(store="redis"),
        "directory": lambda: PayloadsSection(store=str(tmp_path)),
        "memory url": lambda: PayloadsSection(store=f"memory://{uuid4().hex}"),
        "s3 url": lambda: PayloadsSection(store=f"{request.getfixturevalue('s3_bucket')}/{uuid4().hex}"),
    }[kind]()
    queue = QueueSection(url=request.getfixturevalue("redis_url")) if kind == "redis" else QueueSection()
    run = f"test-{uuid4().hex}"

    def opened(name: str) -> Payloads:
        payloads = open_payloads(section, queue, name)
        request.addfinalizer(payloads.close)
        return payloads

    return Bench(opened(run), lambda: opened(run), lambda: opened(f"{run}-2"))


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis), "directory", "memory url", "file url", "s3 url"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    if request.param == "file url":  # with settings it would be a directory

        def opened(run: str = "run") -> Payloads:
            return UrlPayloads(f"file://{tmp_path}/{run}")

        return Bench(opened(), opened, lambda: opened("run-2"))
    return bench_of(request.param, request, tmp_path)


@pytest.fixture
def payloads(bench: Bench) -> Payloads:
    return bench.payloads


# --- writing and reading ---


def test_what_was_put_is_read_by_its_name_by_everybody(bench: Bench) -> None:
    payload = bytes(range(256)) + b"\r\n\x00$5\r\n"
    name = bench.payloads.put("rollout/12:3", payload)
    assert bench.payloads.get_many([name]) == [payload]
    assert bench.another_worker().get_many([name]) == [payload]


def test_a_name_says_owner_and_time(payloads: Payloads) -> None:
    before = time.time()
    name = payloads.put("rollout/12:3", b"x")
    assert name.startswith("rollout/12:3/")
    assert payload_owner(name) == "rollout/12:3"
    assert before - 0.001 <= payload_written_at(name) <= time.time() + 0.001


def test_many_are_put_and_read_in_order(payloads: Payloads) -> None:
    names = payloads.put_many([("rewards/7", b"a"), ("task/12", b"b"), ("rewards/7", b"c")])
    assert [payload_owner(name) for name in names] == ["rewards/7", "task/12", "rewards/7"]
    assert payloads.get_many(names) == [b"a", b"b", b"c"]
    assert payloads.get_many(names[::-1]) == [b"c", b"b", b"a"]


def test_nothing_is_put_and_read(payloads: Payloads) -> None:
    assert payloads.put_many([]) == []
    assert payloads.get_many([]) == []
    assert payloads.sizes([]) == []
    payloads.delete([])
    assert list(payloads.names()) == []


def test_a_name_may_be_asked_for_twice(payloads: Payloads) -> None:
    one, other = payloads.put_many([("a", b"1"), ("b", b"2")])
    assert payloads.get_many([one, other, one]) == [b"1", b"2", b"1"]
    assert payloads.sizes([one, other, one]) == [1, 1, 1]


def test_more_than_one_page_is_written_read_listed_and_deleted(payloads: Payloads) -> None:
    rows = [(f"rollout/{number}:0", str(number).encode()) for number in range(2 * READ_PAGE + 3)]
    names = payloads.put_many(rows)
    assert payloads.get_many(names) == [payload for _, payload in rows]
    assert payloads.sizes(names) == [len(payload) for _, payload in rows]
    assert sorted(payloads.names()) == sorted(names)
    payloads.delete(names)
    assert list(payloads.names()) == []


def test_an_empty_payload_is_one(payloads: Payloads) -> None:
    name = payloads.put("text/1:0", b"")
    assert payloads.get_many([name]) == [b""]
    assert payloads.sizes([name]) == [0]


def test_a_large_payload_passes_and_so_do_several(payloads: Payloads) -> None:
    large = os.urandom(10 * MIB)
    assert 2 * len(large) > WRITE_BYTES
    names = payloads.put_many([("task/1", large), ("task/2", b"small"), ("task/3", large[::-1])])
    assert payloads.get_many(names) == [large, b"small", large[::-1]]
    assert payloads.sizes(names) == [10 * MIB, 5, 10 * MIB]


def test_writers_of_one_owner_at_once_get_names_of_their_own(bench: Bench) -> None:
    workers = [bench.payloads, bench.another_worker()]
    start = threading.Barrier(8)

    def write(number: int) -> list[str]:
        start.wait()
        return [workers[number % 2].put("rollout/1:0", f"{number} {turn}".encode()) for turn in range(20)]

    with ThreadPoolExecutor(8) as threads:
        names = [name for written in threads.map(write, range(8)) for name in written]
    assert len(set(names)) == 160
    assert bench.payloads.get_many(names) == [f"{number} {turn}".encode() for number in range(8) for turn in range(20)]


def test_runs_do_not_see_each_other(bench: Bench) -> None:
    name = bench.payloads.put("task/1", b"mine")
    other = bench.another_run()
    assert other.get_many([name]) == [None]
    assert list(other.names()) == []
    other.delete([name])
    assert bench.payloads.get_many([name]) == [b"mine"]


# --- deleting ---


def test_a_deleted_payload_is_gone_and_the_others_stay(payloads: Payloads) -> None:
    gone, kept = payloads.put_many([("a", b"1"), ("a", b"2")])
    payloads.delete([gone])
    assert payloads.get_many([gone, kept, gone]) == [None, b"2", None]
    assert payloads.sizes([gone, kept]) == [None, 1]
    assert list(payloads.names()) == [kept]


def test_deleting_what_is_not_there_is_no_error_and_deletes_the_rest(payloads: Payloads) -> None:
    gone, kept = payloads.put_many([("a", b"1"), ("a", b"2")])
    never = payload_name("never/written", time.time())
    payloads.delete([gone, gone])
    payloads.delete([gone, never, kept])
    payloads.delete([kept])
    assert payloads.get_many([gone, never, kept]) == [None, None, None]


# --- listing ---


def test_names_are_listed_by_prefix_of_the_text(payloads: Payloads) -> None:
    one, other, group, task = payloads.put_many([(owner, b"x") for owner in ("rollout/12:3", "rollout/12:30", "rollout/120:3", "task/12")])
    assert sorted(payloads.names()) == sorted([one, other, group, task])
    assert sorted(payloads.names("rollout/")) == sorted([one, other, group])
    assert sorted(payloads.names("rollout/12:")) == sorted([one, other])
    assert list(payloads.names("rollout/12:3/")) == [one]
    assert list(payloads.names(one)) == [one]
    assert list(payloads.names("roll*")) == []
    assert list(payloads.names("[rt]")) == []
    assert list(payloads.names("../")) == []


def test_an_owner_may_be_longer_than_another_and_deep(payloads: Payloads) -> None:
    short, long = payloads.put_many([("a", b"1"), ("a/b/c.d/e-f_G:1", b"2")])
    assert payload_owner(long) == "a/b/c.d/e-f_G:1"
    assert sorted(payloads.names("a/")) == sorted([short, long])
    assert list(payloads.names("a/b/")) == [long]
    payloads.delete([short])
    assert payloads.get_many([short, long]) == [None, b"2"]


def test_what_is_there_all_the_time_is_listed_once_while_others_write_and_delete(bench: Bench) -> None:
    kept = bench.payloads.put_many([("kept/1", b"x")] * 500)
    stopping = threading.Event()

    def disturb(store: Payloads) -> None:
        while not stopping.is_set():
            store.delete(store.put_many([("passing/1", b"y")] * 50))

    with ThreadPoolExecutor(1) as threads:
        disturbing = threads.submit(disturb, bench.another_worker())
        try:
            for _ in range(10):
                listed = list(bench.payloads.names())
                assert len(listed) == len(set(listed))
                assert set(kept) <= set(listed)
        finally:
            stopping.set()
        disturbing.result()
    assert sorted(bench.payloads.names()) == sorted(kept)


# --- names ---


@pytest.mark.parametrize(
    "owner", ["", "/", "a//b", "/a", "a/", "..", "a/../b", "a/..b", "a..b", ".a", "a/.", "a b", "a\n", "ä", "a*", "a,b", "a=b", "x" * 201]
)
def test_an_owner_that_cannot_be_one_is_refused_before_anything_is_written(payloads: Payloads, owner: str) -> None:
    with pytest.raises(ValueError, match=r"is no owner of a payload: parts of letters, digits and the signs : \. - _ with / between"):
        payloads.put_many([("good/1", b"x"), (owner, b"x")])
    assert list(payloads.names()) == []


@pytest.mark.parametrize(
    "name", ["", "rollout/12:3", "../../etc/passwd", "a/../0123456789ab-0123456789abcdef", "/0123456789ab-0123456789abcdef"]
)
def test_a_name_that_nobody_gave_is_refused(payloads: Payloads, name: str) -> None:
    for call in (payloads.get_many, payloads.delete, payloads.sizes):
        with pytest.raises(ValueError, match=r"is no name of a payload: use what put gave, OWNER/TIME-UNIQUE"):
            call([name])
    for of_a_name in (payload_owner, payload_written_at):
        with pytest.raises(ValueError, match="is no name of a payload"):
            of_a_name(name)


def test_the_longest_owner_passes(payloads: Payloads) -> None:
    name = payloads.put("x" * 200, b"1")
    assert payloads.get_many([name]) == [b"1"]
    assert list(payloads.names()) == [name]


def test_a_name_carries_its_time_to_the_millisecond() -> None:
    name = payload_name("task/1", 1_700_000_000.125)
    assert name.startswith(f"task/1/{1_700_000_000_125:012x}-")
    assert payload_written_at(name) == 1_700_000_000.125
    assert list(MemoryPayloads(now=lambda: 2.5).put("a", b"").partition("-")[:1]) == [f"a/{2500:012x}"]


# --- a store that is away ---


CALLS: dict[str, Callable[[Payloads, str], object]] = {
    "put": lambda store, _: store.put("a", b"1"),
    "put_many": lambda store, _: store.put_many([("a", b"1"), ("b", b"2")]),
    "get_many": lambda store, name: store.get_many([name]),
    "delete": lambda store, name: store.delete([name]),
    "names": lambda store, _: list(store.names()),
    "sizes": lambda store, name: store.sizes([name]),
}


def test_every_call_of_the_port_is_tried_here() -> None:
    assert {name for name in vars(Payloads) if not name.startswith("_")} - {"close"} == set(CALLS)


class AwayFileSystem(MemoryFileSystem):
    """Storage whose client fails as clients do: with errors of its own."""

    protocol = "away"
    failure: Exception | None = None

    def _fail(self, *_: object, **__: object) -> None:
        assert AwayFileSystem.failure is not None
        raise AwayFileSystem.failure

    def __getattribute__(self, name: str) -> object:
        is_call = name in ("pipe", "cat_ranges", "rm", "ls", "makedirs")
        return object.__getattribute__(self, "_fail" if is_call and AwayFileSystem.failure else name)


def at_a_url(request: pytest.FixtureRequest, _: Path) -> tuple[Payloads, Callable[[], None], Callable[[], None]]:
    fsspec.register_implementation("away", AwayFileSystem, clobber=True)

    def fail_with(failure: Exception | None) -> None:
        AwayFileSystem.failure = failure

    request.addfinalizer(lambda: fail_with(None))
    return UrlPayloads(f"away://{uuid4().hex}/run"), lambda: fail_with(RuntimeError("503 slow down")), lambda: fail_with(None)


def in_a_directory(_: pytest.FixtureRequest, folder: Path) -> tuple[Payloads, Callable[[], None], Callable[[], None]]:
    disk, elsewhere = folder / "disk", folder / "elsewhere"
    disk.mkdir()
    return DirectoryPayloads(disk / "run"), lambda: disk.rename(elsewhere) and None, lambda: elsewhere.rename(disk) and None


def on_redis(request: pytest.FixtureRequest, folder: Path) -> tuple[Payloads, Callable[[], None], Callable[[], None]]:
    servers = [redis_server(folder)]
    request.addfinalizer(lambda: servers[-1].stop())
    store = RedisPayloads.connect(servers[0].url, run="run")
    request.addfinalizer(store.close)
    return store, lambda: servers[0].stop(), lambda: servers.append(redis_server(folder))


@pytest.mark.parametrize(
    ("place", "said"),
    [
        pytest.param(on_redis, r"^Redis at .* does not answer .*queue.url names it", id="redis", marks=pytest.mark.redis),
        pytest.param(
            in_a_directory, r"^payloads in .*/disk/run: the directory .* is missing: create it, or mount its disk", id="directory"
        ),
        pytest.param(at_a_url, r"^payloads in away://.*no answer \(RuntimeError: 503 slow down\); check that payloads.store", id="url"),
    ],
)
def test_a_store_that_is_away_is_waited_for_in_every_call(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    place: Callable[[pytest.FixtureRequest, Path], tuple[Payloads, Callable[[], None], Callable[[], None]]],
    said: str,
) -> None:
    store, leave, come_back = place(request, tmp_path)
    name = store.put("kept/1", b"kept")
    leave()
    for call in CALLS.values():
        with pytest.raises(PayloadsUnavailableError, match=said) as caught:
            call(store, name)
        assert "\n" not in str(caught.value)
    come_back()
    assert store.get_many([name]) == [b"kept"]
    assert list(store.names()) == [name]


def test_what_waits_for_the_queue_waits_for_payloads_too() -> None:
    assert issubclass(PayloadsUnavailableError, QueueUnavailableError)


# --- Redis ---


@pytest.mark.redis
def test_a_redis_without_memory_is_told_and_keeps_nothing_of_a_write_that_failed(tmp_path: Path) -> None:
    with redis_server(tmp_path, max_memory="60mb") as server:
        store = RedisPayloads.connect(server.url, run="run")
        kept = store.put("kept/1", b"kept")
        for _ in range(3):
            with pytest.raises(PayloadsUnavailableError, match=r"cannot store more .*maxmemory.*\(payloads.store\)") as caught:
                store.put_many([("rollout/1:0", bytes(8 * MIB))] * 12)
            assert len(str(caught.value)) < 400
            assert list(store.names()) == [kept]
        assert store.get_many([store.put("rollout/2:0", bytes(8 * MIB))]) == [bytes(8 * MIB)]
        store.close()


@pytest.mark.redis
def test_a_redis_that_takes_no_writes_is_told_and_read(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server, redis.Redis.from_url(server.url) as admin:
        store = RedisPayloads.connect(server.url, run="run")
        name = store.put("kept/1", b"kept")
        admin.config_set("replica-serve-stale-data", "yes")
        admin.replicaof("127.0.0.1", "1")
        with pytest.raises(PayloadsUnavailableError, match=r"takes no writes now .*queue.url must name the primary"):
            store.put("a", b"1")
        assert store.get_many([name]) == [b"kept"]
        store.close()


def test_a_payload_that_redis_cannot_hold_is_refused_with_what_can() -> None:
    store = RedisPayloads.connect("redis://127.0.0.1:1", run="run")
    with pytest.raises(
        UnusableInputError, match=r"a payload of task/1 has \d+ bytes; at most \d+ \(500 MiB\) .*payloads.store to a directory"
    ):
        store.put("task/1", bytes(500 * MIB + 1))


@pytest.mark.redis
def test_payloads_lie_under_the_runs_prefix(redis_url: str) -> None:
    run = uuid4().hex
    store = RedisPayloads.connect(redis_url, run=run)
    name = store.put("a", b"1")
    with redis.Redis.from_url(redis_url) as admin:
        assert admin.keys(f"*{run}*") == [f"oprime:{{{run}}}:payload:{name}".encode()]
    store.close()


# --- directories ---


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_directory_holds_one_plain_file_for_each_payload_and_nothing_when_all_are_gone(tmp_path: Path) -> None:
    store = DirectoryPayloads(tmp_path / "run")
    names = store.put_many([(f"rollout/{group}:{index}", b"x") for group in range(3) for index in range(3)])
    assert len(files_in(tmp_path)) == 9
    store.delete(names)
    assert list(tmp_path.rglob("*")) == [tmp_path / "run"]


def test_what_a_writer_that_died_left_is_not_listed_and_removed_when_it_is_old(tmp_path: Path) -> None:
    store = DirectoryPayloads(tmp_path / "run")
    kept = store.put("kept/1", b"x")
    for age_s in (0.0, ABANDONED_S - 60, ABANDONED_S + 60):
        name = payload_name("rollout/1:0", time.time() - age_s)
        (tmp_path / "run" / f".{name.replace('/', ',').replace(':', '=')}").write_bytes(b"half")
    assert list(store.names()) == [kept]
    assert len(files_in(tmp_path)) == 3


def test_a_reader_never_sees_half_a_payload(tmp_path: Path) -> None:
    writer, reader = DirectoryPayloads(tmp_path / "run"), DirectoryPayloads(tmp_path / "run")
    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(lambda: [writer.put("a", bytes(4 * MIB)) for _ in range(10)])
        seen: set[int | None] = set()
        while not writing.done():
            seen |= set(reader.sizes(list(reader.names())))
        writing.result()
    assert seen <= {4 * MIB}
    assert set(reader.sizes(list(reader.names()))) == {4 * MIB}


def test_files_of_others_are_passed_over(tmp_path: Path) -> None:
    store = DirectoryPayloads(tmp_path / "run")
    name = store.put("a", b"1")
    for other in ("lost+found", ".nfs0001", "notes.txt", ".DS_Store"):
        (tmp_path / "run" / other).write_bytes(b"")
    assert list(store.names()) == [name]
    assert len(files_in(tmp_path)) == 5


def test_a_payload_that_the_disk_does_not_take_leaves_nothing_behind(tmp_path: Path) -> None:
    store = DirectoryPayloads(tmp_path / "run")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, hard))
    try:
        with pytest.raises(PayloadsUnavailableError, match=r"^payloads in .*File too large"):
            store.put_many([("a", b"small"), ("b", bytes(10_000))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files_in(tmp_path) == []
    assert store.get_many([store.put("b", bytes(10_000))]) == [bytes(10_000)]


def test_a_full_disk_is_told_with_the_room_that_is_left(tmp_path: Path) -> None:
    class FullDisk(DirectoryPayloads):
        def _write(self, name: str, payload: bytes) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(PayloadsUnavailableError, match=r"the disk is full \([\d,]+ MiB are free\): free some space, or set payloads.store"):
        FullDisk(tmp_path / "run").put("a", b"1")


def test_a_directory_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    store = DirectoryPayloads(tmp_path / "disk" / "run")
    with pytest.raises(PayloadsUnavailableError, match=rf"the directory {tmp_path}/disk is missing"):
        store.put("a", b"1")
    (tmp_path / "disk").mkdir()
    assert store.get_many([store.put("a", b"1")]) == [b"1"]


# --- settings ---


@pytest.mark.parametrize("store", ["redis", "/data/payloads", "file:///data/payloads", "s3://bucket/folder", "gs://bucket"])
def test_a_store_that_services_can_share_is_accepted(store: str) -> None:
    assert payload_store_is_usable(PayloadsSection(store=store)) == []


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("", 'write "redis", the absolute path'),
        ("payloads", 'write "redis", the absolute path'),
        ("./payloads", 'write "redis", the absolute path'),
        ("file://payloads", 'write "redis", the absolute path'),
        ("memory://x", "all services must see one store"),
        ("s3://", "all services must see one store"),
        ("redis://localhost", "unknown kind of URL 'redis'; kinds are abfs"),
        ("s4://bucket", "unknown kind of URL 's4'; kinds are abfs"),
    ],
)
def test_a_store_that_cannot_be_one_is_refused(store: str, said: str) -> None:
    (problem,) = payload_store_is_usable(PayloadsSection(store=store))
    assert problem.startswith(f"payloads.store = {store!r}: ")
    assert said in problem


def test_a_kind_of_url_without_its_package_is_told() -> None:
    with pytest.raises(SettingsError, match=r"payloads.store \(dropbox://folder/run\) cannot be used: .*dropbox"):
        open_payloads(PayloadsSection(store="dropbox://folder"), QueueSection(), "run")


def test_a_kind_of_url_that_cannot_be_written_to_is_no_reason_to_wait(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    store, _, _ = at_a_url(request, tmp_path)
    AwayFileSystem.failure = NotImplementedError()
    with pytest.raises(SettingsError, match=r"payloads.store \(away://.*\) cannot be written to: name a store that keeps files"):
        store.put("a", b"1")
