"""A container's health check: `python healthcheck.py SERVICE PORT SETTINGS` exits 0 when the service is ready, or has nothing to do.

It shows the certificate of the settings' [endpoints.tls], as the service may ask for one, and wants that of the service to be for the name
by which others call it: the host of endpoints.SERVICE.
"""

import sys
import tomllib
from pathlib import Path

from run_service import NOTHING_TO_DO

from oprime.runtime.setting_rules import split_address
from oprime.runtime.settings import EndpointsSection
from oprime_cli.running.health import health_of


def is_healthy(service: str, port: str, settings: Path) -> bool:
    endpoints = EndpointsSection.model_validate(tomllib.loads(settings.read_text(encoding="utf-8")).get("endpoints", {}))
    name, _ = split_address(getattr(endpoints, service), f"endpoints.{service}")
    return health_of(service, f"127.0.0.1:{port}", endpoints.tls, name)()


if __name__ == "__main__":
    asked, at, path = sys.argv[1:]
    sys.exit(0 if NOTHING_TO_DO.exists() or is_healthy(asked, at, Path(path)) else 1)
