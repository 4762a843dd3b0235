"""`oprime serve prm`: a gateway and processes that only score, for as long as the command runs."""

import contextlib
import json
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oprime.adapters.observed import METRICS_PORT
from oprime.lm.hub_id import is_hub_id
from oprime.runtime.errors import SettingsError, UnusableInputError
from oprime.runtime.free_ports import held_all
from oprime.runtime.settings import EndpointsSection
from oprime_cli.console import say
from oprime_cli.files import write_toml
from oprime_cli.overrides import apply_override
from oprime_cli.running.devices import Gpu, cpu_cores, find_gpus
from oprime_cli.running.failures import ServiceDiedError, ServiceNotHealthyError, UsageError
from oprime_cli.running.health import health_of, reachable
from oprime_cli.running.launch import free_ports
from oprime_cli.running.run_folder import find_run, to_document
from oprime_cli.running.services import SCORER, process_environment
from oprime_cli.running.supervisor import Guard, ProcessSpec, Supervisor, stop_on_signals
from oprime_gateway.config import GatewaySettings
from oprime_prm.config import ScorerSettings, ScoringSection

CHECK_EVERY_S = 0.5
EXAMPLE_CHARS = 1000
GPU_PASS_TOKENS: int = ScoringSection.model_fields["micro_batch_tokens"].default
CPU_PASS_TOKENS = 1024
"""What passes have on a CPU unless settings say otherwise: larger ones save nothing there, and with smaller ones some clients are answered
while others are computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the command line says."""

    run: str | None = None
    model: str | None = None
    reference: str | None = None
    beta: float | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    api_keys_file: Path | None = None
    replicas: int = 1
    share_port: bool = False
    """Each replica answers by itself, and there is no gateway before them."""
    device: str = "auto"
    dtype: str | None = None
    overrides: Sequence[str] = ()


def serve_prm(wishes: Wishes, *, start_timeout_s: float) -> int:
    """Start everything, say where it answers, and stop it when this process is asked to. Raises OprimeError."""
    gpus = [] if wishes.device == "cpu" else find_gpus()
    with folder() as place, stop_on_signals():
        document = settings_of(wishes, place, has_gpu=bool(gpus))
        endpoints = EndpointsSection.model_validate(document["endpoints"])
        with Guard() as guard, free_ports(endpoints, scorers_apart(document)) as chosen:
            document["endpoints"] = chosen.model_dump(mode="json", exclude_none=True)
            scorer, gateway = checked(document)
            check_keys(gateway)
            write_toml(place / "config.toml", document, head="", mode=0o600)
            with held_all(ports_of(scorer, gateway)):
                wanted = specs(scorer, gateway, place / "config.toml", gpus, offline=check_models(scorer))
                with Supervisor(wanted, guard=guard, logs=place / "logs") as supervisor:
                    return _watch(supervisor, scorer, gateway, start_timeout_s)


@contextlib.contextmanager
def folder() -> Generator[Path, None, None]:
    """A folder for settings and logs. It stays where a process failed, because the error names its log."""
    place = Path(tempfile.mkdtemp(prefix="oprime-serve-"))
    try:
        yield place
    except (ServiceDiedError, ServiceNotHealthyError):
        raise
    except BaseException:
        shutil.rmtree(place)
        raise
    shutil.rmtree(place)


def _watch(supervisor: Supervisor, scorer: ScorerSettings, gateway: GatewaySettings, start_timeout_s: float) -> int:
    try:
        supervisor.start()
        supervisor.wait_healthy(timeout_s=start_timeout_s)
        for line in ready_lines(scorer, gateway):
            say(line)
        while True:
            supervisor.check()
            time.sleep(CHECK_EVERY_S)
    except KeyboardInterrupt:
        say("stopped on request")
        return 0


def settings_of(wishes: Wishes, place: Path, *, has_gpu: bool) -> dict[str, Any]:
    """The settings of gateway and scorers. Raises UsageError, SettingsError."""
    if wishes.run is not None and wishes.model is not None:
        raise UsageError(f"serve the run {wishes.run} or the model {wishes.model}? Name one or the other: RUN, or --model MODEL")
    if wishes.run is None and wishes.model is None:
        raise UsageError("serve what? Name a run (oprime serve prm RUN) or a model (oprime serve prm --model MODEL --reference MODEL)")
    document = of_run(wishes.run) if wishes.run is not None else of_model(str(wishes.model), place, has_gpu=has_gpu)
    prm, model, scoring = document["prm"], document["model"], document["scoring"]
    if wishes.reference is not None:
        prm["reference_model"] = _found(wishes.reference, "--reference")
    if wishes.beta is not None:
        prm["beta"] = wishes.beta
    if wishes.dtype is not None:
        model["dtype"] = wishes.dtype
    scoring |= {"replicas": wishes.replicas, "device": wishes.device}
    if not has_gpu and scoring.get("micro_batch_tokens", GPU_PASS_TOKENS) == GPU_PASS_TOKENS:
        scoring["micro_batch_tokens"] = CPU_PASS_TOKENS
    host = f"[{wishes.host}]" if ":" in wishes.host else wishes.host
    document["endpoints"] = {"gateway": f"{host}:{wishes.port}"}
    keys = {} if wishes.api_keys_file is None else {"api_keys_file": str(wishes.api_keys_file.absolute())}
    document["gateway"] = {"rewards_only": True, "share_port": wishes.share_port, **keys}
    for text in wishes.overrides:
        apply_override(document, text)
    return document


def of_run(name: str) -> dict[str, Any]:
    """What a run's settings say of its PRM; `name` may end with @VERSION."""
    path, at, version = name.rpartition("@")
    pinned = bool(at) and version.isdecimal()
    config = find_run(path if pinned else name).load_settings()
    if not config.algorithm.needs_prm:
        raise SettingsError(f"run {config.run.name} has no PRM: algorithm.process_weight = 0, so there are no token rewards to serve")
    settings = to_document(config)
    document = {section: settings[section] for section in ("run", "model", "algorithm", "prm", "scoring")}
    if pinned:
        document["scoring"]["version"] = int(version)
    return document


def of_model(model: str, place: Path, *, has_gpu: bool) -> dict[str, Any]:
    """A model by itself, as version 0. Raises UsageError."""
    return {
        "run": {"name": "standalone", "steps": 1, "directory": str(place)},
        "model": {"path": _found(model, "--model"), "dtype": "bfloat16" if has_gpu else "float32"},
        "algorithm": {},
        "prm": {},
        "scoring": {},
    }


def checked(document: dict[str, Any]) -> tuple[ScorerSettings, GatewaySettings]:
    """Both sides' settings. Raises SettingsError with every contradiction."""
    scorer = ScorerSettings.from_document(document, origin="oprime serve prm")
    if not scorer.scoring.replicas:
        raise SettingsError("--replicas 0: there is nobody to score; give at least 1")
    gateway = GatewaySettings.from_document(document, origin="oprime serve prm")
    if gateway.gateway.share_port and scorer.scoring.replicas == 1:
        raise SettingsError("--share-port: one replica has nobody to share its port with; give --replicas 2 or more, or leave it out")
    return scorer, gateway


def check_keys(gateway: GatewaySettings) -> None:
    """Raises SettingsError for keys that could not be used, before anything is started for them."""
    if gateway.gateway.api_keys_file is not None:
        from oprime_gateway.auth import load_keys

        load_keys(gateway.gateway.api_keys_file, gateway.endpoints.listen("gateway"))


def check_models(scorer: ScorerSettings) -> bool:
    """Whether nothing has to be asked of the hub. Raises SettingsError for a model that is neither here nor there."""
    from oprime_cli.planning.hub import ask_only_the_cache_when_away
    from oprime_cli.planning.model_files import from_hub

    elsewhere = [name for name in _models(scorer) if not Path(name).is_dir()]
    away = not elsewhere or ask_only_the_cache_when_away()
    try:
        for name in elsewhere:
            from_hub(name, "config.json")
    except UnusableInputError as error:
        raise SettingsError(str(error)) from error
    return away


def ports_of(scorer: ScorerSettings, gateway: GatewaySettings) -> Iterator[tuple[str, str, str]]:
    """Where the processes will listen, with the setting that says so and what to do where others have that address."""
    endpoints, alone = gateway.endpoints, scorer.scoring.replicas == 1 or gateway.gateway.share_port
    yield endpoints.listen("gateway"), "endpoints.gateway", "stop that one, or choose another --port; 0 takes a free one"
    for address in () if alone else endpoints.scorers:
        yield endpoints.listen_at(address), "endpoints.scorers", "stop that one, or name other addresses, or none"
    first, count = endpoints.metrics_port, scorer.scoring.replicas + (0 if alone else 1)
    for port in range(first, first + count) if first else ():
        yield f"{endpoints.metrics_interface}:{port}", "endpoints.metrics_port", "choose another endpoints.metrics_port, or 0 for none"


def scorers_apart(document: dict[str, Any]) -> int:
    """How many processes score without being a gateway too: a single one is, and those that share a port are."""
    replicas = document["scoring"]["replicas"]
    return replicas if replicas > 1 and not document["gateway"].get("share_port") else 0


def specs(scorer: ScorerSettings, gateway: GatewaySettings, config_file: Path, gpus: Sequence[Gpu], *, offline: bool) -> list[ProcessSpec]:
    """One process for all, or several of that kind; or one for each replica, and the gateway, which stops first and has the first of
    metrics' ports. `offline`: the hub is not asked."""
    count, first_port = scorer.scoring.replicas, scorer.endpoints.metrics_port
    threads = scorer.scoring.threads or max(1, cpu_cores() // count)
    hub = {"HF_HUB_OFFLINE": "1"} if offline else {}
    if count == 1 or gateway.gateway.share_port:
        return [
            ProcessSpec(
                name="scorer" if count == 1 else f"scorer-{number}",
                argv=(sys.executable, "-m", "oprime_cli.running.serve_alone", str(config_file)),
                env={
                    **process_environment(threads, [gpus[number % len(gpus)]] if gpus else []),
                    **hub,
                    **({METRICS_PORT: str(first_port + number)} if first_port else {}),
                },
                health=health_of("gateway", gateway.endpoints.gateway),
            )
            for number in range(count)
        ]
    replicas = [
        ProcessSpec(
            name=f"scorer-{number}",
            argv=(sys.executable, "-m", "oprime_prm.scoring", str(config_file)),
            env={
                **process_environment(threads, [gpus[number % len(gpus)]] if gpus else []),
                **hub,
                **({METRICS_PORT: str(first_port + 1 + number)} if first_port else {}),
                SCORER: str(number),
            },
            health=health_of("scorer", address),
            stop_stage=1,
        )
        for number, address in enumerate(scorer.endpoints.scorers)
    ]
    return [
        *replicas,
        ProcessSpec(
            name="gateway",
            argv=(sys.executable, "-m", "oprime_gateway", str(config_file)),
            env=process_environment(1, []),
            health=health_of("gateway", gateway.endpoints.gateway),
        ),
    ]


def _models(scorer: ScorerSettings) -> list[str]:
    return [name for name in (scorer.model.path, scorer.prm.initial_model, scorer.prm.reference_model) if name]


def ready_lines(scorer: ScorerSettings, gateway: GatewaySettings) -> list[str]:
    """What a person has to know once it answers."""
    url = f"http://{reachable(gateway.endpoints.gateway)}"
    start = scorer.prm.initial_model or scorer.model.path
    reference = scorer.prm.reference_model or start
    lines = []
    if reference == start and not _has_versions(scorer):
        lines.append("warning: the PRM is its own reference, so every reward is 0; name the model it was trained from with --reference")
    return [
        *lines,
        f"token rewards of {scorer.run.folder if _has_versions(scorer) else start} at {url}; reference: {reference}; stop with Ctrl-C",
        f"""try: curl -s {url}/v1/rewards {_key_header(gateway.gateway.api_keys_file)}-H 'content-type: application/json' """
        f"-d {shlex.quote(json.dumps({'inputs': [example_of(scorer.run.folder)]}))}",
    ]


def example_of(run: Path) -> dict[str, Any]:
    """An input to try: of a run what it sampled last, if that fits on a screen, as the PRM may know nothing but the run's task."""
    for file in sorted(run.glob("samples/step-*.jsonl"), reverse=True)[:1]:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            with file.open(encoding="utf-8") as lines:
                group = json.loads(next(lines, ""))
            response = min((rollout["response"] for rollout in group["rollouts"] if rollout["response"]), key=len)
            if len(group["prompt"]) + len(response) <= EXAMPLE_CHARS:
                return {"prompt": group["prompt"], "response": response, "raw": True}
    return {"prompt": "1+1?", "response": "2"}


def _key_header(keys_file: Path | None) -> str:
    """What curl needs where keys are asked for: the file's first line that is neither empty nor a comment, read by the shell."""
    if keys_file is None:
        return ""
    return f"""-H "Authorization: Bearer $(grep -m1 '^ *[^# ]' {shlex.quote(str(keys_file))})" """


def _has_versions(scorer: ScorerSettings) -> bool:
    return (scorer.run.folder / "prm_weights").is_dir()


def _found(model: str, option: str) -> str:
    """A directory as an absolute path; a hub id as it is. Raises UsageError for what is neither."""
    if Path(model).is_dir():
        return str(Path(model).absolute())
    if not is_hub_id(model):
        raise UsageError(
            f"{option} {model}: there is no such directory, and it is no hub id (OWNER/NAME): give the directory of a Hugging Face model, "
            "or its hub id"
        )
    return model
