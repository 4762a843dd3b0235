"""What is done to a run, drawn from a seed."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

ChoiceT = TypeVar("ChoiceT")

SERVICES = ("coordinator", "generator", "verifier", "prm", "learner")
"""Those that the queue connects."""
GATEWAY = "gateway"
REDIS = "redis"
VERIFIER_WORKERS = "verifier workers"
"""The processes that judge, without the service that owns them."""
EVERYTHING = "everything"
"""All processes at once, as when the machine fails; or all connections."""


class Kind(StrEnum):
    KILL = "kill"
    """SIGKILL; the process is started again after `seconds`."""
    CUT = "cut"
    """Connections to Redis are reset and refused for `seconds`."""
    FREEZE = "freeze"
    """Nothing moves between a service and Redis for `seconds`."""
    LOST_ANSWERS = "lost answers"
    """For `seconds`, requests take effect and their answers never come."""


KINDS = {Kind.KILL: 9, Kind.CUT: 3, Kind.FREEZE: 2, Kind.LOST_ANSWERS: 6}
KILLED = {**dict.fromkeys(SERVICES, 4), REDIS: 4, EVERYTHING: 2, VERIFIER_WORKERS: 1, GATEWAY: 1}
DISTURBED = {**dict.fromkeys(SERVICES, 2), EVERYTHING: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    kind: Kind
    victim: str
    seconds: float
    """How long it lasts: for a killed process, until it is started again."""
    after_step: bool
    """Whether another step must be committed first; otherwise it strikes while the run still recovers from the last one."""
    delay_s: float
    """Time to wait then."""

    def __str__(self) -> str:
        return f"{self.kind} {self.victim} for {self.seconds:.1f} s"


def draw(seed: int, number: int) -> list[Fault]:
    """The faults of one run. The same seed gives the same ones."""
    chance = random.Random(seed)
    return [_draw_one(chance) for _ in range(number)]


def _draw_one(chance: random.Random) -> Fault:
    kind = _one_of(chance, KINDS)
    victim = _one_of(chance, KILLED if kind is Kind.KILL else DISTURBED)
    return Fault(
        kind=kind,
        victim=victim,
        seconds=round(chance.uniform(0.1, 2.0) if kind is Kind.KILL else chance.uniform(0.5, 4.0), 2),
        after_step=chance.random() < 0.7,
        delay_s=round(chance.uniform(0.0, 2.0), 2),
    )


def _one_of(chance: random.Random, weights: Mapping[ChoiceT, int]) -> ChoiceT:
    return chance.choices(list(weights), list(weights.values()))[0]
