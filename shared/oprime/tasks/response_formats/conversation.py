"""Rows with one conversation, whose last turn is the response. Rows of the same prompt belong together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oprime.tasks.responses import LabelledResponses, outcome_reward
from oprime.tasks.rows import BadRowError, RawRow, messages_of, row_object


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationReader:
    """A list of {role, content} and a label."""

    name: str
    conversation: str
    label: str = "label"

    @property
    def fields(self) -> tuple[str, ...]:
        return self.conversation, self.label

    def recognises(self, row: Mapping[str, Any]) -> bool:
        return isinstance(row.get(self.conversation), list) and self.label in row

    def read(self, row: RawRow) -> LabelledResponses:
        value = row_object(row)
        turns = messages_of(row, self.conversation, value.get(self.conversation), last_role="assistant")
        if len(turns) < 2 or turns[-2].role != "user":
            rule = "the response must follow a turn of the user; correct or remove the row"
            raise BadRowError(row, self.conversation, "missing prompt", rule)
        return LabelledResponses(
            messages=turns[:-1],
            responses=(turns[-1].content,),
            outcome_rewards=(outcome_reward(row, self.label, value.get(self.label)),),
        )


EURUSPRM = ConversationReader(name="eurusprm", conversation="response")
"""EurusPRM-Stage1-Data, and what ImplicitPRM makes of its rollouts: `{"response": [user, assistant], "label": 1}`."""
POINTWISE = ConversationReader(name="pointwise", conversation="conversation")
"""`{"conversation": [user, assistant], "label": 1}`, as reward models are trained."""
