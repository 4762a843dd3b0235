"""The self-test: try every way out, and say which layers hold."""

import contextlib
import json
import secrets
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from oprime_verifier.sandbox.open import Engine, open_sandbox
from oprime_verifier.sandbox.repeated import FreshEachTime
from oprime_verifier.sandbox.types import Ending, Job, Limits, Repeated, RunResult, Sandbox, SandboxFailedError

PROBE_PROGRAM = Path(__file__).with_name("probe_program.py")
PROBE_LIMITS = Limits(cpu_s=5.0, wall_s=20.0)
LOOP_LIMITS = Limits(cpu_s=0.5, wall_s=8.0)
LAYERS = {"landlock": True, "seccomp": True, "uid": False, "namespaces": False}
"""Layers of the native engine that a kernel or container may lack, and whether `strict` needs them."""
ALWAYS = ("rlimits", "no_new_privs")
"""Layers without which no job is started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    name: str
    active: bool
    required: bool
    """Whether strict mode refuses to serve without it."""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A way out that was tried."""

    name: str
    blocked: bool
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityReport:
    """What the sandbox holds back here."""

    profile: str
    layers: tuple[Layer, ...]
    probes: tuple[Probe, ...]

    def missing(self) -> tuple[str, ...]:
        """Required layers that are not there, and ways out that are open; strict mode serves only when there are none."""
        layers = [layer.name for layer in self.layers if layer.required and not layer.active]
        return (*layers, *(probe.name for probe in self.probes if not probe.blocked))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def self_test(engine: Engine | str = "auto") -> CapabilityReport:
    """Try every way out in a sandbox of its own. Never raises: a sandbox that does not start is a report too."""
    try:
        sandbox = open_sandbox(engine)  # type: ignore[arg-type] # refused below when unknown
    except SandboxFailedError as error:
        return _broken(engine, str(error))
    try:
        return probe_sandbox(sandbox)
    except SandboxFailedError as error:
        return _broken(engine, str(error))
    finally:
        sandbox.close()


def probe_sandbox(sandbox: Sandbox) -> CapabilityReport:
    """Raises SandboxFailedError."""
    job = Job(source=PROBE_PROGRAM.read_text(), limits=PROBE_LIMITS)
    with _targets() as targets, contextlib.closing(sandbox.repeat(job, 2)) as repeated:
        probes = _probe(FreshEachTime(sandbox, job), targets)
        if not isinstance(repeated, FreshEachTime):
            probes = [_both(*pair) for pair in zip(probes, _probe(repeated, targets), strict=True)]
    loop = sandbox.run(Job(source="while True: pass", limits=LOOP_LIMITS))
    probes.append(Probe(name="endless loop", blocked=loop.ending is Ending.TIME, detail=f"ended by {loop.ending}"))
    return CapabilityReport(profile=loop.profile, layers=_layers(loop.profile), probes=tuple(probes))


def _both(fresh: Probe, repeated: Probe) -> Probe:
    """Shut only where it is shut for a job of its own and for a run of a repeated one."""
    return fresh if repeated.blocked else repeated


def _probe(program: Repeated, targets: list[str]) -> list[Probe]:
    """Where an attempt ends the program, another run goes on with the next."""
    probes: list[Probe] = []
    while True:
        run = program.start(wall_s=PROBE_LIMITS.wall_s, arguments={"argv": [*targets, str(len(probes))]}).wait()
        if not run.stdout:
            raise SandboxFailedError(f"the self-test's program printed nothing and ended by {run.ending}: {_tail(run)}")
        # The last probe floods the output.
        names, *found = (json.loads(line) for line in run.stdout.splitlines() if line.startswith(b"["))
        probes += [Probe(name=name, blocked=blocked, detail=detail) for name, blocked, detail in found]
        if len(probes) == len(names):
            return probes
        probes.append(Probe(name=names[len(probes)], blocked=True, detail=f"it ended the program, by {run.ending}"))
        if len(probes) == len(names):
            return probes


def _layers(profile: str) -> tuple[Layer, ...]:
    engine, *parts = profile.split("/")[0].split("+")
    if not engine.startswith("native"):
        return (Layer(name="wasm", active=True, required=True, detail=profile),)
    # Landlock carries its ABI: `landlock7`.
    found = {part.rstrip("0123456789"): part for part in parts}
    optional = [
        Layer(name=name, active=name in found, required=required, detail=found.get(name, "not here")) for name, required in LAYERS.items()
    ]
    return (*(Layer(name=name, active=True, required=True) for name in ALWAYS), *optional)


def _broken(engine: str, reason: str) -> CapabilityReport:
    return CapabilityReport(profile="", layers=(Layer(name=engine, active=False, required=True, detail=reason),), probes=())


def _tail(run: RunResult) -> str:
    return run.stderr[-300:].decode(errors="replace")


@contextlib.contextmanager
def _targets() -> Iterator[list[str]]:
    """What the probes try to reach: a file of the service, a listener on loopback, an abstract socket."""
    name = f"oprime-probe-{secrets.token_hex(8)}"
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(b"\0" + name.encode())
        abstract.listen()
        yield [str(Path(__file__).resolve()), str(listener.getsockname()[1]), name]
