"""Each service's user of Redis may do what the service does, needs every right that it has, and is refused all else."""

import asyncio
import fnmatch
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog

from oprime.adapters.redis_access import OPERATOR, SCALER, SERVICES
from oprime.adapters.redis_connection import key_prefix
from oprime.adapters.redis_payloads import RedisPayloads
from oprime.adapters.redis_queue import RedisQueue
from oprime.adapters.system_clock import SystemClock
from oprime.ports import BATCHES, LIVE, ROLLOUTS, SCORED, STEPS, STREAMS, TICKETS, VERDICTS, Committed, Fence, LedgerMove, Output
from oprime.ports.payloads import payload_name
from oprime.runtime.errors import OprimeError, SettingsError
from oprime.runtime.run_end import say_finished
from oprime_cli.files import write_toml
from oprime_cli.main import main
from redis_with_users import ADMIN, ADMIN_PASSWORD, free_port, redis_with_users

pytestmark = pytest.mark.redis

RUN = "one"
CONFIG = """
[run]
name = "one"
steps = 1
[model]
path = "model"
[tasks]
source = "chain"
[coordinator]
groups_per_batch = 4
[queue]
url = "redis://127.0.0.1:{port}"
username = "run-{{service}}"
password_file = "{folder}/{{service}}"
"""
LEASE_S = 0.01
NAME = "0:0"
ROLLOUT, TEXT, TASK = (payload_name(owner, 1.0) for owner in (f"rollout/{NAME}", f"text/{NAME}", "task/0"))
"""Payloads that others may have written."""


class Server:
    """The server, and who asks it."""

    def __init__(self, port: int, access: str, passwords: dict[str, str]) -> None:
        self.url = f"redis://127.0.0.1:{port}"
        self.lines = {line.split()[1]: line.split()[2:] for line in access.splitlines()}
        self.passwords = passwords
        self.admin: Any = redis.Redis.from_url(self.url, username=ADMIN, password=ADMIN_PASSWORD, protocol=2)

    def login(self, service: str) -> dict[str, Any]:
        return {"username": f"run-{service}", "password": self.passwords[service]}

    def queue(self, login: dict[str, Any]) -> RedisQueue:
        return RedisQueue.connect(self.url, run=RUN, lease_s=LEASE_S, max_deliveries=1, **login)

    def payloads(self, login: dict[str, Any]) -> RedisPayloads:
        return RedisPayloads.connect(self.url, run=RUN, **login)

    def set_rules(self, service: str, rules: list[str]) -> None:
        self.admin.execute_command("ACL", "SETUSER", f"run-{service}", *rules)

    def rules(self, service: str) -> list[str]:
        return self.lines[f"run-{service}"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With the list that the command writes."""
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    config, listed = folder / "run.toml", folder / "list"
    config.write_text(CONFIG.format(port=port, folder=folder / "passwords"), encoding="utf-8")
    assert main(["redis-acl", str(config), "--out", str(listed)]) == 0
    access = listed.read_text(encoding="utf-8")
    with redis_with_users(folder, access, port=port):
        made = Server(port, access, {path.name: path.read_text(encoding="utf-8").strip() for path in (folder / "passwords").iterdir()})
        yield made
        made.admin.close()


# What services do


async def put(server: Server, stream: str, *keys: str) -> None:
    """Entries from whoever feeds this stream."""
    queue = server.queue({"username": ADMIN, "password": ADMIN_PASSWORD})
    await queue.commit(f"put:{stream}:{keys}", outputs=[Output(stream=stream, key=key, payload=b"x") for key in keys])
    await queue.close()


async def fence(queue: RedisQueue, name: str) -> Fence:
    return Fence(name=name, token=await queue.take_turn(name, "me", seconds=5))


async def read_values(queue: RedisQueue, name: str, *, all_of: bool = True) -> None:
    """Also when one has just expired."""
    await queue.set_value(name, b"x", expires_s=0.001)
    await asyncio.sleep(0.005)
    await queue.value("run/start_from")
    if all_of:
        await queue.values("released/")


async def coordinate(queue: RedisQueue, payloads: RedisPayloads, server: Server) -> None:
    await put(server, VERDICTS, NAME, "0:1", "0:2")
    await put(server, STEPS, "1")
    await queue.check_server()
    turn = await fence(queue, "coordinator")
    await queue.restore_ledger({"9:9": "trained:1"}, fence=turn)
    await queue.snapshot()
    await queue.commit("begin", values={"coordinator/state": b"s", "run/start_from": b"0"}, fence=turn)
    (material,) = payloads.put_many([("task/0", b"gold")])
    ticket = Output(stream=TICKETS, key="0", payload=b"t")
    await queue.commit("issue", outputs=[ticket], moves=[LedgerMove(rollout_id=NAME, state=LIVE)], forget=["begin"], fence=turn)
    await queue.commit("cut", outputs=[Output(stream=BATCHES, key="1", payload=b"b")], values={"coordinator/state": None}, fence=turn)
    for stream in STREAMS:
        await queue.depth(stream)
    assert await queue.ledger_states([NAME]) == {NAME: LIVE}
    await queue.ledger_counts()
    await queue.value("coordinator/state")
    await queue.values("generator/")
    await queue.set_value("run/finished", b"1")
    await queue.put_notice("run/finished", b"1")
    first, second = await queue.receive_held(VERDICTS, "coordinator", most=2, wait_s=0)
    assert len(await queue.receive_again(VERDICTS, "coordinator")) == 2
    await queue.acknowledge([first])
    await queue.dead_letter(second, reason="bad", rollout_ids=[NAME])
    assert len(await queue.dead_letters()) == 1
    await queue.acknowledge(await queue.receive_held(STEPS, "coordinator", wait_s=0))
    await queue.values("generator/")
    assert list(payloads.names()) == [material]
    payloads.delete([material])
    await queue.end_turn("coordinator", "me")


async def work_on(queue: RedisQueue, stream: str) -> Any:
    """As one of several workers: an entry whose worker went silent, one that is too old, and one to commit."""
    await queue.check_server()
    (old,) = await queue.receive(stream, "silent", wait_s=0)
    await queue.renew([old], "silent")
    await queue.give_back([old], "silent")
    await queue.receive(stream, "silent", wait_s=0)
    await asyncio.sleep(2 * LEASE_S)
    # Delivered for the second time, where one is allowed: it becomes a dead letter, and the next one is taken.
    (delivery,) = await queue.receive(stream, "worker", wait_s=0)
    await queue.dead_letter(delivery, reason="bad", rollout_ids=[NAME])
    await queue.commit("live", moves=[LedgerMove(rollout_id=NAME, state=LIVE)])
    (delivery,) = await queue.receive(stream, "worker", wait_s=0.1)
    return delivery


async def generate(queue: RedisQueue, payloads: RedisPayloads, server: Server) -> None:
    await put(server, TICKETS, "0", "1", "2")
    delivery = await work_on(queue, TICKETS)
    names = payloads.put_many([(f"rollout/{NAME}", b"tokens"), (f"text/{NAME}", b"text")])
    outputs = [Output(stream=ROLLOUTS, key=NAME, payload=b"r"), Output(stream=VERDICTS, key=NAME, payload=b"v")]
    moves = [LedgerMove(rollout_id=NAME, state="dropped:stale")]
    assert await queue.commit("generate:0", outputs=outputs, moves=moves, consumed=[delivery]) is Committed.NEW
    payloads.delete(names)
    await read_values(queue, "generator/1", all_of=False)
    assert await queue.take_turn("follow", "me", seconds=5)
    await queue.end_turn("follow", "me")


async def verify(queue: RedisQueue, payloads: RedisPayloads, server: Server) -> None:
    await put(server, ROLLOUTS, NAME, "0:1", "0:2", "0:3")
    delivery = await work_on(queue, ROLLOUTS)
    payloads.get_many([TEXT, TASK])
    assert await queue.ledger_states([NAME]) == {NAME: LIVE}
    outputs, moves = [Output(stream=VERDICTS, key=NAME, payload=b"v")], [LedgerMove(rollout_id=NAME, state="dropped:error")]
    assert await queue.commit("verify:0:0", outputs=outputs, moves=moves, consumed=[delivery]) is Committed.NEW
    payloads.delete([TEXT, ROLLOUT])
    await queue.acknowledge(await queue.receive(ROLLOUTS, "worker", wait_s=0))
    await queue.set_value("verifier/1", b"x", expires_s=1)
    await queue.notice("run/finished")


async def train_on(queue: RedisQueue, server: Server, stream: str, name: str, output: str) -> None:
    await put(server, stream, "1", "2")
    await queue.check_server()
    turn = await fence(queue, name)
    first, second = await queue.receive_held(stream, name, most=2, wait_s=0)
    assert len(await queue.receive_again(stream, name)) == 2
    moves = [LedgerMove(rollout_id=NAME, state=LIVE), LedgerMove(rollout_id=NAME, state="trained:1")]
    await queue.commit(f"step:{stream}", outputs=[Output(stream=output, key="1", payload=b"s")], moves=moves, fence=turn)
    await queue.acknowledge([first])
    await queue.dead_letter(second, reason="bad", rollout_ids=[NAME])
    await queue.set_value(f"released/{name}", b"1")
    await read_values(queue, f"{name}/0")
    await queue.end_turn(name, "me")


async def update_the_prm(queue: RedisQueue, payloads: RedisPayloads, server: Server) -> None:
    await train_on(queue, server, BATCHES, "prm", SCORED)
    await put(server, VERDICTS, NAME)
    assert [payload async for payload in queue.entries(VERDICTS)] == [b"x"]
    names = payloads.put_many([("rewards/1", b"r"), (f"reference/{NAME}", b"f")])
    names += [ROLLOUT, TEXT]
    assert payloads.get_many(names) == [b"r", b"f", None, None]
    assert payloads.sizes(names) == [1, 1, None, None]
    payloads.delete(names)


async def learn(queue: RedisQueue, payloads: RedisPayloads, server: Server) -> None:
    await train_on(queue, server, SCORED, "learner", STEPS)
    await train_on(queue, server, BATCHES, "learner", STEPS)
    names = [payload_name("rewards/1", 1.0), ROLLOUT, TEXT]
    assert payloads.get_many(names) == [None, None, None]
    assert payloads.sizes(names) == [None, None, None]
    payloads.delete(names)


async def operate(queue: RedisQueue, payloads: RedisPayloads, server: Server) -> None:
    """`oprime ledger`, `oprime dead-letters --replay`, what a finished run leaves behind."""
    admin = server.queue({"username": ADMIN, "password": ADMIN_PASSWORD})
    await admin.commit("live", moves=[LedgerMove(rollout_id=NAME, state=LIVE)])
    for stream in STREAMS:
        await put(server, stream, NAME)
    (delivery,) = await admin.receive(ROLLOUTS, "worker", wait_s=0)
    await admin.dead_letter(delivery, reason="bad", rollout_ids=[NAME])
    await admin.close()
    await queue.ping()
    await queue.check_server()
    await queue.ledger_counts()
    assert [row async for row in queue.ledger_entries()] == [(NAME, "dead:rollouts")]
    await queue.ledger_states([NAME])
    await queue.value("coordinator/state")
    await admin_expires(server)
    await queue.values("released/")
    for stream in STREAMS:
        assert len([payload async for payload in queue.entries(stream)]) == (0 if stream == ROLLOUTS else 1)
    (letter,) = await queue.dead_letters()
    assert await queue.replay(letter)
    payloads.delete([*payloads.names(), ROLLOUT])


async def admin_expires(server: Server) -> None:
    queue = server.queue({"username": ADMIN, "password": ADMIN_PASSWORD})
    await queue.set_value("generator/1", b"x", expires_s=0.001)
    await queue.close()
    await asyncio.sleep(0.005)


async def scale(queue: RedisQueue, payloads: RedisPayloads, server: Server) -> None:
    """What KEDA's scaler of streams asks."""
    with redis.Redis.from_url(server.url, protocol=2, driver_info=None, **server.login(SCALER)) as client:
        asker: Any = client
        asker.ping()
        asker.info()
        for stream in STREAMS:
            await put(server, stream, "0")
            await server_group(server, stream)
            name = f"{key_prefix(RUN)}stream:{stream}"
            assert asker.xlen(name) == 1
            assert asker.xpending(name, "workers")["pending"] == 0
            assert len(asker.xinfo_groups(name)) == 1


async def server_group(server: Server, stream: str) -> None:
    queue = server.queue({"username": ADMIN, "password": ADMIN_PASSWORD})
    await queue.depth(stream)
    await queue.close()


PATHS: dict[str, Callable[[RedisQueue, RedisPayloads, Server], Awaitable[None]]] = {
    "coordinator": coordinate,
    "generator": generate,
    "verifier": verify,
    "prm": update_the_prm,
    "learner": learn,
    OPERATOR: operate,
    SCALER: scale,
}


async def go(server: Server, service: str) -> list[str]:
    """Do what the service does, on an empty server; returns what the queue could not find out about the server."""
    server.admin.flushall()
    server.admin.script_flush()
    queue, payloads = server.queue(server.login(service)), server.payloads(server.login(service))
    try:
        with structlog.testing.capture_logs() as logs:
            await PATHS[service](queue, payloads, server)
    finally:
        await queue.close()
        payloads.close()
    return [line["event"] for line in logs if line["event"].startswith("redis_")]


def test_every_user_is_tried_here() -> None:
    assert set(PATHS) == set(SERVICES)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_can_do_its_work_as_its_own_user(server: Server, service: str) -> None:
    assert await go(server, service) == []


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_needs_every_right_that_it_has(server: Server, service: str) -> None:
    rules, needless = server.rules(service), list[str]()
    for right in [rule for rule in rules if rule[0] in "+~"]:
        server.set_rules(service, [rule for rule in rules if rule != right])
        try:
            warnings = await go(server, service)
        except (OprimeError, redis.ResponseError):
            continue
        finally:
            server.set_rules(service, rules)
        if not warnings:
            needless.append(right)
    assert needless == []


def asked(client: Any, *words: str) -> str:
    """What a command is answered, if it is an error."""
    try:
        client.execute_command(*words)
    except redis.RedisError as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("service", SERVICES)
def test_every_other_command_is_refused(server: Server, service: str) -> None:
    granted = {rule[1:].partition("|")[0] for rule in server.rules(service) if rule.startswith("+")}
    known = {name: row for name, row in server.admin.command().items() if name not in granted and "no_auth" not in row["flags"]}
    assert {"flushall", "config", "keys", "acl", "eval", "shutdown", "replicaof", "debug", "monitor", "xtrim"} <= set(known)
    with redis.Redis.from_url(server.url, protocol=2, driver_info=None, **server.login(service)) as client:
        # A subcommand that exists where the command has some, and as many words as it wants.
        answers = {name: asked(client, name, *["HELP"] * (abs(row["arity"]) - 1)) for name, row in known.items()}
        others = [("SCRIPT", "FLUSH"), ("XGROUP", "DESTROY", f"{key_prefix(RUN)}stream:{TICKETS}", "workers")]
        answers |= {" ".join(words): asked(client, *words) for words in others}
    # What the server's settings keep from everybody counts too.
    refused = ("NOPERM", "NoPermission", "command not allowed. If the enable-")
    assert {name: answer for name, answer in answers.items() if not any(sign in answer for sign in refused)} == {}


@pytest.mark.parametrize("service", sorted(set(SERVICES) - {SCALER}))
def test_every_other_key_is_refused(server: Server, service: str) -> None:
    own = sorted(SERVICES[service].keys)
    everything = {pattern.replace("*", "x") for access in SERVICES.values() for pattern in access.keys}
    others = [key for key in sorted(everything) if not any(fnmatch.fnmatchcase(key, pattern) for pattern in own)]
    foreign = [*(key_prefix(RUN) + key for key in others), *(key_prefix("two") + key for key in sorted(everything)), "other", ""]
    with redis.Redis.from_url(server.url, protocol=2, driver_info=None, **server.login(service)) as client:
        answers = {key: asked(client, "HGET", key, "field") for key in foreign}
    assert {key: answer for key, answer in answers.items() if not answer.startswith("NoPermissionError")} == {}
    assert service == "coordinator" or f"stream:{STEPS}" in others or service in ("learner", OPERATOR)


def test_a_verifier_reaches_neither_batches_nor_the_state_of_the_run() -> None:
    keys = SERVICES["verifier"].keys
    assert not {f"stream:{name}" for name in (TICKETS, BATCHES, SCORED, STEPS)} & keys
    assert not {"values", "tokens", "payload:rewards/*", "payload:*"} & keys


def test_what_a_verifier_may_read_of_the_runs_end_is_what_nobody_else_relies_on() -> None:
    # A right to a key is one to change it, too, up to Redis 6.2: a verifier that says that the run is over ends verifiers alone.
    assert {service for service, access in SERVICES.items() if "notices" in access.keys} == {"coordinator", "verifier"}


async def test_a_verifier_ends_with_its_run_as_its_own_user(server: Server, tmp_path: Path) -> None:
    server.admin.flushall()
    config = tmp_path / "run.toml"
    password = tmp_path / "verifier"
    password.write_text(server.passwords["verifier"], encoding="utf-8")
    password.chmod(0o600)
    document = {
        "run": {"name": RUN, "directory": str(tmp_path / "runs"), "steps": 3, "when_finished": "exit", "heartbeat_s": 0.2},
        "queue": {"url": server.url, "username": "run-{service}", "password_file": str(password)},
        "endpoints": {"verifier": f"127.0.0.1:{free_port()}"},
    }
    write_toml(config, document)
    coordinator = server.queue(server.login("coordinator"))
    # A run that went on after so many steps is not over.
    await say_finished(coordinator, 2, SystemClock())
    command = [sys.executable, "-m", "oprime_verifier", str(config)]
    verifier = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        async with asyncio.timeout(100):
            while not await coordinator.values("verifier/"):  # noqa: ASYNC110 - what another process says
                await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
        assert verifier.returncode is None
        await say_finished(coordinator, 3, SystemClock())
        said, _ = await asyncio.wait_for(verifier.communicate(), 60)
    finally:
        if verifier.returncode is None:
            verifier.kill()
            await verifier.wait()
        await coordinator.close()
    assert verifier.returncode == 0, said.decode()
    assert '"run_finished"' in said.decode()


def test_nobody_gets_in_without_a_name(server: Server) -> None:
    with redis.Redis.from_url(server.url, protocol=2, driver_info=None) as client:
        assert asked(client, "PING").startswith("AuthenticationError")


async def test_a_restart_of_the_server_keeps_what_the_users_wrote(tmp_path: Path, server: Server) -> None:
    # Redis reads its append-only file with the rights of its default user, who is nobody here, and drops what that one may not do.
    port, access = free_port(), "".join(f"user {name} {' '.join(rules)}\n" for name, rules in server.lines.items())
    for attempt in range(2):
        with redis_with_users(tmp_path, access, port=port):
            queue = RedisQueue.connect(f"redis://127.0.0.1:{port}", run=RUN, **server.login("coordinator"))
            if attempt == 0:
                await queue.commit("issue", moves=[LedgerMove(rollout_id=NAME, state=LIVE)], values={"coordinator/state": b"s"})
            assert await queue.ledger_states([NAME]) == {NAME: LIVE}
            await queue.close()


async def test_a_missing_right_is_said_with_its_remedy(server: Server) -> None:
    queue = server.queue(server.login("verifier"))
    for call in (queue.restore_ledger({}), queue.value("coordinator/state"), queue.depth(BATCHES)):
        with pytest.raises(SettingsError, match=r"forbids what the queue needs .*oprime redis-acl"):
            await call
    await queue.close()


# The command


def written(tmp_path: Path, text: str, *options: str) -> int:
    config = tmp_path / "run.toml"
    config.write_text(text, encoding="utf-8")
    return main(["redis-acl", str(config), *options])


def test_passwords_are_made_once_closed_to_others_and_not_in_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "passwords"
    text = CONFIG.format(port=1, folder=folder)
    assert written(tmp_path, text) == 0
    first = capsys.readouterr().out
    assert written(tmp_path, text) == 0
    assert capsys.readouterr().out == first
    files = sorted(folder.iterdir())
    assert [path.name for path in files] == sorted(SERVICES)
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert len({path.read_text(encoding="utf-8") for path in files}) == len(files)
    assert not [path for path in files if path.read_text(encoding="utf-8").strip() in first]


def test_a_folder_of_passwords_may_be_named(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    text = CONFIG.format(port=1, folder="/run/secrets").replace("/{service}", "/redis_password")
    assert written(tmp_path, text, "--passwords", str(folder), "--out", str(tmp_path / "list")) == 0
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"run-{service}" for service in SERVICES)


@pytest.mark.parametrize("database", ["/3", "?db=3"])
def test_another_database_is_another_right(tmp_path: Path, capsys: pytest.CaptureFixture[str], database: str) -> None:
    text = CONFIG.format(port=1, folder=tmp_path)
    assert written(tmp_path, text) == 0
    assert "+select" not in capsys.readouterr().out
    assert written(tmp_path, text.replace(":1", f":1{database}")) == 0
    assert capsys.readouterr().out.count("+select") == len(SERVICES)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("run-{service}", "everybody", "queue.username = 'everybody' is one user for all services: write a name with {service} in it"),
        ("/{service}", "/word", "is one file for all services: write {service} into it, or name the folder"),
    ],
)
def test_a_user_that_services_would_share_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    assert written(tmp_path, CONFIG.format(port=1, folder=tmp_path / "p").replace(old, new)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "p").exists()
