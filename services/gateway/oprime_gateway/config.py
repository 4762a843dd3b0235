"""Settings of the gateway."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from oprime.runtime.setting_rules import SHARED_RULES, Problems, Rule, is_loopback
from oprime.runtime.settings import AlgorithmSection, EndpointsSection, ModelSection, RunSection, Section, ServiceSettings


class GatewaySection(Section):
    rewards_only: bool = False
    """Answer with process rewards alone: nobody but the PRM is asked, and a run's other services are not needed (`oprime serve prm`)."""
    api_keys_file: Path | None = None
    """File with one bearer key per line. Required unless the gateway listens on loopback alone."""
    share_port: bool = False
    """Let other gateways on this machine that say so too listen at the same address: the kernel deals new connections to them
    (`oprime serve prm --share-port`)."""
    max_request_items: int = Field(default=256, ge=1)
    """Most inputs in one request."""
    max_request_bytes: int = Field(default=8_388_608, ge=1)
    """Largest request body."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Deadline of the calls to other services."""
    client_timeout_s: float = Field(default=30.0, gt=0)
    """Seconds that a client may take to send the head of a request, and then its body; slower ones get 408. A client that takes nothing of
    its answer for so long loses the connection too."""


def gateway_is_guarded(gateway: GatewaySection, endpoints: EndpointsSection) -> Problems:
    address = endpoints.listen("gateway")
    return [] if gateway.api_keys_file is not None or is_loopback(address) else [unguarded(address)]


def unguarded(address: str) -> str:
    """What to say of a gateway that would listen here without keys."""
    return (
        f"the gateway would listen on {address}, which other machines reach, without keys: set gateway.api_keys_file to a "
        "file with one key per line (for example from `openssl rand -hex 32`), or listen on 127.0.0.1"
    )


GATEWAY_RULES: tuple[Rule, ...] = (gateway_is_guarded,)


class GatewaySettings(ServiceSettings):
    rules: ClassVar[tuple[Rule, ...]] = (*SHARED_RULES, *GATEWAY_RULES)

    run: RunSection
    model: ModelSection
    algorithm: AlgorithmSection = AlgorithmSection()
    endpoints: EndpointsSection = EndpointsSection()
    gateway: GatewaySection = GatewaySection()

    @property
    def active_run(self) -> str:
        """The run whose services stand behind this gateway; empty where it answers with process rewards alone."""
        return "" if self.gateway.rewards_only else self.run.name
