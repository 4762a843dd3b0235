"""The routes. Each one checks limits, calls a service, and packs the answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, FastAPI, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse

from oprime.runtime.setting_rules import NO_PRM
from oprime_gateway.auth import LimitBody, RequireKey
from oprime_gateway.config import GatewaySettings
from oprime_gateway.dashboard import dashboard_page
from oprime_gateway.measure import MeasureRequests, Scrape
from oprime_gateway.models import (
    ModelCard,
    ModelsResponse,
    Problem,
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
from oprime_gateway.problems import ProblemError, ServiceFailedError, answer_with_problems
from oprime_gateway.runs import RUN_NAME, list_runs, read_metrics, run_status
from oprime_gateway.score import revision, rewards_response, score_request
from oprime_gateway.scrape import set_run_gauges
from oprime_gateway.services import STATUS_TIMEOUT_S, Services, call
from oprime_gateway.verdicts import verifiers_response, verify_request, verify_response
from oprime_proto.v1 import coordinator_pb2, prm_pb2, verifier_pb2

MODEL = "prm"
MAX_TAIL = 20_000

PROBLEMS: dict[int | str, dict[str, object]] = {
    status: {"model": Problem, "content": {"application/problem+json": {}}, "description": text}
    for status, text in (
        (400, "Refused by the service that does the work"),
        (401, "No valid key"),
        (413, "Too many inputs or bytes"),
        (422, "The request breaks a rule of this document"),
        (502, "Another service failed"),
        (503, "Another service is not ready; see Retry-After"),
        (504, "Another service took too long"),
    )
}

router = APIRouter()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """What the routes work with."""

    settings: GatewaySettings
    services: Services
    metrics: Scrape
    of_run: Callable[[], Scrape]
    """A new page for what the coordinator says."""
    keys: Sequence[str] = ()


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
    app.include_router(router)
    answer_with_problems(app)
    app.add_middleware(LimitBody, most_bytes=gateway.settings.gateway.max_request_bytes)
    app.add_middleware(RequireKey, keys=gateway.keys)
    app.add_middleware(MeasureRequests, metrics=gateway.metrics)
    return app


def _gateway(request: Request) -> Gateway:
    return request.app.state.gateway


@router.post("/v1/rewards", response_model_exclude_none=True, responses={**PROBLEMS, 412: {"model": Problem}}, tags=["rewards"])
async def rewards(
    body: RewardsRequest, request: Request, response: Response, if_match: Annotated[str | None, Header()] = None
) -> RewardsResponse:
    """Token, step and sequence rewards of responses under the implicit process reward model.

    With `If-Match: "prm@VERSION"`, or the model `prm@VERSION`, rewards come from that version or the request fails.
    """
    gateway = _gateway(request)
    if not gateway.settings.algorithm.needs_prm:
        raise ProblemError(HTTPStatus.NOT_FOUND, f"{NO_PRM}, so nothing gives process rewards")
    _check_count(gateway, len(body.inputs))
    _check_model(body.model)
    message, left_out = score_request(body.inputs)
    if not message.items:
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"no input can be scored; the first one: {left_out[0]}")
    scored = await call("prm", gateway.services.prm.Score, message, gateway.services.timeout_s)
    served = revision(scored.prm_version)
    if if_match is not None and not _matches(if_match, served):
        raise ProblemError(
            HTTPStatus.PRECONDITION_FAILED, f"the PRM is {served}, If-Match asks for {if_match}: leave it out to take any version"
        )
    if body.model not in (MODEL, served):
        raise ProblemError(HTTPStatus.NOT_FOUND, f"model {body.model} is not served any more: the revision now is {served}")
    response.headers["ETag"] = f'"{served}"'
    return rewards_response(body, scored, left_out, reference_model=gateway.settings.model.path)


@router.post("/v1/verify", responses=PROBLEMS, tags=["verification"])
async def verify(body: VerifyRequest, request: Request) -> VerifyResponse:
    """Outcomes of responses: a score, or why there is none."""
    gateway = _gateway(request)
    _check_count(gateway, len(body.inputs))
    try:
        message = verify_request(body)
    except ValueError as error:
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
    judged = await call("verifier", gateway.services.verifier.VerifyBatch, message, gateway.services.timeout_s)
    return VerifyResponse(data=verify_response(judged))


@router.get("/v1/verifiers", responses=PROBLEMS, tags=["verification"])
async def verifiers(request: Request) -> VerifiersResponse:
    """What can be judged, and what the sandbox holds back."""
    stub = _gateway(request).services.verifier
    described = await call("verifier", stub.Describe, verifier_pb2.DescribeRequest(), STATUS_TIMEOUT_S)
    health = await call("verifier", stub.Health, verifier_pb2.VerifierServiceHealthRequest(), STATUS_TIMEOUT_S)
    return verifiers_response(described, health)


@router.get("/v1/models", responses=PROBLEMS, tags=["rewards"])
async def models(request: Request) -> ModelsResponse:
    """The reward model that answers now; none in a run that trains on outcomes alone."""
    gateway = _gateway(request)
    if not gateway.settings.algorithm.needs_prm:
        return ModelsResponse(data=[])
    status = await call("prm", gateway.services.prm.Status, prm_pb2.PrmServiceStatusRequest(), STATUS_TIMEOUT_S)
    card = ModelCard(
        id=MODEL,
        revision=revision(status.prm_version),
        prm_version=status.prm_version,
        base_model=status.model,
        scored_tokens=status.scored_tokens,
    )
    return ModelsResponse(data=[card])


@router.get("/v1/runs", responses=PROBLEMS, tags=["runs"])
async def runs(request: Request) -> RunsResponse:
    """Runs in the folder of runs."""
    run = _gateway(request).settings.run
    return RunsResponse(data=await run_in_threadpool(list_runs, run.directory, run.name))


@router.get("/v1/runs/{name}", responses=PROBLEMS, tags=["runs"])
async def run(
    name: str,
    request: Request,
    cursor: Annotated[int | None, Query(ge=0)] = None,
    tail: Annotated[int, Query(ge=0, le=MAX_TAIL)] = 2000,
) -> RunResponse:
    """One run: the coordinator's status, and rows of metrics.jsonl: the last `tail` ones, or those after `cursor`."""
    gateway = _gateway(request)
    section = gateway.settings.run
    active = name == section.name
    if not RUN_NAME.fullmatch(name) or not (active or (section.directory / name).is_dir()):
        raise ProblemError(HTTPStatus.NOT_FOUND, f"no run {name!r}: GET /v1/runs lists them")
    status, status_error = (await _status(gateway)) if active else (None, "the services behind this gateway belong to another run")
    read = await run_in_threadpool(read_metrics, section.directory / name, cursor, tail)
    return RunResponse(
        name=name, active=active, status=status, status_error=status_error, rows=read.rows, cursor=read.cursor, reset=read.reset
    )


@router.get("/healthz", response_class=PlainTextResponse, tags=["operation"])
async def healthz() -> str:
    """Whether the gateway answers."""
    return "ok\n"


@router.get("/readyz", response_model=ServiceReadiness, responses={503: {"model": ServiceReadiness}}, tags=["operation"])
async def readyz(request: Request) -> JSONResponse:
    """Whether every service is ready, by its own gRPC health check."""
    answers = await _gateway(request).services.ready()
    readiness = ServiceReadiness(ready=all(answers.values()), services=answers)
    return JSONResponse(readiness.model_dump(), status_code=HTTPStatus.OK if readiness.ready else HTTPStatus.SERVICE_UNAVAILABLE)


@router.get("/metrics", response_class=PlainTextResponse, responses=PROBLEMS, tags=["operation"])
async def prometheus(request: Request) -> Response:
    """Metrics in Prometheus' text format."""
    gateway = _gateway(request)
    status, _ = await _status(gateway)
    page, media_type = gateway.metrics.render()
    if status is not None:
        of_run = gateway.of_run()
        set_run_gauges(of_run, status)
        page += of_run.render()[0]
    return Response(page, media_type=media_type)


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
async def dashboard(request: Request) -> HTMLResponse:
    return dashboard_page(needs_key=bool(_gateway(request).keys))


async def _status(gateway: Gateway) -> tuple[RunStatus | None, str]:
    message = coordinator_pb2.CoordinatorServiceStatusRequest()
    try:
        return run_status(await call("coordinator", gateway.services.coordinator.Status, message, STATUS_TIMEOUT_S)), ""
    except ServiceFailedError as error:
        return None, error.detail


def _check_count(gateway: Gateway, count: int) -> None:
    most = gateway.settings.gateway.max_request_items
    if count > most:
        detail = f"{count} inputs exceed {most} (gateway.max_request_items): send them in several requests"
        raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)


def _check_model(name: str) -> None:
    alias, at, version = name.partition("@")
    if alias != MODEL or (at and not version.isdecimal()):
        raise ProblemError(
            HTTPStatus.NOT_FOUND, f"unknown model {name!r}: use {MODEL}, or {MODEL}@VERSION; GET /v1/models says which version answers"
        )


def _matches(if_match: str, served: str) -> bool:
    """RFC 9110: `*`, or a list of entity tags; weak ones never match."""
    return any(tag.strip() in ("*", f'"{served}"') for tag in if_match.split(","))
