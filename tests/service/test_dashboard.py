"""The routes behind the dashboard, without a browser: what they answer, to whom, and what the page may do."""

import re
import resource
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest

from oprime.adapters.prometheus_metrics import PrometheusMetrics
from oprime_gateway.api import Gateway, build_api
from oprime_gateway.config import GatewaySettings
from oprime_gateway.dashboard import CHARTS, static_files
from oprime_gateway.services import Services
from report_builder import build_run

KEY = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    build_run(folder / "synthetic", steps=12)
    (folder / "synthetic" / "report.html").write_text("<!doctype html><title>report</title><script>alert(1)</script>", encoding="utf-8")
    (folder / "chain-sft").mkdir()
    return folder


@asynccontextmanager
async def client_of(runs: Path, index: Path, *, keys: tuple[str, ...] = (), rewards_only: bool = False) -> AsyncIterator[httpx.AsyncClient]:
    """The other services are away: these routes need none of them."""
    addresses = {name: f"127.0.0.1:{port}" for port, name in enumerate(("prm", "verifier", "coordinator"), start=1)}
    document = {
        "run": {"name": "active", "steps": 10, "directory": str(runs)},
        "model": {"path": "models/tiny"},
        "endpoints": addresses,
        "gateway": {"rewards_only": rewards_only},
    }
    settings = GatewaySettings.from_document(document, origin="test")
    services = Services.open(addresses, timeout_s=1.0)
    gateway = Gateway(
        settings=settings, services=services, metrics=PrometheusMetrics(), of_run=PrometheusMetrics, keys=keys, index_directory=index
    )
    transport = httpx.ASGITransport(app=build_api(gateway), raise_app_exceptions=False)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            yield client
    finally:
        await services.close()


async def answer(runs: Path, cache: Path, path: str, **values: Any) -> dict[str, Any]:
    async with client_of(runs, cache) as client:
        found = await client.get(path, params=values)
    assert found.status_code == 200, found.text
    return found.json()


async def test_rollouts_are_filtered_and_paged(runs: Path, tmp_path: Path) -> None:
    # One group of four rollouts per step, the second and third of them wrong.
    found = await answer(runs, tmp_path, "/v1/runs/synthetic/rollouts", right=False, step_to=5, limit=3)
    assert (found["total"], found["files"], found["files_read"], len(found["data"])) == (10, 12, 12, 3)
    assert [(one["step"], one["index"]) for one in found["data"]] == [(5, 1), (5, 2), (4, 1)]
    assert found["data"][0].keys() >= {"outcome_reward", "process_reward", "lowest_reward", "tokens", "prompt"}


async def test_a_group_comes_with_those_rollouts_token_by_token_that_are_asked_for(runs: Path, tmp_path: Path) -> None:
    found = await answer(runs, tmp_path, "/v1/runs/synthetic/rollouts/3/120", index=[1, 3])
    assert [one["index"] for one in found["siblings"]] == [0, 1, 2, 3]
    assert [one["index"] for one in found["rollouts"]] == [1, 3]
    first = found["rollouts"][0]
    assert len(first["tokens"]) == len(first["process_rewards"]) == len(first["behaviour_logprobs"]) == 10
    # The second rollout slips in its third step.
    assert [one["first_wrong_token"] for one in found["rollouts"]] == [2, None]
    assert (found["before"], found["after"]) == ({"step": 2, "group_id": 80}, {"step": 4, "group_id": 160})
    # Not recorded by this run.
    assert (first["advantages"], first["reference_logprobs"], first["weight_versions"]) == (None, None, None)


async def test_the_first_wrong_step_is_known_of_built_in_chains_alone(tmp_path: Path) -> None:
    build_run(tmp_path / "runs" / "other", steps=1, source="rows")
    found = await answer(tmp_path / "runs", tmp_path / "index", "/v1/runs/other/rollouts/1/40", index=[0, 1])
    assert [one["first_wrong_token"] for one in found["rollouts"]] == [None, None]
    assert (found["before"], found["after"]) == (None, None)


async def test_an_index_that_cannot_be_written_is_a_problem_with_its_remedy(runs: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with client_of(runs, tmp_path) as client:
        # As on a full disk: no file can grow.
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            found = [await client.get(f"/v1/runs/synthetic/{path}") for path in ("rollouts", "rollouts/3/120", "curves")]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        again = await client.get("/v1/runs/synthetic/rollouts")
    assert [one.status_code for one in found] == [507, 507, 507]
    assert all(f"cannot be written to {tmp_path}" in one.json()["detail"] for one in found)
    assert again.status_code == 200


async def test_curves_come_by_name(runs: Path, tmp_path: Path) -> None:
    found = await answer(runs, tmp_path, "/v1/runs/synthetic/curves", metric=["staleness_max", "heldout_accuracy"], points=3)
    assert (found["step"]["steps"], found["step"]["rows"]) == ([1, 4, 8, 12], 12)
    assert found["step"]["values"]["staleness_max"] == [0, 1, 1, 1]
    assert found["evaluation"]["steps"] == [0, 10]
    assert "prm_accuracy" in found["step"]["names"]


async def test_settings_show_what_is_computed_and_no_address(runs: Path, tmp_path: Path) -> None:
    config = runs / "synthetic" / "config.toml"
    before = config.read_text(encoding="utf-8")
    try:
        config.write_text(before + '[queue]\nurl = "redis://:secret@host"\n[payloads]\nstore = "s3://bucket"\n', encoding="utf-8")
        found = await answer(runs, tmp_path, "/v1/runs/synthetic/settings")
    finally:
        config.write_text(before, encoding="utf-8")
    assert (found["settings"]["prm.beta"], found["settings"]["run.steps"]) == (0.5, 60)
    assert "secret" not in str(found)
    assert "s3" not in str(found)
    assert (found["has_report"], found["has_samples"], found["summary"]["result"]) == (True, True, "ok")


async def test_a_gateway_of_rewards_alone_has_no_run_of_its_own(runs: Path, tmp_path: Path) -> None:
    async with client_of(runs, tmp_path, rewards_only=True) as client:
        listed = (await client.get("/v1/runs")).json()["data"]
        one = (await client.get("/v1/runs/synthetic")).json()
        page = (await client.get("/")).text
    assert [(card["name"], card["active"]) for card in listed] == [("synthetic", False)]
    assert (one["active"], "process rewards alone" in one["status_error"]) == (False, True)
    assert 'data-runs="yes"' in page
    async with client_of(tmp_path, tmp_path, rewards_only=True) as client:
        assert (await client.get("/v1/runs")).json()["data"] == []
        assert (await client.get("/v1/runs/active")).status_code == 404
        assert 'data-runs="no"' in (await client.get("/")).text
    async with client_of(tmp_path, tmp_path) as client:
        assert [card["name"] for card in (await client.get("/v1/runs")).json()["data"]] == ["active"]
        assert 'data-runs="yes"' in (await client.get("/")).text


async def test_the_report_may_run_nothing(runs: Path, tmp_path: Path) -> None:
    async with client_of(runs, tmp_path) as client:
        report = await client.get("/v1/runs/synthetic/report")
        none = await client.get("/v1/runs/active/report")
    assert report.headers["content-type"] == "text/html; charset=utf-8"
    policy = report.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert "script-src" not in policy
    assert (none.status_code, none.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/runs/absent/rollouts", 404),
        ("/v1/runs/chain-sft/curves", 404),
        ("/v1/runs/..%2fsynthetic/settings", 404),
        (f"/v1/runs/{'x' * 256}/report", 404),
        ("/v1/runs/synthetic/rollouts/3/999", 404),
        ("/v1/runs/synthetic/rollouts/3/-1", 422),
        (f"/v1/runs/synthetic/rollouts/3/{2**70}", 422),
        ("/v1/runs/synthetic/rollouts?sort=prompt", 422),
        ("/v1/runs/synthetic/rollouts?limit=0", 422),
        (f"/v1/runs/synthetic/rollouts?step_from={2**70}", 422),
        ("/v1/runs/synthetic/curves?points=1", 422),
        ("/static/absent.js", 404),
        ("/static/..%2fdashboard.py", 404),
        ("/static/%2e%2e", 404),
    ],
)
async def test_what_cannot_be_answered_is_a_problem(runs: Path, tmp_path: Path, path: str, status: int) -> None:
    async with client_of(runs, tmp_path) as client:
        refused = await client.get(path)
    assert (refused.status_code, refused.headers["content-type"]) == (status, "application/problem+json"), refused.text


async def test_without_a_key_there_is_the_page_and_no_data(runs: Path, tmp_path: Path) -> None:
    async with client_of(runs, tmp_path, keys=(KEY,)) as client:
        for path in ("", "/curves", "/settings", "/report", "/rollouts", "/rollouts/3/120"):
            assert (await client.get(f"/v1/runs/synthetic{path}")).status_code == 401
            known = await client.get(f"/v1/runs/synthetic{path}", headers={"Authorization": f"Bearer {KEY}"})
            assert known.status_code == 200
        page = await client.get("/")
        assert (page.status_code, 'data-needs-key="yes"' in page.text, "synthetic" in page.text) == (200, True, False)
        for name in static_files():
            assert (await client.get(f"/static/{name}")).status_code == 200
        assert (await client.get("/static/../v1/runs")).status_code == 401


async def test_the_page_loads_its_own_files_and_may_do_nothing_else(runs: Path, tmp_path: Path) -> None:
    async with client_of(runs, tmp_path) as client:
        page = await client.get("/")
        script = await client.get("/static/main.js")
        again = await client.get("/static/main.js", headers={"If-None-Match": script.headers["etag"]})
    parts = (part.strip().partition(" ") for part in page.headers["content-security-policy"].split(";"))
    rules = {name: allowed for name, _, allowed in parts}
    assert rules["default-src"] == "'none'"
    assert (rules["script-src"], rules["style-src"], rules["connect-src"]) == ("'self'", "'self'", "'self'")
    assert (rules["require-trusted-types-for"], rules["trusted-types"]) == ("'script'", "'none'")
    assert (again.status_code, again.content) == (304, b"")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert page.text.count("<script") == page.text.count("<script src=") + page.text.count('<script type="module" src=') == 2
    loaded = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    assert [name for name in loaded if name != "data:,"] == ["static/style.css", "static/chart.js", "static/main.js"]


def test_the_page_s_own_files_name_no_other_place_and_make_no_markup_of_text() -> None:
    for path in resources.files("oprime_gateway").joinpath("static").iterdir():
        text = path.read_text(encoding="utf-8")
        assert "://" not in text, path.name
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "@import"):
            assert word not in text, (path.name, word)


def test_every_module_that_a_module_imports_is_there_and_so_is_the_chart_library() -> None:
    files = static_files()
    own = {path.name: path.read_text(encoding="utf-8") for path in files.values() if path.suffix == ".js" and path.name != CHARTS}
    imported = {name for text in own.values() for name in re.findall(r'from "\./([^"]+)"', text)}
    assert imported | {"main.js"} == set(own)
    # Its major version: what static/charts.js asks of it.
    assert re.search(r'version="4\.\d+\.\d+"', files[CHARTS].read_text(encoding="utf-8"))


def test_the_wheel_has_the_page_s_files(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    own = {path.name for path in resources.files("oprime_gateway").joinpath("static").iterdir()}
    assert {f"oprime_gateway/static/{name}" for name in own} | {"oprime_gateway/templates/dashboard.html"} <= packed


def test_the_readme_shows_its_pictures() -> None:
    root = Path(__file__).parents[2]
    shown = re.findall(r"!\[[^\]]+\]\((docs/pictures/[^)]+)\)", (root / "README.md").read_text(encoding="utf-8"))
    assert shown == ["docs/pictures/inspector.png", "docs/pictures/run.png"]
    for path in shown:
        assert 0 < (root / path).stat().st_size < 300_000, path
