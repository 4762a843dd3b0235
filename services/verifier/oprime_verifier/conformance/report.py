"""The conformance report as a person reads it."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from oprime_verifier.conformance.runner import CheckResult, Report

MAX_SHOWN = 12
MAX_DETAIL_CHARS = 200
_MARKS = {"passed": "[green]passed[/green]", "failed": "[red]FAILED[/red]", "skipped": "[dim]skipped[/dim]"}


def rendered(report: Report) -> RenderableType:
    """Checks, cases by category, and what went wrong."""
    parts: list[RenderableType] = [_checks(report.results)]
    if report.categories:
        parts.append(_categories(report))
    parts += list(_failures(report.results))
    failed = sum(result.status == "failed" for result in report.results)
    passed = sum(result.status == "passed" for result in report.results)
    summary = f"{report.target}: {passed} checks passed, {failed} failed"
    return Group(*parts, Text(summary, style="bold green" if report.passed else "bold red"))


def _checks(results: Iterable[CheckResult]) -> Table:
    table = Table("kind", "check", "result", "detail")
    for result in results:
        table.add_row(escape(result.kind or "-"), escape(result.name), _MARKS[result.status], escape(result.detail[:MAX_DETAIL_CHARS]))
    return table


def _categories(report: Report) -> Table:
    table = Table("math category", "judged right", "cases", title="math cases, policies included")
    for name, numbers in report.categories.items():
        table.add_row(name, str(numbers["right"]), str(numbers["all"]))
    return table


def _failures(results: Iterable[CheckResult]) -> Iterable[RenderableType]:
    for result in results:
        if result.failures:
            yield Text(f"{result.kind}: {result.name}", style="bold")
            for line in result.failures[:MAX_SHOWN]:
                yield Text(f"  {line}")
            if len(result.failures) > MAX_SHOWN:
                yield Text(f"  and {len(result.failures) - MAX_SHOWN} more (--json FILE has all)")
