"""Mathematical questions as they are published: NuminaMath, MATH, GSM8K, DAPO, and benchmarks."""

import re
from collections.abc import Mapping
from typing import Any

from oprime.tasks.rows import BadRowError, RawRow, is_text, shown
from oprime.tasks.sources.question import Kind, Question, Source, first_text, last_boxed, marks, text_or_nothing

_NO_ANSWER = frozenset({"", "proof", "notfound", "not found", "none"})
"""What NuminaMath-1.5 writes in place of an answer."""


def _numina(row: RawRow, value: Mapping[str, Any]) -> Question:
    kinds: dict[str, Kind] = {"proof": "proof", "mcq": "choice"}
    answer = text_or_nothing(value.get("answer"))
    if "answer" not in value:
        answer = last_boxed(first_text(row, "solution"))
    return Question(
        text=first_text(row, "problem"),
        ground_truth="" if answer.lower() in _NO_ANSWER else answer,
        ability="math",
        data_source=f"numina_{first_text(row, 'source')}",
        kind=kinds.get(str(value.get("question_type")).lower(), "open"),
    )


def _boxed_solution(source: str) -> Any:
    def read(row: RawRow, value: Mapping[str, Any]) -> Question:
        answer = text_or_nothing(value.get("expected_answer") or value.get("answer"))
        return Question(
            text=first_text(row, "problem"),
            ground_truth=answer or last_boxed(first_text(row, "solution")),
            ability="math",
            data_source=source,
        )

    return read


def _gsm8k(row: RawRow, value: Mapping[str, Any]) -> Question:
    _, mark, answer = first_text(row, "answer").rpartition("####")
    return Question(
        text=first_text(row, "question"),
        ground_truth=answer.strip().replace(",", "") if mark else "",
        ability="math",
        data_source="gsm8k",
    )


_DAPO_BEFORE = re.compile(r"^Solve the following math problem step by step\..*?\n\n", re.DOTALL)
_DAPO_AFTER = re.compile(r"\n\nRemember to put your answer on its own line after \"Answer:\"\.\s*$")


def _dapo(row: RawRow, value: Mapping[str, Any]) -> Question:
    turns, reward_model = value.get("prompt"), value.get("reward_model")
    if not isinstance(turns, list) or not turns or not isinstance(turns[-1], dict) or not is_text(turns[-1].get("content")):
        raise BadRowError(
            row, "prompt", "missing prompt", f"must be a list of turns {{role, content}}, not {shown(turns)}; correct the row"
        )
    text = _DAPO_AFTER.sub("", _DAPO_BEFORE.sub("", turns[-1]["content"], count=1))
    return Question(
        text=text,
        ground_truth=text_or_nothing(reward_model.get("ground_truth") if isinstance(reward_model, dict) else None),
        ability="math",
        data_source=text_or_nothing(value.get("data_source")) or "dapo",
    )


def _olympiad(row: RawRow, value: Mapping[str, Any]) -> Question:
    answers = value.get("final_answer") or []
    before = f"{value['context']}\n\n" if is_text(value.get("context")) else ""
    return Question(
        text=before + first_text(row, "question"),
        ground_truth=", ".join(text_or_nothing(answer).strip("$ ") for answer in answers) if isinstance(answers, list) else "",
        ability="math",
        data_source="olympiadbench",
        kind="proof" if str(value.get("question_type")).lower().startswith("theorem") else "open",
    )


def _plain(row: RawRow, value: Mapping[str, Any]) -> Question:
    return Question(
        text=first_text(row, "question", "problem"),
        ground_truth=text_or_nothing(value.get("answer")),
        ability="math",
        data_source=text_or_nothing(value.get("data_source")) or text_or_nothing(value.get("source")),
    )


def _is_dapo(row: Mapping[str, Any]) -> bool:
    return str(row.get("ability")) == "MATH" and "reward_model" in row


class _Dapo(Source):
    """Its fields are those of Eurus-2-RL-Data."""

    def recognises(self, row: Mapping[str, Any]) -> bool:
        return Source.recognises(self, row) and _is_dapo(row)


class _Gsm8k(Source):
    """Its fields are those of any question with an answer."""

    def recognises(self, row: Mapping[str, Any]) -> bool:
        return Source.recognises(self, row) and "####" in str(row.get("answer"))


DAPO = _Dapo(name="dapo", about="DAPO-Math-17k", marks=marks("prompt ability reward_model"), read_row=_dapo)
MATH = Source(
    name="math",
    about="MATH, also as one object of columns: `problem`, `solution`, `level`",
    marks=marks("problem solution level", "problem expected_answer"),
    read_row=_boxed_solution("math"),
)
GSM8K = _Gsm8k(name="gsm8k", about="GSM8K: an `answer` that ends with `#### N`", marks=marks("question answer"), read_row=_gsm8k)
PLAIN = Source(
    name="plain",
    about="`question` or `problem`, and `answer`: AIME, AMC and others",
    marks=marks("question answer", "problem answer"),
    read_row=_plain,
)
SOURCES = (
    Source(
        name="olympiadbench",
        about="OlympiadBench: `question`, `final_answer`",
        marks=marks("question final_answer"),
        read_row=_olympiad,
    ),
    Source(name="minerva", about="Minerva's OCW courses", marks=marks("problem solution type idx"), read_row=_boxed_solution("minerva")),
    MATH,
    Source(
        name="numina",
        about="NuminaMath-CoT and NuminaMath-1.5: `source`, `problem`, `solution`; the source is a part of `data_source`",
        marks=marks("source problem solution"),
        read_row=_numina,
    ),
    GSM8K,
    PLAIN,
)
