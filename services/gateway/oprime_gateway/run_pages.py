"""The routes behind the dashboard's pages of a run: rollouts, groups token by token, curves, settings, the report."""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

from fastapi import APIRouter, Query, Request
from fastapi import Path as PathParam
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse

from oprime.tasks.chain_tokenizer import first_wrong_token
from oprime_gateway.models import Problem
from oprime_gateway.problems import ProblemError
from oprime_gateway.run_index import SAMPLES, IndexUnwritableError, RunIndex, RunIndexes, Series, Wanted, objects
from oprime_gateway.run_models import (
    CurvesResponse,
    GroupPlace,
    MetricSeries,
    RolloutsResponse,
    RolloutSummary,
    RunSettings,
    SampledGroup,
    SampledRollout,
)
from oprime_gateway.runs import is_run, read_object

if TYPE_CHECKING:
    from oprime_gateway.config import GatewaySettings

BUDGET_S = 0.5
"""Seconds of one request that may go into the index; the page asks again while there is more."""
MAX_POINTS = 2000
MAX_NAMES = 64
MAX_PAGE = 500
MAX_ROLLOUTS = 16
MAX_ID = 2**53
SHOWN_SECTIONS = (
    "algorithm",
    "coordinator",
    "critic",
    "learner",
    "model",
    "prm",
    "run",
    "sampling",
    "staleness",
    "tasks",
)
"""Of the settings: those that decide what is computed. Queues, stores and endpoints may hold passwords and addresses."""
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; sandbox"

PROBLEMS: dict[int | str, dict[str, object]] = {
    status: {"model": Problem, "content": {"application/problem+json": {}}, "description": text}
    for status, text in (
        (401, "No valid key"),
        (404, "No such run"),
        (422, "The request breaks a rule of this document"),
        (507, "The index of the run's files cannot be written"),
    )
}
FoundT = TypeVar("FoundT")

router = APIRouter(prefix="/v1/runs/{name}", tags=["runs"], responses=PROBLEMS)


@router.get("/rollouts")
async def rollouts(
    name: str,
    request: Request,
    step_from: Annotated[int | None, Query(ge=0, le=MAX_ID)] = None,
    step_to: Annotated[int | None, Query(ge=0, le=MAX_ID)] = None,
    right: bool | None = None,
    reason: Annotated[str, Query(max_length=64)] = "",
    length_from: Annotated[int | None, Query(ge=0, le=MAX_ID)] = None,
    length_to: Annotated[int | None, Query(ge=0, le=MAX_ID)] = None,
    disagreement: Literal["", "prm_good", "prm_bad"] = "",
    sort: Literal["step", "outcome", "length", "reward", "lowest"] = "step",
    descending: bool = True,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
) -> RolloutsResponse:
    """Sampled rollouts of a run, filtered and sorted. `disagreement=prm_good`: the PRM says good, the verifier says wrong."""
    index = _index(name, request)
    wanted = Wanted(
        step_from=step_from,
        step_to=step_to,
        right=right,
        reason=reason,
        length_from=length_from,
        length_to=length_to,
        disagreement=disagreement,
        sort=sort,
        descending=descending,
    )
    found = await _looked_up(lambda: index.rollouts(wanted, offset=offset, limit=limit, budget_s=BUDGET_S))
    data = [RolloutSummary(**asdict(one)) for one in found.rollouts]
    return RolloutsResponse(data=data, total=found.total, files=found.files, files_read=found.files_read)


@router.get("/rollouts/{step}/{group_id}")
async def group(
    name: str,
    step: Annotated[int, PathParam(ge=0, le=MAX_ID)],
    group_id: Annotated[int, PathParam(ge=0, le=MAX_ID)],
    request: Request,
    index: Annotated[list[int] | None, Query(max_length=MAX_ROLLOUTS)] = None,
) -> SampledGroup:
    """One sampled group; the rollouts whose `index` is given come token by token, at most 16 at a time."""
    folder, index_of_run = _folder(name, request), _index(name, request)
    try:
        found = await _looked_up(lambda: index_of_run.siblings(step, group_id))
    except LookupError as error:
        raise ProblemError(HTTPStatus.NOT_FOUND, f"run {name}: {error}") from error
    prompt = str(found.line.get("prompt", ""))
    chain = await run_in_threadpool(is_chain_run, folder)
    return SampledGroup(
        step=step,
        group_id=group_id,
        prompt=prompt,
        prm_version=found.siblings[0].prm_version,
        before=_place(found.before),
        after=_place(found.after),
        siblings=[RolloutSummary(**asdict(one)) for one in found.siblings],
        rollouts=[
            _sampled(one, prompt if chain else None) for one in objects(found.line.get("rollouts")) if one.get("index") in (index or ())
        ],
    )


@router.get("/curves")
async def curves(
    name: str,
    request: Request,
    metric: Annotated[list[str] | None, Query(max_length=MAX_NAMES)] = None,
    points: Annotated[int, Query(ge=2, le=MAX_POINTS)] = 400,
) -> CurvesResponse:
    """Metrics over the whole run, thinned evenly."""
    index = _index(name, request)
    steps = await _looked_up(lambda: index.series("step", metric or [], points=points))
    evaluations = await _looked_up(lambda: index.series("evaluation", metric or [], points=points))
    return CurvesResponse(step=_series(steps), evaluation=_series(evaluations))


@router.get("/settings")
async def settings(name: str, request: Request) -> RunSettings:
    """What the run computes, how it ended, and what else there is of it."""
    return await run_in_threadpool(run_settings, _folder(name, request))


@router.get("/report", response_class=FileResponse)
async def report(name: str, request: Request) -> FileResponse:
    """The run's report, a page that loads nothing and runs no script."""
    path = _folder(name, request) / "report.html"
    if not path.is_file():
        raise ProblemError(HTTPStatus.NOT_FOUND, f"run {name} has no report yet: `oprime report` writes it, and so does the end of a run")
    headers = {"Content-Security-Policy": REPORT_POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
    return FileResponse(path, media_type="text/html; charset=utf-8", headers=headers)


async def _looked_up(ask: Callable[[], FoundT]) -> FoundT:
    """What an index says. Raises ProblemError, 507, where it cannot be written."""
    try:
        return await run_in_threadpool(ask)
    except IndexUnwritableError as error:
        raise ProblemError(HTTPStatus.INSUFFICIENT_STORAGE, str(error)) from error


def run_settings(folder: Path) -> RunSettings:
    document = _document(folder)
    shown = {section: document[section] for section in SHOWN_SECTIONS if section in document}
    return RunSettings(
        settings=dict(_flat(shown)),
        summary=read_object(folder / "summary.json") or {},
        has_report=(folder / "report.html").is_file(),
        has_samples=(folder / SAMPLES).is_dir(),
    )


def is_chain_run(folder: Path) -> bool:
    """Whether a run's tasks are the built-in chains, of which every step is known to be right or wrong."""
    tasks = _document(folder).get("tasks")
    return isinstance(tasks, dict) and cast("dict[str, Any]", tasks).get("source") == "chain"


def _document(folder: Path) -> Mapping[str, Any]:
    """The settings of a run; nothing where they cannot be read."""
    try:
        return tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str | int | float | bool]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(cast("dict[str, Any]", value), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str | int | float | bool) else str(value)


def _sampled(row: Mapping[str, Any], chain: str | None) -> SampledRollout:
    """`chain` is the prompt where it is one of the built-in chains."""
    sampled = SampledRollout.model_validate({name: row.get(name) for name in SampledRollout.model_fields if name in row})
    wrong = None if chain is None else first_wrong_token(chain, sampled.tokens)
    # A word that is missing at the end has no token.
    return sampled.model_copy(update={"first_wrong_token": wrong}) if wrong in range(len(sampled.tokens)) else sampled


def _place(found: tuple[int, int] | None) -> GroupPlace | None:
    return None if found is None else GroupPlace(step=found[0], group_id=found[1])


def _series(found: Series) -> MetricSeries:
    return MetricSeries(steps=found.steps, values=found.values, names=found.names, rows=found.rows)


def _index(name: str, request: Request) -> RunIndex:
    indexes: RunIndexes = request.app.state.run_indexes
    return indexes.of(_folder(name, request))


def _folder(name: str, request: Request) -> Path:
    """The folder of a run. Raises ProblemError, 404, for a name that no run has."""
    settings = cast("GatewaySettings", request.app.state.gateway.settings)
    if not is_run(settings.run.directory, name, settings.active_run):
        raise ProblemError(HTTPStatus.NOT_FOUND, f"no run {name!r}: GET /v1/runs lists them")
    return settings.run.directory / name
