"""The numbers of `oprime prm eval` for people."""

from collections.abc import Sequence

from rich.table import Table

from oprime_cli.prm_eval.judging import Judged


def first_error_table(judged: Sequence[Judged]) -> Table:
    """F1 by subset and way of scoring: fitted, and at zero."""
    return _two_thresholds(judged, "F1 of the first wrong step (threshold fitted on the other half | 0)", "f1")


def every_step_table(judged: Sequence[Judged]) -> Table:
    """PRMScore by kind and way of scoring: fitted, and at zero."""
    return _two_thresholds(judged, "PRMScore (threshold fitted on the other half | 0)", "prm_score")


def best_of_table(judged: Judged) -> Table:
    """Mean outcome by N and way of choosing, in per cent."""
    sizes = next(iter(judged.ways.values()))
    table = Table("chosen by", *(f"N = {n}" for n in sizes), title=f"{judged.subset}: right answers, % ({_sizes(judged)})")
    for way, by_n in judged.ways.items():
        table.add_row(way, *(f"{100 * value:.1f}" for value in by_n.values()))
    return table


def _two_thresholds(judged: Sequence[Judged], title: str, figure: str) -> Table:
    table = Table("scored by", *(f"{one.subset}\n{_sizes(one)}" for one in judged), title=title)
    for way in judged[0].ways:
        cells = [" | ".join(_per_cent(one.ways[way][at][figure]) for at in ("fitted", "at_zero") if at in one.ways[way]) for one in judged]
        table.add_row(way, *cells)
    return table


def _sizes(judged: Judged) -> str:
    return ", ".join(f"{number} {name}" for name, number in judged.sizes.items() if number or name != "cut")


def _per_cent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
