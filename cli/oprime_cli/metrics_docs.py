"""docs/metrics.md, made of the table of metrics: `python -m oprime_cli.metrics_docs docs/metrics.md`."""

import argparse
from pathlib import Path

from oprime.adapters.prometheus_metrics import PREFIX, SHOWN_BY, TOTAL, MetricDefinition

HEAD = """\
<!-- Made by `make docs` from oprime.adapters.prometheus_metrics; not edited by hand. -->
# Metrics

What each service shows at `/metrics` on `endpoints.metrics_port` ([operations.md](operations.md#watching-a-run)). Every series also has the
labels `run` and `service`. A series is there once its service has a value for it. Histograms have `_bucket`, `_sum` and `_count`.
"""


def metrics_page() -> str:
    return "\n".join([HEAD, *(_section(services, metrics) for services, metrics in SHOWN_BY.items())])


def _section(services: tuple[str, ...], metrics: tuple[MetricDefinition, ...]) -> str:
    lines = [f"## {', '.join(services)}", "", "| metric | kind | labels | meaning |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *(f"| `{full_name(one)}` | {one.kind} | {_labels(one)} | {one.help} |" for one in metrics), ""])


def full_name(metric: MetricDefinition) -> str:
    return PREFIX + metric.name + (TOTAL if metric.kind == "counter" else "")


def _labels(metric: MetricDefinition) -> str:
    return ", ".join(f"`{label}`" for label in metric.labels) or "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="file to write")
    parser.parse_args().path.write_text(metrics_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
