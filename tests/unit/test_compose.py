"""docker-compose.yml as text: what can be known about it without a docker daemon."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from oprime_cli.run_config import RunConfig

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CONFIG = RunConfig.load(ROOT / "deploy/config/compose.toml")
CPU, GPU = {"generator", "prm", "learner"}, {"generator-gpu", "prm-gpu", "learner-gpu"}
OPRIME = [name for name in SERVICES if name not in {"redis", "prepare"}]

every_service = pytest.mark.parametrize("name", SERVICES)
every_oprime_service = pytest.mark.parametrize("name", OPRIME)


def command_of(name: str) -> list[str]:
    return SERVICES[name]["command"]


@every_service
def test_a_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] > 0
    assert re.fullmatch(r"\d+[gm]", service["mem_limit"])
    assert "privileged" not in service


@every_service
def test_a_service_has_a_health_check(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] in {"CMD", "CMD-SHELL"}
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)


@every_service
def test_ports_are_open_to_this_machine_alone(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@every_service
def test_images_are_pinned(name: str) -> None:
    assert re.fullmatch(r"[a-z/-]+:\d+\.\d+\.\d+(-[a-z0-9]+)?", SERVICES[name]["image"])


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_base_images_are_pinned(variant: str) -> None:
    text = (ROOT / f"deploy/docker/Dockerfile.{variant}").read_text(encoding="utf-8")
    assert re.search(r"^FROM \S+:\d+\.\d+\.\d+-\S+$", text, re.MULTILINE)
    assert re.search(r"^USER oprime$", text, re.MULTILINE)
    for copied in re.findall(r"^RUN .*?(deploy/\S+)$", text, re.MULTILINE):
        assert (ROOT / copied).is_file()


def test_the_gateway_alone_is_reachable_from_outside() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["gateway"]
    assert [name for name, service in SERVICES.items() if "edge" in service["networks"]] == ["gateway"]
    assert COMPOSE["networks"]["internal"] == {"internal": True}


def test_the_verifier_sees_no_file_of_the_run() -> None:
    assert SERVICES["verifier"]["volumes"] == []
    assert SERVICES["verifier"]["networks"] == ["internal"]


@every_oprime_service
def test_the_command_is_a_service_with_the_mounted_settings(name: str) -> None:
    module, settings = command_of(name)
    assert importlib.util.find_spec(module) is not None
    assert (ROOT / "services" / module.removeprefix("oprime_") / module).is_dir()
    assert [(config["source"], config["target"]) for config in SERVICES[name]["configs"]] == [("run", settings)]


@every_oprime_service
def test_the_health_check_asks_the_port_of_the_settings(name: str) -> None:
    *program, service, port = SERVICES[name]["healthcheck"]["test"]
    assert program == ["CMD", "python", "deploy/docker/healthcheck.py"]
    assert command_of(name)[0] == f"oprime_{service}"
    assert getattr(CONFIG.endpoints, service) == f"{service}:{port}"


def test_each_address_of_the_settings_is_a_service_or_its_alias() -> None:
    for service in ("coordinator", "generator", "verifier", "prm", "learner", "gateway"):
        assert service in SERVICES
    for name in GPU:
        assert SERVICES[name]["networks"]["internal"]["aliases"] == [name.removesuffix("-gpu")]
    assert CONFIG.queue.url.startswith("redis://redis:")
    assert CONFIG.endpoints.bind == "0.0.0.0"  # noqa: S104 - inside a container


def test_gpus_are_asked_for_by_their_profile_alone() -> None:
    assert {name for name, service in SERVICES.items() if service.get("profiles") == ["gpu"]} == GPU
    assert {name for name, service in SERVICES.items() if service.get("profiles") == ["cpu"]} == CPU
    assert {name for name, service in SERVICES.items() if "deploy" in service} == GPU
    assert "COMPOSE_PROFILES=cpu\n" in (ROOT / ".env").read_text(encoding="utf-8")


@every_service
def test_what_a_service_waits_for_exists_and_is_healthy_first(name: str) -> None:
    for other, rule in SERVICES[name].get("depends_on", {}).items():
        wanted = "service_completed_successfully" if other == "prepare" else "service_healthy"
        assert rule["condition"] == wanted
        # A service of a profile that is off must not be required.
        assert rule.get("required", True) == (other not in CPU | GPU)


@every_service
def test_secrets_are_declared_files(name: str) -> None:
    for secret in SERVICES[name].get("secrets", []):
        assert COMPOSE["secrets"][secret]["file"].startswith("deploy/docker/secrets/")


def test_the_settings_read_their_secrets_from_those_files() -> None:
    assert str(CONFIG.queue.password_file) == "/run/secrets/redis_password"
    assert str(CONFIG.gateway.api_keys_file) == "/run/secrets/api_keys"
    assert "api_keys" in SERVICES["gateway"]["secrets"]


def test_files_of_the_run_are_on_the_shared_volume() -> None:
    volume = "/var/lib/oprime/"
    assert COMPOSE["x-service"]["volumes"] == ["runs:/var/lib/oprime"]
    assert all(path.startswith(volume) for path in (str(CONFIG.run.folder), CONFIG.model.path, CONFIG.store.url))
    assert SERVICES["prepare"]["command"] == ["/etc/oprime/compose.toml", CONFIG.model.path, str(CONFIG.run.folder)]
    assert (ROOT / SERVICES["prepare"]["entrypoint"][0]).stat().st_mode & 0o111


def test_contradictory_settings_stop_the_first_container_before_anything_is_made(tmp_path: Path) -> None:
    settings = (ROOT / "deploy/config/compose.toml").read_text(encoding="utf-8")
    config = tmp_path / "compose.toml"
    config.write_text(settings.replace("[prm]\n", '[prm]\nloss = "dpo"\n', 1), encoding="utf-8")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = subprocess.run(
        [ROOT / SERVICES["prepare"]["entrypoint"][0], config, tmp_path / "model", tmp_path / "run"],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert result.returncode == 2
    assert "use prm.update=reverse, or prm.loss=ce" in result.stderr
    assert not (tmp_path / "run").exists()
