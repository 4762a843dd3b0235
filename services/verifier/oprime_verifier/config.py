"""Settings of the verifier."""

from pydantic import Field

from oprime.runtime.settings import EndpointsSection, QueueSection, RunSection, Section, ServiceSettings


class VerifierSection(Section):
    workers: int = Field(default=1, ge=1)
    """Processes that judge responses in parallel."""
    deadline_s: float = Field(default=10.0, gt=0)
    """Seconds that one verification may take before its worker is killed."""
    attempts: int = Field(default=2, ge=1)
    """Tries before a verification whose worker failed is an ERROR."""
    memory_mib: int = Field(default=4096, ge=256)
    """Address space of one worker process, in MiB."""
    plugins: dict[str, str] = Field(default_factory=dict)
    """Verifiers besides the built-in ones: name = "module:function"."""


class VerifierSettings(ServiceSettings):
    run: RunSection
    endpoints: EndpointsSection = EndpointsSection()
    queue: QueueSection = QueueSection()
    verifier: VerifierSection = VerifierSection()
