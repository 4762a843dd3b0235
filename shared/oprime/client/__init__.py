"""Token rewards from a gateway, for programs and other trainers: `pip install oprime[client]`. Imports httpx alone, no torch.

from oprime.client import RewardClient

with RewardClient("http://127.0.0.1:8080") as client:
    answer = client.rewards([{"prompt": "3 +8 -5 ?", "response": "=1 =6 #6"}], granularity=["token", "sequence"])
    print(answer.items[0].reward, answer.items[0].tokens.rewards)
"""

from oprime.client.answers import BestOfN, RankedResponse, Rewards, ScoredInput, StepRewards, TokenRewards, Vote
from oprime.client.clients import AsyncRewardClient, RewardClient
from oprime.client.errors import RefusedError, RewardsError, UnavailableError
from oprime.client.forms import BestOfNOptions, ChatInput, Options, RewardInput, TextInput, TokenInput

__all__ = [
    "AsyncRewardClient",
    "BestOfN",
    "BestOfNOptions",
    "ChatInput",
    "Options",
    "RankedResponse",
    "RefusedError",
    "RewardClient",
    "RewardInput",
    "Rewards",
    "RewardsError",
    "ScoredInput",
    "StepRewards",
    "TextInput",
    "TokenInput",
    "TokenRewards",
    "UnavailableError",
    "Vote",
]
