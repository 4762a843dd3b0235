"""Runs whose services run by themselves, as in containers: what `status` says of them, and how `conclude` ends them."""

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from oprime.adapters.local_redis import LocalRedis
from oprime.adapters.redis_queue import RedisQueue
from oprime.adapters.system_clock import SystemClock
from oprime.lm.checkpoints import begin_part, checkpoint_root, complete_part, parts_of
from oprime.ports import LedgerMove
from oprime.runtime.free_ports import reserve_port
from oprime.runtime.run_end import say_finished
from oprime_cli.main import main
from oprime_cli.run_config import RunConfig
from oprime_cli.running.run_folder import RunFolder
from oprime_coordinator.state import STATE, CoordinatorState
from oprime_proto.v1 import coordinator_pb2 as pb
from oprime_proto.v1 import coordinator_pb2_grpc

STEPS = 2


@pytest.fixture
def coordinator_port() -> Iterator[int]:
    with reserve_port("127.0.0.1") as keeper:
        yield keeper.getsockname()[1]


def begun(tmp_path: Path, port: int, url: str, *, when_finished: str = "exit", steps: int = STEPS) -> RunFolder:
    """The folder of a run as `oprime prepare` leaves it, and what its coordinator wrote of two steps."""
    services = ("coordinator", "generator", "verifier", "prm", "learner")
    addresses = dict.fromkeys(services, f"127.0.0.1:{port}") | {"gateway": "127.0.0.1:1"}
    config = RunConfig.from_document(
        {
            "run": {"name": "one", "directory": str(tmp_path), "steps": steps, "when_finished": when_finished},
            "model": {"path": "model"},
            "tasks": {"source": "rows", "train": "train.jsonl"},
            "sampling": {"group_size": 2},
            "endpoints": addresses,
            "queue": {"url": url},
            "coordinator": {"groups_per_batch": 1},
        },
        origin="test",
    )
    folder = RunFolder(config.run.folder)
    folder.begin(config)
    rows = [{"kind": "step", "step": step, "elapsed_s": 10.0 * step} for step in (1, 2)]
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


class Answers(coordinator_pb2_grpc.CoordinatorServiceServicer):
    def Status(self, request: object, context: object) -> pb.CoordinatorServiceStatusResponse:
        return pb.CoordinatorServiceStatusResponse(state=pb.RUN_STATE_FINISHED, step=STEPS, total_steps=STEPS, ledger={"issued": 4})


@contextmanager
def coordinator(port: int) -> Iterator[grpc.Server]:
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server(Answers(), server)
    assert server.add_insecure_port(f"127.0.0.1:{port}") == port
    server.start()
    try:
        yield server
    finally:
        server.stop(0).wait()


def save(folder: RunFolder, step: int, *parts: str) -> None:
    for part in parts:
        complete_part(begin_part(checkpoint_root(folder.path), step, part), step)


# status


def test_a_run_whose_coordinator_answers_is_running(tmp_path: Path, coordinator_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    folder = begun(tmp_path, coordinator_port, "redis://127.0.0.1:1/0")
    with coordinator(coordinator_port):
        assert main(["status", str(folder.path)]) == 1
    said = capsys.readouterr().out
    assert "is running, its services each by itself" in said
    assert "finished, step 2 of 2" in said


def test_a_run_whose_last_checkpoint_is_whole_is_finished(
    tmp_path: Path, coordinator_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = begun(tmp_path, coordinator_port, "redis://127.0.0.1:1/0")
    *trainers, last = sorted(parts_of(RunConfig.load(folder.config).algorithm), key=lambda part: part == "coordinator")
    save(folder, STEPS, *trainers)
    assert main(["status", str(folder.path)]) == 1
    assert "is not running, last committed step 2; go on with: start its services again" in capsys.readouterr().out
    save(folder, STEPS, last)
    assert main(["status", str(folder.path)]) == 0
    assert f"is finished, last committed step 2; see {folder.report}" in capsys.readouterr().out


def test_a_finished_run_with_more_steps_in_its_settings_is_not_finished(
    tmp_path: Path, coordinator_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = begun(tmp_path, coordinator_port, "redis://127.0.0.1:1/0", steps=5)
    save(folder, STEPS, *parts_of(RunConfig.load(folder.config).algorithm))
    assert main(["status", str(folder.path)]) == 1
    assert "is not running" in capsys.readouterr().out


# conclude


async def account(url: str, *states: str) -> None:
    """A ledger of one group, and the word that the run has finished."""
    queue = RedisQueue.connect(url, run="one")
    names = [f"0:{index}" for index in range(len(states))]
    await queue.commit("issue", moves=[LedgerMove(rollout_id=name, state="live") for name in names])
    await queue.commit("end", moves=[LedgerMove(rollout_id=name, state=state) for name, state in zip(names, states, strict=True)])
    await queue.set_value(STATE, CoordinatorState(next_group_id=1).to_bytes())
    await say_finished(queue, STEPS, SystemClock())
    await queue.close()


@pytest.mark.redis
def test_the_end_is_accounted_for_once_the_coordinator_has_left(
    tmp_path: Path, coordinator_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with LocalRedis.start(tmp_path / "redis") as server:
        folder = begun(tmp_path, coordinator_port, server.url)
        code: list[int] = []
        concluding = threading.Thread(target=lambda: code.append(main(["conclude", str(folder.config)])))
        with coordinator(coordinator_port):
            concluding.start()
            concluding.join(1.5)
            # The run has not finished yet.
            assert concluding.is_alive()
            asyncio.run(account(server.url, "trained:1", "trained:1"))
            concluding.join(2.5)
            # The coordinator has still to sweep.
            assert concluding.is_alive()
            assert not folder.summary.exists()
        concluding.join(60)
    assert code == [0]
    said = capsys.readouterr().out
    assert "run one is finished: 2 steps" in said
    assert "the ledger is closed: issued 2, trained 2" in said
    assert f"report: {folder.report}" in said
    assert folder.finished()
    assert json.loads(folder.summary.read_text(encoding="utf-8"))["seconds"]["train"] == 20.0
    assert folder.report.is_file()


@pytest.mark.redis
def test_a_ledger_that_is_not_closed_is_said_with_exit_code_1(
    tmp_path: Path, coordinator_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with LocalRedis.start(tmp_path / "redis") as server:
        folder = begun(tmp_path, coordinator_port, server.url, when_finished="serve")
        asyncio.run(account(server.url, "trained:1"))
        assert main(["conclude", str(folder.config)]) == 1
    assert "the ledger is NOT closed" in capsys.readouterr().out
