"""Every page of the dashboard and what one can do there, in a real browser: light and dark, narrow and wide, by mouse and keyboard."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from accessibility import axe_violations
from dashboard_world import Site, site, training
from evaluation_files import write_evaluation
from report_builder import build_run, rollout_row, write_lines

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
expect = playwright.expect
expect.set_options(timeout=60_000)
"""Milliseconds, on a machine that has other work to do."""

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH: install the package chromium")]

KEY = "correct-horse-battery-staple"
HOSTILE = [
    "<img src=x onerror=\"document.title='taken'\">",
    "</span><script>document.title='taken'</script>",
    "\x00",
    "\u202e",
    "\n",
    '"><b>',
    " ",
]
STEPS = 12
MINUS = "\u2212"


def write_runs(folder: Path) -> None:
    """A live run, an older one with another beta, a run of a hostile model, and a warm-up's folder."""
    live = build_run(folder / "live", steps=STEPS, finished=False)
    learned = {"advantages": [0.5, -1.5, *[0.25] * 8], "policy_logprobs": [-0.05, -0.5, *[-0.05] * 8]}
    whole = {"weight_versions": [3] * 5 + [4] * 5, "reference_logprobs": [-0.5] * 10}
    path = live / "samples" / f"step-{STEPS:06d}.jsonl"
    group = json.loads(path.read_text(encoding="utf-8"))
    group["rollouts"] = [{**rollout, **whole} for rollout in group["rollouts"]]
    # Wrong, and the PRM likes it.
    group["rollouts"][2]["process_rewards"] = [0.5] * 10
    write_lines(path, [group])
    rows = [{"index": rollout["index"], **learned} for rollout in group["rollouts"]]
    write_lines(live / "samples" / f"learned-{STEPS:06d}.jsonl", [{"step": STEPS, "group_id": group["group_id"], "rollouts": rows}])
    older = build_run(folder / "older", steps=6)
    config = (older / "config.toml").read_text(encoding="utf-8")
    (older / "config.toml").write_text(config.replace("beta = 0.5", "beta = 0.05"), encoding="utf-8")
    (older / "report.html").write_text("<!doctype html><title>the report</title><p>report of older", encoding="utf-8")
    hostile = build_run(folder / "hostile", steps=1)
    row = rollout_row(0, HOSTILE, [0.1] * len(HOSTILE), outcome_reward=1.0)
    write_lines(
        hostile / "samples" / "step-000001.jsonl", [{"step": 1, "group_id": 1, "prompt": HOSTILE[1], "prm_version": 1, "rollouts": [row]}]
    )
    (folder / "chain-sft").mkdir()
    write_evaluation(live / "evaluations" / "training-000006", [[0.0, 1.0], [0.0, 0.0]], name="live@6", run="live", step=6)
    write_evaluation(live / "evaluations" / "step-000012", [[1.0, 1.0], [0.0, 1.0]], name="live@12", run="live", step=12)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("runs")
    write_runs(folder)
    with site(folder, tmp_path_factory.mktemp("index")) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        opened = engine.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@dataclass
class Tab:
    """A page, and everything that the browser complained about."""

    page: Any
    site: Site
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> Any:
        self.page.goto(self.site.url + path)
        return self.page

    @property
    def shown(self) -> str:
        """What stands in the address behind #: asked of the page, as the driver hears of a change a moment later."""
        return self.page.evaluate("location.hash").partition("#")[2]


def tab_of(browser: Any, found: Site, *, width: int = 1280, scheme: str = "light") -> Tab:
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    page.set_default_timeout(20_000)
    tab = Tab(page=page, site=found)
    page.on("console", lambda message: tab.complaints.append(message.text))
    page.on("pageerror", lambda error: tab.complaints.append(str(error)))
    return tab


@pytest.fixture
def tab(browser: Any, world: Site) -> Iterator[Tab]:
    opened = tab_of(browser, world)
    yield opened
    opened.page.context.close()
    assert opened.complaints == []


def wait_until(page: Any, expression: str) -> None:
    """Playwright's own way would have the page evaluate text, which its policy forbids."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"not within 20 s: {expression}")


def radio(page: Any, quantity: str) -> Any:
    return page.get_by_role("radio", name=quantity, exact=True)


GROUP = f"#/runs/live/rollouts/{STEPS}/{40 * STEPS}"
PAGES = {
    "runs": ("#/runs?run=live&run=older", "Settings that differ"),
    "run": ("#/runs/live", "Who works, who waits"),
    "rollouts": ("#/runs/live/rollouts", "48 rollouts"),
    "inspector": (f"{GROUP}?token=1&q=advantage", "Reasoning steps: mean of advantage"),
    "evaluations": ("#/evaluations?with=live%2Ftraining-000006&with=live%2Fstep-000012", "+50.0 [+50.0, +50.0]"),
    "playground": ("#/playground?prompt=p&a=1%202&b=9", "Sum of process rewards"),
}


@pytest.mark.parametrize(("scheme", "width"), [("light", 2560), ("dark", 400)])
@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_accessible_and_fits(browser: Any, world: Site, name: str, scheme: str, width: int) -> None:
    tab = tab_of(browser, world, width=width, scheme=scheme)
    path, sign = PAGES[name]
    page = tab.open(path)
    expect(page.get_by_text(sign).first).to_be_visible()
    # Charts are there by now, and drawn: some pixel is not empty.
    for canvas in page.locator("canvas:visible").all():
        assert canvas.evaluate("one => one.getContext('2d').getImageData(0, 0, one.width, one.height).data.some(value => value > 0)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert axe_violations(page) == []
    tab.page.context.close()
    assert tab.complaints == []


LONG_NAME = "qwen2.5-math-7b-eurus-2-learning-rate-5e-7-beta-0.05-group-size-4-staleness-1-seed-1"


def test_long_names_and_many_scores_fit(browser: Any, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    build_run(runs / LONG_NAME, steps=2)
    build_run(runs / "short", steps=2)
    write_evaluation(runs / "short" / "evaluations" / "training-000006", [[0.0, 1.0]], name="short@6", run="short", step=6)
    with site(runs, tmp_path / "index", active="short", services=False) as found:
        tab = tab_of(browser, found)
        page = tab.open(f"#/runs?run={LONG_NAME}&run=short")
        expect(page.get_by_role("heading", name="Settings that differ")).to_be_visible()
        expect(page.locator("canvas:visible").first).to_be_visible()
        # Neither a table that has to be moved to be read, nor a legend that ends beyond its chart.
        fits = "[...document.querySelectorAll('.scroll')].every(one => one.scrollWidth <= one.clientWidth)"
        assert page.evaluate(fits)
        legends = page.evaluate("""[...document.querySelectorAll('canvas')].map(one => {
            const chart = Chart.getChart(one);
            const {legendHitBoxes: boxes, legendItems: items} = chart.legend;
            return [chart.width, ...boxes.map(box => box.left + box.width), ...items.map(item => item.text)];
        })""")
        for width, *ends, first, second in legends:
            assert max(ends) <= width
            # Both ends of the name are there.
            assert {first[:5], first[-6:], second} == {LONG_NAME[:5], LONG_NAME[-6:], "short"}
        page = tab.open("#/evaluations")
        expect(page.get_by_text("short@6")).to_be_visible()
        assert page.evaluate(fits)
        page.set_viewport_size({"width": 400, "height": 800})
        page = tab.open(f"#/runs/{LONG_NAME}")
        expect(page.get_by_text("Who works, who waits")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        page.context.close()


def test_axes_are_labelled_with_round_numbers_that_do_not_cover_each_other(tab: Tab) -> None:
    labels = """name => {
        const figure = [...document.querySelectorAll('figure')].find(one => one.textContent.includes(name));
        const axis = Chart.getChart(figure.querySelector('canvas')).scales.y;
        return axis.ticks.map((tick, i) => [tick.label, axis.getPixelForTick(i)]).filter(([label]) => label);
    }"""
    page = tab.open("#/runs/live")
    # Those of metrics that this run has not are never drawn.
    wait_until(page, "[...document.querySelectorAll('canvas')].filter(one => Chart.getChart(one)).length === 6")
    seconds = page.evaluate(labels, "Seconds of a train step")
    assert seconds
    assert {text.strip("0.") for text, _ in seconds} <= {"1", "2", "5"}
    assert all(abs(one[1] - other[1]) > 11 for one, other in pairwise(seconds))
    page = tab.open(GROUP)
    expect(page.get_by_role("listbox").first).to_be_visible()
    wait_until(page, "Chart.getChart(document.querySelector('canvas'))")
    assert "0" in [text for text, _ in page.evaluate(labels, "Reasoning steps")]


def test_metrics_are_added_to_a_run_and_taken_away(tab: Tab) -> None:
    page = tab.open("#/runs/live")
    for metric in ("outcome_reward_mean", "tokens_per_second"):
        page.get_by_label("One more metric").select_option(metric)
        expect(page.get_by_role("heading", name=metric)).to_be_visible()
    assert tab.shown == "/runs/live?metric=outcome_reward_mean&metric=tokens_per_second"
    page.reload()
    expect(page.get_by_role("heading", name="tokens_per_second")).to_be_visible()
    page.get_by_role("button", name="Remove outcome_reward_mean").click()
    expect(page.get_by_role("heading", name="outcome_reward_mean")).to_have_count(0)
    assert tab.shown == "/runs/live?metric=tokens_per_second"


def test_a_gateway_of_two_models_opens_at_the_playground(browser: Any, tmp_path: Path) -> None:
    with site(tmp_path, tmp_path / "index", active="standalone", rewards_only=True) as found:
        tab = tab_of(browser, found)
        page = tab.open("")
        expect(page.get_by_role("heading", level=1)).to_have_text("Playground")
        assert page.get_by_role("navigation").get_by_role("link").all_text_contents() == ["Playground"]
        page.locator("#prompt").fill("p")
        page.locator("#a").fill("5 1")
        page.get_by_role("button", name="Score").click()
        expect(page.get_by_text(f"Sum of process rewards: response A {MINUS}0.40.")).to_be_visible()
        page.reload()
        expect(page.locator("#a")).to_have_value("5 1")
        page.context.close()
        assert tab.complaints == []


@pytest.mark.parametrize(
    ("path", "why"), [("#/runs/absent", "no run 'absent'"), ("#/runs/live/rollouts/99/1", "no sampled group 1 at train step 99")]
)
def test_what_is_not_there_is_said_in_place_of_an_empty_page(browser: Any, world: Site, path: str, why: str) -> None:
    tab = tab_of(browser, world)
    page = tab.open(path)
    expect(page.get_by_role("alert")).to_contain_text(why)
    expect(page.locator("main > *")).to_have_count(2)
    page.get_by_role("link", name="Runs", exact=True).click()
    expect(page.get_by_role("link", name="older")).to_be_visible()
    page.context.close()
    # The browser itself notes each answer 404.
    assert all("404" in one for one in tab.complaints)


def test_what_is_empty_says_so(browser: Any, tmp_path: Path) -> None:
    write_lines(tmp_path / "new" / "metrics.jsonl", [])
    with site(tmp_path, tmp_path / "index", active="new", services=False) as found:
        tab = tab_of(browser, found)
        page = tab.open("#/runs/new")
        expect(page.locator("section", has_text="Who works, who waits")).to_contain_text("Nothing recorded yet.")
        page = tab.open("#/evaluations")
        expect(page.get_by_text("There are no evaluations yet")).to_be_visible()
        expect(page.get_by_role("table")).to_be_hidden()
        page.context.close()


def test_axe_would_find_a_fault(tab: Tab) -> None:
    page = tab.open("#/runs")
    expect(page.get_by_role("link", name="older")).to_be_visible()
    page.evaluate("document.querySelector('main').append(document.createElement('button'))")
    assert [one.partition(":")[0] for one in axe_violations(page)] == ["button-name"]


def test_runs_are_compared_and_the_address_says_which(tab: Tab) -> None:
    page = tab.open("")
    expect(page.get_by_role("link", name="older")).to_be_visible()
    assert page.get_by_role("link", name="chain-sft").count() == 0
    page.get_by_label("Compare older").check()
    page.get_by_label("Compare live").check()
    expect(page.get_by_role("row", name="prm.beta 0.05 0.5")).to_be_visible()
    assert tab.shown == "/?run=older&run=live"
    page.get_by_label("One more metric").select_option("tokens_per_second")
    expect(page.get_by_role("heading", name="tokens_per_second")).to_be_visible()
    page.locator("figure", has=page.get_by_role("heading", name="Held-out accuracy")).get_by_text("Numbers").click()
    expect(page.get_by_role("row", name=re.compile(r"^10 \u2013 0\.\d+$"))).to_be_visible()
    page.reload()
    expect(page.get_by_label("Compare older")).to_be_checked()
    expect(page.get_by_role("heading", name="tokens_per_second")).to_be_visible()
    page.get_by_label("Compare older").uncheck()
    page.go_back()
    expect(page.get_by_label("Compare older")).to_be_checked()


def test_a_live_run_is_followed_and_nothing_is_drawn_anew_that_did_not_change(tab: Tab) -> None:
    page = tab.open("#/runs/live")
    expect(page.get_by_role("row", name="tickets 4 12 1.5")).to_be_visible()
    expect(page.get_by_text("The others wait for: generator")).to_be_visible()
    expect(page.get_by_text("1,200 of 1,200 issued rollouts accounted for")).to_be_visible()
    page.evaluate("""() => {
        window.changes = [];
        new MutationObserver(list => window.changes.push(...list.map(one => one.target.textContent)))
            .observe(document.querySelector('main'), {childList: true, subtree: true, characterData: true, attributes: true});
        const draw = Chart.prototype.update;
        Chart.prototype.update = function (...all) { window.changes.push('chart'); return draw.apply(this, all); };
    }""")
    asked = "performance.getEntriesByType('resource').filter(one => one.name.includes('/v1/runs/live?')).length"
    before = page.evaluate(asked)
    wait_until(page, f"{asked} >= {before + 2}")
    assert page.evaluate("window.changes") == []
    tab.site.coordinator.status = training(step=61, stalled="nothing has moved for 62 s")
    expect(page.get_by_role("alert")).to_have_text("nothing has moved for 62 s")
    expect(page.get_by_text("61 of 100")).to_be_visible()
    assert "chart" not in page.evaluate("window.changes")
    metrics = tab.site.runs / "live" / "metrics.jsonl"
    whole = metrics.read_bytes()
    try:
        with metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": "step", "step": STEPS + 1, "outcome_reward_mean": 0.125, "seconds_learner": 1.0}) + "\n")
        expect(page.locator(".tile", has_text="Outcome reward")).to_contain_text("0.125")
        assert "chart" in page.evaluate("window.changes")
    finally:
        metrics.write_bytes(whole)
        tab.site.coordinator.status = training(step=60)


def test_a_finished_run_links_its_report(tab: Tab) -> None:
    page = tab.open("#/runs/older")
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Report").click()
    expect(opened.value.get_by_text("report of older")).to_be_visible()


def test_rollouts_are_filtered_sorted_and_turned_over(tab: Tab) -> None:
    page = tab.open("#/runs/live/rollouts")
    expect(page.locator("#count")).to_have_text("48 rollouts")
    page.locator("#right").select_option("right")
    expect(page.locator("#count")).to_have_text("24 rollouts")
    page.locator("#disagreement").select_option("PRM says good, verifier says wrong")
    page.locator("#right").select_option("any")
    expect(page.locator("tbody .badge").first).to_have_text("✗ wrong")
    assert tab.shown == "/runs/live/rollouts?disagreement=prm_good"
    assert page.locator("tbody tr td:nth-child(7)").all_text_contents() == ["+5.00"]
    page.get_by_role("button", name="Reset").click()
    page.locator("#step_from").fill("5")
    page.locator("#sort").select_option("sum of process rewards")
    page.locator("#descending").select_option("smallest first")
    expect(page.locator("#count")).to_have_text("32 rollouts")
    # What the first choices asked for may have been drawn before what the last one did.
    expect(page.locator("tbody tr td:nth-child(7)").first).to_have_text(re.compile(MINUS))
    sums = [float(text.replace(MINUS, "-")) for text in page.locator("tbody tr td:nth-child(7)").all_text_contents()]
    assert sums == sorted(sums)
    page.reload()
    expect(page.locator("#descending")).to_have_value("false")
    expect(page.locator("#count")).to_have_text("32 rollouts")
    expect(page.get_by_role("button", name="Next page")).to_be_disabled()
    page.locator("tbody a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Train step")


def test_the_inspector_shows_tokens_by_each_quantity_and_by_keyboard(tab: Tab) -> None:
    page = tab.open(GROUP)
    # The first rollout is right; a wrong sibling stands beside it.
    expect(page.get_by_role("listbox")).to_have_count(2)
    first, second = page.get_by_role("listbox").all()
    assert (first.get_attribute("aria-label"), second.get_attribute("aria-label")) == ("Tokens of rollout 0", "Tokens of rollout 1")
    assert second.get_by_role("option").count() == 10
    second.focus()
    page.keyboard.press("l")
    chosen = second.locator("[aria-selected=true]")
    # The second rollout's third step is the wrong one.
    expect(chosen).to_have_attribute("id", "r1-2")
    assert "negative" in (chosen.get_attribute("class") or "")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    expect(chosen).to_have_attribute("id", "r1-3")
    page.keyboard.press("End")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert tab.shown.endswith("?of=1&token=1")
    radio(page, "advantage").check()
    expect(page.locator("#r1-1")).to_have_attribute("aria-label", re.compile(rf"advantage {MINUS}1\.50$"))
    for quantity, value in (
        ("importance ratio", "0.64"),
        ("weight version", "3"),
        ("reference log-prob", f"{MINUS}0.5"),
        ("behaviour log-prob", f"{MINUS}0.05"),
    ):
        radio(page, quantity).check()
        expect(page.locator("#r1-1 small")).to_have_text(value)
        expect(page.get_by_role("article", name="rollout 1").get_by_role("heading", level=4)).to_contain_text(quantity)
    facts = page.get_by_role("article", name="rollout 1").locator(".facts")
    # exp(-0.5 + 0.05), and the numbers of the other quantities.
    expect(facts).to_contain_text("importance ratio0.6376")
    page.keyboard.press("Escape")
    page.get_by_role("article", name="rollout 1").get_by_text("All numbers").click()
    expect(page.get_by_role("region", name="All numbers of rollout 1").get_by_role("row")).to_have_count(11)


def test_the_first_wrong_step_is_marked_and_so_is_the_one_that_the_prm_thinks_least_of(tab: Tab) -> None:
    page = tab.open(GROUP)
    # The second rollout's third step is wrong, and has the lowest reward.
    wrong = page.get_by_role("article", name="rollout 1")
    expect(wrong.locator(".marks")).to_have_text(re.compile(r"^✗ first wrong step: token 2, =\d · ▼ lowest step of the PRM: the same$"))
    expect(wrong.get_by_role("option", name=re.compile("first wrong step, lowest step of the PRM$"))).to_have_attribute("id", "r1-2")
    assert page.locator("#r1-2").evaluate("one => getComputedStyle(one, '::before').content") == '"✗▼"'
    # The right one has neither.
    expect(page.get_by_role("article", name="rollout 0").locator(".marks")).to_be_hidden()
    # The PRM likes every token of the third rollout, which is wrong from its sixth step on.
    page = tab.open(f"{GROUP}?show=2&alone=yes")
    expect(page.get_by_role("article", name="rollout 2").locator(".marks")).to_have_text(re.compile(r"^✗ first wrong step: token 5, =\d$"))


def test_groups_are_turned_over_by_button_and_by_key_in_the_same_colours(tab: Tab) -> None:
    page = tab.open(f"#/runs/live/rollouts/{STEPS - 1}/{40 * (STEPS - 1)}?q=logprob&show=0&token=3")
    page.get_by_role("button", name="Next group").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Train step {STEPS}, group {40 * STEPS}")
    expect(page.get_by_role("button", name="Next group")).to_be_disabled()
    assert tab.shown == f"/runs/live/rollouts/{STEPS}/{40 * STEPS}?q=logprob"
    expect(radio(page, "behaviour log-prob")).to_be_checked()
    page.get_by_role("listbox").first.focus()
    page.keyboard.press("n")
    expect(page.get_by_role("status")).to_have_text("This is the newest group")
    page.keyboard.press("p")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Train step {STEPS - 1}, group {40 * (STEPS - 1)}")
    expect(page.get_by_role("listbox").first).to_be_focused()
    page.keyboard.press("p")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Train step {STEPS - 2}, group {40 * (STEPS - 2)}")
    page = tab.open("#/runs/live/rollouts/1/40")
    expect(page.get_by_role("button", name="Previous group")).to_be_disabled()
    expect(page.get_by_role("button", name="Next group")).to_be_enabled()


def test_a_link_leads_to_a_token_and_siblings_are_chosen(tab: Tab) -> None:
    page = tab.open(f"{GROUP}?show=2&alone=yes&token=4&of=2")
    expect(page.locator("#r2-4")).to_have_attribute("aria-selected", "true")
    assert page.get_by_role("listbox").count() == 1
    page.get_by_role("checkbox", name=re.compile("3 right")).check()
    expect(page.get_by_role("listbox")).to_have_count(2)
    expect(page.locator("#r2-4")).to_have_attribute("aria-selected", "true")
    page.get_by_label("A reasoning step ends").select_option("at ends of lines")
    page.get_by_label("numbers under tokens").uncheck()
    expect(page.locator("#r2-4 small")).to_be_hidden()
    assert set(re.findall(r"[?&]([^&]+)", tab.shown)) == {"show=2", "show=3", "token=4", "of=2", "steps=line", "numbers=no"}
    page.locator("#r3-1").click()
    expect(page.locator("#r3-1")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#r2-4")).to_have_attribute("aria-selected", "false")


def test_what_was_not_recorded_is_said_and_not_invented(tab: Tab) -> None:
    page = tab.open("#/runs/live/rollouts/1/40")
    expect(radio(page, "process reward")).to_be_checked()
    for quantity in ("advantage", "importance ratio", "weight version", "reference log-prob"):
        expect(radio(page, quantity)).to_be_disabled()
    expect(radio(page, "behaviour log-prob")).to_be_enabled()


def test_the_playground_scores_two_responses(tab: Tab) -> None:
    page = tab.open("#/playground")
    page.locator("#prompt").fill("p")
    page.locator("#a").fill("5 1")
    page.locator("#b").fill("9")
    page.get_by_role("button", name="Score").click()
    # Digits d earn (d - 5) / 10.
    expect(page.get_by_text(f"Sum of process rewards: response A {MINUS}0.40, response B +0.40.")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text(f"Scored: response A {MINUS}0.40, response B +0.40")
    expect(page.locator("#pa-2 small")).to_have_text(f"{MINUS}0.40")
    assert "negative" in (page.locator("#pa-2").get_attribute("class") or "")
    assert "positive" in (page.locator("#pb-0").get_attribute("class") or "")
    radio(page, "reference log-prob").check()
    expect(page.locator("#pb-0 small")).to_have_text(f"{MINUS}1")
    page.reload()
    expect(page.locator("#pb-0 small")).to_have_text(f"{MINUS}1")
    page.locator("#a").fill("cannot")
    page.locator("#a").press("Control+Enter")
    expect(page.get_by_role("alert")).to_have_text("Response A: 9 tokens exceed the model's 8: shorten the text")


def test_text_of_a_model_is_never_markup(tab: Tab) -> None:
    page = tab.open("#/runs/hostile/rollouts/1/1")
    expect(page.get_by_role("listbox").get_by_role("option")).to_have_count(len(HOSTILE))
    assert page.locator("#r0-0").text_content().startswith(HOSTILE[0])
    assert page.locator("#r0-2").text_content().startswith("⟨U+0000⟩")
    assert page.locator("#r0-3").text_content().startswith("⟨U+202E⟩")
    page.get_by_text("All numbers").click()
    page.locator("#r0-1").click()
    assert page.locator("main img, main script, main b").count() == 0
    expect(page.get_by_role("region", name="Prompt")).to_have_text(HOSTILE[1])
    page.get_by_role("link", name="Rollouts of hostile").click()
    expect(page.locator("#count")).to_have_text("1 rollout")
    assert page.locator("main img, main script, main b").count() == 0
    assert page.title().startswith("Rollouts of hostile")


def test_the_policy_of_the_page_stops_markup_and_scripts_from_text(browser: Any, world: Site) -> None:
    # Shows that the tests above see what is refused: the page's own code never tries.
    tab = tab_of(browser, world)
    page = tab.open("#/runs")
    expect(page.get_by_role("link", name="older")).to_be_visible()
    # Later, since what Playwright evaluates may itself evaluate text.
    tried = page.evaluate("""() => new Promise(done => setTimeout(() => {
        const tell = (action) => { try { action(); return 'done'; } catch (error) { return error.name; } };
        done([tell(() => { document.querySelector('main').innerHTML = '<b>'; }), tell(() => eval('1')), tell(() => {
            const node = document.createElement('script');
            node.textContent = "document.title = 'taken'";
            document.body.append(node);
        })]);
    }))""")
    assert len(tried) == 3
    assert "done" not in tried
    assert page.title() == "Runs · oprime"
    page.context.close()
    assert tab.complaints


def test_a_key_is_typed_once(browser: Any, world: Site, tmp_path: Path) -> None:
    with site(world.runs, tmp_path, keys=(KEY,)) as guarded:
        tab = tab_of(browser, guarded)
        page = tab.open("#/runs/older")
        page.get_by_label("Key of the gateway").fill("wrong")
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_text("The gateway does not know this key.")).to_be_visible()
        page.get_by_label("Key of the gateway").fill(KEY)
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_role("heading", name="Held-out accuracy")).to_be_visible()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download the report").click()
        assert "report of older" in download.value.path().read_text(encoding="utf-8")
        page.reload()
        expect(page.get_by_role("heading", name="Held-out accuracy")).to_be_visible()
        assert KEY not in page.url
        assert page.evaluate("Object.keys(localStorage)") == []
        page.context.close()
        # The browser itself notes each answer 401.
        assert all("401" in one for one in tab.complaints)


def test_a_gateway_that_is_away_is_said_and_found_again(browser: Any, world: Site) -> None:
    tab = tab_of(browser, world)
    page = tab.open("#/runs/live")
    expect(page.locator("#note")).to_contain_text("updated")
    page.context.set_offline(True)
    expect(page.locator("#note.bad")).to_have_text("the gateway does not answer")
    page.context.set_offline(False)
    # It asks again after five seconds.
    expect(page.locator("#note")).to_contain_text("updated", timeout=30_000)
    page.context.close()


def test_two_evaluations_are_ticked_and_compared(tab: Tab) -> None:
    page = tab.open("#/evaluations")
    expect(page.get_by_role("heading", level=1)).to_have_text("Evaluations")
    for name in ("live@6", "live@12"):
        page.get_by_role("checkbox", name=f"Compare {name}, MATH500").check()
    compared = page.get_by_role("region", name="Difference between the two evaluations")
    expect(compared.get_by_role("row", name="MATH500 avg")).to_contain_text("+50.0")
    expect(page.get_by_text("First: live@6. Second: live@12.")).to_be_visible()
    assert "with=live%2Ftraining-000006" in tab.shown
    page.go_back()
    expect(page.get_by_text("Tick a second evaluation.")).to_be_visible()
