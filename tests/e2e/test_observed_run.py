"""One small run that is watched by everybody: a real Prometheus, a collector of traces, and whoever reads its logs."""

import contextlib
import json
import random
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.command_line import oprime, resolved, start_oprime
from e2e.conftest import small_run, wait_for_step
from observability import DASHBOARDS, FOLDER, problems, queries, shown_by
from oprime.runtime.setting_rules import SERVICES
from otlp_collector import Received, collecting

PROMETHEUS = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed (Debian: apt-get install prometheus)")
STEPS = 8
RUN = "watched"
TEXT = {"prompt": "3 +8 -5 ?", "response": "=1 =6 #6"}
ONLY_IN_BFLOAT16 = ("oprime_prm_reward_noise_nats", "oprime_prm_reward_signal_to_noise")
"""What this run, in float32, has nothing to say about."""
CALLER = "0af7651916cd43dd8448eb211c80319c"
"""Trace of a caller of the gateway."""

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@dataclass
class Watched:
    folder: Path
    began: float
    first_port: int
    answers: dict[str, dict[str, tuple[int, str]]] = field(default_factory=dict[str, dict[str, tuple[int, str]]])
    """Service -> path -> status and page, in the middle of the run."""
    spans: list[Received] = field(default_factory=list[Received])
    prometheus: "Prometheus | None" = None

    def log(self, service: str) -> list[dict[str, Any]]:
        lines = (self.folder / "logs" / f"{service}.log").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


class Prometheus:
    """Debian's, with the rules and the scrape settings that are shipped for one machine."""

    def __init__(self, folder: Path, runs: Path) -> None:
        self.url = f"http://127.0.0.1:{free_ports(1)}"
        config = yaml.safe_load((FOLDER / "prometheus-local.yml").read_text(encoding="utf-8"))
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(FOLDER / "alerts.yaml")]
        config["scrape_configs"][0]["file_sd_configs"] = [{"files": [f"{runs}/*.scrape.json"], "refresh_interval": "1s"}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        self._log = (folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                str(PROMETHEUS), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
            ],
            stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def ask(self, path: str, **arguments: object) -> Any:
        status, page = get(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(arguments)}")
        assert status == 200, page
        return json.loads(page)["data"]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()


@pytest.fixture(scope="module")
def watched(starting_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    place = tmp_path_factory.mktemp("watched")
    port = free_ports(len(SERVICES))
    run = Watched(place / RUN, time.time(), port)
    with contextlib.ExitStack() as closing:
        if PROMETHEUS is not None:
            run.prometheus = Prometheus(place, place)
            closing.callback(run.prometheus.close)
        watch(run, starting_model, port)
        yield run


def watch(run: Watched, starting_model: Path, port: int) -> None:
    """Let the run train to its end, ask its services meanwhile, and keep its spans."""
    place = run.folder.parent
    chains = place / "chains.jsonl"
    assert oprime("tasks", "chain", "--out", str(chains), "--split", "heldout", "--rows", "2", "--operations", "2").returncode == 0
    with collecting() as collector:
        settings = {
            "run.steps": STEPS, "run.evaluate_every": 3, "endpoints.metrics_port": port, "endpoints.traces_url": collector.url,
            "run.log_level": "debug", "staleness.max_staleness": 1,
            "run.evaluate_on": [str(chains)], "run.evaluate_on_every": 3,
        }  # fmt: skip
        process = start_oprime(*small_run(starting_model, place, RUN, **settings), log=place / "train.log")
        try:
            wait_for_step(run.folder, 3, timeout_s=400)
            for _ in range(2):
                ask_the_gateway(resolved(run.folder)["endpoints"]["gateway"])
                time.sleep(2)  # a rate needs what came between two scrapes
            run.answers = {
                service: {path: get(f"http://127.0.0.1:{port + index}{path}") for path in ("/metrics", "/healthz", "/readyz")}
                for index, service in enumerate(SERVICES)
            }
            assert process.wait(400) == 0, (place / "train.log").read_text(encoding="utf-8")
        finally:
            process.kill()
            process.wait()
    run.spans = collector.spans


def free_ports(count: int) -> int:
    """The first of `count` neighbours that are all free, below those that the kernel gives to whoever asks for any, a run among them."""
    while True:
        port = random.randrange(20_000, 30_000 - count)
        if all(is_free(port + place) for place in range(count)):
            return port


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def get(url: str) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def ask_the_gateway(address: str) -> None:
    request = urllib.request.Request(
        f"http://{address}/v1/rewards",
        data=json.dumps({"inputs": [TEXT]}).encode(),
        headers={"Content-Type": "application/json", "traceparent": f"00-{CALLER}-b7ad6b7169203331-01"},
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        assert answer.status == 200


def test_every_service_has_metrics_and_health_on_a_port_of_its_own(watched: Watched) -> None:
    for service, pages in watched.answers.items():
        assert pages["/healthz"] == (200, "alive\n"), service
        assert pages["/readyz"] == (200, "ready\n"), service
        status, page = pages["/metrics"]
        assert status == 200
        assert f'run="{RUN}",service="{service}"' in page
    only = {
        "prm": "oprime_prm_loss",
        "learner": "oprime_mismatch_kl_nats",
        "gateway": "oprime_http_requests_total",
        "coordinator": "oprime_tickets_live",
        "generator": "oprime_rollouts_total",
        "verifier": "oprime_verifications_total",
    }
    for service, metric in only.items():
        assert [name for name, pages in watched.answers.items() if metric in pages["/metrics"][1]] == [service]


@needs_prometheus
def test_prometheus_finds_every_service_and_every_query_of_every_dashboard_returns_data(watched: Watched) -> None:
    prometheus = watched.prometheus
    assert prometheus is not None
    window = {"start": watched.began, "end": time.time(), "step": 1}
    seen = {(one["metric"]["service"], one["metric"]["run"]) for one in prometheus.ask("query_range", query="up == 1", **window)["result"]}
    assert seen == {(service, RUN) for service in SERVICES}
    empty: list[str] = []
    for path in DASHBOARDS:
        for expression, _ in queries(path):
            if expression.startswith(ONLY_IN_BFLOAT16):
                continue
            result = prometheus.ask("query_range", query=expression.replace("$run", RUN), **window)["result"]
            if not any(value != "NaN" for one in result for _, value in one["values"]):
                empty.append(f"{path.stem}: {expression}")
    assert not empty, "\n".join(empty)
    assert {rule["health"] for group in prometheus.ask("rules")["groups"] for rule in group["rules"]} == {"ok"}


@needs_prometheus
def test_what_services_show_is_what_is_declared(watched: Watched) -> None:
    prometheus = watched.prometheus
    assert prometheus is not None
    found = prometheus.ask("series", **{"match[]": '{__name__=~"oprime_.*"}', "start": watched.began, "end": time.time()})
    wrong = set[str]()
    for series in found:
        labels = ",".join(f'{name}="{value}"' for name, value in series.items() if name != "__name__")
        wrong |= set(problems(f"{series['__name__']}{{{labels}}}"))
        if series["service"] not in shown_by(series["__name__"]):
            wrong.add(f"{series['__name__']} of {series['service']}")
    assert len(found) > 100
    assert wrong == set()


def test_one_prompt_has_one_trace_through_all_services(watched: Watched) -> None:
    traces: dict[str, list[Received]] = {}
    for one in watched.spans:
        traces.setdefault(one.trace, []).append(one)
    trained = [spans for spans in traces.values() if any(one.name == "train" and "group_id" in one.attributes for one in spans)]
    # One for each prompt that was trained on: 4 in each step.
    assert len(trained) == 4 * STEPS
    for spans in trained:
        known = {one.span: one for one in spans}
        assert len({one.attributes["group_id"] for one in spans if "group_id" in one.attributes}) == 1
        by_name = {name: [one for one in spans if one.name == name] for name in ("issue", "generate", "verify", "decide", "score", "train")}
        assert {name: {one.service for one in of_name} for name, of_name in by_name.items()} == {
            "issue": {"coordinator"}, "generate": {"generator"}, "verify": {"verifier"}, "decide": {"coordinator"},
            "score": {"prm"}, "train": {"learner"},
        }  # fmt: skip
        (issue,), (decide,) = by_name["issue"], by_name["decide"]
        assert issue.parent == ""
        assert {one.parent for one in by_name["generate"]} == {issue.span}
        assert {known[one.parent].name for one in by_name["verify"]} == {"generate"}
        # One that a slow disk kept may come twice; it counts once.
        assert len({one.attributes["rollout_id"] for one in by_name["verify"]}) == 4
        assert known[decide.parent].name == "verify"
        assert {one.parent for one in by_name["score"] + by_name["train"]} == {decide.span}
        assert decide.attributes["decision"] == "accepted"
        # Where its batch's own trace is.
        (of_step,) = {link for one in by_name["score"] + by_name["train"] for link in one.links}
        assert {one.name for one in traces[of_step]} == {"cut", "score", "train"}
        assert next(one for one in traces[of_step] if one.name == "cut").links.count(issue.trace) == 1


def test_a_request_to_the_gateway_goes_on_with_its_callers_trace(watched: Watched) -> None:
    spans = {(one.service, one.name): one for one in watched.spans if one.trace == CALLER}
    method = "/oprime_proto.v1.PrmService/Score"
    http, client, server = spans["gateway", "HTTP POST"], spans["gateway", method], spans["prm", method]
    assert (http.parent, client.parent, server.parent) == ("b7ad6b7169203331", http.span, client.span)
    assert (http.attributes["route"], http.attributes["status"]) == ("/v1/rewards", 200)
    evaluated = [one for one in watched.spans if one.name == "evaluate"]
    # A first one may have found the generator not ready yet.
    under = [{(one.service, one.name.rpartition("/")[2]) for one in watched.spans if one.trace == each.trace} for each in evaluated]
    assert any(calls >= {("generator", "Generate"), ("verifier", "VerifyBatch")} for calls in under)


def test_logs_carry_run_group_and_version(watched: Watched) -> None:
    for service in SERVICES:
        lines = watched.log(service)
        settled = [line for line in lines if line["event"] not in ("settings_refused",)]
        assert {(line["service"], line["run"]) for line in settled} == {(service, RUN)}
    generated = [line for line in watched.log("generator") if line["event"] == "group_generated"]
    assert generated
    assert all({"group_id", "oldest_weight_version", "newest_weight_version", "trace_id"} <= line.keys() for line in generated)
    verified = [line for line in watched.log("verifier") if line["event"] == "rollout_verified"]
    assert verified
    assert {line["level"] for line in verified} == {"debug"}
    assert all({"group_id", "rollout_id", "weight_version"} <= line.keys() for line in verified)
    trained = {line["weight_version"] for line in watched.log("learner") if line["event"] == "train_step"}
    assert trained == set(range(1, STEPS + 1))
