"""Verifiers behind HTTP, over real loopback connections, with what goes wrong there."""

import asyncio
import gzip
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fakes import ManualClock
from oprime.adapters.observed import observed
from oprime.core.verification import Outcome, Verdict, VerificationRequest
from oprime.ports import Clock
from oprime.runtime.errors import SettingsError
from oprime.runtime.settings import EndpointsSection
from oprime.runtime.tracing import span
from oprime_verifier.external.outage import FLAG
from oprime_verifier.external.settings import WebhookSection
from oprime_verifier.external.signing import is_signed
from oprime_verifier.external.webhook import WebhookVerifier
from otlp_collector import collecting
from service.verifier_external.conftest import Server, raw, says, slow

REQUEST = VerificationRequest(kind="mine", response="so it is 8", golds=("8",), prompt="What is 5+3? ", request_id="r1", data_source="sums")
RIGHT = {"data": [{"request_id": "r1", "verdict": "CORRECT", "score": 1.0, "extracted": "8"}]}
WAIT_S = 30.0


@asynccontextmanager
async def webhook(url: str, clock: Clock | None = None, **settings: Any) -> AsyncIterator[WebhookVerifier]:
    verifier = WebhookVerifier("mine", WebhookSection.model_validate({"url": url, **settings}), clock=clock, chance=random.Random(1))
    try:
        yield verifier
    finally:
        await verifier.close()


async def judged(server: Server, request: VerificationRequest = REQUEST, **settings: Any) -> Outcome:
    async with webhook(server.url, **{"deadline_s": WAIT_S, **settings}) as verifier:
        return await verifier.verify(request)


# The native protocol.


async def test_a_request_is_posted_as_our_own_json(server: Server) -> None:
    server.answers = [says(RIGHT)]
    outcome = await judged(server)
    assert (outcome.verdict, outcome.score, outcome.answer) == (Verdict.CORRECT, 1.0, "8")
    asked = server.seen[0].message["inputs"][0]
    assert 0 < asked.pop("deadline_s") <= WAIT_S
    assert asked == {
        "request_id": "r1",
        "kind": "mine",
        "response": "so it is 8",
        "golds": ["8"],
        "prompt": "What is 5+3? ",
        "data_source": "sums",
    }
    assert server.seen[0].headers["idempotency-key"] == "r1"


async def test_hostile_text_is_only_data(server: Server) -> None:
    text = "\x00\u202e\"}]} \U0001f600 <script> '; DROP TABLE --\r\nX-Injected: 1"
    server.answers = [says(RIGHT)]
    await judged(server, VerificationRequest(kind="mine", response=text, request_id="r1\r\nX-Injected: 1"))
    assert server.seen[0].message["inputs"][0]["response"] == text
    assert "x-injected" not in server.seen[0].headers


async def test_requests_are_signed(server: Server, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("correct horse battery staple\n", encoding="utf-8")
    server.answers = [says(RIGHT)]
    await judged(server, secret_file=key)
    seen = server.seen[0]
    timestamp, signature = seen.headers["x-oprime-timestamp"], seen.headers["x-oprime-signature"]
    now = float(timestamp)
    assert is_signed(b"correct horse battery staple", timestamp, signature, seen.body, now=now)
    assert not is_signed(b"another key", timestamp, signature, seen.body, now=now)
    assert not is_signed(b"correct horse battery staple", timestamp, signature, seen.body + b" ", now=now)
    assert not is_signed(b"correct horse battery staple", timestamp, signature, seen.body, now=now + 301)
    assert not is_signed(b"correct horse battery staple", "soon", signature, seen.body, now=now)


async def test_a_bearer_key_is_sent(server: Server, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sesame\n", encoding="utf-8")
    server.answers = [says(RIGHT)]
    await judged(server, bearer_file=key)
    assert server.seen[0].headers["authorization"] == "Bearer sesame"


async def test_a_webhook_hears_which_trace_it_judges_for(server: Server) -> None:
    server.answers = [says(RIGHT), says(RIGHT)]
    await judged(server)
    with collecting() as collector, observed("verifier", "one", EndpointsSection(traces_url=collector.url), nobody), span("verify") as one:
        await judged(server)
    assert [seen.headers.get("traceparent") for seen in server.seen] == [None, one.context]


async def nobody() -> bool:
    return False


@pytest.mark.parametrize("setting", ["secret_file", "ca_file"])
def test_a_file_that_cannot_be_read_is_named(setting: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"verifier.webhooks.mine.{setting}"):
        WebhookVerifier("mine", WebhookSection.model_validate({"url": "https://judge.example", setting: tmp_path / "none"}))


def test_an_empty_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="is empty"):
        WebhookVerifier("mine", WebhookSection(url="https://judge.example", secret_file=tmp_path / "key"))


# What goes wrong.


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (says({"data": []}), "0 outcomes to 1 requests"),
        (says({"verdict": "CORRECT"}), "without a list `data`"),
        (says([]), "without a list `data`"),
        (says({"data": [{"score": 1.0}]}), "without `verdict`"),
        (says({"data": [{"verdict": "GREAT"}]}), "'GREAT'"),
        (says({"data": [{"verdict": "CORRECT", "score": 7}]}), "outside [0, 1]"),
        (says({"data": [{"verdict": "UNDECIDED", "score": 0.0}]}), "contradicts itself"),
        (says({"data": [{"verdict": "CORRECT", "request_id": "other"}]}), "'other' when asked 'r1'"),
        (says({"data": [{"verdict": "PARTIAL", "score": 0.5, "tests": [{"index": "x"}]}]}), "test result"),
        (raw(b"<html>"), "not JSON"),
        (raw(b""), "not JSON"),
        (raw(b"\xff\xfe"), "not JSON"),
        (raw(b"[" * 100_000), "not JSON"),
        (raw(b'{"data": [{"verdict": "CORRECT", "score": NaN}]}'), "nan"),
        (says({}, 500), "500"),
        (says({}, 502), "502"),
    ],
)
async def test_a_bad_answer_is_tried_again_and_then_an_infrastructure_error(server: Server, answer: Any, told: str) -> None:
    server.answers = [answer]
    outcome = await judged(server, attempts=2)
    assert (outcome.verdict, outcome.score, outcome.cacheable) == (Verdict.INFRA_ERROR, None, False)
    assert told in outcome.reason
    assert "try 2 of 2" in outcome.reason
    assert len(server.seen) == 2


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (says({}, 400), "400"),
        (says({}, 401), "401"),
        (says({}, 422), "422"),
        (says({}, 302, location="http://127.0.0.1:1/"), "redirects are not followed"),
        (raw(b" " * (2 * 1024 * 1024)), "larger than 1 MiB"),
        (raw(gzip.compress(b" " * 10_000_000), content_encoding="gzip"), "gzip"),
    ],
)
async def test_what_another_try_cannot_better_is_not_tried_again(server: Server, answer: Any, told: str) -> None:
    server.answers = [answer]
    outcome = await judged(server, attempts=3, max_response_mib=1)
    assert outcome.verdict is Verdict.INFRA_ERROR
    assert told in outcome.reason
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("answer", "is_outage"),
    [
        (says({}, 400), False),
        (says({}, 422), False),
        (says({"data": [{"verdict": "GREAT"}]}), False),
        (raw(b"<html>"), False),
        (says({}, 401), True),
        (says({}, 302, location="http://127.0.0.1:1/"), True),
        (says({}, 408), True),
        (says({}, 429), True),
        (says({}, 500), True),
        (says({}, 503), True),
        (slow(WAIT_S, says(RIGHT)), True),
    ],
)
async def test_who_may_wait_is_told_what_waiting_may_better(server: Server, answer: Any, is_outage: bool) -> None:
    server.answers = [answer]
    outcome = await judged(server, attempts=1, deadline_s=1.0)
    assert (outcome.verdict, outcome.flags) == (Verdict.INFRA_ERROR, (FLAG,) if is_outage else ())


async def test_a_passing_failure_is_tried_again(server: Server) -> None:
    server.answers = [says({}, 503), raw(b"oops"), says(RIGHT)]
    assert (await judged(server)).verdict is Verdict.CORRECT
    assert len(server.seen) == 3


async def test_retry_after_is_waited_for(server: Server) -> None:
    server.answers = [says({}, 429, retry_after="60"), says(RIGHT)]
    clock = ManualClock()
    async with webhook(server.url, clock=clock, deadline_s=120) as verifier:
        asked = asyncio.create_task(verifier.verify(REQUEST))
        await until(lambda: bool(clock._sleepers))
        clock.advance(59)
        await asyncio.sleep(0.05)
        assert len(server.seen) == 1
        clock.advance(1)
        assert (await asked).verdict is Verdict.CORRECT
        assert len(server.seen) == 2


async def test_waiting_longer_than_the_deadline_is_not_begun(server: Server) -> None:
    server.answers = [says({}, 429, retry_after="60"), says(RIGHT)]
    outcome = await judged(server, deadline_s=20)
    assert outcome.verdict is Verdict.INFRA_ERROR
    assert "60.0 s, after the deadline of 20 s" in outcome.reason


async def test_a_slow_answer_ends_at_the_deadline(server: Server) -> None:
    server.answers = [slow(WAIT_S, says(RIGHT))]
    outcome = await judged(server, deadline_s=0.2)
    assert outcome.verdict is Verdict.INFRA_ERROR
    assert len(server.seen) == 1


async def test_the_requests_own_deadline_holds_too(server: Server) -> None:
    server.answers = [slow(WAIT_S, says(RIGHT))]
    request = VerificationRequest(kind="mine", response="8", deadline_s=0.2)
    assert (await judged(server, request)).verdict is Verdict.INFRA_ERROR


async def test_nobody_listening_is_an_infrastructure_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with webhook(f"http://127.0.0.1:{port}", attempts=2) as verifier:
        outcome = await verifier.verify(REQUEST)
    assert outcome.verdict is Verdict.INFRA_ERROR
    assert "ConnectError" in outcome.reason


async def test_a_server_that_speaks_no_http_is_an_infrastructure_error() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-nope\r\n")
        writer.close()

    other = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with other, webhook(f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}", attempts=1) as verifier:
        assert (await verifier.verify(REQUEST)).verdict is Verdict.INFRA_ERROR


async def test_an_untrusted_certificate_is_refused(server: Server) -> None:
    async with webhook(server.url.replace("http://", "https://"), attempts=1) as verifier:
        assert (await verifier.verify(REQUEST)).verdict is Verdict.INFRA_ERROR


@pytest.mark.parametrize(("old", "new"), [("http://", "http://user:secret@"), ("/x", "/x?token=secret")])
def test_a_secret_in_the_url_is_refused(server: Server, old: str, new: str) -> None:
    with pytest.raises(ValueError, match=r"name a file with it in bearer_file or secret_file"):
        WebhookSection(url=f"{server.url}/x".replace(old, new))


async def test_what_a_url_asks_for_is_not_shown(server: Server) -> None:
    server.answers = [says({}, 401)]
    async with webhook(server.url + "/x?tenant=private") as verifier:
        assert "private" not in (await verifier.verify(REQUEST)).reason
        assert verifier.describe().description == f"Webhook at {server.url}/x (native)."


# Bounds.


async def test_no_more_calls_than_allowed_are_under_way(server: Server) -> None:
    server.answers = [slow(0.05, says(RIGHT))]
    async with webhook(server.url, concurrency=2) as verifier:
        outcomes = await asyncio.gather(*(verifier.verify(REQUEST) for _ in range(8)))
    assert {outcome.verdict for outcome in outcomes} == {Verdict.CORRECT}
    assert server.most_under_way == 2


async def test_the_circuit_opens_half_opens_and_closes(server: Server) -> None:
    server.answers = [says({}, 500)]
    clock = ManualClock()
    async with webhook(server.url, clock=clock, attempts=1, circuit_failures=2, circuit_open_s=10) as verifier:
        for _ in range(2):
            await verifier.verify(REQUEST)
        outcome = await verifier.verify(REQUEST)
        assert outcome.verdict is Verdict.INFRA_ERROR
        assert "not called: it failed 2 times in a row" in outcome.reason
        assert "circuit is open" in verifier.describe().problem
        assert len(server.seen) == 2
        clock.advance(10)
        await verifier.verify(REQUEST)
        await verifier.verify(REQUEST)
        assert len(server.seen) == 3
        server.answers = [says(RIGHT)]
        clock.advance(10)
        assert (await verifier.verify(REQUEST)).verdict is Verdict.CORRECT
        assert verifier.describe().problem == ""
        assert len(server.seen) == 4


async def test_a_refused_request_does_not_open_the_circuit(server: Server) -> None:
    server.answers = [says({}, 422)]
    async with webhook(server.url, attempts=1, circuit_failures=1) as verifier:
        await verifier.verify(REQUEST)
        await verifier.verify(REQUEST)
    assert len(server.seen) == 2


# Other protocols.


async def test_it_speaks_openrlhf(server: Server) -> None:
    server.answers = [says({"rewards": [3.0], "scores": [1.0], "extra_logs": {}}), says({"rewards": [1.0, 0.0]})]
    outcome = await judged(server, mode="openrlhf", attempts=1)
    assert (outcome.score, outcome.components) == (1.0, {"reward": 3.0})
    assert server.seen[0].message == {"query": ["What is 5+3? so it is 8"], "prompts": ["What is 5+3? "], "labels": ["8"]}
    assert "2 entries for 1 response" in (await judged(server, mode="openrlhf", attempts=1)).reason


async def test_a_range_scales_rewards(server: Server) -> None:
    server.answers = [says({"rewards": [0.0]})]
    assert (await judged(server, mode="openrlhf", range=(-1, 1))).score == 0.5
    assert (await judged(server, mode="openrlhf")).score == 0.0


async def test_it_speaks_nemo_gym(server: Server) -> None:
    async def verify(_request: Request, message: Any) -> Response:
        said = message["response"]["output"][0]["content"][0]["text"]
        return JSONResponse({**message, "reward": float(message["expected_answer"] in said), "reward_components": {"format": 1.0}})

    server.answers = [verify]
    outcome = await judged(server, mode="nemo_gym")
    assert (outcome.verdict, outcome.components) == (Verdict.CORRECT, {"format": 1.0})
    assert server.seen[0].path == "/verify"
    assert server.seen[0].message["responses_create_params"]["input"] == [{"role": "user", "content": "What is 5+3? "}]


async def test_a_response_that_nemo_gym_masks_has_no_score(server: Server) -> None:
    server.answers = [says({"reward": 0.0, "mask_sample": True, "failure_reason": "the judge is down"}), says({"response": {}})]
    outcome = await judged(server, mode="nemo_gym", attempts=1)
    assert (outcome.verdict, outcome.score, outcome.reason) == (Verdict.UNDECIDED, None, "the judge is down")
    assert "without `reward`" in (await judged(server, mode="nemo_gym", attempts=1)).reason


TESTS = '{"inputs": ["3\\n", "4\\n"], "outputs": ["6\\n", "8"]}'
PROGRAM = VerificationRequest(kind="mine", response="<think>```python\nno\n```</think>\n```python\nprint(2*int(input()))\n```", tests=TESTS)


def runs(judge: Callable[[str], dict[str, Any]]) -> Any:
    async def run_code(_request: Request, message: Any) -> Response:
        return JSONResponse(judge(message["stdin"]))

    return run_code


def finished(stdout: str, code: int = 0, status: str = "Finished") -> dict[str, Any]:
    return {
        "status": "Success" if code == 0 and status == "Finished" else "Failed",
        "run_result": {"status": status, "return_code": code, "stdout": stdout, "stderr": "", "execution_time": 0.1},
    }


async def test_it_runs_programs_on_sandbox_fusion(server: Server) -> None:
    server.answers = [runs(lambda stdin: finished(f" {2 * int(stdin)} \n"))]
    outcome = await judged(server, PROGRAM, mode="sandbox_fusion")
    assert (outcome.verdict, len(outcome.tests), outcome.answer) == (Verdict.CORRECT, 2, "print(2*int(input()))\n")
    assert [seen.path for seen in server.seen] == ["/run_code", "/run_code"]
    assert server.seen[0].message["stdin"] == "3\n"
    assert not any("6" in seen.body.decode() or "outputs" in seen.body.decode() for seen in server.seen)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (finished("7"), Verdict.INCORRECT),
        (finished("6", code=3, status="Error"), Verdict.RUNTIME),
        (finished("6", code=3), Verdict.RUNTIME),
        (finished("", status="TimeLimitExceeded"), Verdict.TIME),
        ({"status": "Failed", "compile_result": {"status": "Error", "return_code": 1}, "run_result": None}, Verdict.COMPILE),
        ({"status": "SandboxError", "message": "out of disk"}, Verdict.INFRA_ERROR),
        ({"detail": "what"}, Verdict.INFRA_ERROR),
    ],
)
async def test_how_a_run_ended_decides(server: Server, answer: dict[str, Any], verdict: Verdict) -> None:
    server.answers = [says(answer)]
    outcome = await judged(server, PROGRAM, mode="sandbox_fusion", attempts=1)
    assert outcome.verdict is verdict
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("tests", "verdict"),
    [
        ("", Verdict.BAD_TASK),
        ("{", Verdict.BAD_TASK),
        ('{"inputs": [], "outputs": []}', Verdict.BAD_TASK),
        ('{"inputs": ["1"], "outputs": []}', Verdict.BAD_TASK),
        ('{"fn_name": "f", "inputs": ["1"], "outputs": ["1"]}', Verdict.NOT_APPLICABLE),
        ('{"inputs": ["1"], "outputs": ["1"], "checker": "print(1)"}', Verdict.NOT_APPLICABLE),
    ],
)
async def test_tests_that_cannot_be_run_give_no_score(server: Server, tests: str, verdict: Verdict) -> None:
    request = VerificationRequest(kind="mine", response=PROGRAM.response, tests=tests)
    assert (await judged(server, request, mode="sandbox_fusion")).verdict is verdict
    assert server.seen == []


async def test_a_response_without_a_program_is_not_run(server: Server) -> None:
    for response in ("print(1)", "<think>\n```python\nprint(1)\n```"):
        request = VerificationRequest(kind="mine", response=response, tests=TESTS)
        assert (await judged(server, request, mode="sandbox_fusion")).verdict is Verdict.NO_ANSWER


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - the manual clock has no event to wait for
            await asyncio.sleep(0.01)
