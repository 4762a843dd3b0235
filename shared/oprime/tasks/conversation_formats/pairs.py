"""Rows with what is asked and what is answered in two fields."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oprime.core.types import ChatMessage
from oprime.tasks.conversations import Conversation
from oprime.tasks.responses import prompt_messages
from oprime.tasks.rows import BadRowError, RawRow, is_text, messages_of, row_object, shown, text_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PairReader:
    """Both are texts, or lists of {role, content}; the system's prompt may have a field of its own."""

    name: str
    prompt: str
    answer: str
    context: str = ""
    """A text that goes on where the prompt ends, where it is not empty."""

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.prompt, self.answer, self.context, "system")))

    def recognises(self, row: Mapping[str, Any]) -> bool:
        return {self.prompt, self.answer} <= row.keys()

    def read(self, row: RawRow) -> Conversation:
        value = row_object(row)
        messages = [*self._system(row, value), *prompt_messages(row, value, self.prompt)]
        if self.context and is_text(value.get(self.context)):
            messages[-1] = ChatMessage(role="user", content=f"{messages[-1].content}\n\n{value[self.context]}")
        answer = value.get(self.answer)
        if isinstance(answer, list):
            return (*messages, *messages_of(row, self.answer, answer, last_role="assistant"))
        return (*messages, ChatMessage(role="assistant", content=text_of(row, value, self.answer)))

    def _system(self, row: RawRow, value: Mapping[str, Any]) -> tuple[ChatMessage, ...]:
        system = value.get("system")
        if system in (None, ""):
            return ()
        if not is_text(system):
            raise BadRowError(row, "system", "wrong system", f"must be a text, not {shown(system)}; correct the row")
        return (ChatMessage(role="system", content=str(system)),)


COMPLETION = PairReader(name="completion", prompt="prompt", answer="completion")
"""`{"prompt": "...", "completion": "..."}`, texts or lists of turns."""
RESPONSE = PairReader(name="response", prompt="prompt", answer="response")
"""`{"prompt": "...", "response": "..."}`."""
INSTRUCTION = PairReader(name="instruction", prompt="instruction", answer="output", context="input")
"""`{"instruction": "...", "input": "...", "output": "..."}`, as in Alpaca."""
