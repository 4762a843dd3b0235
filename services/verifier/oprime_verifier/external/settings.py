"""Settings of verifiers that are not built in: plug-ins, webhooks, gRPC services and compositions of any of them."""

from collections.abc import Collection, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from oprime.runtime.errors import SettingsError
from oprime.runtime.queue_url import holds_secret
from oprime.runtime.settings import Section, TlsSection

Style = Literal["auto", "request", "object", "plain", "verl", "verl_batch", "trl", "trl_text", "openrlhf", "rllm"]
WebhookMode = Literal["native", "openrlhf", "nemo_gym", "sandbox_fusion"]
CompositionMode = Literal["first_decided", "all", "weighted", "gate"]

MAX_BODY_MIB = 64


class ScaleSection(Section):
    """How numbers of others become scores in [0, 1]."""

    range: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest reward it gives; rewards are scaled from here to [0, 1]. One outside is INFRA_ERROR, unless `clip`."""
    clip: bool = False
    """Take a reward outside `range` for the nearer end."""

    @field_validator("range")
    @classmethod
    def range_has_a_length(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError(f"range is {list(value)}: the first number is the lowest reward and must be below the second")
        return value


class PluginSection(ScaleSection):
    """A verifier in Python. It runs in worker processes of its own."""

    target: str = ""
    """`module:attribute`, `path/to/file.py:attribute`, or the name of an entry point of the group `oprime.verifiers`; empty: the
    entry point with this verifier's name."""
    style: Style = "auto"
    """Whose signature it has; `auto` reads it from the parameters' names (docs/verifier.md)."""
    gold_parameter: str = ""
    """Parameter that takes the ground truth, where it has none of the usual names."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Further keyword arguments of every call."""
    workers: int = Field(default=1, ge=1)
    """Processes that run it in parallel."""
    deadline_s: float = Field(default=0.0, ge=0)
    """Seconds for one verification before its worker is killed; 0: verifier.deadline_s."""


class RemoteSection(Section):
    """What calls over a network have in common."""

    deadline_s: float = Field(default=30.0, gt=0)
    """Seconds for one verification, all tries and waits included."""
    attempts: int = Field(default=3, ge=1)
    """Tries before it is an INFRA_ERROR."""
    concurrency: int = Field(default=16, ge=1)
    """Calls under way at the same time; more wait."""
    circuit_failures: int = Field(default=5, ge=1)
    """Failed tries in a row after which no call is made for `circuit_open_s`."""
    circuit_open_s: float = Field(default=10.0, gt=0)
    """Seconds until one call may find out whether it works again."""
    hold_s: float = Field(default=3600.0, ge=0)
    """Seconds that a run's rollout waits while it does not answer (it refuses connections, times out, answers 5xx or 429, its circuit
    is open) before the rollout is dropped; 0: it is dropped at once. Callers over gRPC and HTTP are answered by their own deadline."""


class WebhookSection(ScaleSection, RemoteSection):
    """A verifier behind HTTP."""

    url: str = Field(pattern=r"^https?://[^\s/]+")
    """Where requests are POSTed."""

    @field_validator("url")
    @classmethod
    def url_holds_no_secret(cls, value: str) -> str:
        if holds_secret(value):
            raise ValueError("the address holds a secret, which logs would show: name a file with it in bearer_file or secret_file")
        return value

    mode: WebhookMode = "native"
    """`native`: the JSON of our own API; `openrlhf`, `nemo_gym` and `sandbox_fusion` speak to servers of those projects."""
    secret_file: Path | None = None
    """File with the key that signs every request (HMAC-SHA256, docs/verifier.md)."""
    bearer_file: Path | None = None
    """File with the key to send as `Authorization: Bearer`, where the server asks for one."""
    ca_file: Path | None = None
    """Certificates to trust besides the public ones, as PEM."""
    gold_field: str = "expected_answer"
    """Field that carries the ground truth to a nemo_gym server."""
    max_response_mib: int = Field(default=4, ge=1, le=MAX_BODY_MIB)
    """A larger answer is refused, in MiB."""


class GrpcSection(RemoteSection):
    """A verifier behind our own gRPC API."""

    address: str = Field(min_length=1)
    """HOST:PORT, or any name that gRPC resolves."""
    kind: str = ""
    """Name of the verifier at that service; empty: the name it has here."""
    tls: TlsSection = TlsSection()
    """Where that service encrypts: the authority of its certificate, and the certificate and key to show it, if it asks."""

    @model_validator(mode="after")
    def tls_fits(self) -> Self:
        if self.tls.files and (self.tls.authority_file is None or (self.tls.certificate_file is None) != (self.tls.key_file is None)):
            named = ", ".join(f"tls.{name}" for name in self.tls.files)
            raise ValueError(f"{named} alone: name tls.authority_file, and tls.certificate_file and tls.key_file together or neither")
        return self


class CompositionSection(Section):
    """A verifier made of others."""

    mode: CompositionMode
    """`first_decided`: the first part that can tell; `all`: every part must be right; `weighted`: the mean of the parts;
    `gate`: the last part counts only when those before it are right."""
    parts: tuple[str, ...] = Field(min_length=1)
    """Names of verifiers, in order."""
    weights: tuple[float, ...] = ()
    """One per part, for `weighted`; empty: all alike."""

    @model_validator(mode="after")
    def weights_fit(self) -> Self:
        if len(set(self.parts)) != len(self.parts):
            raise ValueError(f"parts {list(self.parts)}: each may be named once")
        if self.mode == "gate" and len(self.parts) < 2:
            raise ValueError(f"parts {list(self.parts)}: a gate needs a condition and what it guards")
        if self.weights and self.mode != "weighted":
            raise ValueError(f'weights are for mode "weighted", not "{self.mode}": leave them out')
        if self.weights and (len(self.weights) != len(self.parts) or min(self.weights) <= 0):
            raise ValueError(f"weights {list(self.weights)}: one above 0 for each of the {len(self.parts)} parts")
        return self


def check_names(built_in: Collection[str], **groups: Mapping[str, Any]) -> None:
    """Refuse a name that two verifiers have. `groups` are the sections by their setting's name: plugins, webhooks, ..."""
    taken = dict.fromkeys(built_in, "a built-in verifier")
    for group, sections in groups.items():
        for name in sections:
            if name in taken:
                raise SettingsError(f"verifier.{group}.{name}: {taken[name]} has the name {name!r} already; choose another")
            taken[name] = f"verifier.{group}.{name}"


def composition_order(compositions: Mapping[str, CompositionSection], known: Collection[str]) -> tuple[str, ...]:
    """Names of `compositions`, each after its parts. Raises SettingsError for an unknown part or a composition that holds itself."""
    offered = sorted({*known, *compositions})
    for name, section in compositions.items():
        missing = [part for part in section.parts if part not in offered]
        if missing:
            raise SettingsError(
                f"verifier.compositions.{name}.parts names {missing[0]!r}, which is no verifier: there are {', '.join(offered)}"
            )
    sorter = TopologicalSorter({name: [part for part in section.parts if part in compositions] for name, section in compositions.items()})
    try:
        return tuple(sorter.static_order())
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise SettingsError(f"verifier.compositions: {circle} is a circle; a composition cannot be a part of itself") from error
