"""What is dropped by how it is worded: figures, proofs, blanks, no answer, tests that cannot be run. Finds multiple choice."""

import re
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path

from oprime.tasks.sources.question import Question
from oprime_cli.data.settings import RulesSection
from oprime_cli.data.stages import Dropped, Item
from oprime_verifier.code.formats import parse_tests
from oprime_verifier.code.suite import BadTaskError

# Toys are action figures, and people figure things out.
_FIGURE = re.compile(
    r"\b(?:the|this|following|adjoining|accompanying|in|see|from|as)\s+(?:figure|diagrams?)\b(?! out)"
    r"|\b(?:figures?|diagrams?)\s*(?:below|above|shows?\b|shown)|\bfig(?:ure|\.)\s*\d"
    r"|\\includegraphics|!\[[^\]]*\]\(|<img\b|https?://\S+\.(?:png|jpe?g|gif|svg)",
    re.IGNORECASE,
)
# Records and results show something as well.
_PROOF = re.compile(r"\bprove\b|(?-i:\bShow that\b)|(?:[,;:.)]|\b(?:and|then|to|or))\s+show that\b", re.IGNORECASE)
# Digits of a number are underlined, too.
_BLANK = re.compile(r"\\underline\s*\{\s*(?:\\(?:hspace|phantom|q?quad|text|[;,! ])|[\s~_]*\})|_{4,}|(?:\\_){2,}")
_INTERACTIVE = re.compile(r"\binteractive (?:problem|task)\b", re.IGNORECASE)
_LETTERS = "ABCDEFGH"
_OPTION_MARKS = (r"\({0}\)", r"(?<![A-Za-z0-9\\(]){0}\)", r"(?<![A-Za-z0-9\\]){0}\s?[.:](?=\s*\S)")
"""How an option begins; {0} is its letter."""
_LETTER = re.compile(r"(?:\\text(?:bf)?\s*\{)?\(?([A-H])\)?\}?")
_PICTURE = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL)


def is_choice(text: str) -> bool:
    """Whether a text lists options in one of the usual ways."""
    return bool(options_of(text))


def letter_of(gold: str) -> str:
    """The letter of an option, where an answer is nothing else; else empty."""
    found = _LETTER.fullmatch(gold.strip())
    return found[1] if found else ""


def options_of(text: str) -> dict[str, str]:
    """The options of a question by letter; empty where there are not at least A, B and C."""
    plain = _PICTURE.sub(" ", text)
    return next((options for mark in _OPTION_MARKS if (options := _options(plain, mark))), {})


def _options(text: str, mark: str) -> dict[str, str]:
    # The last A begins the options: before it, a point may be called so.
    first = [found for found in re.finditer(mark.replace("{0}", "A"), text) if _may_begin(text, found, mark)]
    places = first[-1:]
    for letter in _LETTERS[1:]:
        found = re.compile(mark.replace("{0}", letter)).search(text, places[-1].end()) if places else None
        if found is None:
            break
        places.append(found)
    if len(places) < 3:
        return {}
    ends = [*(place.start() for place in places[1:]), len(text)]
    values = (_undecorated(text[place.end() : end]) for place, end in zip(places, ends, strict=True))
    return dict(zip(_LETTERS, values, strict=False))


def _may_begin(text: str, found: re.Match[str], mark: str) -> bool:
    """A sentence may end with a point's name; options begin after what ends a sentence."""
    before = text[: found.start()].rstrip(" \t")
    return mark == _OPTION_MARKS[0] or not before or before[-1] in "\n)?:.,$}]*"


def _undecorated(option: str) -> str:
    """An option without what lays it out."""
    layout = re.compile(r"^(?:\s|\\ |\\q?quad|\\\\|[$,;}])+|(?:\s|\\ |\\q?quad|\\text(?:bf)?\{|\\\\|[$,;.])+$")
    stripped = option
    while (shorter := layout.sub("", stripped)) != stripped:
        stripped = shorter
    return stripped


def fault_of(question: Question, rules: RulesSection) -> tuple[str, str] | None:
    """Why a question is dropped, and what shows it; None where it stays."""
    if len(question.text) > rules.max_question_chars:
        return "question too long", f"{len(question.text)} characters"
    if not question.ground_truth:
        return "no answer" if question.ability == "math" else "no tests", ""
    return _code_fault(question) if question.ability == "code" else _math_fault(question, rules)


def _math_fault(question: Question, rules: RulesSection) -> tuple[str, str] | None:
    wanted = (("figure", _FIGURE, rules.figures), ("proof", _PROOF, rules.proofs), ("blank to fill in", _BLANK, rules.blanks))
    for reason, pattern, active in wanted:
        found = pattern.search(question.text) if active else None
        if found:
            return reason, found[0]
    if question.kind == "proof" and rules.proofs:
        return "proof", "the row says so"
    if len(question.ground_truth) > rules.max_answer_chars:
        return "answer too long", f"{len(question.ground_truth)} characters"
    return None


def _code_fault(question: Question) -> tuple[str, str] | None:
    if _INTERACTIVE.search(question.text):
        return "interactive program", ""
    try:
        parse_tests(question.ground_truth)
    except BadTaskError as error:
        return "unusable tests", str(error)
    return None


class Rules:
    name = "rules"

    def __init__(self, section: RulesSection) -> None:
        self._section = section
        self.settings = section.model_dump()

    async def run(self, items: Iterator[Item], folder: Path) -> AsyncGenerator[Item | Dropped]:
        for item in items:
            fault = fault_of(item.question, self._section)
            if fault is not None:
                yield Dropped(reason=fault[0], item=item, detail=fault[1])
            elif item.question.ability == "math" and (is_choice(item.question.text) or letter_of(item.question.ground_truth)):
                yield replace(item, question=replace(item.question, kind="choice"))
            else:
                yield item
