"""Where Prometheus finds the services of a run that share this machine."""

from typing import Any

from oprime.runtime.setting_rules import services_of
from oprime_cli.run_config import RunConfig
from oprime_cli.running.health import reachable


def metrics_ports(config: RunConfig) -> dict[str, int]:
    """Service -> port: endpoints.metrics_port and those after it; empty without one."""
    first = config.endpoints.metrics_port
    scorers = [f"scorer-{number}" for number in range(config.scoring.replicas)] if config.algorithm.needs_prm else []
    return {service: first + place for place, service in enumerate((*services_of(config.algorithm), *scorers))} if first else {}


def scrape_targets(config: RunConfig) -> list[dict[str, Any]]:
    """What RUN.scrape.json says, for `file_sd_configs`."""
    return [
        {
            "targets": [reachable(f"{config.endpoints.metrics_interface}:{port}")],
            "labels": {"run": config.run.name, "service": service},
        }
        for service, port in metrics_ports(config).items()
    ]
