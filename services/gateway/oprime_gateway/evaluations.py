"""The routes behind the dashboard's page of evaluations: what `oprime eval` and runs found out, and two of them compared."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import Field, ValidationError

from oprime.evaluation.compare import compared
from oprime.evaluation.folder import EVALUATION, EvaluationFolder
from oprime.evaluation.of_run import EVALUATIONS
from oprime.runtime.errors import OprimeError
from oprime_gateway.context import gateway_of
from oprime_gateway.models import ApiModel
from oprime_gateway.problems import PROBLEMS, ProblemError, described
from oprime_gateway.runs import RUN_NAME, read_object

MOST = 500
"""Evaluations of one answer, the newest."""
MAX_ID_CHARS = 600

router = APIRouter(prefix="/v1/evaluations", tags=["evaluations"], responses=PROBLEMS)


class ScoreInterval(ApiModel):
    value: float
    """Mean over problems, 0 to 1; of a difference, -1 to 1."""
    low: float
    """Lower end of the 95 % interval (bootstrap over problems)."""
    high: float
    """Its upper end."""


class BenchmarkResult(ApiModel):
    """What one evaluation found on one benchmark."""

    benchmark: str
    """Its name."""
    title: str
    """Its name for people."""
    version: int
    """Version of its prompts, golds and decoding; 0 for a file of tasks."""
    problems: int
    """How many were asked."""
    problems_sha256: str
    """Equal where the problems are the same."""
    prompts_sha256: str
    """Equal where they were asked alike."""
    samples_per_problem: int
    """Responses to each."""
    temperature: float
    """0: greedy."""
    scores: dict[str, ScoreInterval]
    """By name: avg@n, pass@k, maj@k."""
    paper: ScoreInterval | None = None
    """avg@n by the paper's own grading, where it differs."""
    unjudged: int
    """Samples that could not be judged; they count as wrong."""
    cut: int
    """Samples that were cut at the token limit."""
    mean_tokens: float
    """Length of a response."""


class EvaluationCard(ApiModel):
    id: str
    """What the other routes call it."""
    name: str
    """What was evaluated."""
    run: str = ""
    """The run whose weights they were; empty for a model or a server."""
    step: int | None = None
    """After which step."""
    during_training: bool = False
    """Whether the run did it by itself."""
    changed_at: float
    """Unix time of the newest result."""
    results: list[BenchmarkResult]
    """By benchmark."""


class EvaluationsResponse(ApiModel):
    object: Literal["list"] = "list"
    """Kind of this object."""
    data: list[EvaluationCard]
    """The newest first."""


class ComparedScore(ApiModel):
    """One score of two evaluations of the same problems."""

    benchmark: str
    """Its name."""
    title: str
    """Its name for people."""
    score: str
    """avg, pass@k or maj@k."""
    first: float
    """Of the first evaluation."""
    second: float
    """Of the second."""
    difference: ScoreInterval
    """Second minus first, paired by problem."""
    better: int
    """Problems on which the second is better."""
    worse: int
    """Problems on which it is worse."""
    same_prompts: bool
    """Whether both were asked alike."""


class ComparisonResponse(ApiModel):
    object: Literal["comparison"] = "comparison"
    """Kind of this object."""
    data: list[ComparedScore]
    """By benchmark and score."""
    left_out: dict[str, str] = Field(default_factory=dict[str, str])
    """Benchmarks that both have but that were not compared, and why."""


@router.get("")
async def evaluations(request: Request) -> EvaluationsResponse:
    """Evaluations of all runs in the folder of runs, and those in the folder `evaluations` beside it."""
    directory = gateway_of(request).settings.run.directory
    return EvaluationsResponse(data=await run_in_threadpool(list_evaluations, directory))


@router.get("/compare", responses=described({404: "No such evaluation"}))
async def compare(
    request: Request, first: Annotated[str, Query(max_length=MAX_ID_CHARS)], second: Annotated[str, Query(max_length=MAX_ID_CHARS)]
) -> ComparisonResponse:
    """The second of two evaluations compared with the first, problem by problem."""
    directory = gateway_of(request).settings.run.directory
    one, other = (EvaluationFolder(_folder(directory, name)) for name in (first, second))
    try:
        found = await run_in_threadpool(compared, one, other)
        rows = [ComparedScore.model_validate(row) for row in found.rows]
    except (OprimeError, ValidationError, KeyError, ValueError, StopIteration) as error:
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"these evaluations cannot be compared: {error}") from error
    return ComparisonResponse(data=rows, left_out=found.left_out)


@dataclass(frozen=True, slots=True)
class _Place:
    id: str
    folder: Path


def list_evaluations(directory: Path) -> list[EvaluationCard]:
    """The newest first, at most MOST. What is no evaluation, or is half written, is passed over."""
    found = [card for place in _places(directory) if (card := _card(place)) is not None]
    return sorted(found, key=lambda card: -card.changed_at)[:MOST]


def _places(directory: Path) -> Iterator[_Place]:
    for folder in _children(directory):
        for evaluation in _children(folder / EVALUATIONS):
            yield _Place(id=f"{folder.name}/{evaluation.name}", folder=evaluation)
    for evaluation in _children(directory.absolute().parent / EVALUATIONS):
        yield _Place(id=evaluation.name, folder=evaluation)


def _children(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if RUN_NAME.fullmatch(path.name) and path.is_dir()]


def _folder(directory: Path, name: str) -> Path:
    """Of an evaluation's id. Raises ProblemError, 404."""
    parts = name.split("/")
    if len(parts) <= 2 and all(RUN_NAME.fullmatch(part) for part in parts):
        *run, evaluation = parts
        folder = (directory / run[0] if run else directory.absolute().parent) / EVALUATIONS / evaluation
        if (folder / EVALUATION).is_file():
            return folder
    raise ProblemError(HTTPStatus.NOT_FOUND, f"no evaluation {name!r}: GET /v1/evaluations lists them")


def _card(place: _Place) -> EvaluationCard | None:
    path = place.folder / EVALUATION
    value = read_object(path)
    if value is None:
        return None
    try:
        target, results = cast("Mapping[str, Any]", value["target"]), cast("list[Mapping[str, Any]]", value["results"])
        return EvaluationCard(
            id=place.id,
            name=str(target["name"]),
            run=str(target.get("run") or ""),
            step=target.get("step"),
            during_training=bool(target.get("during_training")),
            changed_at=path.stat().st_mtime,
            results=[_result(one) for one in results],
        )
    except (OSError, KeyError, TypeError, AttributeError, ValueError):
        return None


def _result(value: Mapping[str, Any]) -> BenchmarkResult:
    paper = value.get("paper")
    return BenchmarkResult(
        **{
            name: value[name]
            for name in ("benchmark", "title", "version", "problems", "problems_sha256", "prompts_sha256", "samples_per_problem", "scores")
        },
        temperature=value["decoding"]["temperature"],
        paper=paper["score"] if paper else None,
        unjudged=value["unjudged"]["count"],
        cut=value["samples"]["cut"],
        mean_tokens=value["samples"]["mean_tokens"],
    )
