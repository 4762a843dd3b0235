"""What a person sees while a run trains: a live view in a terminal, one line per step elsewhere."""

import time
from typing import TYPE_CHECKING, Protocol, Self

from oprime_cli.console import console, count, duration, is_terminal, say
from oprime_cli.run_config import RunConfig
from oprime_cli.running.audit import by_kind
from oprime_cli.running.coordinator_client import Status, state_name
from oprime_cli.running.early_warnings import note_of
from oprime_cli.running.metric_rows import MetricRows, Row

if TYPE_CHECKING:
    from rich.console import RenderableType

MISSING = "-"


class View(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

    def update(self, status: Status | None, rows: MetricRows, new: list[Row]) -> None:
        """Show the newest state; `status` is None while the coordinator does not answer."""
        ...


def open_view(config: RunConfig) -> View:
    steps, has_prm = config.run.steps, config.algorithm.needs_prm
    return TerminalView(config.run.name, steps, has_prm=has_prm) if is_terminal() else PlainView(steps, has_prm=has_prm)


class PlainView:
    """One line per step and per evaluation, and one when the run comes to a standstill or its PRM goes wrong."""

    def __init__(self, total_steps: int, *, has_prm: bool = True) -> None:
        self._total = total_steps
        self._has_prm = has_prm
        self._stalled = False
        self._warned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def update(self, status: Status | None, rows: MetricRows, new: list[Row]) -> None:
        for row in new:
            say(line_of(row, self._total, has_prm=self._has_prm))
        stalled = status.stalled if status is not None else ""
        if stalled and not self._stalled:
            say(f"warning: {stalled}")
        self._stalled = bool(stalled)
        note = note_of(rows)
        if note and not self._warned:
            say(f"warning: {note}")
        self._warned = bool(note)


def line_of(row: Row, total: int, *, has_prm: bool = True) -> str:
    """One metrics row as a line of text."""
    if row["kind"] == "evaluation":
        parts = {"held-out accuracy": number(row, "heldout_accuracy"), "greedy": number(row, "heldout_greedy_accuracy")}
        head = f"evaluation after step {row['step']}"
    elif row["kind"] == "benchmark":
        parts = {"accuracy": f"{number(row, 'accuracy')} [{number(row, 'accuracy_low')}, {number(row, 'accuracy_high')}]"}
        head = f"{row['benchmark']} after step {row['step']}"
    else:
        parts = {
            "outcome reward": number(row, "outcome_reward_mean"),
            **({"prm accuracy": number(row, "prm_accuracy")} if has_prm else {}),
            "policy loss": number(row, "policy_loss", 4),
            "staleness": number(row, "staleness_max", 0),
            "rollouts": number(row, "rollouts", 0),
            "tokens/s": number(row, "tokens_per_second", 0),
        }
        head = f"step {row['step']}/{total}"
    return f"{head}  " + "  ".join(f"{name} {value}" for name, value in parts.items())


def number(row: Row, name: str, digits: int = 3) -> str:
    return shown(row.get(name), digits)


def shown(value: object, digits: int = 3) -> str:
    return f"{value:,.{digits}f}" if isinstance(value, int | float) else MISSING


class TerminalView:
    """A live panel with progress, metrics, queues and ledger."""

    def __init__(self, name: str, total_steps: int, *, has_prm: bool = True) -> None:
        from rich.live import Live

        self._name = name
        self._total = total_steps
        self._has_prm = has_prm
        self._pace = Pace(total_steps)
        self._live = Live(console=console(), refresh_per_second=4, transient=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, status: Status | None, rows: MetricRows, new: list[Row]) -> None:
        steps = rows.steps
        step = steps[-1]["step"] if steps else 0
        step = max(step, status.step if status else 0)
        remaining_s = self._pace.remaining_s(step, time.monotonic(), rows.mean("seconds"))
        lines = facts(status, rows, step, self._total, remaining_s, has_prm=self._has_prm)
        self._live.update(self._panel(lines, step), refresh=True)

    def _panel(self, lines: dict[str, str], step: int) -> "RenderableType":
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        for name, value in lines.items():
            grid.add_row(Text(name, style="bold"), Text(value))
        # A row of its own, because a progress bar does not end its line.
        whole = Table.grid(expand=True)
        whole.add_row(ProgressBar(total=self._total, completed=step))
        whole.add_row(grid)
        return Panel(whole, title=f"oprime · {self._name}")


def facts(
    status: Status | None, rows: MetricRows, step: int, total: int, remaining_s: float | None, *, has_prm: bool = True
) -> dict[str, str]:
    """The lines of the live view."""
    state = state_name(status) if status is not None else "the coordinator does not answer"
    stalled = status.stalled if status is not None else ""
    left = "all steps done" if step >= total else "time left unknown" if stalled or remaining_s is None else f"{duration(remaining_s)} left"
    lines = {"step": f"{step} of {total} · {state} · {left}"}
    if stalled:
        lines["stalled"] = stalled
    if note := note_of(rows):
        lines["note"] = note
    lines |= {
        "outcome reward": _recent(rows, "outcome_reward_mean"),
        "held-out accuracy": " -> ".join(shown(value) for value in rows.before_and_after("heldout_accuracy") if value is not None)
        or MISSING,
        **({"PRM accuracy": shown(rows.last("prm_accuracy"))} if has_prm else {}),
        "staleness": f"{shown(rows.last('staleness_max'), 0)} versions at most",
        "tokens/s": shown(rows.last("tokens_per_second"), 0),
    }
    if status is not None:
        lines["queues"] = queues_line(status)
        lines["waiting for"] = status.bottleneck or MISSING
        lines["ledger"] = ledger_line(dict(status.ledger))
    return lines


def _recent(rows: MetricRows, name: str) -> str:
    """Mean over the last steps, and over how many."""
    steps = rows.count(name)
    return f"{shown(rows.mean(name))} (mean of {steps} {'step' if steps == 1 else 'steps'})" if steps else MISSING


def queues_line(status: Status) -> str:
    """Entries on each queue: waiting + on loan."""
    return "  ".join(f"{queue.stream} {queue.waiting}+{queue.pending}" for queue in status.queues) or MISSING


def ledger_line(counts: dict[str, int]) -> str:
    return "  ".join(f"{kind} {count(number)}" for kind, number in by_kind(counts).items())


class Pace:
    """Time left, from how long steps take."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._newest: tuple[int, float] | None = None

    def remaining_s(self, step: int, now: float, per_step_s: float | None) -> float | None:
        """None until it is known how long a step takes. A step that takes longer than the others does not make the rest shorter."""
        if self._newest is None or step > self._newest[0]:
            self._newest = (step, now)
        if per_step_s is None:
            return None
        return max(0.0, (self._total - step) * per_step_s - min(now - self._newest[1], per_step_s))
