"""Rows that have a question and an answer in two fields: read as they are, or made rows of Eurus-2-RL-Data with more said of them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from oprime.core.types import ChatMessage, Task
from oprime.tasks.chain import Split
from oprime.tasks.rows import BadRowError, RawRow, row_object, shown, text_of


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
    """How to make rows of another file's columns."""

    question: str
    answer: str
    ability: str
    answer_after: str = ""
    """Take what follows the last occurrence of this text in the answer's column; empty takes all of it."""
    system: str = ""
    """Text of a system turn before each question; empty for none."""
    suffix: str = ""
    """Text appended to each question."""
    data_source: str = ""


def converted_rows(rows: Iterable[RawRow], fields: RowFields, split: Split) -> Iterator[dict[str, Any]]:
    """Rows in the schema of Eurus-2-RL-Data, from two columns of other rows. Raises BadRowError where one is missing."""
    for index, row in enumerate(rows):
        value = row_object(row)
        answer = text_of(row, value, fields.answer)
        if fields.answer_after not in answer:
            rule = f"no {fields.answer_after!r} in {shown(answer)}; correct the row or --answer-after"
            raise BadRowError(row, fields.answer, "missing answer", rule)
        system = [{"role": "system", "content": fields.system}] if fields.system else []
        yield {
            "data_source": fields.data_source,
            "prompt": [*system, {"role": "user", "content": text_of(row, value, fields.question) + fields.suffix}],
            "ability": fields.ability,
            "reward_model": {
                "style": "rule",
                "ground_truth": (answer.rpartition(fields.answer_after)[2] if fields.answer_after else answer).strip(),
            },
            "extra_info": {"index": index, "split": split},
        }
