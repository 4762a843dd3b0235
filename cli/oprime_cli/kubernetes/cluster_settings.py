"""A run's settings as they hold in the cluster: services are found by the names of their Services, files are on the run's volume, secrets
are where pods mount them. Whatever the cluster does not decide stays as the run's TOML has it.
"""

from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from oprime.runtime.errors import SettingsError
from oprime.runtime.queue_url import without_password
from oprime.runtime.setting_rules import SERVICES, split_address
from oprime.runtime.settings import PLACEHOLDER, EndpointsSection, TlsSection
from oprime_cli.paths import absolute_paths, looks_like_hub_id
from oprime_cli.run_config import RunConfig
from oprime_cli.running.failures import PlanRefusedError

VOLUME = "/var/lib/oprime"
PASSWORD_FILE = f"/run/secrets/redis/{PLACEHOLDER}"
API_KEYS_FILE = "/run/secrets/gateway/api_keys"
TLS_FILES = {
    "certificate_file": Path("/run/secrets/tls/tls.crt"),
    "key_file": Path("/run/secrets/tls/tls.key"),
    "authority_file": Path("/run/secrets/tls/ca.crt"),
}
METRICS_PORT = 9464
REDIS, REDIS_PORT = "redis", 6379
SCORER, SCORER_PORT = "scorer", 50056
PORTS = {"coordinator": 50051, "generator": 50052, "verifier": 50053, "prm": 50054, "learner": 50055, "gateway": 8080}
"""Where services listen unless the run's TOML says otherwise."""


def in_cluster(config: RunConfig, *, tls: bool) -> RunConfig:
    """The settings that the run's pods read. Raises PlanRefusedError with every setting that cannot hold in a cluster."""
    problems: list[str] = []
    addresses = {service: _address(config.endpoints, service, problems) for service in SERVICES}
    if config.payloads.directory is not None:
        problems.append(f"payloads.store = {config.payloads.store!r}: verifiers mount no volume; write redis, or a URL such as s3://")
    scheme = "rediss" if tls else "redis"
    certificates = TlsSection(**TLS_FILES) if tls else TlsSection()
    changes: dict[str, Any] = {
        "endpoints": {
            **addresses,
            "scorers": (f"{SCORER}:{SCORER_PORT}",) if config.scoring.replicas else (),
            "bind": "0.0.0.0",  # noqa: S104 - the pod's own network
            # Without certificates the network policies are what keeps others away.
            "insecure": not tls,
            "tls": certificates,
            "metrics_port": config.endpoints.metrics_port or METRICS_PORT,
        },
        "queue": {
            "url": f"{scheme}://{REDIS}:{REDIS_PORT}/{_database(config.queue.url, problems)}",
            "username": PLACEHOLDER,
            "password_file": Path(PASSWORD_FILE),
            "tls": certificates,
        },
        "gateway": {"api_keys_file": Path(API_KEYS_FILE)},
    }
    placed = absolute_paths(config, root=Path(VOLUME), is_local=lambda name: not looks_like_hub_id(name))
    settled = placed.model_copy(update={section: getattr(placed, section).model_copy(update=values) for section, values in changes.items()})
    problems += settled.contradictions()
    if problems:
        raise PlanRefusedError(problems)
    return settled


def to_document(config: RunConfig, when_finished: Literal["exit", "serve"]) -> dict[str, Any]:
    """What differs from the defaults, as TOML can hold it. Not what pods pass over: else a new number of pods would restart them all."""
    ending = config.model_copy(update={"run": config.run.model_copy(update={"when_finished": when_finished})})
    return ending.model_dump(mode="json", exclude_defaults=True, exclude_none=True, exclude={"kubernetes"})


def port_of(config: RunConfig, service: str) -> int:
    if service == SCORER:
        return SCORER_PORT
    return split_address(getattr(config.endpoints, service), f"endpoints.{service}")[1]


def _address(endpoints: EndpointsSection, service: str, problems: list[str]) -> str:
    """The name of the service's Service, with the port of the settings or else its usual one."""
    given, setting = getattr(endpoints, service), f"endpoints.{service}"
    try:
        host, port = split_address(given, setting)
    except SettingsError as error:
        problems.append(str(error))
        return given
    if host not in (service, "127.0.0.1", "localhost"):
        problems.append(
            f"{setting} = {given!r}: in the cluster it is the Service {service}; write {service}:{port or PORTS[service]}, or leave it out"
        )
    return f"{service}:{port or PORTS[service]}"


def _database(url: str, problems: list[str]) -> int:
    """Number of the database in Redis."""
    if url == "embedded":
        return 0
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss") or parts.netloc not in (REDIS, f"{REDIS}:{REDIS_PORT}") or parts.query:
        problems.append(
            f"queue.url = {without_password(url)!r}: in the cluster it is the run's own Redis; write redis://{REDIS}:{REDIS_PORT}/0, "
            "or leave it out"
        )
        return 0
    number = parts.path.removeprefix("/")
    return int(number) if number.isdigit() else 0
