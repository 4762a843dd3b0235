"""RUN/summary.json: what a finished run achieved. Its existence means that the run is finished."""

import time
from typing import Any

from oprime.runtime.source_commit import git_commit
from oprime_cli.commands.version import package_versions
from oprime_cli.run_config import RunConfig
from oprime_cli.running.audit import Audit, by_kind
from oprime_cli.running.metric_rows import MetricRows

RESULT_OK = "ok"


def make_summary(
    config: RunConfig, rows: MetricRows, audit: Audit, *, seconds: dict[str, float], localisation: dict[str, Any]
) -> dict[str, Any]:
    """All numbers of a finished run. A number that was never measured is null."""
    heldout, greedy = rows.before_and_after("heldout_accuracy"), rows.before_and_after("heldout_greedy_accuracy")
    return {
        "result": RESULT_OK,
        "run": config.run.name,
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seed": config.run.seed,
        "steps": rows.steps[-1]["step"] if rows.steps else 0,
        "prompts": _whole(rows.last("prompts")),
        "rollouts": _whole(rows.last("rollouts")),
        "tokens": _whole(rows.last("tokens")),
        "heldout_before": heldout[0],
        "heldout_after": heldout[1],
        "heldout_greedy_before": greedy[0],
        "heldout_greedy_after": greedy[1],
        "prm_accuracy": rows.mean("prm_accuracy"),
        "staleness_max": _whole(rows.largest("staleness_max")),
        "ledger": by_kind(audit.counts),
        "ledger_states": audit.counts,
        "ledger_closed": audit.closed,
        "seconds": with_evaluations(seconds, rows),
        "localisation": localisation,
        "versions": package_versions(),
        "git_commit": git_commit(),
    }


def with_evaluations(seconds: dict[str, float], rows: MetricRows) -> dict[str, float]:
    """Held-out evaluations happen inside the training phase; count them for themselves."""
    inside = min(seconds["train"], sum(float(row.get("seconds") or 0.0) for row in rows.evaluations))
    moved = {"train": round(seconds["train"] - inside, 3), "evaluate": round(seconds["evaluate"] + inside, 3)}
    return {**seconds, **moved}


def closing_lines(summary: dict[str, Any]) -> list[str]:
    """What a person wants to know first."""
    closed = "the ledger is closed" if summary["ledger_closed"] else "the ledger is NOT closed: see `oprime ledger`"
    sampled = _change(summary["heldout_before"], summary["heldout_after"], "sampled")
    greedy = _change(summary["heldout_greedy_before"], summary["heldout_greedy_after"], "greedy")
    measured = ", ".join(part for part in (sampled, greedy) if part)
    ledger = ", ".join(f"{kind} {number:,}" for kind, number in summary["ledger"].items())
    return [
        f"held-out accuracy: {measured or 'not measured (tasks.heldout)'}",
        f"{closed}: {ledger}",
    ]


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _change(before: float | None, after: float | None, how: str) -> str:
    """`25.0% -> 50.0% sampled`; what was never measured is left out."""
    known = [f"{value:.1%}" for value in (before, after) if value is not None]
    return f"{' -> '.join(known)} {how}" if known else ""
