"""Settings of the verifier."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from oprime.runtime.settings import EndpointsSection, PayloadsSection, QueueSection, RunSection, Section, ServiceSettings
from oprime_verifier.code.options import CodeOptions
from oprime_verifier.external.settings import CompositionSection, GrpcSection, PluginSection, WebhookSection, check_names, composition_order
from oprime_verifier.math.options import MathOptions

BUILT_IN = ("math", "code", "exact", "chain", "paper_math")


class SandboxSection(Section):
    """Where model code runs."""

    engine: Literal["auto", "native", "wasm"] = "auto"
    """`native`: a process behind Landlock and seccomp; `wasm`: CPython in WebAssembly; `auto`: native where the kernel allows."""
    strict: bool = False
    """Refuse to judge while the self-test finds a missing layer or an open way out."""
    self_test_every_s: float = Field(default=300.0, gt=0)
    """Seconds between two self-tests."""


class VerifierSection(Section):
    workers: int = Field(default=1, ge=1)
    """Processes that judge responses in parallel."""
    deadline_s: float = Field(default=60.0, gt=0)
    """Seconds that one try of a verification may take before its worker is killed, where the request names none. A code task runs
    all its tests in this time."""
    attempts: int = Field(default=2, ge=1)
    """Tries before a verification whose worker failed is an INFRA_ERROR."""
    memory_mib: int = Field(default=4096, ge=256)
    """Address space of one worker process, in MiB."""
    cache_entries: int = Field(default=4096, ge=0)
    """Verdicts to remember: siblings that answer alike are judged once."""
    hold_most: int = Field(default=4096, ge=0)
    """Rollouts that may wait here at the same time for verifiers behind a network that are out (`hold_s`); they take no place of
    others, only memory. When there are more, nothing else is taken from the queue."""
    math: MathOptions = MathOptions()
    """Defaults of math requests."""
    code: CodeOptions = CodeOptions()
    """Defaults of code requests."""
    sandbox: SandboxSection = SandboxSection()
    """Where model code runs."""
    plugins: dict[str, str | PluginSection] = Field(default_factory=dict)
    """Verifiers in Python besides the built-in ones: name = "module:function", or a table with more settings."""
    webhooks: dict[str, WebhookSection] = Field(default_factory=dict)
    """Verifiers behind HTTP, by name."""
    services: dict[str, GrpcSection] = Field(default_factory=dict)
    """Verifiers behind gRPC, by name."""
    compositions: dict[str, CompositionSection] = Field(default_factory=dict)
    """Verifiers that combine others, by name."""

    @model_validator(mode="after")
    def names_fit(self) -> Self:
        self.composition_order()
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Of all verifiers that a service with these settings offers."""
        return (*BUILT_IN, *self.plugins, *self.webhooks, *self.services, *self.compositions)

    def composition_order(self) -> tuple[str, ...]:
        """Names of the compositions, each after its parts. Raises SettingsError for names that collide or do not exist."""
        external = {"plugins": self.plugins, "webhooks": self.webhooks, "services": self.services}
        check_names(BUILT_IN, **external, compositions=self.compositions)
        return composition_order(self.compositions, [*BUILT_IN, *(name for group in external.values() for name in group)])


class VerifierSettings(ServiceSettings):
    service: ClassVar[str] = "verifier"

    run: RunSection
    endpoints: EndpointsSection = EndpointsSection()
    queue: QueueSection = QueueSection()
    payloads: PayloadsSection = PayloadsSection()
    verifier: VerifierSection = VerifierSection()
