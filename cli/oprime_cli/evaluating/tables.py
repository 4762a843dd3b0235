"""The numbers of `oprime eval` for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from oprime_cli.console import count


def results_table(results: Sequence[Mapping[str, Any]], title: str) -> Table:
    """One line per benchmark, with one column per kind of score; values in per cent, with their 95 % interval."""
    kinds = list(dict.fromkeys(_kind(name) for result in results for name in result["scores"]))
    with_paper = any("paper" in result for result in results)
    columns = ["benchmark", "problems", *kinds, *(["paper's grading"] if with_paper else []), "unjudged", "cut", "tokens"]
    table = Table(*columns, title=title)
    for result in results:
        by_kind: dict[str, list[str]] = {kind: [] for kind in kinds}
        for name, score in result["scores"].items():
            by_kind[_kind(name)].append(f"@{name.partition('@')[2]} {interval(score)}")
        samples = result["samples"]
        table.add_row(
            f"{result['title']}" + (f" v{result['version']}" if result["version"] else ""),
            count(result["problems"]),
            *("\n".join(by_kind[kind]) or "-" for kind in kinds),
            *([_paper(result)] if with_paper else []),
            count(result["unjudged"]["count"]),
            count(samples["cut"]),
            count(samples["mean_tokens"]),
        )
    return table


def subsets_table(result: Mapping[str, Any]) -> Table:
    """The same scores for each part of one benchmark."""
    names = list(dict.fromkeys(name for found in result["subsets"].values() for name in found["scores"]))
    table = Table("part", "problems", *names, title=f"{result['title']} by part")
    for part, found in result["subsets"].items():
        scores = found["scores"]
        table.add_row(part, count(found["problems"]), *(interval(scores[name]) if name in scores else "-" for name in names))
    return table


def best_of_table(result: Mapping[str, Any]) -> Table:
    """What a PRM makes of N samples, beside the first, the majority, and any right one."""
    ways = result["reward_model"]["best_of"]
    sizes = next(iter(ways.values()))
    table = Table("chosen by", *(f"N = {n}" for n in sizes), title=f"{result['title']}: best of N")
    for way, by_n in ways.items():
        table.add_row(way, *(interval(score) for score in by_n.values()))
    return table


def comparison_table(rows: Sequence[Mapping[str, Any]], first: str, second: str) -> Table:
    """What changes from the first evaluation to the second, problem by problem."""
    table = Table("benchmark", "score", first, second, "difference", "better", "worse", title=f"{second} compared with {first}")
    for row in rows:
        table.add_row(
            row["title"],
            row["score"],
            per_cent(row["first"]),
            per_cent(row["second"]),
            interval(row["difference"], sign=True),
            count(row["better"]),
            count(row["worse"]),
        )
    return table


def interval(score: Mapping[str, float], *, sign: bool = False) -> str:
    """Value and interval in per cent: 52.0 [48.1, 55.9]."""
    form = "+.1f" if sign else ".1f"
    value, low, high = (format(100 * score[name] + 0.0, form) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def per_cent(share: float) -> str:
    return f"{100 * share:.1f}"


def _kind(name: str) -> str:
    return name.partition("@")[0]


def _paper(result: Mapping[str, Any]) -> str:
    paper = result.get("paper")
    if paper is None:
        return "-"
    return f"{interval(paper['score'])}\n{100 * paper['difference']['value'] + 0.0:+.1f} by {paper['differing_samples']} samples"
