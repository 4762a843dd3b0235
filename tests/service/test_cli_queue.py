"""`oprime ledger`, `dead-letters`, `resume` and `status` on runs with a real Redis."""

import asyncio
import json
from pathlib import Path

import pytest

from oprime.adapters.local_redis import LocalRedis
from oprime.adapters.redis_queue import RedisQueue
from oprime.ports import ROLLOUTS, TICKETS, LedgerMove, Output
from oprime_cli.main import main
from oprime_cli.run_config import RunConfig
from oprime_cli.running.run_folder import RunFolder, prepare_folder, sole_supervisor

pytestmark = pytest.mark.redis


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A stopped run with four rollouts in its ledger and one dead letter."""
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
    folder.write_original(config)
    with LocalRedis.start(folder.redis) as server:
        asyncio.run(fill(server.url))
    return folder


async def fill(url: str) -> None:
    queue = RedisQueue.connect(url, run="one")
    ids = ("1/0", "1/1", "2/0", "2/1")
    issued = [LedgerMove(rollout_id=name, state="live") for name in ids]
    await queue.commit("admit:1", moves=issued, outputs=[Output(stream=TICKETS, key="1", payload=b"ticket")])
    await queue.commit("learn:1", moves=[LedgerMove(rollout_id="1/0", state="trained:1")])
    await queue.commit("filter:1", moves=[LedgerMove(rollout_id="1/1", state="filtered:too_easy")])
    await queue.commit("sample:2", outputs=[Output(stream=ROLLOUTS, key="2/0", payload=b"rollout")])
    (delivery,) = await queue.receive(ROLLOUTS, "worker", wait_s=1)
    await queue.dead_letter(delivery, reason="cannot be read", rollout_ids=["2/0"])
    await queue.close()


def test_the_ledger_of_a_stopped_run_is_counted_and_nothing_is_left_running(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", str(folder.path)]) == 0
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "issued 4 4" in printed
    assert "trained 1 1" in printed
    assert "filtered:too_easy 1 1" in printed
    assert "dead:rollouts 1 1" in printed
    assert "invariant OK" in printed
    assert folder.supervisor_pid() is None
    # The folder is free again: a second server may use it.
    with LocalRedis.start(folder.redis) as server:
        assert server.running


def test_the_ledger_of_a_running_run_is_read_from_its_own_redis(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with sole_supervisor(folder), LocalRedis.start(folder.redis) as server:
        config = folder.load_original()
        folder.write_config(config.model_copy(update={"queue": config.queue.model_copy(update={"url": server.url})}))
        assert main(["ledger", str(folder.path)]) == 0
        assert server.running
    assert "invariant OK" in capsys.readouterr().out


def test_a_violated_ledger_gives_exit_code_1(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with LocalRedis.start(folder.redis) as server:
        asyncio.run(forge(server.url))
    assert main(["ledger", str(folder.path)]) == 1
    assert "invariant VIOLATED" in capsys.readouterr().out


async def forge(url: str) -> None:
    """Issue a rollout in the entries alone, as no commit ever does."""
    queue = RedisQueue.connect(url, run="one")
    counts = await queue.ledger_counts()
    entries = {name: state async for name, state in queue.ledger_entries()}
    await queue.restore_ledger({**entries, "9/9": "live"})
    await queue._client.hset(queue._key("counts"), mapping=counts)  # pyright: ignore[reportPrivateUsage, reportGeneralTypeIssues]
    await queue.close()


def test_dead_letters_are_listed_with_their_reason_and_go_back(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dead-letters", str(folder.path)]) == 0
    assert "cannot be read" in capsys.readouterr().out
    assert main(["dead-letters", str(folder.path), "--replay"]) == 0
    assert "1 of 1 put back" in capsys.readouterr().out
    assert main(["dead-letters", str(folder.path)]) == 0
    assert "no dead letters" in capsys.readouterr().out
    assert main(["ledger", str(folder.path)]) == 0
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "live 2 2" in printed


def test_a_finished_run_says_so_and_is_not_resumed(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.summary.write_text(json.dumps({"result": "ok"}))
    assert main(["resume", str(folder.path)]) == 0
    assert "is finished" in capsys.readouterr().out
    assert main(["status", str(folder.path)]) == 0
    assert "is finished" in capsys.readouterr().out


def test_a_running_run_is_not_resumed(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with sole_supervisor(folder):
        assert main(["resume", str(folder.path)]) == 1
    assert "is running" in capsys.readouterr().err


def test_a_renamed_folder_is_refused(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.path.rename(folder.path.with_name("two"))
    assert main(["ledger", str(folder.path.with_name("two"))]) == 2
    assert "rename it back" in capsys.readouterr().err


def test_a_stopped_run_says_how_to_go_on(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.metrics.write_text('{"kind": "step", "step": 7}\n')
    assert main(["status", str(folder.path)]) == 1
    assert f"last committed step 7; go on with: oprime resume {folder.path}" in capsys.readouterr().out
    assert main(["down", str(folder.path)]) == 0
    assert "is not running" in capsys.readouterr().out
