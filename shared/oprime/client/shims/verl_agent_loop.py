"""For verl's streaming rewards: an agent loop whose batches carry token rewards. Needs verl; see verl.py for the settings."""

from typing import Any

import ray  # pyright: ignore[reportMissingImports]
from verl.experimental.agent_loop.agent_loop import AgentLoopManager, AgentLoopWorker  # pyright: ignore[reportMissingImports]

from oprime.client.shims.verl import with_token_rewards


class TokenRewardAgentLoopWorker(AgentLoopWorker):
    def _postprocess(self, *arguments: Any, **options: Any) -> Any:
        return with_token_rewards(super()._postprocess(*arguments, **options))


class TokenRewardAgentLoopManager(AgentLoopManager):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.agent_loop_workers_class = ray.remote(TokenRewardAgentLoopWorker)
        super().__init__(*arguments, **options)
