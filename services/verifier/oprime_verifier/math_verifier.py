"""Mathematical answers: extraction, exact comparison where that is enough, Math-Verify for the rest.

Runs in a worker process only. Comparison may take for ever on hostile text, and the pool kills the worker then: that is the
one reliable timeout, because a big-integer power holds the interpreter lock and signals reach only a main thread.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from oprime.core.types import Outcome, OutcomeStatus
from oprime_verifier.math_text import Rational, clean, is_choice_letter, plain_rational, plain_text, unsafe_to_evaluate

# The library warns that its own, signal-based timeouts are off. They are, on purpose.
logging.getLogger("math_verify").setLevel(logging.ERROR)

MAX_ANSWER_CHARS = 4096
MAX_SEARCHED_CHARS = 20_000
"""Without a box or `####`, the answer is looked for in this many characters at the end of the response."""
SHOWN_CHARS = 80

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_BARE_BOX = re.compile(r"\\boxed\s+([^\s${}\\]+)")
_FINAL = re.compile(r"####([^\n]*)")
_LATEX = LatexExtractionConfig()
_EXPRESSION = ExprExtractionConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """A parsed ground truth; `parsed` is empty where text or an exact number says it all."""

    text: str
    rational: Rational | None
    word: str
    parsed: tuple[Any, ...]


class GroundTruthError(ValueError):
    """The ground truth cannot be parsed."""


def verify_math(response: str, ground_truth: str) -> Outcome:
    """Compare the response's final answer with the ground truth.

    SCORED 1 or 0; INVALID without an answer that can be graded; ERROR for a ground truth that cannot be parsed.
    """
    try:
        gold = parse_gold(ground_truth)
    except GroundTruthError as error:
        return Outcome(status=OutcomeStatus.ERROR, score=None, reason=str(error))
    try:
        answer, parsed = _find_answer(response)
        right = _equal(gold, answer, parsed)
    except UngradableError as error:
        return Outcome(status=OutcomeStatus.INVALID, score=0.0, reason=str(error))
    return Outcome(status=OutcomeStatus.SCORED, score=1.0 if right else 0.0, answer=answer)


class UngradableError(ValueError):
    """The response has no answer that could be graded."""


@lru_cache(maxsize=4096)
def parse_gold(ground_truth: str) -> Gold:
    """Read a plain number, LaTeX, or a solution with `\\boxed{}` or `####`. Raises GroundTruthError."""
    boxed = last_boxed(ground_truth)
    final = _FINAL.findall(ground_truth)
    text = clean(boxed if boxed is not None else final[-1] if final else ground_truth)
    rational, word = plain_rational(text), plain_text(text)
    if not text:
        raise GroundTruthError(f"ground truth {_shown(ground_truth)} cannot be parsed: it has no answer; correct the task's row")
    if rational is not None or word:
        return Gold(text=text, rational=rational, word=word, parsed=_parse_latex(text) if rational is not None else ())
    parsed = _parse_latex(text)
    if not parsed:
        raise GroundTruthError(f"ground truth {_shown(text)} cannot be parsed as mathematics; correct the task's row")
    return Gold(text=text, rational=None, word="", parsed=parsed)


def last_boxed(text: str) -> str | None:
    """Content of the last complete `\\boxed{...}`, with balanced braces; None where there is none."""
    for match in reversed(list(_BOX.finditer(text))):
        content = _balanced(text, match.end())
        if content is not None:
            return content
    bare = _BARE_BOX.findall(text)
    return bare[-1] if bare else None


def _balanced(text: str, start: int) -> str | None:
    """Text between the brace at `start` and its partner, if that comes within the answer cap."""
    depth = 0
    for position in range(start, min(len(text), start + 2 * MAX_ANSWER_CHARS)):
        escaped = text[position - 1] == "\\"
        if text[position] == "{" and not escaped:
            depth += 1
        elif text[position] == "}" and not escaped:
            depth -= 1
            if depth == 0:
                return text[start + 1 : position]
    return None


def _find_answer(response: str) -> tuple[str, tuple[Any, ...]]:
    """The answer's text and, if Math-Verify extracted it, its parsed form."""
    visible = response.rpartition("</think>")[2]
    if "<think>" in visible:
        raise UngradableError("the response ends inside <think>: it has no final answer")
    boxed = last_boxed(visible)
    final = _FINAL.findall(visible)
    if boxed is None and not final:
        return _extracted(visible[-MAX_SEARCHED_CHARS:])
    answer = clean(boxed if boxed is not None else final[-1])
    if not answer:
        raise UngradableError("the final answer is empty")
    if len(answer) > MAX_ANSWER_CHARS:
        raise UngradableError(f"the final answer has {len(answer)} characters; at most {MAX_ANSWER_CHARS} are graded")
    return answer, ()


def _extracted(text: str) -> tuple[str, tuple[Any, ...]]:
    # The fallback is the matched text itself and comes last.
    found = parse(text, [_LATEX, _EXPRESSION], fallback_mode="first_match", parsing_timeout=None)  # pyright: ignore[reportArgumentType]
    if not found:
        raise UngradableError("the response has no answer: no \\boxed{}, no ####, no mathematical expression")
    answer = clean(str(found[-1]))
    if len(answer) > MAX_ANSWER_CHARS:
        raise UngradableError(f"the final answer has {len(answer)} characters; at most {MAX_ANSWER_CHARS} are graded")
    parsed = tuple(item for item in found if not isinstance(item, str))
    if not parsed:
        raise UngradableError(f"the answer {_shown(answer)} cannot be parsed as mathematics")
    return answer, parsed


def _equal(gold: Gold, answer: str, parsed: Sequence[Any]) -> bool:
    decided = _decide_plainly(gold, answer)
    if decided is not None:
        return decided
    reason = unsafe_to_evaluate(answer)
    if reason:
        raise UngradableError(f"the answer {_shown(answer)} is not evaluated: {reason}")
    candidates = tuple(parsed) or _parse_latex(answer)
    if not candidates:
        raise UngradableError(f"the answer {_shown(answer)} cannot be parsed as mathematics")
    return bool(verify(list(gold.parsed), list(candidates), timeout_seconds=None, raise_on_error=True))


def _decide_plainly(gold: Gold, answer: str) -> bool | None:
    """Decide what strings and exact rational arithmetic can; None leaves it to Math-Verify."""
    if answer in (gold.text, gold.text.rpartition("_")[0]):  # a base that the question names need not be repeated
        return True
    word = plain_text(answer)
    if gold.word:
        return word.casefold() == gold.word.casefold() and (word == gold.word or not is_choice_letter(gold.word))
    rational = plain_rational(answer)
    if gold.rational is None or rational is None:
        return None
    # 0.333333 may stand for 1/3, so a decimal against a fraction is a question of precision.
    if gold.rational.is_decimal == rational.is_decimal or gold.rational.value == rational.value:
        return gold.rational.value == rational.value
    return None


def _parse_latex(text: str) -> tuple[Any, ...]:
    return tuple(parse(f"\\boxed{{{text}}}", [_LATEX], fallback_mode="no_fallback", parsing_timeout=None))  # pyright: ignore[reportArgumentType]


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "...")
