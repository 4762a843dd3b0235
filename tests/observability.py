"""What stands in deploy/observability, read strictly: only fields that are used, with the values that Grafana takes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from oprime.adapters.prometheus_metrics import METRICS, RUN, SERVICE, SHOWN_BY

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "deploy" / "observability"
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Datasource(_Strict):
    type: Literal["prometheus"]
    uid: Literal["${datasource}"]


class GridPos(_Strict):
    h: int = Field(gt=0)
    w: int = Field(gt=0, le=24)
    x: int = Field(ge=0, lt=24)
    y: int = Field(ge=0)


class Target(_Strict):
    refId: str = Field(pattern=r"^[A-Z]$")  # noqa: N815
    datasource: Datasource
    expr: str = Field(min_length=1)
    legendFormat: str = Field(min_length=1)  # noqa: N815


class Defaults(_Strict):
    unit: Literal["short", "s", "percentunit"]
    min: float | None = None
    max: float | None = None


class FieldConfig(_Strict):
    defaults: Defaults
    overrides: list[None]


class Legend(_Strict):
    displayMode: Literal["list", "table", "hidden"]  # noqa: N815
    placement: Literal["bottom", "right"]
    showLegend: bool  # noqa: N815


class Tooltip(_Strict):
    mode: Literal["single", "multi", "none"]
    sort: Literal["none", "asc", "desc"]


class TimeseriesOptions(_Strict):
    legend: Legend
    tooltip: Tooltip


class ReduceOptions(_Strict):
    calcs: list[Literal["lastNotNull", "max", "mean"]]
    fields: str
    values: bool


class StatOptions(_Strict):
    reduceOptions: ReduceOptions  # noqa: N815
    textMode: Literal["auto", "value", "value_and_name", "name", "none"]  # noqa: N815
    colorMode: Literal["value", "background", "none"]  # noqa: N815
    graphMode: Literal["none", "area"]  # noqa: N815


class _Panel(_Strict):
    id: int = Field(gt=0)
    title: str = Field(min_length=1)
    description: str = ""
    datasource: Datasource
    gridPos: GridPos  # noqa: N815
    fieldConfig: FieldConfig  # noqa: N815
    targets: list[Target] = Field(min_length=1)


class Timeseries(_Panel):
    type: Literal["timeseries"]
    options: TimeseriesOptions


class Stat(_Panel):
    type: Literal["stat"]
    options: StatOptions


class DatasourceVariable(_Strict):
    name: Literal["datasource"]
    label: str
    type: Literal["datasource"]
    query: Literal["prometheus"]


class VariableQuery(_Strict):
    query: str
    refId: str  # noqa: N815


class QueryVariable(_Strict):
    name: str = Field(pattern=r"^[a-z]+$")
    label: str
    type: Literal["query"]
    datasource: Datasource
    query: VariableQuery
    refresh: Literal[1, 2]
    sort: int = Field(ge=0, le=8)
    includeAll: bool  # noqa: N815
    multi: bool


class Templating(_Strict):
    list: "list[Annotated[DatasourceVariable | QueryVariable, Field(discriminator='type')]]"


class Time(_Strict):
    from_: str = Field(alias="from", pattern=r"^now-\d+[smhd]$")
    to: Literal["now"]


class Link(_Strict):
    type: Literal["dashboards"]
    title: str
    tags: list[str]
    asDropdown: bool  # noqa: N815
    includeVars: bool  # noqa: N815
    keepTime: bool  # noqa: N815


class Dashboard(_Strict):
    uid: str = Field(pattern=r"^oprime-[a-z]+$", max_length=40)
    title: str = Field(pattern=r"^oprime: ")
    description: str = Field(min_length=1)
    tags: list[str]
    schemaVersion: int = Field(ge=36, le=41)  # noqa: N815
    version: int = Field(ge=1)
    editable: bool
    timezone: Literal["browser", "utc", ""]
    refresh: str = Field(pattern=r"^\d+[smh]$")
    time: Time
    templating: Templating
    links: list[Link]
    panels: list[Annotated[Timeseries | Stat, Field(discriminator="type")]] = Field(min_length=1)


def load_dashboard(path: Path) -> Dashboard:
    return Dashboard.model_validate_json(path.read_text(encoding="utf-8"))


def queries(path: Path) -> Iterator[tuple[str, str]]:
    """(expression, legend) of every target of a dashboard."""
    for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
        for target in panel["targets"]:
            yield target["expr"], target["legendFormat"]


# PromQL, as far as it is used: names, selectors, groupings.

OF_TARGETS = {"instance", "job"}
"""Labels that Prometheus adds."""
WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset"}
FUNCTIONS = {"sum", "min", "max", "avg", "count", "rate", "increase", "histogram_quantile", "time", "label_values"}
_STRING = r'"(?:[^"\\]|\\.)*"'
_METRIC = re.compile(rf"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(\{{(?:[^{{}}\"]|{_STRING})*\}})?")
_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)")
_MATCHER = re.compile(rf"\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(?:=~|!~|!=|=)\s*{_STRING}\s*(?:,|$)")


def series() -> dict[str, set[str]]:
    """Every series that may be asked for, with its labels."""
    known = {"up": {SERVICE, RUN} | OF_TARGETS}
    for metric in METRICS:
        labels = {*metric.labels, RUN, SERVICE} | OF_TARGETS
        name = f"oprime_{metric.name}"
        if metric.kind == "counter":
            known[f"{name}_total"] = labels
        elif metric.kind == "gauge":
            known[name] = labels
        else:
            known |= {f"{name}_sum": labels, f"{name}_count": labels, f"{name}_bucket": labels | {"le"}}
    return known


def shown_by(name: str) -> tuple[str, ...]:
    """The services that show a series."""
    bare = re.sub("_(total|sum|count|bucket)$", "", name.removeprefix("oprime_"))
    return next(services for services, metrics in SHOWN_BY.items() if bare in {metric.name for metric in metrics})


def problems(expression: str, legend: str = "") -> list[str]:
    """What an expression names that no service shows."""
    known, found = series(), list[str]()
    used: set[str] = set()
    groupings = [label.strip() for match in _GROUPING.finditer(expression) for label in match[2].split(",") if label.strip()]
    bare = re.sub(r"\[[^\]]*\]", "", _GROUPING.sub(" ", expression))
    for name, selector in _METRIC.findall(bare):
        if name in WORDS or (name in FUNCTIONS and not selector):
            continue
        if name not in known:
            found.append(f"no series {name}")
            continue
        used |= known[name]
        found += [f"{name} has no label {label}" for label in _labels(selector) if label not in known[name]]
    shown = re.findall(r"\{\{\s*([^{}]*?)\s*\}\}", legend)
    return found + [f"no series here has the label {label}" for label in (*groupings, *shown) if label not in used]


def _labels(selector: str) -> list[str]:
    inside = selector[1:-1]
    labels = [match[1] for match in _MATCHER.finditer(inside)]
    rest = _MATCHER.sub("", inside).strip()
    return labels + ([f"(unreadable: {rest})"] if rest else [])
