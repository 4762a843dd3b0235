"""Settings of the gateway."""

from pathlib import Path

from pydantic import Field

from oprime.runtime.settings import EndpointsSection, ModelSection, RunSection, Section, ServiceSettings


class GatewaySection(Section):
    api_keys_file: Path | None = None
    """File with one bearer key per line. Required unless the gateway listens on loopback alone."""
    max_request_items: int = Field(default=256, ge=1)
    """Most inputs in one request."""
    max_request_bytes: int = Field(default=8_388_608, ge=1)
    """Largest request body."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Deadline of the calls to other services."""


class GatewaySettings(ServiceSettings):
    run: RunSection
    model: ModelSection
    endpoints: EndpointsSection = EndpointsSection()
    gateway: GatewaySection = GatewaySection()
