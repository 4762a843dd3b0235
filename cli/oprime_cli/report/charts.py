"""Charts of a run as inline SVG: no script, colours from the page's CSS variables, readable in light and dark."""

import html
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, MaxNLocator, NullFormatter, PercentFormatter

from oprime_cli.report.data import Row, RunRecords

MEAN_STEPS = 10
_SECONDS = ("seconds_prm", "seconds_learner", "wait_s_prm", "wait_s_learner")

# Stand-ins that become CSS variables, so that one chart serves a light and a dark page.
_INK, _FAINT = "#010203", "#040506"
_BLUE, _ORANGE, _GREEN, _PURPLE = "#070809", "#0a0b0c", "#0d0e0f", "#101112"
_CSS_VARIABLES = {
    _INK: "var(--ink-soft)",
    _FAINT: "var(--rule)",
    _BLUE: "var(--blue)",
    _ORANGE: "var(--orange)",
    _GREEN: "var(--green)",
    _PURPLE: "var(--purple)",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "oprime",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    title: str
    note: str
    """What the chart says, for readers who do not see it and for those who do."""
    svg: str
    """Empty when there is nothing to draw yet."""


Drawing = tuple[str, str, Sequence[Row], Callable[[Axes], None]]
"""Title, note, rows, and what draws them."""


def charts(records: RunRecords) -> list[Chart]:
    """All charts of the report, in its order."""
    steps, evaluations = records.steps, records.evaluations
    bound = records.config.staleness.max_staleness
    prm: list[Drawing] = [
        (
            "PRM classification accuracy",
            "How often the implicit PRM tells right from wrong responses, by the sign of its summed reward and within pairs of siblings.",
            steps,
            lambda axes: _draw_prm(axes, steps),
        )
    ]
    drawings: list[Drawing] = [
        (
            "Held-out accuracy",
            "Problems the policy never trains on; sampled at temperature 1, and greedy.",
            evaluations,
            lambda axes: _draw_heldout(axes, evaluations),
        ),
        (
            "Outcome reward in training",
            f"Mean of what was verified for a step, before the prompt filter; the thick line is the mean of the last {MEAN_STEPS} steps.",
            steps,
            lambda axes: _draw_reward(axes, steps),
        ),
        *(prm if records.config.algorithm.needs_prm else []),
        (
            "Staleness",
            f"Weight versions between a rollout's oldest token and the step that trains on it. The bound S is {bound}.",
            steps,
            lambda axes: _draw_staleness(axes, steps, bound),
        ),
        (
            "Throughput",
            "Response tokens of all rollouts per second of the run, step by step.",
            steps,
            lambda axes: _line(axes, steps, "tokens_per_second", "tokens/s", _BLUE, floor=0),
        ),
        (
            "Seconds by phase",
            "Time at work and time spent waiting for input, per step; logarithmic.",
            steps,
            lambda axes: _draw_seconds(axes, steps),
        ),
    ]
    return [
        Chart(title=title, note=note, svg=_svg(draw, prefix=f"c{i}", label=f"{title}. {note}") if rows else "")
        for i, (title, note, rows, draw) in enumerate(drawings)
    ]


def trailing_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean of each value and up to `width - 1` before it; values that are no numbers are left out."""
    means: list[float] = []
    for end in range(1, len(values) + 1):
        window = [value for value in values[max(0, end - width) : end] if math.isfinite(value)]
        means.append(sum(window) / len(window) if window else math.nan)
    return means


def number(row: Row, name: str) -> float:
    """A metric of a row; NaN when it is missing or no number."""
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else math.nan


def _draw_heldout(axes: Axes, evaluations: Sequence[Row]) -> None:
    _line(axes, evaluations, "heldout_greedy_accuracy", "greedy", _ORANGE, marker="s", dashes="--")
    _line(axes, evaluations, "heldout_accuracy", "sampled", _BLUE, marker="o")
    _as_share(axes)


def _draw_reward(axes: Axes, steps: Sequence[Row]) -> None:
    values = [number(row, "outcome_reward_mean") for row in steps]
    at = [row["step"] for row in steps]
    axes.plot(at, values, color=_BLUE, linewidth=1, alpha=0.45, label="each step")
    axes.plot(at, trailing_mean(values, MEAN_STEPS), color=_BLUE, linewidth=2.4, label=f"{MEAN_STEPS}-step mean")
    _as_share(axes)


def _draw_prm(axes: Axes, steps: Sequence[Row]) -> None:
    _line(axes, steps, "prm_accuracy", "right or wrong", _BLUE)
    _line(axes, steps, "prm_pairwise_accuracy", "right sibling above wrong", _ORANGE, dashes="--")
    _as_share(axes)


def _draw_staleness(axes: Axes, steps: Sequence[Row], bound: int) -> None:
    _line(axes, steps, "staleness_max", "largest", _BLUE, marker="o", size=3)
    _line(axes, steps, "staleness_mean", "mean", _ORANGE, dashes="--")
    axes.axhline(bound, color=_INK, linewidth=1.2, linestyle=":", label=f"bound S = {bound}")
    seen = [number(row, "staleness_max") for row in steps]
    axes.set_ylim(-0.15, max([bound, *(value for value in seen if math.isfinite(value))]) + 0.6)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def _draw_seconds(axes: Axes, steps: Sequence[Row]) -> None:
    _line(axes, steps, "seconds_prm", "PRM at work", _BLUE)
    _line(axes, steps, "seconds_learner", "learner at work", _ORANGE)
    _line(axes, steps, "wait_s_prm", "PRM waits", _GREEN, dashes=":")
    _line(axes, steps, "wait_s_learner", "learner waits", _PURPLE, dashes=":")
    # The first step waits for the slowest start; beside it the others would be flat.
    if any(number(row, name) > 0 for row in steps for name in _SECONDS):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("seconds")


def _line(
    axes: Axes,
    rows: Sequence[Row],
    name: str,
    label: str,
    colour: str,
    *,
    marker: str = "",
    dashes: str = "-",
    size: float = 5,
    floor: float | None = None,
) -> None:
    """Plot one metric over steps; a metric that no row has is left out of the legend too."""
    values = [number(row, name) for row in rows]
    if any(math.isfinite(value) for value in values):
        lone = "o" if len(rows) == 1 else marker
        axes.plot([row["step"] for row in rows], values, color=colour, label=label, marker=lone, linestyle=dashes, markersize=size)
    if floor is not None:
        axes.set_ylim(bottom=floor)


def _as_share(axes: Axes) -> None:
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))


def _svg(draw: Callable[[Axes], None], *, prefix: str, label: str) -> str:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.6, 2.9), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.set_xlabel("train step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        if len(axes.get_legend_handles_labels()[1]) > 1:
            figure.legend(loc="outside upper center", ncols=4)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(buffer.getvalue(), prefix, label)


def _inline(document: str, prefix: str, label: str) -> str:
    """Cut an SVG document down to what stands inside a page: own ids, the page's colours and fonts, no outside addresses. `label` is read
    to those who do not see it."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<style type="text/css">.*?</style>', "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{prefix}-", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for stand_in, variable in _CSS_VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    box = re.search(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', svg)
    assert box is not None  # noqa: S101 - matplotlib writes one
    return f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(label)}">{svg[box.end() :]}'
