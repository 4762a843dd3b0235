"""Dashboards, alert rules and scrape settings agree with what the services show."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from observability import DASHBOARDS, FOLDER, ROOT, Dashboard, load_dashboard, problems, queries
from oprime.adapters.prometheus_metrics import METRICS
from oprime.runtime.setting_rules import SERVICES

ALERTS = FOLDER / "alerts.yaml"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: apt-get install prometheus)")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def test_there_is_a_dashboard_for_the_run_the_queues_and_each_stage() -> None:
    assert [path.stem for path in DASHBOARDS] == ["generator", "learner", "prm", "queues", "run", "verifier"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_what_grafana_takes(path: Path) -> None:
    board = load_dashboard(path)
    assert board.uid == f"oprime-{path.stem}"
    assert len({panel.id for panel in board.panels}) == len(board.panels)
    taken = set[tuple[int, int]]()
    for panel in board.panels:
        place = panel.gridPos
        cells = {(x, y) for x in range(place.x, place.x + place.w) for y in range(place.y, place.y + place.h)}
        assert place.x + place.w <= 24
        assert not cells & taken, f"{panel.title} lies on another panel"
        taken |= cells
        assert len({target.refId for target in panel.targets}) == len(panel.targets)
    variables = {variable.name for variable in board.templating.list}
    used = set(re.findall(r"\$\{?([a-z]+)", path.read_text(encoding="utf-8")))
    assert used == variables


def test_a_dashboard_with_a_field_that_nobody_knows_is_refused() -> None:
    board = json.loads(DASHBOARDS[0].read_text(encoding="utf-8"))
    board["panels"][0]["targets"][0]["expresion"] = "up"
    with pytest.raises(ValidationError, match="expresion"):
        Dashboard.model_validate_json(json.dumps(board))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_ask_for_what_is_there(path: Path) -> None:
    assert {expression: found for expression, legend in queries(path) if (found := problems(expression, legend))} == {}


def test_alerts_ask_for_what_is_there_and_say_what_to_do() -> None:
    assert {rule["alert"]: found for rule in rules() if (found := problems(rule["expr"]))} == {}
    for rule in rules():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in ("critical", "warning")


@pytest.mark.parametrize(
    ("expression", "legend", "found"),
    [
        ("oprime_prm_los", "", ["no series oprime_prm_los"]),
        ("oprime_rollouts", "", ["no series oprime_rollouts"]),
        ("rate(oprime_train_step_seconds[5m])", "", ["no series oprime_train_step_seconds"]),
        ('oprime_queue_lag_entries{steam="tickets"}', "", ["oprime_queue_lag_entries has no label steam"]),
        ("sum by (verifer) (rate(oprime_verifications_total[5m]))", "", ["no series here has the label verifer"]),
        ("oprime_prm_loss", "{{stream}}", ["no series here has the label stream"]),
        ('up{job="oprime"} == 0 and oprime_stalled{run="a b{c}"} > 1', "{{instance}}", []),
    ],
)
def test_a_name_that_is_not_declared_is_found(expression: str, legend: str, found: list[str]) -> None:
    assert problems(expression, legend) == found


def test_every_metric_is_on_a_dashboard_or_in_an_alert() -> None:
    asked = " ".join([expression for path in DASHBOARDS for expression, _ in queries(path)] + [rule["expr"] for rule in rules()])
    assert [metric.name for metric in METRICS if not re.search(rf"\boprime_{metric.name}(_total|_sum|_bucket)?\b", asked)] == []


def test_compose_is_scraped_where_its_services_answer() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    assert set(found["names"]) == set(SERVICES)
    assert set(found["names"]) <= set(compose["services"])
    assert f"--set=endpoints.metrics_port={found['port']}" in compose["services"]["prepare"]["command"]
    assert job["honor_labels"] is True


@needs_promtool
def test_promtool_accepts_rules_and_scrape_settings() -> None:
    promtool("check", "rules", str(ALERTS))
    for name in ("prometheus.yml", "prometheus-local.yml"):
        promtool("check", "config", name)


@needs_promtool
@pytest.mark.parametrize(
    ("alert", "at", "fires", "series"),
    [
        # The last step was at 0.
        ("OprimeNoStep", "45m", True, {'last_step_timestamp_seconds{run="a"}': "0x60", 'run_state{run="a",state="training"}': "1x60"}),
        ("OprimeNoStep", "20m", False, {'last_step_timestamp_seconds{run="a"}': "0x60", 'run_state{run="a",state="training"}': "1x60"}),
        ("OprimeNoStep", "45m", False, {'last_step_timestamp_seconds{run="a"}': "0x60", 'run_state{run="a",state="training"}': "0x60"}),
        ("OprimeStalled", "1m", True, {'stalled{run="a"}': "1x60"}),
        ("OprimeDeadLetters", "12m", True, {'queue_dead_letters_total{run="a",stream="rollouts"}': "0x10 1x60"}),
        ("OprimeDeadLetters", "9m", False, {'queue_dead_letters_total{run="a",stream="rollouts"}': "0x10 1x60"}),
        ("OprimeMismatchKl", "10m", True, {'mismatch_kl_nats{run="a"}': "0.2x60"}),
        ("OprimeMismatchKl", "10m", False, {'mismatch_kl_nats{run="a"}': "0.002x60"}),
        # One replica of two stays behind by 3 with S = 2; that it is behind by 2 is its right. Another run's bound is its own.
        (
            "OprimeReplicaBehind",
            "10m",
            True,
            {
                'published_version{run="a",service="learner"}': "9x60",
                'policy_version{run="a",service="generator",instance="g1"}': "6x60",
                'policy_version{run="a",service="generator",instance="g2"}': "7x60",
                'staleness_bound{run="a",service="coordinator"}': "2x60",
                'published_version{run="b",service="learner"}': "90x60",
                'policy_version{run="b",service="generator",instance="g3"}': "81x60",
                'staleness_bound{run="b",service="coordinator"}': "9x60",
            },
        ),
        ("OprimeWeightsRefused", "12m", True, {'weights_refused_total{run="a"}': "0x10 1x60"}),
        ("OprimePayloadsOrphaned", "50m", True, {'payloads_orphaned_total{run="a"}': "0+3x60"}),
        ("OprimePayloadsOrphaned", "50m", False, {'payloads_orphaned_total{run="a"}': "0x5 40x60"}),
        ("OprimeVerifierOut", "10m", True, {'verifier_held_rollouts{run="a"}': "3x60"}),
        ("OprimeSandboxViolations", "12m", True, {'sandbox_violations_total{run="a",kind="violation"}': "0x10 1x60"}),
    ],
)
def test_an_alert_fires_when_it_should(alert: str, at: str, *, fires: bool, series: dict[str, str], tmp_path: Path) -> None:
    write_rule_test(tmp_path / "test.yaml", alert, at, {f"oprime_{name}": values for name, values in series.items()})
    said = subprocess.run([str(PROMTOOL), "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False)
    # The test expects silence, and so fails with what fired.
    fired = f'alertname="{alert}"' in said.stdout + said.stderr
    assert (said.returncode != 0, fired) == (fires, fires), said.stdout + said.stderr
    if alert == "OprimeReplicaBehind":
        assert 'instance="g1"' in said.stdout + said.stderr
        assert not re.search('instance="g[23]"', said.stdout + said.stderr)


def write_rule_test(path: Path, alert: str, at: str, series: dict[str, str]) -> None:
    (path.parent / "rules.yaml").write_text(ALERTS.read_text(encoding="utf-8"), encoding="utf-8")
    document = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [{"eval_time": at, "alertname": alert, "exp_alerts": []}],
            }
        ],
    }
    path.write_text(yaml.safe_dump(document), encoding="utf-8")


def promtool(*arguments: str) -> None:
    subprocess.run([str(PROMTOOL), *arguments], cwd=FOLDER, check=True, capture_output=True, text=True)
