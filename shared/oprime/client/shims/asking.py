"""What the shims share: one client per event loop, and rewards that must not be missing."""

import asyncio
import weakref
from collections.abc import Sequence
from typing import Unpack

from oprime.client.answers import ScoredInput
from oprime.client.clients import AsyncRewardClient
from oprime.client.errors import RewardsError
from oprime.client.forms import Options, RewardInput

_clients: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncRewardClient]" = weakref.WeakKeyDictionary()


class UnscoredError(RewardsError):
    """A response could not be scored, and the trainer needs a number."""


def shared_client() -> AsyncRewardClient:
    """The client of the running event loop for the gateway in OPRIME_REWARDS."""
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        _clients[loop] = AsyncRewardClient()
    return _clients[loop]


async def close_shared_client() -> None:
    """For whoever ends an event loop in which a shim was used."""
    client = _clients.pop(asyncio.get_running_loop(), None)
    if client is not None:
        await client.close()


async def all_scored(inputs: Sequence[RewardInput], **options: Unpack[Options]) -> list[ScoredInput]:
    """Rewards of all inputs. Raises UnscoredError with the first that has none."""
    items = list((await shared_client().rewards(inputs, **options)).items)
    failed = next((item for item in items if item.error), None)
    if failed is not None:
        raise UnscoredError(
            f"response {failed.index} could not be scored ({failed.error}), and 0 would mislead the model: leave the sample out, or "
            "shorten it"
        )
    return items


async def token_rewards(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
    """One reward per response token of each (prompt ids, response ids). Raises UnscoredError."""
    inputs: list[RewardInput] = [{"prompt_token_ids": list(prompt), "response_token_ids": list(response)} for prompt, response in pairs]
    items = await all_scored(inputs, granularity=["token"])
    return [list(item.tokens.rewards) if item.tokens else [] for item in items]
