"""The routes. Each one checks limits, calls a service, and packs the answer."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, FastAPI, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware

from oprime_gateway import dashboard, evaluations, run_pages
from oprime_gateway.adapters import routers
from oprime_gateway.auth import LimitBody, RequireKey
from oprime_gateway.best_of_n import router as best_of_n_router
from oprime_gateway.compression import Decompress
from oprime_gateway.context import Gateway, check_count, gateway_of, scoring_gateway
from oprime_gateway.measure import MeasureRequests
from oprime_gateway.models import (
    ModelCard,
    ModelsResponse,
    RewardsRequest,
    RewardsResponse,
    RunResponse,
    RunsResponse,
    RunStatus,
    ServiceReadiness,
    VerifiersResponse,
    VerifyRequest,
    VerifyResponse,
)
from oprime_gateway.openapi import document
from oprime_gateway.problems import PROBLEMS, Described, ProblemError, ServiceFailedError, answer_with_problems, described
from oprime_gateway.run_index import RunIndexes
from oprime_gateway.runs import is_run, list_runs, read_metrics, run_status
from oprime_gateway.score import answered, asked_of, reward_item, usage
from oprime_gateway.scoring import MODEL, Pin, check_pin, revision, score
from oprime_gateway.scrape import set_run_gauges
from oprime_gateway.services import REWARDS_ONLY, STATUS_TIMEOUT_S, call
from oprime_gateway.streaming import NDJSON, begin, wants_stream
from oprime_gateway.strict_json import StrictRoute, direct_route
from oprime_gateway.verdicts import verifiers_response, verify_request, verify_response
from oprime_proto.v1 import coordinator_pb2, prm_pb2, verifier_pb2

MAX_TAIL = 20_000
OF_ANOTHER_RUN = "the services behind this gateway belong to another run"
COMPRESS_FROM_BYTES = 2048
"""Smaller answers are sent as they are."""
COMPRESSION = 3
"""Gzip's level: a third of the bytes of JSON, at a fifth of the time that the default takes."""


STREAM: Described = {200: {"content": {NDJSON: {}}, "description": "Rewards; with `Accept: application/x-ndjson` line by line"}}
PINNED = described({412: "The PRM is another revision than If-Match asks for"})
FORBIDDEN: Described = {403: PROBLEMS[403]}

router = APIRouter(route_class=StrictRoute)


def build_api(gateway: Gateway) -> FastAPI:
    app = FastAPI(
        title="oprime",
        version="1",
        summary="Process rewards, outcomes and the state of a training run.",
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.gateway = gateway
    app.state.run_indexes = RunIndexes(gateway.index_directory)
    for one in (rewards_router, router, run_pages.router, evaluations.router, best_of_n_router, *routers(), dashboard.router):
        app.include_router(one)
    app.openapi = lambda: document(app)
    answer_with_problems(app)
    app.add_middleware(
        GZipMiddleware,
        minimum_size=COMPRESS_FROM_BYTES,
        compresslevel=COMPRESSION,
        # Compressed lines would wait for each other.
        exclude_content_types=(*DEFAULT_EXCLUDED_CONTENT_TYPES, NDJSON),
    )
    app.add_middleware(Decompress, most_bytes=gateway.settings.gateway.max_request_bytes)
    app.add_middleware(LimitBody, most_bytes=gateway.settings.gateway.max_request_bytes)
    app.add_middleware(RequireKey, keys=gateway.keys)
    app.add_middleware(MeasureRequests, metrics=gateway.metrics)
    return app


async def _rewards_of(body: RewardsRequest, request: Request) -> Response:
    return await rewards(body, request, request.headers.get("if-match"), request.headers.get("accept"))


rewards_router = APIRouter(route_class=direct_route(RewardsRequest, _rewards_of))


@rewards_router.post("/v1/rewards", response_model=RewardsResponse, responses={**PROBLEMS, **PINNED, **STREAM}, tags=["rewards"])
async def rewards(
    body: RewardsRequest,
    request: Request,
    if_match: Annotated[str | None, Header()] = None,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Token, step and sequence rewards of responses under the implicit process reward model.

    With `If-Match: "prm@VERSION"`, or the model `prm@VERSION`, rewards come from that version or the request fails. With `Accept:
    application/x-ndjson` every input's rewards are a line of their own, sent as soon as they are known. Bodies may come and go in gzip.
    """
    services, pin = scoring_gateway(request, len(body.inputs)).services, Pin(model=body.model, if_match=if_match)
    await check_pin(services, pin)
    asked = asked_of(body.inputs, body)
    if wants_stream(accept):
        first, lines = await begin(services, body, asked, pin)
        return StreamingResponse(lines, media_type=NDJSON, headers=_entity(first.revision))
    scored = await score(services, asked, pin)
    items = [reward_item(body, index, answer) for index, answer in enumerate(scored.answers)]
    answer = RewardsResponse(**answered(scored), data=items, usage=usage(scored.answers, items))
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json", headers=_entity(scored.revision))


@router.post("/v1/verify", responses=PROBLEMS, tags=["verification"])
async def verify(body: VerifyRequest, request: Request) -> VerifyResponse:
    """Outcomes of responses: a score, or why there is none."""
    gateway = gateway_of(request)
    check_count(gateway, len(body.inputs))
    try:
        message = verify_request(body)
    except ValueError as error:
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
    judged = await call("verifier", gateway.services.verifier.VerifyBatch, message, gateway.services.timeout_s)
    return VerifyResponse(data=verify_response(judged))


@router.get("/v1/verifiers", responses=PROBLEMS, tags=["verification"])
async def verifiers(request: Request) -> VerifiersResponse:
    """What can be judged, and what the sandbox holds back."""
    stub = gateway_of(request).services.verifier
    described = await call("verifier", stub.Describe, verifier_pb2.DescribeRequest(), STATUS_TIMEOUT_S)
    health = await call("verifier", stub.Health, verifier_pb2.VerifierServiceHealthRequest(), STATUS_TIMEOUT_S)
    return verifiers_response(described, health)


@router.get("/v1/models", responses=PROBLEMS, tags=["rewards"])
async def models(request: Request) -> ModelsResponse:
    """The reward model that answers now; none in a run that trains on outcomes alone."""
    gateway = gateway_of(request)
    if not gateway.settings.algorithm.needs_prm:
        return ModelsResponse(data=[])
    status = await call("prm", gateway.services.prm.Status, prm_pb2.PrmServiceStatusRequest(), STATUS_TIMEOUT_S)
    card = ModelCard(
        id=MODEL,
        revision=revision(status.prm_version),
        prm_version=status.prm_version,
        base_model=status.model,
        reference_model=status.reference_model,
        scored_tokens=status.scored_tokens,
    )
    return ModelsResponse(data=[card])


@router.get("/v1/runs", responses=PROBLEMS, tags=["runs"])
async def runs(request: Request) -> RunsResponse:
    """Runs in the folder of runs."""
    settings = gateway_of(request).settings
    return RunsResponse(data=await run_in_threadpool(list_runs, settings.run.directory, settings.active_run))


@router.get("/v1/runs/{name}", responses=PROBLEMS, tags=["runs"])
async def run(
    name: str,
    request: Request,
    cursor: Annotated[int | None, Query(ge=0)] = None,
    tail: Annotated[int, Query(ge=0, le=MAX_TAIL)] = 2000,
) -> RunResponse:
    """One run: the coordinator's status, and rows of metrics.jsonl: the last `tail` ones, or those after `cursor`."""
    gateway = gateway_of(request)
    directory, active_run = gateway.settings.run.directory, gateway.settings.active_run
    active = name == active_run
    if not is_run(directory, name, active_run):
        raise ProblemError(HTTPStatus.NOT_FOUND, f"no run {name!r}: GET /v1/runs lists them")
    status, status_error = (await _status(gateway)) if active else (None, OF_ANOTHER_RUN if active_run else REWARDS_ONLY)
    read = await run_in_threadpool(read_metrics, directory / name, cursor, tail)
    return RunResponse(
        name=name, active=active, status=status, status_error=status_error, rows=read.rows, cursor=read.cursor, reset=read.reset
    )


@router.get("/healthz", response_class=PlainTextResponse, responses=FORBIDDEN, tags=["operation"])
async def healthz() -> str:
    """Whether the gateway answers."""
    return "ok\n"


@router.get("/readyz", response_model=ServiceReadiness, responses={**FORBIDDEN, 503: {"model": ServiceReadiness}}, tags=["operation"])
async def readyz(request: Request) -> JSONResponse:
    """Whether every service is ready, by its own gRPC health check."""
    answers = await gateway_of(request).services.ready()
    readiness = ServiceReadiness(ready=all(answers.values()), services=answers)
    return JSONResponse(readiness.model_dump(), status_code=HTTPStatus.OK if readiness.ready else HTTPStatus.SERVICE_UNAVAILABLE)


@router.get("/metrics", response_class=PlainTextResponse, responses=PROBLEMS, tags=["operation"])
async def prometheus(request: Request) -> Response:
    """Metrics in Prometheus' text format."""
    gateway = gateway_of(request)
    status, _ = await _status(gateway)
    page, media_type = gateway.metrics.render()
    if status is not None:
        of_run = gateway.of_run()
        set_run_gauges(of_run, status)
        page += of_run.render()[0]
    return Response(page, media_type=media_type)


async def _status(gateway: Gateway) -> tuple[RunStatus | None, str]:
    message = coordinator_pb2.CoordinatorServiceStatusRequest()
    try:
        return run_status(await call("coordinator", gateway.services.coordinator.Status, message, STATUS_TIMEOUT_S)), ""
    except ServiceFailedError as error:
        return None, error.detail


def _entity(served: str) -> dict[str, str]:
    return {"ETag": f'"{served}"', "Vary": "Accept"}
