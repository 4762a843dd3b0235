"""Real worker processes."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import structlog

from living_processes import children, lives
from oprime.core.verification import Verdict, VerificationRequest
from oprime.runtime.errors import NotReadyError, SettingsError
from oprime_verifier.working.output import BYTES_PER_MINUTE
from oprime_verifier.working.worker import WorkerSetup
from oprime_verifier.working.worker_pool import WorkerPool

PLUGINS = "service.verifier_plugins"
GENEROUS_S = 60.0
SHORT_S = 1.0


@asynccontextmanager
async def running(
    name: str = "", *, deadline_s: float = GENEROUS_S, workers: int = 1, attempts: int = 2, memory_mib: int = 2048
) -> AsyncIterator[WorkerPool]:
    """A pool of the built-in verifiers, or of one plug-in."""
    plugin = {"name": name, "target": f"{PLUGINS}:{name}"} if name else None
    setup = WorkerSetup(plugin=plugin, memory_bytes=memory_mib * 2**20, deadline_s=deadline_s)
    pool = WorkerPool(setup, workers=workers, attempts=attempts)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


def asked(kind: str, response: str, gold: str, deadline_s: float = 0.0) -> VerificationRequest:
    return VerificationRequest(kind=kind, response=response, golds=(gold,), deadline_s=deadline_s)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(GENEROUS_S):
        while not condition():  # noqa: ASYNC110 - the condition is another process's
            await asyncio.sleep(0.02)


def started(folder: Path) -> int:
    """Workers that took an item of `wait_for_file`."""
    return len(list(folder.glob("pid-*")))


def running_process(pid: int) -> bool:
    return psutil.pid_exists(pid) and lives(psutil.Process(pid))


async def judged(pool: WorkerPool, kind: str, response: str, gold: str) -> tuple[Verdict, float | None, str]:
    outcome = await pool.judge(asked(kind, response, gold))
    return outcome.verdict, outcome.score, outcome.reason


async def test_worker_processes_judge_with_built_in_verifiers() -> None:
    async with running(workers=2) as pool:
        outcome = await pool.judge(asked("math", "so \\boxed{\\frac{2}{4}}", "0.5"))
        assert (outcome.verdict, outcome.score) == (Verdict.CORRECT, 1.0)
        assert outcome.timings["judge"] > 0
        assert (await judged(pool, "chain", "=1 #8", "8"))[0] is Verdict.CORRECT
        assert list(pool.verifiers) == ["math", "code", "exact", "chain", "paper_math"]


@pytest.mark.parametrize(
    ("name", "verdict", "score"),
    [
        ("nothing", Verdict.NOT_APPLICABLE, None),
        ("mapping", Verdict.PARTIAL, 0.25),
        ("outcome", Verdict.NO_ANSWER, 0.0),
        ("asynchronous", Verdict.CORRECT, 1.0),
    ],
)
async def test_a_plug_in_judges_in_workers_of_its_own(name: str, verdict: Verdict, score: float | None) -> None:
    async with running(name) as pool:
        outcome = await pool.judge(asked(name, "ab", "c"))
        assert (outcome.verdict, outcome.score) == (verdict, score)
        assert list(pool.verifiers) == [name]


async def test_long_and_unusual_text_arrives_whole() -> None:
    text = "é\u2028\x00\U0001f600" * 25_000
    async with running("repeat") as pool:
        assert (await pool.judge(asked("repeat", text, "ß"))).answer == "100000 \U0001f600 ß"


async def test_a_verifier_that_hangs_ends_as_an_error_and_the_next_item_is_judged() -> None:
    async with running("hang", deadline_s=SHORT_S) as pool:
        await until(lambda: pool.ready_workers == 1)
        first = pool.pids
        verdict, score, reason = await judged(pool, "hang", "hang", "")
        assert (verdict, score) == (Verdict.INFRA_ERROR, None)
        assert reason == "no verdict within 1 s (verifier.deadline_s) (2 attempts)"
        assert not running_process(first[0])
        assert await judged(pool, "hang", "fine", "") == (Verdict.CORRECT, 1.0, "")
        assert pool.killed == 2


async def test_a_verifier_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "child"
    async with running("hang_and_ignore_sigterm", deadline_s=SHORT_S, attempts=1) as pool:
        assert (await pool.judge(asked("hang_and_ignore_sigterm", "hang", str(pid_file)))).verdict is Verdict.INFRA_ERROR
        child = int(pid_file.read_text(encoding="utf-8"))
        await until(lambda: not running_process(child))
        assert (await pool.judge(asked("hang_and_ignore_sigterm", "fine", ""))).score == 1.0


async def test_arithmetic_that_holds_the_interpreter_lock_is_stopped_and_is_no_score() -> None:
    # No filter knows this one: each exponent is small, their product is not.
    bomb = "\\boxed{" + "(" * 6 + "9" + "^{9999})" * 6 + "}"
    async with running(deadline_s=GENEROUS_S) as pool:
        outcome = await pool.judge(asked("math", bomb, "5"))
        assert outcome.verdict in (Verdict.INCORRECT, Verdict.UNDECIDED)
        assert (await pool.judge(asked("math", "\\boxed{5}", "5"))).score == 1.0
        assert pool.killed == 0


async def test_an_item_whose_worker_is_killed_is_tried_again(tmp_path: Path) -> None:
    async with running("wait_for_file") as pool:
        answer = asyncio.create_task(pool.judge(asked("wait_for_file", "", str(tmp_path))))
        await until(lambda: started(tmp_path) == 1)
        os.kill(pool.pids[0], signal.SIGKILL)
        (tmp_path / "released").touch()
        outcome = await answer
        assert outcome.score == 1.0
        assert started(tmp_path) == 2
        assert pool.killed == 1


async def test_an_item_that_kills_its_worker_once_is_judged_by_the_next(tmp_path: Path) -> None:
    async with running("die_once") as pool:
        assert (await pool.judge(asked("die_once", "", str(tmp_path / "marker")))).score == 1.0


async def test_a_worker_killed_while_idle_costs_no_attempt() -> None:
    async with running("repeat", attempts=1) as pool:
        await until(lambda: pool.ready_workers == 1)
        os.kill(pool.pids[0], signal.SIGKILL)
        await until(lambda: pool.killed == 1)
        assert (await pool.judge(asked("repeat", "a", "b"))).score == 1.0


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("exit_process", "the worker ended with exit code 3"),
        ("raises", "verifier raises raised RuntimeError: no judgement for r"),
        ("leave", "verifier leave raised SystemExit: enough"),
        ("too_much_memory", "verifier too_much_memory raised MemoryError"),
        ("two", "it gave 2, outside [0, 1]"),
        ("nan", "it gave nan"),
        ("text", "it returned a str"),
        ("mapping_without_score", "`score` or `verdict` is missing"),
    ],
)
async def test_a_broken_plug_in_is_an_error_with_its_reason(name: str, what: str) -> None:
    async with running(name) as pool:
        verdict, score, reason = await judged(pool, name, "r", "g")
        assert (verdict, score) == (Verdict.INFRA_ERROR, None)
        assert what in reason
        # What broke the contract would break it again.
        assert reason.endswith("(2 attempts)") == ("broke its contract" not in reason)


async def test_a_plug_in_that_prints_does_not_disturb_the_protocol() -> None:
    async with running("chatter") as pool:
        assert (await pool.judge(asked("chatter", "", ""))).score == 1.0
        assert (await pool.judge(asked("chatter", "again", ""))).score == 1.0


async def test_a_caller_that_gives_up_leaves_the_worker_usable(tmp_path: Path) -> None:
    async with running("wait_for_file") as pool:
        answer = asyncio.create_task(pool.judge(asked("wait_for_file", "", str(tmp_path))))
        waiting = asyncio.create_task(pool.judge(asked("wait_for_file", "never taken", str(tmp_path))))
        await until(lambda: started(tmp_path) == 1)
        for task in (answer, waiting):
            task.cancel()
        assert await asyncio.gather(answer, waiting, return_exceptions=True) != [None, None]
        (tmp_path / "released").touch()
        assert (await pool.judge(asked("wait_for_file", "", str(tmp_path)))).score == 1.0
        assert pool.killed == 0


async def test_items_go_to_as_many_workers_as_there_are(tmp_path: Path) -> None:
    async with running("wait_for_file", workers=2) as pool:
        answers = [asyncio.create_task(pool.judge(asked("wait_for_file", "", str(tmp_path)))) for _ in range(2)]
        await until(lambda: started(tmp_path) == 2)
        (tmp_path / "released").touch()
        assert [outcome.score for outcome in await asyncio.gather(*answers)] == [1.0, 1.0]


async def test_nothing_is_judged_before_the_start() -> None:
    pool = WorkerPool(WorkerSetup(memory_bytes=2**31, deadline_s=1.0), workers=1, attempts=1)
    with pytest.raises(NotReadyError):
        await pool.judge(asked("math", "a", "b"))


async def test_a_plug_in_that_cannot_be_imported_stops_the_start() -> None:
    before = children()
    setup = WorkerSetup(plugin={"name": "mine", "target": "nowhere_to_be_found:judge"}, memory_bytes=2**31, deadline_s=1.0)
    pool = WorkerPool(setup, workers=1, attempts=1)
    with pytest.raises(SettingsError, match=r"verifier\.plugins\.mine = 'nowhere_to_be_found:judge' cannot be imported"):
        await pool.start()
    assert not children() - before


async def test_a_request_s_own_deadline_comes_before_the_service_s() -> None:
    async with running("hang", attempts=1) as pool:
        outcome = await pool.judge(asked("hang", "hang", "", deadline_s=SHORT_S))
        assert (outcome.verdict, outcome.reason) == (Verdict.INFRA_ERROR, "no verdict within 1 s (verifier.deadline_s) (1 attempts)")


async def test_no_process_is_left_after_close(tmp_path: Path) -> None:
    before = children()
    async with running("wait_for_file", workers=2) as pool:
        answer = asyncio.create_task(pool.judge(asked("wait_for_file", "", str(tmp_path))))
        await until(lambda: pool.ready_workers == 2 and started(tmp_path) == 1)
        pids = pool.pids
    assert not any(running_process(pid) for pid in pids)
    assert not children() - before
    answer.cancel()
    await asyncio.gather(answer, return_exceptions=True)


PARENT = """
import asyncio, sys
from oprime.core.verification import VerificationRequest
from oprime_verifier.working.output import BYTES_PER_MINUTE
from oprime_verifier.working.worker import WorkerSetup
from oprime_verifier.working.worker_pool import WorkerPool

async def main():
    setup = WorkerSetup(plugin={"name": "hang", "target": "service.verifier_plugins:hang"}, memory_bytes=2**31, deadline_s=600)
    pool = WorkerPool(setup, workers=1, attempts=1)
    await pool.start()
    task = asyncio.create_task(pool.judge(VerificationRequest(kind="hang", response="hang")))
    await asyncio.sleep(0.2)
    print(pool.pids[0], flush=True)
    await task

asyncio.run(main())
"""


def test_a_hanging_worker_dies_with_a_service_that_is_killed() -> None:
    tests = str(Path(__file__).parents[1])
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": tests}) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert running_process(worker)
        parent.kill()
        parent.wait()
        asyncio.run(until(lambda: not running_process(worker)))


@pytest.mark.parametrize("name", ["half_a_character", "raises_half_a_character"])
async def test_half_a_character_in_what_a_plug_in_says_is_written_as_its_escape(name: str) -> None:
    async with running(name) as pool:
        outcome = await pool.judge(asked(name, "x", "y"))
    for text in (outcome.reason, outcome.answer, *outcome.flags, *outcome.components):
        text.encode()
    assert "\\ud800" in outcome.reason


async def test_a_broken_contract_is_not_tried_again(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    async with running("counts_its_calls", attempts=3) as pool:
        outcome = await pool.judge(asked("counts_its_calls", "x", str(calls)))
    assert (outcome.verdict, calls.read_text(encoding="utf-8")) == (Verdict.INFRA_ERROR, "called\n")
    assert "broke its contract" in outcome.reason


async def test_what_a_plug_in_prints_is_logged_line_by_line_and_in_bounds() -> None:
    with structlog.testing.capture_logs() as logs:
        async with running("prints_a_lot") as pool:
            outcome = await pool.judge(asked("prints_a_lot", "x", "20000"))
    assert outcome.score == 1.0
    lines = [entry["text"] for entry in logs if entry["event"] == "worker_output"]
    assert lines[0] == "line 0 " + "x" * 100
    assert sum(map(len, lines)) <= BYTES_PER_MINUTE
    left_out = sum(entry["bytes"] for entry in logs if entry["event"] == "worker_output_left_out")
    assert left_out + sum(map(len, lines)) == sum(len(f"line {number} ") + 100 for number in range(20000)) + len("no end of line")


async def test_a_worker_that_ends_is_quoted_with_its_last_words() -> None:
    async with running("says_and_ends", attempts=1) as pool:
        outcome = await pool.judge(asked("says_and_ends", "x", "out of luck"))
    assert "exit code 3; its last words: out of luck" in outcome.reason


async def test_the_seconds_of_a_failed_judgement_are_those_of_its_worker_and_not_of_the_wait_for_it() -> None:
    started = time.monotonic()
    async with running("fails_after_a_moment", attempts=1) as pool:
        outcomes = await asyncio.gather(*(pool.judge(asked("fails_after_a_moment", str(n), "0.2")) for n in range(5)))
    # One worker has them one after the other: with the waits in it, the sum would be three times as long as it took.
    assert {outcome.verdict for outcome in outcomes} == {Verdict.INFRA_ERROR}
    assert 1.0 <= sum(outcome.timings["judge"] for outcome in outcomes) <= time.monotonic() - started
