"""Rows with several responses to one prompt."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oprime.tasks.responses import LabelledResponses, outcome_rewards, prompt_messages, response_texts
from oprime.tasks.rows import RawRow, row_object


@dataclass(frozen=True, slots=True, kw_only=True)
class SeveralReader:
    """Prompt, responses and labels in three fields."""

    name: str
    prompt: str
    responses: str
    labels: str
    answers: str = ""

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.prompt, self.responses, self.labels, self.answers)))

    def recognises(self, row: Mapping[str, Any]) -> bool:
        return {self.prompt, self.responses, self.labels} <= row.keys()

    def read(self, row: RawRow) -> LabelledResponses:
        value = row_object(row)
        has_answers = self.answers != "" and value.get(self.answers) is not None
        return LabelledResponses(
            messages=prompt_messages(row, value, self.prompt),
            responses=response_texts(row, value, self.responses),
            outcome_rewards=outcome_rewards(row, value, self.labels),
            # A response that answers nothing has an empty one.
            answers=response_texts(row, value, self.answers, even_empty=True) if has_answers else (),
        )


LABELLED = SeveralReader(name="labelled", prompt="prompt", responses="responses", labels="labels", answers="answers")
"""`{"prompt": "...", "responses": ["...", "..."], "labels": [1, 0]}`: oprime's own; `answers` may stand beside, for majority votes."""
ULTRAINTERACT = SeveralReader(name="ultrainteract", prompt="prompt", responses="completions", labels="correctness")
"""Rollouts on UltraInteract as ImplicitPRM has them: `{"dataset", "prompt", "completions", "correctness"}`."""
