"""Rows with a list of turns: `messages` of {role, content}, and ShareGPT's `conversations` of {from, value}."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oprime.tasks.conversations import Conversation
from oprime.tasks.rows import BadRowError, RawRow, messages_of, row_object

SPEAKERS = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
"""Roles by their other names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnsReader:
    """A list of turns, and perhaps the system's prompt in a field of its own."""

    name: str
    turns: str

    @property
    def fields(self) -> tuple[str, ...]:
        return self.turns, "system"

    def recognises(self, row: Mapping[str, Any]) -> bool:
        return isinstance(row.get(self.turns), list)

    def read(self, row: RawRow) -> Conversation:
        value = row_object(row)
        turns = value.get(self.turns)
        if isinstance(turns, list):
            turns = [self._message(row, place, turn) for place, turn in enumerate(turns)]
            if turns and value.get("system"):
                turns.insert(0, {"role": "system", "content": value["system"]})
        return messages_of(row, self.turns, turns, last_role="assistant")

    def _message(self, row: RawRow, place: int, turn: Any) -> Mapping[str, Any]:
        """A turn under the names that `messages_of` knows, which says what is wrong with it."""
        if not isinstance(turn, dict):
            rule = "a turn is an object, {role, content} or {from, value}; correct the row"
            raise BadRowError(row, f"{self.turns}[{place}]", "wrong message", rule)
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        return {"role": SPEAKERS.get(str(role).lower(), role), "content": content}


MESSAGES = TurnsReader(name="messages", turns="messages")
"""`{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}`."""
SHAREGPT = TurnsReader(name="sharegpt", turns="conversations")
"""`{"system": "...", "conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}`, as in Eurus-2-SFT-Data."""
