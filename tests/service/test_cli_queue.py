"""`oprime ledger`, `dead-letters`, `resume` and `status` on runs with a real Redis."""

import asyncio
import json
import time
from pathlib import Path

import pytest
import redis.asyncio

from oprime.adapters.local_redis import LocalRedis
from oprime.adapters.redis_queue import RedisQueue
from oprime.core.types import VerifiedRollout
from oprime.core.verification import correct
from oprime.ports import ROLLOUTS, TICKETS, VERDICTS, LedgerMove, Output
from oprime.ports.payloads import payload_name
from oprime.wire.codec import event_to_proto
from oprime_cli.main import main
from oprime_cli.run_config import RunConfig
from oprime_cli.running.launch import swept_at_rest
from oprime_cli.running.payload_audit import sweep_payloads
from oprime_cli.running.run_folder import RunFolder, prepare_folder, sole_supervisor
from oprime_coordinator.state import STATE, CoordinatorState
from rollouts import single_turn

pytestmark = pytest.mark.redis


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A stopped run with four rollouts in its ledger and one dead letter."""
    config = RunConfig.from_document(
        {
            "run": {"name": "one", "directory": str(tmp_path), "steps": 1},
            "model": {"path": "model"},
            "tasks": {"source": "chain"},
            "sampling": {"group_size": 2},
            "coordinator": {"groups_per_batch": 1},
        },
        origin="test",
    )
    folder = prepare_folder(config, fresh=False, command="train one.toml")
    folder.begin(config)
    with LocalRedis.start(folder.redis) as server:
        asyncio.run(fill(server.url))
    return folder


async def fill(url: str) -> None:
    queue = RedisQueue.connect(url, run="one")
    issued = [LedgerMove(rollout_id=f"{group}:{index}", state="live") for group in (0, 1) for index in (0, 1)]
    values = {STATE: CoordinatorState(next_group_id=2).to_bytes()}
    await queue.commit("issue:0", moves=issued, outputs=[Output(stream=TICKETS, key="0", payload=b"ticket")], values=values)
    await queue.commit("learn:1", moves=[LedgerMove(rollout_id="0:0", state="trained:1")])
    await queue.commit("filter:1", moves=[LedgerMove(rollout_id="0:1", state="filtered:too_easy")])
    await queue.commit("sample:2", outputs=[Output(stream=ROLLOUTS, key="1:0", payload=b"rollout")])
    (delivery,) = await queue.receive(ROLLOUTS, "worker", wait_s=1)
    await queue.dead_letter(delivery, reason="cannot be read", rollout_ids=["1:0"])
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
        config = folder.load_settings()
        folder.note_session(config, config.model_copy(update={"queue": config.queue.model_copy(update={"url": server.url})}))
        assert main(["ledger", str(folder.path)]) == 0
        assert server.running
    assert "invariant OK" in capsys.readouterr().out


async def run_on(url: str, *commands: tuple[str, ...]) -> None:
    """Change the server's data by hand; {RUN} stands before the name of a key."""
    client = redis.asyncio.Redis.from_url(url)
    for name, *words in commands:
        await client.execute_command(name, *(word.replace("{RUN}", "oprime:{one}:") for word in words))
    await client.aclose()


def old(owner: str) -> str:
    """The name of a payload that was written an hour ago."""
    return payload_name(owner, time.time() - 3600)


async def store(url: str, *names: str) -> None:
    await run_on(url, *(("SET", f"{{RUN}}payload:{name}", "bytes") for name in names))


def test_payloads_that_nobody_needs_are_named_until_a_sweep_ends_them(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    needed = [old(owner) for owner in ("rollout/0:0", "rollout/1:0", "text/1:1", "task/1", "rewards/1")]
    needless = [old(owner) for owner in ("rollout/0:1", "reference/0:1", "task/0")]
    with LocalRedis.start(folder.redis) as server:
        asyncio.run(store(server.url, *needed, *needless))
    assert main(["ledger", str(folder.path)]) == 1
    printed = capsys.readouterr().out
    assert "payloads: 8 stored, 0 missing, 3 orphaned" in printed
    assert "3 payloads are orphaned: " in printed
    assert all(name in printed.replace("\n", "") for name in needless)
    with LocalRedis.start(folder.redis) as server:
        config = folder.load_settings()
        resolved = config.model_copy(update={"queue": config.queue.model_copy(update={"url": server.url})})
        # A session that ends, also by Ctrl-C, sweeps when its services have stopped.
        with pytest.raises(KeyboardInterrupt), swept_at_rest(resolved):
            raise KeyboardInterrupt
        assert asyncio.run(sweep_payloads(resolved)) == 0
    assert main(["ledger", str(folder.path)]) == 0
    assert "payloads: 5 stored, 0 missing, 0 orphaned" in capsys.readouterr().out


def test_payloads_that_somebody_will_ask_for_in_vain_are_named(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    there, missing = old("text/1:1"), old("rollout/1:1")
    record = single_turn(1, 1, [3], [4]).record(payload=missing, text=there)
    verdict = event_to_proto(VerifiedRollout(rollout=record, outcome=correct())).SerializeToString()

    async def pass_on(url: str) -> None:
        await store(url, there)
        queue = RedisQueue.connect(url, run="one")
        await queue.commit("verify:1:1", outputs=[Output(stream=VERDICTS, key="1:1", payload=verdict)])
        await queue.close()

    with LocalRedis.start(folder.redis) as server:
        asyncio.run(pass_on(server.url))
    assert main(["ledger", str(folder.path)]) == 1
    printed = capsys.readouterr().out
    assert "payloads: 1 stored, 1 missing, 0 orphaned" in printed
    assert f"1 payloads are missing: {missing}" in printed.replace("\n", "")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        # A rollout in the entries alone, as no commit ever issues one.
        (("HSET", "{RUN}ledger", "9:0", "live"), ["issued: the counts say 4, the entries 5", "never issued (the next one is 2): 9"]),
        (("HDEL", "{RUN}ledger", "1:1"), ["issued: the counts say 4, the entries 3", "fewer than their 2 rollouts: 1"]),
        (("HSET", "{RUN}ledger", "1:1", "trained:1"), ["trained: the counts say 1, the entries 2"]),
        (("HINCRBY", "{RUN}counts", "live", "1"), ["the counts do not add up: 4 issued, 5 in all states"]),
        # What an evicting server removes: one key.
        (
            ("DEL", "{RUN}ledger"),
            ["issued: the counts say 4, the entries 0", "2 group(s) are absent, but 0 prompt(s) were passed over: 0, 1"],
        ),
        (("DEL", "{RUN}counts"), ["issued: the counts say 0, the entries 4"]),
        (("DEL", "{RUN}values"), ["the coordinator's state is gone"]),
        (("HSET", "{RUN}values", "coordinator/state", "{"), ["the coordinator's state cannot be read"]),
        (("HSET", "{RUN}values", "coordinator/state", '{"next_group_id": 1}'), ["never issued (the next one is 1): 1"]),
        (
            ("HSET", "{RUN}values", "coordinator/state", '{"next_group_id": 4, "passed_over": 1}'),
            ["2 group(s) are absent, but 1 prompt(s) were passed over: 2, 3"],
        ),
    ],
)
def test_what_is_wrong_with_a_ledger_is_said_with_exit_code_1(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], said: list[str]
) -> None:
    with LocalRedis.start(folder.redis) as server:
        asyncio.run(run_on(server.url, command))
    assert main(["ledger", str(folder.path)]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "invariant VIOLATED" in printed
    assert [text for text in said if text not in printed] == [], printed


def test_counts_and_entries_that_agree_are_not_enough(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    moved = [("HDEL", "{RUN}ledger", "1:1"), ("HSET", "{RUN}ledger", "0:2", "live")]
    with LocalRedis.start(folder.redis) as server:
        asyncio.run(run_on(server.url, *moved))
    assert main(["ledger", str(folder.path)]) == 1
    assert "fewer than their 2 rollouts: 1" in capsys.readouterr().out


def test_prompts_that_were_passed_over_leave_gaps(folder: RunFolder) -> None:
    with LocalRedis.start(folder.redis) as server:
        asyncio.run(run_on(server.url, ("HSET", "{RUN}values", "coordinator/state", '{"next_group_id": 4, "passed_over": 2}')))
    assert main(["ledger", str(folder.path)]) == 0


def test_with_a_greedy_baseline_a_group_has_one_rollout_more(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    config = folder.load_settings()
    folder.begin(config.model_copy(update={"algorithm": config.algorithm.model_copy(update={"estimator": "remax"})}))
    assert main(["ledger", str(folder.path)]) == 1
    assert "fewer than their 3 rollouts: 0, 1" in capsys.readouterr().out


def test_an_emptied_server_holds_nothing_of_the_run_and_is_no_closed_ledger(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with LocalRedis.start(folder.redis) as server:
        asyncio.run(run_on(server.url, ("FLUSHALL",)))
    assert main(["ledger", str(folder.path)]) == 1
    printed = capsys.readouterr().out
    assert "Redis holds nothing of run one" in printed
    assert "invariant OK" not in printed


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
