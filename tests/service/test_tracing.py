"""Spans reach a collector and know each other; where nobody records them they leave no trace, in the queue neither."""

import asyncio
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
import structlog

from oprime.adapters.observed import observed
from oprime.core.types import Batch, ChatMessage, SamplingSettings, Ticket, VerifiedGroup
from oprime.runtime.errors import SettingsError, UnusableInputError
from oprime.runtime.grpc_client import connect
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.logs import configure_logs
from oprime.runtime.settings import EndpointsSection
from oprime.runtime.tracing import NO_SPAN, batch_span, current, span, traces_begun
from oprime.wire.codec import batch_from_proto, batch_to_proto, ticket_from_proto, ticket_to_proto
from oprime_proto.v1 import common_pb2 as pb
from oprime_proto.v1 import learner_pb2, learner_pb2_grpc
from otlp_collector import Collector, Received, collecting

TICKET = Ticket(
    group_id=7,
    messages=(ChatMessage(role="user", content="?"),),
    material="material/7/0123456789ab-0123456789abcdef",
    sampling=SamplingSettings(temperature=1.0, max_prompt_tokens=8, max_response_tokens=8),
    seeds=(1, 2),
    min_weight_version=3,
)


async def yes() -> bool:
    return True


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as one:
        yield one


def traced(collector: Collector, service: str = "coordinator", **more: Any) -> Any:
    return observed(service, "one", EndpointsSection(traces_url=collector.url, **more), yes)


def by_name(spans: list[Received]) -> dict[str, Received]:
    return {one.name: one for one in spans}


def test_without_a_collector_there_are_no_spans_and_entries_are_what_they_were() -> None:
    with span("generate", parent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01") as one, traces_begun("issue", [{}, {}]) as many:
        assert one is NO_SPAN
        assert current() == ""
        assert many == ["", ""]
    entry = ticket_to_proto(replace(TICKET, trace=many[0])).SerializeToString()
    assert not any(field.name == "trace" for field, _ in pb.Ticket.FromString(entry).ListFields())


def test_a_context_travels_in_an_entry_and_an_entry_without_one_can_be_read() -> None:
    context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    message = ticket_to_proto(replace(TICKET, trace=context))
    assert ticket_from_proto(message) == replace(TICKET, trace=context)
    message.ClearField("trace")
    assert ticket_from_proto(message) == TICKET
    batch = Batch(step=1, groups=(VerifiedGroup(group_id=7, rollouts=(), trace=context),), trace=context)
    again = batch_from_proto(batch_to_proto(batch))
    assert (again.trace, again.groups[0].trace) == (context, context)


async def test_what_an_entry_without_a_context_leads_to_is_not_traced(collector: Collector) -> None:
    with traced(collector), span("generate", kind="consumer", parent=ticket_from_proto(ticket_to_proto(TICKET)).trace) as one:
        assert one is NO_SPAN
    assert collector.spans == []


async def test_a_step_and_its_prompts_have_traces_that_name_each_other(collector: Collector) -> None:
    with traced(collector):
        with traces_begun("issue", [{"group_id": 1}, {"group_id": 2}]) as prompts:
            pass
        groups = tuple(VerifiedGroup(group_id=place, rollouts=(), trace=trace) for place, trace in enumerate(prompts, start=1))
        with span("cut", links=prompts, step=4) as cut:
            batch = Batch(step=4, groups=groups, trace=cut.context)
        with batch_span("score", batch), span("inside"):
            pass
    issued = {one.attributes["group_id"]: one for one in collector.spans if one.name == "issue"}
    assert len({one.trace for one in issued.values()}) == 2
    known = by_name([one for one in collector.spans if "group_id" not in one.attributes])
    assert known["cut"].links == (issued[1].trace, issued[2].trace)
    assert (known["score"].trace, known["score"].parent) == (known["cut"].trace, known["cut"].span)
    assert known["score"].links == known["cut"].links
    assert known["inside"].parent == known["score"].span
    of_prompts = {one.attributes["group_id"]: one for one in collector.spans if one.name == "score" and "group_id" in one.attributes}
    for group_id, one in of_prompts.items():
        assert (one.trace, one.parent) == (issued[group_id].trace, issued[group_id].span)
        assert one.links == (known["cut"].trace,)
    assert len(of_prompts) == 2
    assert {one.service for one in collector.spans} == {"coordinator"}
    assert {one.run for one in collector.spans} == {"one"}


class Refusing(learner_pb2_grpc.LearnerServiceServicer):
    async def Status(self, request: learner_pb2.LearnerServiceStatusRequest, context: object) -> learner_pb2.LearnerServiceStatusResponse:
        raise UnusableInputError("no")


async def test_a_call_is_part_of_the_trace_of_its_caller_and_a_call_outside_of_one_has_none(collector: Collector) -> None:
    with traced(collector):
        server = GrpcServer("127.0.0.1:0")
        server.add(learner_pb2_grpc.add_LearnerServiceServicer_to_server, Refusing(), "oprime_proto.v1.LearnerService")
        channel = connect(f"127.0.0.1:{await server.start()}")
        stub: Any = learner_pb2_grpc.LearnerServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="no"):
            await stub.Status(learner_pb2.LearnerServiceStatusRequest(), timeout=5)
        with pytest.raises(grpc.aio.AioRpcError, match="no") as refused, span("caller"):
            await stub.Status(learner_pb2.LearnerServiceStatusRequest(), timeout=5)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await channel.close()
        await server.stop(0)
    caller = by_name(collector.spans)["caller"]
    called = [one for one in collector.spans if one.name == "/oprime_proto.v1.LearnerService/Status"]
    assert {one.trace for one in called} == {caller.trace}
    client, answer = sorted(called, key=lambda one: one.parent != caller.span)
    assert (client.parent, answer.parent) == (caller.span, client.span)
    assert client.attributes["code"] == "INVALID_ARGUMENT"
    assert (answer.failed, caller.failed) == (True, True)


async def test_a_share_of_all_prompts_is_traced_each_whole_or_not_at_all(collector: Collector) -> None:
    prompts = 400
    with traced(collector, traces_share=0.25):
        for group_id in range(prompts):
            with traces_begun("issue", [{"group_id": group_id}]) as (trace,):
                pass
            with span("generate", parent=trace, group_id=group_id):
                pass
    issued = {one.attributes["group_id"] for one in collector.spans if one.name == "issue"}
    assert issued == {one.attributes["group_id"] for one in collector.spans if one.name == "generate"}
    # 400 draws at 1/4: 100, give or take 9; six times that never happens.
    assert abs(len(issued) - prompts / 4) < 54


async def test_a_collector_that_is_away_holds_up_neither_the_work_nor_the_stop() -> None:
    loop = asyncio.get_running_loop()
    with observed("prm", "one", EndpointsSection(traces_url="http://127.0.0.1:9"), yes):
        began = loop.time()
        for _ in range(1000):
            with span("score"):
                pass
        assert loop.time() - began < 2
        began = loop.time()
    assert loop.time() - began < 8


async def test_log_lines_within_a_span_name_its_trace(collector: Collector, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        with traced(collector):
            configure_logs("prm", run="one")
            with span("score"):
                structlog.get_logger().info("scored")
            structlog.get_logger().info("idle")
    finally:
        structlog.reset_defaults()
    scored, idle = (json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{"))
    assert scored["trace_id"] == by_name(collector.spans)["score"].trace
    assert "trace_id" not in idle
    assert (idle["service"], idle["run"]) == ("prm", "one")


async def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "oprime.adapters.otlp_traces", None)
    endpoints = EndpointsSection(traces_url="http://127.0.0.1:4317")
    said = r"endpoints.traces_url = 'http://127.0.0.1:4317' needs a package that is missing here"
    with pytest.raises(SettingsError, match=said), observed("prm", "one", endpoints, yes):
        pass
