"""python -m oprime_cli.running.serve_alone CONFIG.toml: gateway and scorer in one process, with nothing between them.

`oprime serve prm` starts it where one process scores, and several of it where they share a port. What a request would cost on its way
through gRPC is more than what a small model computes. The forward pass has a thread of its own, so that the gateway answers meanwhile.
"""

import asyncio
import contextlib
from typing import ClassVar

from oprime.adapters.observed import observed
from oprime.runtime.fast_loop import fast_loop
from oprime.runtime.process import Lifecycle, main
from oprime.runtime.setting_rules import Rule
from oprime_gateway.config import GATEWAY_RULES, GatewaySection, GatewaySettings
from oprime_prm.config import ScorerSettings


class AloneSettings(ScorerSettings):
    """Those of both."""

    rules: ClassVar[tuple[Rule, ...]] = (*ScorerSettings.rules, *GATEWAY_RULES)

    gateway: GatewaySection = GatewaySection()

    @property
    def of_gateway(self) -> GatewaySettings:
        return GatewaySettings(run=self.run, model=self.model, algorithm=self.algorithm, endpoints=self.endpoints, gateway=self.gateway)


async def serve(settings: AloneSettings, lifecycle: Lifecycle) -> None:
    from oprime_gateway.app import answer_requests, open_door
    from oprime_gateway.local_scorer import LocalScorer
    from oprime_gateway.services import Services
    from oprime_prm.scoring.app import scoring_parts

    own = settings.of_gateway
    with observed("scorer", settings.run.name, settings.endpoints, lifecycle.is_ready) as metrics, contextlib.ExitStack() as doors:
        # One of several on a port is given clients as soon as it listens, so it listens last.
        early = None if own.gateway.share_port else doors.enter_context(open_door(own))
        parts = await scoring_parts(settings, lifecycle, metrics, borrows=own.gateway.share_port)
        await parts.versions.start()
        door = early or doors.enter_context(open_door(own))
        services = Services(channels={}, timeout_s=settings.gateway.timeout_s, scorers=LocalScorer(parts.servicer))
        # Requests that are being answered when the process is asked to stop are still scored.
        scoring = Lifecycle(own_process=True)
        scores = asyncio.create_task(scoring.run(parts.queue.run(), parts.versions.follow()))
        scores.add_done_callback(lambda _: lifecycle.stopping.set())
        lifecycle.note_ready(True)
        try:
            await answer_requests(door, own, services, metrics, lifecycle.stopping)
        finally:
            scoring.stopping.set()
            await scores


if __name__ == "__main__":
    main("scorer", AloneSettings, serve, loop=fast_loop())
