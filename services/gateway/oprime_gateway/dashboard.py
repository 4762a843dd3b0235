"""GET / and what it loads: a page that holds no data, asks the API for it, and shows model output as text alone.

The page's own files stand in static/; the charts are drawn by Chart.js, which the package django-unfold brings as a file of its own
(docs/decisions/0014).
"""

import hashlib
from functools import cache
from http import HTTPStatus
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, cast

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, select_autoescape

from oprime_gateway.problems import ProblemError
from oprime_gateway.runs import has_runs

if TYPE_CHECKING:
    from oprime_gateway.api import Gateway

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""No script and no style but the page's own files, no evaluated text, and no way from a string to markup."""
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
STATIC = "/static/"
CHARTS = "chart.js"
_TYPES = {".js": "text/javascript", ".css": "text/css"}
_CHARTS_FILE = ("django-unfold", "unfold/static/unfold/js/chart/chart.js")

router = APIRouter(include_in_schema=False)


@router.get("/", response_class=HTMLResponse)
async def dashboard(request: Request) -> HTMLResponse:
    gateway = cast("Gateway", request.app.state.gateway)
    settings = gateway.settings
    # A gateway of two models has no runs to show: it opens at the playground.
    runs = bool(settings.active_run) or await run_in_threadpool(has_runs, settings.run.directory)
    page = _templates().get_template("dashboard.html").render(needs_key=bool(gateway.keys), scores=settings.algorithm.needs_prm, runs=runs)
    return HTMLResponse(page, headers={**HEADERS, "Cache-Control": "no-store"})


@router.get(STATIC + "{name}")
async def static(name: str, request: Request) -> Response:
    """A file of the page. The names are those of the files there are; nothing else is looked for."""
    files = static_files()
    if name not in files:
        raise ProblemError(HTTPStatus.NOT_FOUND, f"no file {name!r} belongs to the dashboard")
    content = _content(files[name])
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "Cache-Control": "no-cache", "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(content, media_type=_TYPES[files[name].suffix], headers=headers)


@cache
def static_files() -> dict[str, Path]:
    """Each file that the page may load, by name. Without Chart.js the page shows numbers where it would draw."""
    own = {path.name: Path(str(path)) for path in resources.files("oprime_gateway").joinpath("static").iterdir()}
    charts = charts_file()
    return own | ({CHARTS: charts} if charts is not None else {})


def charts_file() -> Path | None:
    """Chart.js as it is installed; None where it is not."""
    package, file = _CHARTS_FILE
    try:
        path = Path(str(metadata.distribution(package).locate_file(file)))
    except metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None


@cache
def _content(path: Path) -> bytes:
    return path.read_bytes()


@cache
def _templates() -> Environment:
    return Environment(loader=PackageLoader("oprime_gateway"), autoescape=select_autoescape())
