"""Services that share a machine have neighbouring ports for those who watch, and say so to Prometheus."""

import socket
from collections.abc import Callable
from pathlib import Path

from oprime_cli.planning.check_machine import port_problems
from oprime_cli.run_config import RunConfig
from oprime_cli.running.devices import Devices
from oprime_cli.running.run_folder import RunFolder
from oprime_cli.running.scrape import metrics_ports, scrape_targets
from oprime_cli.running.services import environment

MakeConfig = Callable[..., RunConfig]


def test_each_service_has_the_next_port_and_prometheus_hears_of_it(make_config: MakeConfig) -> None:
    config = make_config("endpoints.metrics_port=9500")
    ports = metrics_ports(config)
    assert ports == {"coordinator": 9500, "generator": 9501, "verifier": 9502, "prm": 9503, "learner": 9504, "gateway": 9505}
    assert scrape_targets(config)[3] == {"targets": ["127.0.0.1:9503"], "labels": {"run": "one", "service": "prm"}}
    assert environment(config, "learner", Devices(), serve_only=False)["OPRIME_METRICS_PORT"] == "9504"


def test_a_run_without_a_prm_has_no_port_for_it(make_config: MakeConfig) -> None:
    ports = metrics_ports(make_config("endpoints.metrics_port=9500", "algorithm.process_weight=0"))
    assert ports == {"coordinator": 9500, "generator": 9501, "verifier": 9502, "learner": 9503, "gateway": 9504}


def test_unless_told_otherwise_nobody_is_watched(make_config: MakeConfig) -> None:
    config = make_config()
    assert metrics_ports(config) == {}
    assert scrape_targets(config) == []
    assert "OPRIME_METRICS_PORT" not in environment(config, "learner", Devices(), serve_only=False)


def test_where_the_targets_stand_fits_the_pattern_that_prometheus_takes() -> None:
    assert RunFolder(Path("runs/one")).scrape == Path("runs/one.scrape.json")


def test_a_port_that_is_taken_is_found_before_anything_starts(make_config: MakeConfig) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        (problem,) = port_problems(make_config(f"endpoints.metrics_port={port - 2}"))
    assert problem.startswith(
        f"endpoints.metrics_port: cannot listen on 127.0.0.1:{port}, the port of the verifier: Address already in use"
    )
