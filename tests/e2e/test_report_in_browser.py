import re
import shutil
import subprocess
from pathlib import Path

import pytest

from accessibility import axe_violations
from oprime_cli.commands.report import write_report
from oprime_cli.scoring.heat_map import article, failed_article, stretches
from oprime_cli.scoring.heat_map import page as heat_map
from report_builder import build_run, rollout_row, write_lines

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH: install the package chromium")]


def open_in_browser(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The page's elements once it has loaded, and what the browser's console says about it."""
    assert BROWSER is not None
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-gpu"]
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        *quiet,
        "--enable-logging=stderr",
        f"--user-data-dir={profile}",
        "--dump-dom",
        page.as_uri(),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return result.stdout, [line for line in result.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return write_report(build_run(tmp_path / "synthetic"))


def test_the_page_is_whole_and_the_console_is_silent(report: Path, tmp_path: Path) -> None:
    dom, console = open_in_browser(report, tmp_path / "profile")
    assert console == []
    # Three steps, one group each, four rollouts of ten tokens.
    assert len(re.findall(r'<span class="token ', dom)) == 120
    assert len(re.findall("<svg ", dom)) == 6


def test_the_policy_of_the_page_refuses_what_comes_from_outside(report: Path, tmp_path: Path) -> None:
    # Shows that a silent console above means that nothing was asked for.
    page = report.read_text(encoding="utf-8")
    report.write_text(
        page.replace("</main>", '<img src="http://127.0.0.1:9/a.png"><script>document.title = "taken"</script></main>'), encoding="utf-8"
    )
    dom, console = open_in_browser(report, tmp_path / "profile")
    assert len(console) == 2
    assert all("Content Security Policy" in line for line in console)
    assert "<title>taken" not in dom


def test_tokens_that_look_like_markup_stay_text(tmp_path: Path) -> None:
    folder = build_run(tmp_path / "hostile", steps=1)
    tokens = ["<img src=x onerror=alert(1)>", "</span><b>", "\x00", "\u202e", '"><script>']
    group = {
        "step": 1,
        "group_id": 1,
        "prompt": "<h1>",
        "prm_version": 1,
        "rollouts": [rollout_row(0, tokens, [0.1] * 5, outcome_reward=1.0)],
    }
    write_lines(folder / "samples" / "step-000001.jsonl", [group])
    dom, console = open_in_browser(write_report(folder), tmp_path / "profile")
    assert console == []
    assert len(re.findall(r'<span class="token ', dom)) == 5
    assert not re.search(r"<img|<script|<b>", dom)


def write_heat_map(folder: Path) -> Path:
    """A page of `oprime score --html`: rewards of both signs and any strength, and an input that could not be scored."""
    text = "a good step\n\na bad one"
    tokens = {"char_spans": [(0, 7), (7, 13), (13, 19), (19, 22)], "rewards": [0.9, 0.05, -0.1, -0.8]}
    articles = [article("first", "a question", stretches(text, tokens), 0.05), failed_article("second", "9 tokens exceed 8")]
    path = folder / "rewards.html"
    path.write_text("".join(heat_map("rewards", articles)), encoding="utf-8")
    return path


@pytest.mark.parametrize(("scheme", "width"), [("light", 2560), ("dark", 400)])
def test_pages_that_are_files_are_accessible_and_fit(report: Path, tmp_path: Path, scheme: str, width: int) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
        for file in (report, write_heat_map(tmp_path)):
            page.goto(file.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert axe_violations(page) == []
        browser.close()


def test_on_a_phone_no_number_runs_into_the_next(report: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 400, "height": 800})
        page.goto(report.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        gaps = page.evaluate("""() => {
            const range = document.createRange();
            const box = (node) => { range.selectNodeContents(node); return range.getBoundingClientRect(); };
            const gapsOf = (cells) => cells.slice(1).map((cell, i) => box(cell).left - box(cells[i]).right);
            return [...document.querySelectorAll("tr")].flatMap(row => gapsOf([...row.cells]));
        }""")
        assert gaps
        # Pixels between the texts of neighbouring cells.
        assert min(gaps) >= 8
        browser.close()
