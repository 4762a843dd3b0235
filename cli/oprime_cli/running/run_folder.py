"""The folder of one run: its files, who supervises it, and how to find it."""

import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oprime.runtime.errors import SettingsError
from oprime.runtime.setting_rules import SERVICES
from oprime.runtime.settings import read_toml
from oprime_cli.files import read_json, write_json, write_toml
from oprime_cli.lock_file import sole_holder
from oprime_cli.overrides import apply_override
from oprime_cli.run_config import RunConfig
from oprime_cli.running.changes import Change, changes
from oprime_cli.running.failures import BusyError, UsageError
from oprime_cli.running.processes import is_same_process, start_ticks

RUNS = Path("runs")
EMBEDDED = "embedded"
"""queue.url of a run that has a Redis of its own."""
HEAD = """\
# The settings of this run, all of them. `oprime resume` goes on with what stands here when it begins; docs/operations.md lists what may be
# changed. Ports and an address of Redis that oprime chose are chosen anew, unless they are changed.

"""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Names of the files of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """The run's settings, which a person may edit between sessions. In a session with real ports and the real address of Redis."""
        return self.path / "config.toml"

    @property
    def started(self) -> Path:
        """What the last session ran with and which addresses it chose. Not for people: `config` is compared with it."""
        return self.path / "started.json"

    @property
    def scrape(self) -> Path:
        """Where Prometheus finds the services, while they run and endpoints.metrics_port is set. Beside the folder: `file_sd_configs` takes
        a pattern for the last part of a path only, runs/*.scrape.json."""
        return self.path.with_name(f"{self.path.name}.scrape.json")

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """Written last: a run with a summary is finished."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def redis(self) -> Path:
        return self.path / "redis"

    @property
    def lock(self) -> Path:
        return self.path / "supervisor.lock"

    @property
    def state(self) -> Path:
        """What the supervisor says about itself."""
        return self.path / "supervisor.json"

    @property
    def phases(self) -> Path:
        """Seconds of each phase, over all sessions of the run."""
        return self.path / "phases.json"

    def exists(self) -> bool:
        return self.config.exists()

    def finished(self) -> bool:
        summary = read_json(self.summary)
        return summary is not None and summary.get("result") == "ok"

    def supervisor_pid(self) -> int | None:
        """Process id of the living supervisor, or None. A lock that a killed supervisor left behind does not count."""
        owner = read_json(self.lock)
        if owner is None or not isinstance(owner.get("pid"), int):
            return None
        return owner["pid"] if is_same_process(owner["pid"], owner.get("start_ticks")) else None

    def begin(self, config: RunConfig) -> None:
        """Write the settings of a new run."""
        self._write(config, config, chosen={})

    def note_session(self, config: RunConfig, real: RunConfig) -> None:
        """Write down that a session begins with `config`, and with the addresses of `real` where `config` leaves them open.

        Raises SettingsError if a person changed the settings since they were read.
        """
        earlier, there = self._chosen(), RunConfig.load(self.config)
        missed = changes(to_document(config), to_document(without_chosen(there, earlier)))
        if missed:
            raise SettingsError(
                f"{self.config} was changed while the run was about to start ({', '.join(map(str, missed))}): start it again with "
                f"`oprime resume {self.path}`"
            )
        chosen = {name: [address] for name, address in addresses(real).items() if address != addresses(config)[name]}
        for name, address in addresses(there).items():
            # Until config.toml is replaced as well, it has what an earlier session chose.
            if name in chosen and address in earlier.get(name, ()):
                chosen[name].append(address)
        self._write(config, real, chosen=chosen)

    def change(self, overrides: Iterable[str]) -> None:
        """Change settings, as a person does who edits config.toml. Raises SettingsError."""
        document = read_toml(self.config)
        for text in overrides:
            apply_override(document, text)
        RunConfig.from_document(document, origin=f"{self.config} with --set")
        write_toml(self.config, document, head=HEAD, mode=0o600)

    def load_settings(self, *, real_addresses: bool = False) -> RunConfig:
        """The run's settings with this folder as its place, also after a move to another directory.

        Addresses that a session chose are open again, unless they are asked for. Raises SettingsError when the folder was renamed (the
        name is part of the run's data), and for changes that no run may go on with.
        """
        read = RunConfig.load(self.config)
        if read.run.name != self.path.name:
            raise SettingsError(f"{self.path} holds run {read.run.name}: the folder's name must be the run's name; rename it back")
        here = read.run.model_copy(update={"directory": self.path.parent.absolute()})
        real = read.model_copy(update={"run": here})
        config = without_chosen(real, self._chosen())
        refused = [change for change in self.changes(config) if not change.allowed]
        if refused:
            raise SettingsError(
                f"{self.config} has changed in what a run cannot go on with: {', '.join(map(str, refused))}; put that back, or begin a new "
                "run with it (docs/operations.md lists what may change)"
            )
        return real if real_addresses else config

    def changes(self, config: RunConfig) -> list[Change]:
        """In what `config` differs from what the last session ran with."""
        before = RunConfig.from_document(self._record()["settings"], origin=str(self.started))
        return changes(to_document(before), to_document(config))

    def _write(self, config: RunConfig, real: RunConfig, *, chosen: dict[str, list[str]]) -> None:
        # The record first: an address in config.toml that nobody noted as chosen would look like a person's choice. The address of
        # Redis may hold a password.
        write_json(self.started, {"settings": to_document(config), "chosen": chosen}, mode=0o600)
        write_toml(self.config, to_document(real), head=HEAD, mode=0o600)

    def _chosen(self) -> dict[str, list[str]]:
        return self._record().get("chosen", {})

    def _record(self) -> dict[str, Any]:
        record = read_json(self.started)
        if record is None or "settings" not in record:
            raise SettingsError(
                f"{self.started} is missing or damaged: it holds what the run began with, which {self.config.name} is compared with; "
                "put it back, or begin a new run"
            )
        return record

    def write_state(self, **fields: Any) -> None:
        write_json(self.state, {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid()), "at": time.time(), **fields})


def addresses(config: RunConfig) -> dict[str, str]:
    """Setting -> value of every address that a session may choose."""
    of_services = {f"endpoints.{service}": getattr(config.endpoints, service) for service in SERVICES}
    return {"queue.url": config.queue.url, **of_services, "endpoints.scorers": ",".join(config.endpoints.scorers)}


def without_chosen(config: RunConfig, chosen: Mapping[str, Sequence[str]]) -> RunConfig:
    """The settings with every address that a session chose left open again."""
    free = {name for name, address in addresses(config).items() if address in chosen.get(name, ())}
    endpoints: dict[str, object] = {
        service: f"{getattr(config.endpoints, service).rpartition(':')[0]}:0" for service in SERVICES if f"endpoints.{service}" in free
    }
    if "endpoints.scorers" in free:
        endpoints["scorers"] = ()
    queue = {"url": EMBEDDED} if "queue.url" in free else {}
    return config.model_copy(
        update={"endpoints": config.endpoints.model_copy(update=endpoints), "queue": config.queue.model_copy(update=queue)}
    )


def is_open(config: RunConfig) -> bool:
    """Whether an address is yet to be chosen."""
    return any(address == EMBEDDED or address.endswith(":0") for address in addresses(config).values())


def to_document(config: RunConfig) -> dict[str, Any]:
    """All settings, defaults included, as TOML can hold them."""
    return config.model_dump(mode="json", exclude_none=True)


def prepare_folder(config: RunConfig, *, fresh: bool, command: str) -> RunFolder:
    """Make the folder of a new run. Raises UsageError when the run exists, BusyError when it is running."""
    folder = RunFolder(config.run.folder.absolute())
    refuse_existing(folder, fresh=fresh, command=command)
    if folder.exists():
        _remove(folder.path)
    try:
        folder.logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"run.directory = {config.run.directory}: cannot make the run's folder {folder.path}: {error}") from error
    return folder


def refuse_existing(folder: RunFolder, *, fresh: bool, command: str) -> None:
    """Raise BusyError when the run is running, and UsageError when it exists and `fresh` does not allow to replace it."""
    if not folder.exists():
        return
    refuse_if_running(folder)
    if not fresh:
        state = "is finished" if folder.finished() else "was begun"
        remedy = "" if folder.finished() else f"go on with it (oprime resume {folder.path}), "
        raise UsageError(
            f"run {folder.path.name} {state} in {folder.path}: {remedy}choose another run.name, or replace it (oprime {command} --fresh)"
        )


def refuse_if_running(folder: RunFolder) -> None:
    pid = folder.supervisor_pid()
    if pid is not None:
        path = folder.path
        raise BusyError(f"run {path.name} is running (process {pid}): see `oprime status {path}`, or stop it with `oprime down {path}`")


def _remove(path: Path) -> None:
    # Renamed first, so that an interrupted removal leaves no folder that looks like a run.
    doomed = path.with_name(f".removed-{path.name}-{os.getpid()}")
    path.rename(doomed)
    shutil.rmtree(doomed)


def sole_supervisor(folder: RunFolder) -> AbstractContextManager[None]:
    """Holds the run's lock. Raises BusyError while another process holds it; a dead holder's lock is taken over."""
    name, path = folder.path.name, folder.path
    remedy = f"see `oprime status {path}`, or stop it with `oprime down {path}`"
    return sole_holder(folder.lock, busy=f"run {name} is running", remedy=remedy)


def find_run(name: str) -> RunFolder:
    """A run by its folder or by its name in ./runs. Raises UsageError."""
    for path in (Path(name), RUNS / name):
        folder = RunFolder(path.absolute())
        if folder.exists():
            return folder
    known = ", ".join(folder.path.name for folder in _runs()) or "none"
    raise UsageError(f"no run {name}: neither {name} nor {RUNS / name} is the folder of a run (runs here: {known})")


def find_running(name: str | None, *, otherwise_newest: bool) -> RunFolder:
    """The named run; without a name the one that runs, or else the newest if `otherwise_newest`."""
    if name is not None:
        return find_run(name)
    runs = _runs()
    running = [folder for folder in runs if folder.supervisor_pid() is not None]
    if len(running) == 1:
        return running[0]
    if running:
        raise UsageError(f"several runs are running ({', '.join(folder.path.name for folder in running)}): name one")
    if otherwise_newest and runs:
        return runs[0]
    raise UsageError(f"no run is running in {RUNS.absolute()}: name the folder of one")


def _runs() -> list[RunFolder]:
    """Runs in ./runs, newest first."""
    if not RUNS.is_dir():
        return []
    found = [RunFolder(path.absolute()) for path in RUNS.iterdir() if not path.name.startswith(".")]
    return sorted((folder for folder in found if folder.exists()), key=lambda folder: _age(folder), reverse=True)


def _age(folder: RunFolder) -> float:
    return folder.config.stat().st_mtime
