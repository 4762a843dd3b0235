"""Questions as rows in the schema of Eurus-2-RL-Data: the system turn, the question and what is said after it."""

from dataclasses import dataclass
from typing import Any

from oprime.tasks.chain import Split
from oprime.tasks.sources.question import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What stands around a question."""

    system: str = ""
    """Text of a system turn; empty for none."""
    math_suffix: str = ""
    code_suffix: str = ""

    def row(self, question: Question, index: int, split: Split, **extra: Any) -> dict[str, Any]:
        """`extra` goes into `extra_info`."""
        suffix = self.code_suffix if question.ability == "code" else self.math_suffix
        system = [{"role": "system", "content": self.system}] if self.system else []
        options = {"verifier_options": dict(question.verifier_options)} if question.verifier_options else {}
        return {
            "data_source": question.data_source,
            "prompt": [*system, {"role": "user", "content": question.text + suffix}],
            "ability": question.ability,
            "reward_model": {"style": "rule", "ground_truth": question.ground_truth},
            "extra_info": {"index": index, "split": split, **extra},
            **options,
        }
