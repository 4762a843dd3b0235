import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from evaluation_files import write_evaluation
from oprime.runtime.errors import UnusableInputError
from oprime_cli.commands.report import write_report
from oprime_cli.report.charts import charts, trailing_mean
from oprime_cli.report.data import read_run
from oprime_cli.report.page import choose_groups, colour_limit, duration, shorten, signed, visible
from report_builder import LEDGER, build_run, rollout_row, write_lines, write_object

HOSTILE = [
    "<script>alert(1)</script>",
    "\" onmouseover='alert(2)",
    "</style><img src=x onerror=alert(3)>",
    "\x00\x07",
    "\u202eright to left\u2066",
    "\ud800",
    "{{ config }}{% raw %}",
    "line one\nline two\n",
    "&amp;",
    "x" * 5000,
]


class Page(HTMLParser):
    """What a browser would make of the page: elements with their attributes, and the text of token spans."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def with_class(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.elements if name in (attributes.get("class") or "").split()]


def page_of(folder: Path) -> tuple[str, Page]:
    html = write_report(folder).read_text(encoding="utf-8")
    return html, Page(html)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    return page_of(build_run(tmp_path_factory.mktemp("runs") / "synthetic"))


def hostile_run(folder: Path) -> Path:
    build_run(folder, steps=1)
    rollouts = [
        rollout_row(0, HOSTILE, [0.5] * len(HOSTILE), outcome_reward=0.0),
        rollout_row(1, ["fine"], [float("nan")], outcome_reward=1.0),
    ]
    group = {"step": 1, "group_id": 1, "prompt": "".join(HOSTILE), "prm_version": 1, "rollouts": rollouts}
    write_lines(folder / "samples" / "step-000001.jsonl", [group])
    return folder


def test_the_report_asks_nothing_of_the_network(finished: tuple[str, Page]) -> None:
    html, page = finished
    assert "default-src 'none'" in html
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    names = {tag for tag, _ in page.elements}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}


def test_the_tiles_tell_the_run_in_numbers(finished: tuple[str, Page]) -> None:
    text = finished[1].text
    # Built as .25 + .65 * learned(60) and as min(1, ...): 25 % -> 88 %, 19 % -> 100 %.
    for fact in (
        "25 % → 88 %",
        "+63 points by step 60",
        "19 % → 100 %",
        "1 ≤ 1",
        "closed",
        "17,400 of 17,400",
        "3 min 36 s",
        "60 of 60 train steps",
    ):
        assert fact in text


def test_all_six_charts_are_drawn_with_ids_of_their_own(finished: tuple[str, Page]) -> None:
    page = finished[1]
    assert sum(tag == "svg" for tag, _ in page.elements) == 6
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:href="|url\()#([^")]+)', finished[0])
    assert set(references) <= set(ids)


def test_localisation_stands_beside_its_baseline(finished: tuple[str, Page]) -> None:
    rows = re.findall(r"<tr(?: class=\"ours\")?><td>(\w+)</td><td>([^<]+)</td>.*?>([\d.]+)</td>", finished[0])
    assert [(kind, "PRM" in scorer, auc) for kind, scorer, auc in rows] == [
        ("natural", True, "0.994"),
        ("natural", False, "0.925"),
        ("confuser", True, "0.987"),
        ("confuser", False, "0.774"),
    ]


def test_evaluations_are_listed_and_the_last_compared_with_the_first(tmp_path: Path) -> None:
    folder = build_run(tmp_path / "synthetic", steps=1)
    for step, during, score in ((0, True, 0.0), (50, True, 1.0), (50, False, 1.0)):
        place = folder / "evaluations" / f"{'training' if during else 'step'}-{step:06d}"
        write_evaluation(place, [[score], [1.0]], name=f"synthetic@{step}", step=step, during_training=during)
    write_evaluation(folder / "evaluations" / "step-000050", [[1.0]], name="synthetic@50", benchmark="amc", step=50)
    html, page = page_of(folder)
    assert html.count('<td>MATH500</td><td class="number">2</td>') == 3
    assert "AMC" in page.text
    # One of two problems is solved that was not.
    assert "MATH500synthetic@0 (during training) → synthetic@50 (during training)avg50.0 → 100.0+50.0" in page.text
    assert len(page.with_class("gains")) == 1


def test_a_damaged_evaluation_is_named(tmp_path: Path) -> None:
    folder = build_run(tmp_path / "synthetic", steps=1)
    (folder / "evaluations" / "step-000001" / "amc").mkdir(parents=True)
    write_object(folder / "evaluations" / "step-000001" / "amc" / "result.json", {"scores": {}})
    with pytest.raises(UnusableInputError, match=r"evaluations holds a damaged evaluation .*: remove it, or evaluate again"):
        write_report(folder)


def test_tables_of_the_recipe_are_shown_where_there_are_some(tmp_path: Path, finished: tuple[str, Page]) -> None:
    folder = build_run(tmp_path / "synthetic", steps=1)
    table = {"title": "Best of <N>", "note": "Per cent.", "columns": ["chosen by", "N = 2"], "rows": [["prm_sum", "62.5"]]}
    write_object(folder / "recipe.json", {"tables": [table]})
    html, page = page_of(folder)
    assert "Best of <N>" in page.text
    assert "<td>prm_sum</td><td>62.5</td>" in html
    assert not finished[1].with_class("recipe")


def test_every_token_has_its_reward_as_colour_number_and_title(finished: tuple[str, Page]) -> None:
    page = finished[1]
    tokens = page.with_class("token")
    # Three steps, one group each, four rollouts of eight steps, an answer and an end token.
    assert len(tokens) == 3 * 4 * 10
    assert all(re.search(r"process reward [+-]\d", token["title"] or "") for token in tokens)
    assert {re.sub(r"\d+", "N", token["style"] or "") for token in tokens} == {"--strength:N%"}
    assert [attributes for attributes in page.with_class("badge") if "right" in (attributes["class"] or "")]


def test_the_first_wrong_step_of_each_wrong_chain_is_marked(finished: tuple[str, Page]) -> None:
    # Two of four rollouts are wrong in each of three groups.
    assert len(finished[1].with_class("first-wrong")) == 6


def test_model_text_stays_text(tmp_path: Path) -> None:
    html, page = page_of(hostile_run(tmp_path / "hostile"))
    assert "<script" not in html
    assert "<img" not in html
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert html.count("</style>") == 1
    assert "<script>alert(1)</script>" in page.text
    assert "{{ config }}{% raw %}" in page.text
    assert not re.search("[\x00-\x09\x0b-\x1f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", html)
    assert "⟨U+0000⟩⟨U+0007⟩" in page.text
    assert "⟨U+202E⟩right to left⟨U+2066⟩" in page.text
    assert "⟨U+D800⟩" in page.text
    assert "(4,880 more characters)" in page.text


def test_a_run_under_way_reports_what_is_there(tmp_path: Path) -> None:
    _, page = page_of(build_run(tmp_path / "young", steps=12, finished=False))
    for fact in ("Still running", "12 of 60 train steps", "counted when the run has ended", "Not measured in this run."):
        assert fact in page.text


def test_a_run_without_a_step_has_a_report(tmp_path: Path) -> None:
    folder = build_run(tmp_path / "empty", steps=0, finished=False)
    (folder / "metrics.jsonl").unlink()
    _, page = page_of(folder)
    assert page.text.count("Nothing recorded yet.") == 6
    assert "No rollouts were sampled yet." in page.text


def test_a_half_written_last_line_is_passed_over(tmp_path: Path) -> None:
    folder = build_run(tmp_path / "torn", steps=3, finished=False)
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"kind": "step", "st')
    assert "3 of 60 train steps" in page_of(folder)[1].text


@pytest.mark.parametrize(
    ("closed", "live", "value"),
    [(True, 0, "closed"), (False, 0, "open"), (True, 7, "open")],
    ids=["closed", "entries differ", "sum differs"],
)
def test_the_ledger_is_closed_only_when_counts_and_entries_agree(tmp_path: Path, closed: bool, live: int, value: str) -> None:
    folder = build_run(tmp_path / "run", steps=1)
    write_object(folder / "summary.json", {"result": "ok", "ledger_states": {**LEDGER, "live": live}, "ledger_closed": closed})
    assert f">{value}</div>" in page_of(folder)[0]


def test_what_was_trained_and_dropped_is_shown_by_response_length(tmp_path: Path, finished: tuple[str, Page]) -> None:
    assert "by response length" not in finished[1].text
    folder = build_run(tmp_path / "lengths", steps=2)
    row = {"kind": "step", "step": 3, "trained_to_64_tokens": 90.0, "stale_to_64_tokens": 10.0, "stale_to_128_tokens": 48.0}
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
    html, page = page_of(folder)
    cells = re.findall(r"<tr><td>(\d+ to \d+)</td>" + r'<td class="number">([^<]*)</td>' * 5, html)
    assert cells == [("33 to 64", "90", "0", "10", "0", "10 %"), ("65 to 128", "0", "0", "48", "0", "100 %")]
    assert "100% of the rollouts with more than 64 response tokens became stale" in page.text


def test_staleness_beyond_the_bound_is_said_plainly(tmp_path: Path) -> None:
    folder = build_run(tmp_path / "stale", steps=2)
    row: dict[str, Any] = {"kind": "step", "step": 3, "staleness_max": 2}
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
    assert "the bound S was broken" in page_of(folder)[1].text


def test_staleness_beyond_the_bound_is_inside_its_chart(tmp_path: Path) -> None:
    folder = build_run(tmp_path / "stale", steps=2)
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"kind": "step", "step": 3, "staleness_max": 9}) + "\n")
    (chart,) = (one for one in charts(read_run(folder)) if one.title == "Staleness")
    # The scale reaches the value, far above the bound of 1.
    assert ">8</text>" in chart.svg


def test_no_run_folder_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableInputError, match=r"no run folder: it has no config\.toml"):
        write_report(tmp_path)
    folder = build_run(tmp_path / "damaged", steps=1)
    (folder / "samples" / "step-000001.jsonl").write_text("[1]\n", encoding="utf-8")
    with pytest.raises(UnusableInputError, match=r"step-000001\.jsonl:1 is a JSON list"):
        write_report(folder)


def test_trailing_mean_takes_up_to_width_values() -> None:
    assert trailing_mean([1.0, 2.0, 6.0, float("nan")], 2) == [1.0, 1.5, 4.0, 6.0]


def test_groups_of_the_first_middle_and_last_step_are_chosen_mixed_ones_first() -> None:
    def group(step: int, *rewards: float) -> dict[str, Any]:
        return {"step": step, "rollouts": [{"outcome_reward": reward} for reward in rewards]}

    samples = [
        group(1, 1, 0),
        group(2, 0, 0),
        group(3, 0, 0),
        group(3, 1, 0),
        group(4, 1, 0),
        group(5, 1, 1),
        group(5, 1, 1),
        group(5, 0, 1),
    ]
    chosen = choose_groups(samples)
    assert [row["step"] for row in chosen] == [1, 3, 3, 5, 5]
    assert [[rollout["outcome_reward"] for rollout in row["rollouts"]] for row in chosen[1:4]] == [[1, 0], [0, 0], [0, 1]]
    assert choose_groups([]) == []


def test_colour_is_full_where_all_but_one_in_fifty_rewards_lie() -> None:
    def group(rewards: list[float]) -> dict[str, Any]:
        return {"rollouts": [{"process_rewards": rewards}]}

    assert colour_limit([group([*[-0.5] * 98, 9.0, 9.0])]) == 0.5
    assert colour_limit([group([0.0, 0.0])]) == 1.0
    assert colour_limit([]) == 1.0


@pytest.mark.parametrize(
    ("text", "shown"), [("a\tb", "a→b"), ("é漢", "é漢"), ("\u200b", "⟨U+200B⟩"), ("a\nb", "a↵b"), ("\x7f", "⟨U+007F⟩")]
)
def test_invisible_characters_are_shown_by_name(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_numbers_are_written_for_people() -> None:
    assert [signed(value) for value in (0.126, -0.5, 0.004, -0.001, float("nan"))] == ["+0.13", "\u22120.50", "0", "0", "\u2013"]
    assert [duration(value) for value in (9.4, 75, 3725, float("nan"))] == ["9 s", "1 min 15 s", "1 h 02 min", "\u2013"]
    assert shorten("abcdef", 4) == "abcd… (2 more characters)"


def test_a_run_on_outcomes_alone_is_shown_without_a_prm(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    build_run(folder)
    with (folder / "config.toml").open("a", encoding="utf-8") as file:
        file.write("\n[algorithm]\nprocess_weight = 0.0\n")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    write_lines(folder / "metrics.jsonl", [{name: value for name, value in row.items() if "prm" not in name} for row in rows])
    for file in (folder / "samples").iterdir():
        file.unlink()
    write_object(folder / "localisation.json", {"skipped": "this run has no PRM: algorithm.process_weight = 0"})
    drawn = charts(read_run(folder))
    assert all(chart.svg for chart in drawn)
    assert "PRM classification accuracy" not in [chart.title for chart in drawn]
    _, page = page_of(folder)
    assert "PRM accuracy" not in page.text
    assert "Not measured: this run has no PRM: algorithm.process_weight = 0." in page.text
    assert "on outcome rewards alone" in page.text
    assert not re.search(r"\bnan\b|Nothing recorded yet|No rollouts were sampled", page.text)
