"""Rows that have a question and an answer in two fields: read as they are, or by the fields' names."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oprime.core.types import ChatMessage, Task
from oprime.tasks.rows import BadRowError, RawRow, row_object, shown, text_of
from oprime.tasks.sources.question import Ability, Question, text_or_nothing


class QuestionAnswerReader:
    """`{"question": "What is 2 + 2?", "answer": "4"}`: the question is the prompt, the answer is for the verifier `math`."""

    name = "question_answer"
    fields = ("question", "answer", "data_source")

    def recognises(self, row: Mapping[str, Any]) -> bool:
        return "question" in row and "answer" in row

    def read(self, row: RawRow) -> Task:
        value = row_object(row)
        answer = text_of(row, value, "answer").strip()
        if "\n" in answer:
            rule = (
                f"must be one line, and this is a solution: {shown(answer)}; make rows that have its end alone, for example "
                "with `oprime tasks convert --answer-after '####'`"
            )
            raise BadRowError(row, "answer", "solution in place of an answer", rule)
        source = "" if value.get("data_source") is None else text_of(row, value, "data_source")
        return Task(
            messages=(ChatMessage(role="user", content=text_of(row, value, "question")),),
            verifier="math",
            ground_truth=answer,
            data_source=source,
        )


READER = QuestionAnswerReader()


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFields:
    """Where the question and the answer stand in another file's rows."""

    question: str
    answer: str
    ability: Ability
    answer_after: str = ""
    """Take what follows the last occurrence of this text in the answer's field; empty takes all of it."""
    data_source: str = ""

    def read(self, row: RawRow) -> Question:
        """Raises BadRowError where one of the two is missing."""
        value = row_object(row)
        return Question(
            text=text_of(row, value, self.question),
            ground_truth=self._tests(row, value) if self.ability == "code" else self._answer(row, value),
            ability=self.ability,
            data_source=self.data_source,
        )

    def _answer(self, row: RawRow, value: Mapping[str, Any]) -> str:
        answer = text_or_nothing(value.get(self.answer))
        if not answer:
            rule = f"must be a text or a number, not {shown(value.get(self.answer))}; fields of this row are {', '.join(map(str, value))}"
            raise BadRowError(row, self.answer, f"missing {self.answer}", rule)
        if self.answer_after not in answer:
            rule = f"no {self.answer_after!r} in {shown(answer)}; correct the row or --answer-after"
            raise BadRowError(row, self.answer, "missing answer", rule)
        return (answer.rpartition(self.answer_after)[2] if self.answer_after else answer).strip()

    def _tests(self, row: RawRow, value: Mapping[str, Any]) -> str:
        """Tests as JSON: as they are, or a list of asserts or test source made JSON."""
        tests = value.get(self.answer)
        if not tests:
            rule = f"must hold tests, not {shown(tests)}; fields of this row are {', '.join(map(str, value))}"
            raise BadRowError(row, self.answer, f"missing {self.answer}", rule)
        if not isinstance(tests, str):
            return json.dumps(tests, ensure_ascii=False)
        try:
            return tests if isinstance(json.loads(tests), dict | list) else json.dumps({"test": tests}, ensure_ascii=False)
        except ValueError:
            return json.dumps({"test": tests}, ensure_ascii=False)
