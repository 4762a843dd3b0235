"""The gateway on real gRPC servers whose servicers answer by a rule that can be checked by hand."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
from fastapi import FastAPI

from oprime.adapters.prometheus_metrics import PrometheusMetrics
from oprime.core.verification import TestResult, Verdict, no_answer, scored, unscored
from oprime.runtime.errors import TooManyError, UnusableInputError
from oprime.runtime.grpc_server import GrpcServer
from oprime.wire.codec import floats_to_bytes, ids_from_bytes, ids_to_bytes
from oprime.wire.verification import outcome_to_proto
from oprime_gateway.api import Gateway, build_api
from oprime_gateway.app import HttpServer, http_config, listen
from oprime_gateway.config import GatewaySettings
from oprime_gateway.services import Services
from oprime_proto.v1 import coordinator_pb2, prm_pb2, verification_pb2, verifier_pb2
from oprime_proto.v1.coordinator_pb2_grpc import CoordinatorServiceServicer, add_CoordinatorServiceServicer_to_server
from oprime_proto.v1.prm_pb2_grpc import PrmServiceServicer, add_PrmServiceServicer_to_server
from oprime_proto.v1.verifier_pb2_grpc import VerifierServiceServicer, add_VerifierServiceServicer_to_server

BETA = 0.5
KEY = "correct-horse-battery-staple"
FORBIDDEN = "forbidden"
REFERENCE = "models/tiny-sft"


class CharacterPrm(PrmServiceServicer):
    """One token per character, then the end token 0. The PRM's log-prob of token i is -i, the reference's -2i: reward i/2."""

    version = 7

    def __init__(self, most_items: int = 1000) -> None:
        self._most_items = most_items
        self.requests: list[int] = []
        """Items in each request that was answered."""
        self.items: list[prm_pb2.ScoreItem] = []

    async def Score(self, request: prm_pb2.ScoreRequest, context: grpc.aio.ServicerContext) -> prm_pb2.ScoreResponse:
        if len(request.items) > self._most_items:
            raise TooManyError(f"{len(request.items)} items exceed {self._most_items} (prm.max_score_items): send them in several requests")
        self.requests.append(len(request.items))
        self.items += request.items
        return prm_pb2.ScoreResponse(
            responses=[self._scored(item) for item in request.items], prm_version=self.version, beta=BETA, reference_model=REFERENCE
        )

    def _scored(self, item: prm_pb2.ScoreItem) -> prm_pb2.ScoredResponse:
        text = item.text.response or item.chat.response
        if FORBIDDEN in text:
            return prm_pb2.ScoredResponse(error="9 tokens exceed the model's 8: shorten the text")
        ids = [ord(character) for character in text]
        match item.WhichOneof("input"):
            case "chat":
                return self._answer([*ids, 0], [*text, "<eos>"], len(text))
            case "text":
                return self._answer(ids, list(text), len(text) - 1)
            case _:
                ids = ids_from_bytes(item.tokens.response_ids).tolist()
                return self._answer(ids, [f"<{token}>" for token in ids], None, len(item.tokens.prompt_ids) // 4)

    @staticmethod
    def _answer(ids: list[int], texts: list[str], length: int | None, prompt_tokens: int = 3) -> prm_pb2.ScoredResponse:
        if not ids:
            return prm_pb2.ScoredResponse(error="prompt and response need at least one token each")
        places = np.arange(len(ids), dtype=np.float32)
        return prm_pb2.ScoredResponse(
            response_ids=ids_to_bytes(ids),
            process_rewards=floats_to_bytes(BETA * places),
            prm_logprobs=floats_to_bytes(-places),
            reference_logprobs=floats_to_bytes(-2 * places),
            token_texts=texts,
            char_starts=[] if length is None else range(length + 1),
            char_ends=[] if length is None else [*range(1, length + 1), length],
            has_end_token=ids[-1] == 0,
            prompt_tokens=prompt_tokens,
        )

    async def Status(self, request: prm_pb2.PrmServiceStatusRequest, context: grpc.aio.ServicerContext) -> prm_pb2.PrmServiceStatusResponse:
        return prm_pb2.PrmServiceStatusResponse(prm_version=self.version, step=7, model="tiny", scored_tokens=12, reference_model=REFERENCE)


class EqualityVerifier(VerifierServiceServicer):
    async def VerifyBatch(
        self, request: verifier_pb2.VerifyBatchRequest, context: grpc.aio.ServicerContext
    ) -> verifier_pb2.VerifyBatchResponse:
        return verifier_pb2.VerifyBatchResponse(responses=[self._judged(item) for item in request.requests])

    def _judged(self, item: verification_pb2.VerifyRequest) -> verification_pb2.VerifyResponse:
        if item.kind != "equal":
            raise UnusableInputError(f"unknown verifier {item.kind!r}: this service offers equal")
        if not item.response:
            outcome = no_answer("no answer")
        elif item.response == "crash":
            outcome = unscored(Verdict.INFRA_ERROR, "worker ended")
        else:
            outcome = scored(
                float(item.response in item.golds), answer=item.response, tests=(TestResult(index=0, verdict=Verdict.CORRECT),)
            )
        return outcome_to_proto(outcome, item.request_id)

    async def Describe(self, request: verifier_pb2.DescribeRequest, context: grpc.aio.ServicerContext) -> verifier_pb2.DescribeResponse:
        return verifier_pb2.DescribeResponse(verifiers=[verifier_pb2.VerifierDescription(name="equal", version="1")])

    async def Health(
        self, request: verifier_pb2.VerifierServiceHealthRequest, context: grpc.aio.ServicerContext
    ) -> verifier_pb2.VerifierServiceHealthResponse:
        layers = [verifier_pb2.SandboxLayer(name="seccomp", active=True, detail="allow list")]
        sandbox = verifier_pb2.SandboxReport(profile="native", layers=layers)
        return verifier_pb2.VerifierServiceHealthResponse(serving=True, sandbox=sandbox)


class BusyCoordinator(CoordinatorServiceServicer):
    async def Status(
        self, request: coordinator_pb2.CoordinatorServiceStatusRequest, context: grpc.aio.ServicerContext
    ) -> coordinator_pb2.CoordinatorServiceStatusResponse:
        return coordinator_pb2.CoordinatorServiceStatusResponse(
            state=coordinator_pb2.RUN_STATE_TRAINING,
            step=3,
            total_steps=10,
            live_groups=5,
            acceptance_rate=0.5,
            ledger={"issued": 8, "trained": 6, "live": 2},
            queues=[coordinator_pb2.QueueDepth(stream="tickets", waiting=4, pending=1, oldest_seconds=1.5)],
            metrics={"staleness_max": 1.0, "prm_loss": math.nan},
            bottleneck="generator",
            stalled="nothing has moved for 62 s",
        )


class SilentPrm(PrmServiceServicer):
    async def Score(self, request: prm_pb2.ScoreRequest, context: grpc.aio.ServicerContext) -> prm_pb2.ScoreResponse:
        await asyncio.Event().wait()
        raise AssertionError


class ShortPrm(PrmServiceServicer):
    """Forgets one reward."""

    async def Score(self, request: prm_pb2.ScoreRequest, context: grpc.aio.ServicerContext) -> prm_pb2.ScoreResponse:
        answer = prm_pb2.ScoredResponse(response_ids=ids_to_bytes([1, 0]), process_rewards=floats_to_bytes([0.0]))
        return prm_pb2.ScoreResponse(responses=[answer], prm_version=1, beta=BETA)


@dataclass
class World:
    client: httpx.AsyncClient
    folder: Path
    servers: dict[str, GrpcServer] = field(default_factory=dict)

    async def rewards(self, *inputs: dict[str, Any], **fields: Any) -> dict[str, Any]:
        answer = await self.client.post("/v1/rewards", json={"inputs": inputs, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()


def settings_of(folder: Path, addresses: dict[str, str], *, process_weight: float = 1.0, **gateway: Any) -> GatewaySettings:
    document = {
        "run": {"name": "demo", "steps": 10, "directory": str(folder)},
        "model": {"path": "models/tiny"},
        "algorithm": {"process_weight": process_weight},
        "endpoints": addresses,
        "gateway": gateway,
    }
    return GatewaySettings.from_document(document, origin="test")


@asynccontextmanager
async def serving(
    tmp_path: Path,
    *,
    prm: PrmServiceServicer | None = None,
    verifier: VerifierServiceServicer | None = None,
    keys: tuple[str, ...] = (),
    **gateway: Any,
) -> AsyncIterator[tuple[FastAPI, dict[str, GrpcServer]]]:
    """The gateway's application, and the servers behind it."""
    servicers = {
        "prm": (add_PrmServiceServicer_to_server, prm or CharacterPrm(), "PrmService"),
        "verifier": (add_VerifierServiceServicer_to_server, verifier or EqualityVerifier(), "VerifierService"),
        "coordinator": (add_CoordinatorServiceServicer_to_server, BusyCoordinator(), "CoordinatorService"),
    }
    servers: dict[str, GrpcServer] = {}
    addresses: dict[str, str] = {}
    for name, (register, servicer, service) in servicers.items():
        servers[name] = GrpcServer("127.0.0.1:0")
        servers[name].add(register, servicer, f"oprime_proto.v1.{service}")
        addresses[name] = f"127.0.0.1:{await servers[name].start()}"
        await servers[name].set_serving(True)
    settings = settings_of(tmp_path, addresses, **gateway)
    reached = {"scorer-0": addresses["prm"]} if settings.gateway.rewards_only else addresses
    services = Services.open(reached, timeout_s=settings.gateway.timeout_s)
    try:
        yield (
            build_api(Gateway(settings=settings, services=services, metrics=PrometheusMetrics(), of_run=PrometheusMetrics, keys=keys)),
            servers,
        )
    finally:
        await services.close()
        await asyncio.gather(*(server.stop(0) for server in servers.values()))


@asynccontextmanager
async def world(tmp_path: Path, *, host: str = "127.0.0.1", **options: Any) -> AsyncIterator[World]:
    """The gateway in this process, asked without a socket."""
    async with serving(tmp_path, **options) as (api, servers):
        transport = httpx.ASGITransport(app=api, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            yield World(client=client, folder=tmp_path / "demo", servers=servers)


@asynccontextmanager
async def listening(api: FastAPI) -> AsyncIterator[str]:
    """The URL at which an application answers."""
    listener = listen("127.0.0.1:0", 30)
    server = HttpServer(http_config(api, 30))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


@asynccontextmanager
async def live(tmp_path: Path, **options: Any) -> AsyncIterator[str]:
    """The URL of a gateway that listens."""
    async with serving(tmp_path, **options) as (api, _), listening(api) as url:
        yield url


def is_problem(answer: httpx.Response, status: int, *parts: str) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    body = answer.json()
    assert body["status"] == status
    for part in parts:
        assert part in body["detail"]


TEXT = {"prompt": "p", "response": "ab\n\ncd"}
"""Tokens a, b, newline, newline, c, d, end with the rewards 0, .5, 1, 1.5, 2, 2.5, 3."""
