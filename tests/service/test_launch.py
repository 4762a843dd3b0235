"""The supervisor with real child processes: what dies, who is told, and that nothing is left behind."""

import argparse
import asyncio
import functools
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oprime.runtime.errors import RunEndedError, SettingsError, exit_code
from oprime.runtime.free_ports import cannot_listen, held_all
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.setting_rules import SERVICES
from oprime.runtime.settings import EndpointsSection
from oprime_cli.arguments import as_typed
from oprime_cli.overrides import load_config
from oprime_cli.run_config import RunConfig
from oprime_cli.running.failures import BusyError, ServiceDiedError, ServiceNotHealthyError
from oprime_cli.running.health import grpc_health, http_health, listens
from oprime_cli.running.launch import free_ports, ports_of
from oprime_cli.running.processes import is_same_process, marked, start_ticks
from oprime_cli.running.run_folder import RunFolder, prepare_folder, sole_supervisor
from oprime_cli.running.supervisor import Guard, ProcessSpec, Supervisor
from oprime_gateway.app import listen

TIMEOUT_S = 30.0
LOOK_EVERY_S = 2.0

SLEEPER = "import time; time.sleep(600)"
STUBBORN = (
    "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"
)
DYING = "import sys; print('loading'); print('ValueError: no such model', file=sys.stderr); print('bye'); sys.exit(5)"
ESCAPING = """
import pathlib, subprocess, sys, time
# A grandchild in a session of its own, without the run's environment: neither group nor variables lead to it.
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True, env={})
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""


def healthy() -> bool:
    return True


def never_healthy() -> bool:
    return False


def spec(name: str, code: str, *words: object, health: Callable[[], bool] = healthy, stage: int = 0) -> ProcessSpec:
    return ProcessSpec(name=name, argv=(sys.executable, "-c", code, *map(str, words)), health=health, stop_stage=stage)


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    return is_same_process(pid, start_ticks(pid))


def check_for_ever(supervisor: Supervisor) -> None:
    while True:
        supervisor.check()
        time.sleep(0.02)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return tmp_path / "logs"


def test_a_child_that_dies_ends_all_and_the_error_names_its_log_and_its_last_error(logs: Path) -> None:
    with Guard() as guard, Supervisor([spec("steady", SLEEPER), spec("prm", DYING)], guard=guard, logs=logs) as supervisor:
        supervisor.start()
        pids = supervisor.pids()
        with pytest.raises(ServiceDiedError) as caught:
            check_for_ever(supervisor)
    assert "prm ended with exit code 5" in str(caught.value)
    assert str(logs / "prm.log") in str(caught.value)
    assert "ValueError: no such model" in str(caught.value)
    assert not any(alive(pid) for pid in pids.values())


ENDING = """
import sys
print('{"event": "run_ended", "level": "error", "error": "train step 4: the gradient norm of the PRM is nan"}', file=sys.stderr)
sys.exit(3)
"""


def test_a_child_that_ends_the_run_is_the_reason_whoever_else_died(logs: Path) -> None:
    with Guard() as guard, Supervisor([spec("learner", DYING), spec("prm", ENDING)], guard=guard, logs=logs) as supervisor:
        supervisor.start()
        wait_until(lambda: not any(alive(pid) for pid in supervisor.pids().values()))
        with pytest.raises(RunEndedError, match=r"prm has ended the run; .*train step 4: the gradient norm of the PRM is nan$"):
            supervisor.check()


REFUSING = "import sys; print('SettingsError: no tokenizer can be loaded', file=sys.stderr); sys.exit(2)"


def test_a_service_that_refuses_its_settings_ends_the_command_with_its_exit_code(logs: Path) -> None:
    with Guard() as guard, Supervisor([spec("scorer", REFUSING)], guard=guard, logs=logs) as supervisor:
        supervisor.start()
        with pytest.raises(ServiceDiedError, match=r"scorer ended with exit code 2; .*no tokenizer can be loaded$") as caught:
            check_for_ever(supervisor)
    assert exit_code(caught.value) == 2


def test_waiting_for_health_ends_when_a_child_dies(logs: Path) -> None:
    with Guard() as guard, Supervisor([spec("prm", DYING, health=never_healthy)], guard=guard, logs=logs) as supervisor:
        supervisor.start()
        with pytest.raises(ServiceDiedError, match="prm ended"):
            supervisor.wait_healthy(timeout_s=TIMEOUT_S)


def test_a_service_that_never_gets_healthy_is_named_with_its_log(logs: Path) -> None:
    with (
        Guard() as guard,
        Supervisor([spec("good", SLEEPER), spec("slow", SLEEPER, health=never_healthy)], guard=guard, logs=logs) as supervisor,
    ):
        supervisor.start()
        with pytest.raises(ServiceNotHealthyError) as caught:
            supervisor.wait_healthy(timeout_s=0.3)
    assert str(caught.value).startswith("slow not healthy after 0.3 s")
    assert str(logs / "slow.log") in str(caught.value)


def test_an_http_server_is_healthy_once_it_answers(logs: Path, tmp_path: Path) -> None:
    (tmp_path / "healthz").write_text("ok")
    with free_ports(EndpointsSection()) as chosen, Guard() as guard:
        port = chosen.gateway.rpartition(":")[2]
        health = functools.partial(http_health, f"http://127.0.0.1:{port}/healthz")
        assert not health()
        argv = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path), port)
        with Supervisor([ProcessSpec(name="gateway", argv=argv, health=health)], guard=guard, logs=logs) as supervisor:
            supervisor.start()
            supervisor.wait_healthy(timeout_s=TIMEOUT_S)
            assert health()
    assert not health()


def test_stages_are_stopped_in_order(logs: Path) -> None:
    specs = [spec("worker", SLEEPER, stage=2), spec("gateway", SLEEPER, stage=0), spec("coordinator", SLEEPER, stage=1)]
    with Guard() as guard, Supervisor(specs, guard=guard, logs=logs) as supervisor:
        supervisor.start()
    assert supervisor.stopped == ["gateway", "coordinator", "worker"]


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace_time(logs: Path, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    with Guard() as guard, Supervisor([spec("stubborn", STUBBORN, ready)], guard=guard, logs=logs, grace_s=0.2) as supervisor:
        supervisor.start()
        wait_until(ready.exists)
        pid = supervisor.pids()["stubborn"]
    assert not alive(pid)


def test_a_grandchild_that_left_group_session_and_environment_does_not_survive(logs: Path, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with Guard() as guard, Supervisor([spec("escaping", ESCAPING, note)], guard=guard, logs=logs) as supervisor:
        supervisor.start()
        wait_until(lambda: note.exists() and note.read_text())
        grandchild = int(note.read_text())
        assert alive(grandchild)
    wait_until(lambda: not alive(grandchild))


SUPERVISOR = """
import sys, time
from pathlib import Path
from oprime_cli.running.supervisor import Guard, ProcessSpec, Supervisor
from oprime_gateway.app import listen
sleeper, stubborn, escaping, folder = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])
specs = [
    ProcessSpec(name="sleeper", argv=(sys.executable, "-c", sleeper), health=lambda: True),
    ProcessSpec(name="stubborn", argv=(sys.executable, "-c", stubborn, str(folder / "ready")), health=lambda: True),
    ProcessSpec(name="escaping", argv=(sys.executable, "-c", escaping, str(folder / "grandchild")), health=lambda: True),
]
with Guard() as guard, Supervisor(specs, guard=guard, logs=folder / "logs") as supervisor:
    supervisor.start()
    while not ((folder / "ready").exists() and (folder / "grandchild").exists() and (folder / "grandchild").read_text()):
        time.sleep(0.02)
    (folder / "started.tmp").write_text(guard.marker + " " + " ".join(map(str, supervisor.pids().values())))
    (folder / "started.tmp").rename(folder / "started")
    time.sleep(600)
"""


@pytest.fixture
def killed_supervisor(tmp_path: Path) -> Iterator[tuple[str, list[int]]]:
    """The marker and the children of a supervisor that was just killed with SIGKILL."""
    process = subprocess.Popen([sys.executable, "-c", SUPERVISOR, SLEEPER, STUBBORN, ESCAPING, str(tmp_path)])
    try:
        wait_until((tmp_path / "started").exists)
        marker, *pids = (tmp_path / "started").read_text().split()
        yield marker, [int(pid) for pid in pids]
    finally:
        process.kill()
        process.wait()


def test_sigkill_of_the_supervisor_leaves_no_child(killed_supervisor: tuple[str, list[int]], tmp_path: Path) -> None:
    marker, pids = killed_supervisor
    assert all(alive(pid) for pid in pids)
    # What left its session and its environment is known once the guard has looked around.
    time.sleep(1.5 * LOOK_EVERY_S)
    everyone = [*pids, int((tmp_path / "grandchild").read_text())]
    os.kill(parent_of(pids[0]), signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in everyone))
    assert marked(marker) == {}


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


HOLDER = """
import sys, time
from pathlib import Path
from oprime_cli.running.run_folder import RunFolder, sole_supervisor
folder = RunFolder(Path(sys.argv[1]))
with sole_supervisor(folder):
    (folder.path / "held").touch()
    time.sleep(600)
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[RunFolder, "subprocess.Popen[bytes]"]]:
    """A run that another process supervises."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)])
    try:
        wait_until((tmp_path / "held").exists)
        yield RunFolder(tmp_path), process
    finally:
        process.kill()
        process.wait()


def test_a_second_supervisor_is_refused(held: tuple[RunFolder, "subprocess.Popen[bytes]"]) -> None:
    folder, process = held
    assert folder.supervisor_pid() == process.pid
    with pytest.raises(BusyError, match=f"process {process.pid}"), sole_supervisor(folder):
        pass


def test_the_lock_of_a_killed_supervisor_is_taken_over(held: tuple[RunFolder, "subprocess.Popen[bytes]"]) -> None:
    folder, process = held
    process.kill()
    process.wait()
    assert folder.lock.read_text()
    assert folder.supervisor_pid() is None
    with sole_supervisor(folder):
        assert folder.supervisor_pid() == os.getpid()
    assert folder.supervisor_pid() is None


def test_another_process_with_the_same_id_does_not_hold_the_lock(tmp_path: Path) -> None:
    ticks = start_ticks(os.getpid())
    assert ticks is not None
    folder = RunFolder(tmp_path)
    folder.lock.write_text(f'{{"pid": {os.getpid()}, "start_ticks": {ticks - 1}}}')
    assert folder.supervisor_pid() is None


def test_a_taken_port_is_found() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        assert "in use" in cannot_listen("127.0.0.1", port)
    assert cannot_listen("127.0.0.1", port) == ""


def test_ports_zero_become_distinct_free_ports_and_others_stay() -> None:
    with free_ports(EndpointsSection(prm="127.0.0.1:7777")) as chosen:
        pass
    addresses = [chosen.coordinator, chosen.generator, chosen.verifier, chosen.learner, chosen.gateway]
    assert chosen.prm == "127.0.0.1:7777"
    assert len(set(addresses)) == 5
    assert all(int(address.rpartition(":")[2]) > 0 for address in addresses)


def test_an_address_without_a_port_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"endpoints.prm = 'localhost'.*HOST:PORT"), free_ports(EndpointsSection(prm="localhost")):
        pass


def test_gateways_that_share_an_address_are_dealt_its_connections_and_nobody_else_gets_it() -> None:
    with (
        free_ports(EndpointsSection()) as chosen,
        listen(chosen.gateway, 30, shared=True) as one,
        listen(chosen.gateway, 30, shared=True) as other,
    ):
        with pytest.raises(SettingsError, match="cannot listen"):
            listen(chosen.gateway, 30)
        assert {_who_accepts(one, other) for _ in range(100)} == {one, other}


def _who_accepts(*listeners: socket.socket) -> socket.socket:
    """Which of them is given a new connection."""
    with socket.create_connection(listeners[0].getsockname()):
        (ready,) = select.select(listeners, [], [], 30)[0]
        ready.accept()[0].close()
        return ready


def test_a_chosen_port_is_kept_for_the_service_alone_until_the_run_ends() -> None:
    with free_ports(EndpointsSection()) as chosen:
        port = int(chosen.gateway.rpartition(":")[2])
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))
        # A service may listen, end, and listen again.
        for _ in range(2):
            with listen(chosen.gateway, 30) as listener, socket.create_connection(("127.0.0.1", port)) as caller:
                listener.accept()[0].close()
                assert caller.recv(1) == b""
    with socket.socket() as stranger:
        # Its last connections may still be closing.
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", port))


def test_of_two_runs_with_the_same_ports_that_start_together_the_second_is_refused_and_services_can_still_listen() -> None:
    demo = load_config(Path(__file__).parents[2] / "deploy/config/demo.toml")
    with free_ports(EndpointsSection()) as chosen:
        watched = int(chosen.prm.rpartition(":")[2])
        first, second = (
            demo.model_copy(update={"endpoints": endpoints})
            for endpoints in (chosen, EndpointsSection(learner=chosen.learner, metrics_port=watched))
        )
        wanted = list(ports_of(first))
        assert [setting for _, setting, _ in wanted] == [f"endpoints.{service}" for service in SERVICES]
        with held_all(wanted):
            for setting, remedy in (("endpoints.learner", "or port 0"), ("endpoints.metrics_port", "or 0 for none")):
                others = [port for port in ports_of(second) if port[1] == setting]
                with pytest.raises(SettingsError, match=f"another process listens on .*, or is about to; .*{remedy}"), held_all(others):
                    pass
            with listen(chosen.gateway, 30):
                pass
        with held_all(wanted):
            pass


async def test_a_grpc_service_can_listen_on_its_chosen_port() -> None:
    with free_ports(EndpointsSection()) as chosen:
        server = GrpcServer(chosen.prm)
        await server.start()
        await server.set_serving(True)
        assert await asyncio.to_thread(grpc_health, chosen.prm)
        await server.stop()


CHOOSER = """
import sys
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.settings import EndpointsSection
from oprime_cli.running.launch import free_ports
sys.stdin.readline()
with free_ports(EndpointsSection()) as chosen:
    print(chosen.coordinator, chosen.generator, chosen.verifier, chosen.prm, chosen.learner, chosen.gateway, flush=True)
    sys.stdin.readline()
"""


def test_runs_that_start_at_once_choose_different_ports() -> None:
    choosers = [
        subprocess.Popen([sys.executable, "-c", CHOOSER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    try:
        for chooser in choosers:
            assert chooser.stdin is not None
            chooser.stdin.write("go\n")
            chooser.stdin.flush()
        ports = [port for chooser in choosers if chooser.stdout for port in chooser.stdout.readline().split()]
        assert len(ports) == 4 * 6
        assert len(set(ports)) == len(ports)
    finally:
        for chooser in choosers:
            chooser.communicate("end\n", timeout=TIMEOUT_S)


def test_a_second_signal_while_children_stop_kills_them_at_once(tmp_path: Path) -> None:
    script = SUPERVISOR.replace('logs=folder / "logs")', 'logs=folder / "logs", grace_s=600)').replace("time.sleep(600)\n", "")
    process = subprocess.Popen([sys.executable, "-c", script, SLEEPER, STUBBORN, ESCAPING, str(tmp_path)])
    try:
        wait_until((tmp_path / "started").exists)
        _, *pids = (tmp_path / "started").read_text().split()
        wait_until(lambda: not alive(int(pids[0])))
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0
        assert not any(alive(int(pid)) for pid in pids)
    finally:
        process.kill()
        process.wait()


def test_an_existing_run_is_kept_unless_a_fresh_one_is_asked_for(tmp_path: Path) -> None:
    config = RunConfig.from_document(
        {
            "run": {"name": "one", "directory": str(tmp_path), "steps": 1},
            "model": {"path": "model"},
            "tasks": {"source": "chain"},
            "coordinator": {"groups_per_batch": 1},
        },
        origin="test",
    )
    folder = prepare_folder(config, fresh=False, command="train one.toml")
    folder.begin(config)
    (folder.path / "metrics.jsonl").write_text("old")
    given = argparse.Namespace(config="my run.toml", overrides=["run.directory=/a b"])
    with pytest.raises(SettingsError, match=r"was begun in .*oprime resume .*train 'my run.toml' --set 'run.directory=/a b' --fresh\)"):
        prepare_folder(config, fresh=False, command=as_typed("train", given))
    assert folder.metrics.read_text() == "old"
    prepare_folder(config, fresh=True, command="train one.toml")
    assert not folder.metrics.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_health_check_of_a_port_that_nobody_listens_on_or_of_no_port_says_no() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        assert listens(f"127.0.0.1:{taken}")
    assert not listens(f"127.0.0.1:{taken}")
    assert not grpc_health(f"127.0.0.1:{taken}")
    assert not grpc_health("127.0.0.1:none")
