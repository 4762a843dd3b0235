"""Named turns, of which each has one owner at a time."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """Proof that its holder owns a named turn: `take_turn` gave the token, and every new owner gets a higher one."""

    name: str
    token: int


class Turns(Protocol):
    async def take_turn(self, name: str, owner: str, *, seconds: float) -> int:
        """Take or extend a named lease: the token of this ownership, positive; 0 while another owner holds it."""
        ...

    async def end_turn(self, name: str, owner: str) -> None: ...
