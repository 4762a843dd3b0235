"""The math verifier: the final answer of a response against the accepted answers of its task.

CORRECT when the answer is proven equal to one of the golds; INCORRECT when it is proven different, or is no mathematics that
could equal a gold that is; NO_ANSWER when there is nothing to grade or it is too large to grade; UNDECIDED when neither was
proven, or when the gold cannot be read and is not written like the answer; BAD_TASK without a gold or with wrong options.
"""

from functools import lru_cache

from pydantic import ValidationError

from oprime.core.verification import Outcome, Verdict, VerificationRequest, correct, incorrect, no_answer, unscored
from oprime_verifier.math.decide.compare import Comparison
from oprime_verifier.math.decide.symbolic import SymbolicProcess
from oprime_verifier.math.decide.verdicts import Same, either
from oprime_verifier.math.options import MathOptions
from oprime_verifier.math.read.cleanup import clean, spelled
from oprime_verifier.math.read.extract import Extracted, extract, final_text
from oprime_verifier.math.read.reader import Reading, decimal_comma, read
from oprime_verifier.math.tree.form import same_form
from oprime_verifier.math.tree.values import Items, Num, SetOf

MAX_SHOWN_CHARS = 200
_symbolic = SymbolicProcess()


def warm_up() -> None:
    """Import sympy and fork the symbolic process, so that no item waits for it."""
    _symbolic.start()


def close() -> None:
    """End the symbolic process."""
    _symbolic.close()


def verify_math(request: VerificationRequest) -> Outcome:
    """Judge the final answer of one response."""
    try:
        options = MathOptions.model_validate(dict(request.options))
    except ValidationError as error:
        return unscored(Verdict.BAD_TASK, f"the math options are wrong: {_problems(error)}")
    golds = tuple(filter(None, (final_text(gold).strip() for gold in request.golds)))
    if not golds:
        return unscored(
            Verdict.BAD_TASK, "the task has no gold answer: the math verifier needs one to compare with; correct the task's row"
        )
    return _judged(request.response, golds, options)


def _problems(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, entry['loc']))} = {str(entry['input'])[:60]!r}: {entry['msg']}" for entry in error.errors())


def _judged(response: str, golds: tuple[str, ...], options: MathOptions) -> Outcome:
    found = Extracted(answers=(response.strip(),)) if options.bare else extract(response, options)
    if found.problem or not found.answers or not found.answers[0].strip():
        return no_answer(found.problem or "the answer is empty")
    answer = found.answers[0]
    verdict, reason = _best(answer, golds, options)
    if verdict is not Same.YES and found.parts:
        verdict, reason = _with_parts(found.parts, golds, options, (verdict, reason))
    return _outcome(verdict, reason, answer)


def _outcome(verdict: Same, reason: str, answer: str) -> Outcome:
    shown = clean(answer[: 4 * MAX_SHOWN_CHARS])[:MAX_SHOWN_CHARS]
    if verdict is Same.YES:
        return correct(reason=reason, answer=shown)
    if verdict is Same.NO:
        too_large = read(answer).too_large
        return no_answer(reason, answer=shown) if too_large else incorrect(reason=reason, answer=shown)
    return unscored(Verdict.UNDECIDED, reason, answer=shown, cacheable=False)


def _best(answer: str, golds: tuple[str, ...], options: MathOptions) -> tuple[Same, str]:
    verdicts = [decide(gold, answer, options) for gold in golds]
    best = either(verdict for verdict, _ in verdicts)
    return next(found for found in verdicts if found[0] is best)


def _with_parts(parts: tuple[str, ...], golds: tuple[str, ...], options: MathOptions, otherwise: tuple[Same, str]) -> tuple[Same, str]:
    """Boxes side by side are one answer where the gold lists as many."""
    joined = ", ".join(parts)
    fitting = tuple(gold for gold in golds if isinstance(value := read(gold).value, Items | SetOf) and len(value.items) == len(parts))
    if not fitting:
        return otherwise
    found = _best(joined, fitting, options)
    return found if found[0] is Same.YES else otherwise


class _NotDecidedError(Exception):
    """Neither equal nor different; says why. An exception, because those are not remembered: a proof may need more time."""


def decide(gold: str, answer: str, options: MathOptions) -> tuple[Same, str]:
    """Equality of two answers, and why. Never raises for any text."""
    try:
        return _decided(gold, answer, options)
    except _NotDecidedError as undecided:
        return Same.UNKNOWN, str(undecided)


@lru_cache(maxsize=8192)
def _decided(gold: str, answer: str, options: MathOptions) -> tuple[Same, str]:
    """Raises _NotDecidedError."""
    verdict, reason = _decide(gold, answer, options)
    if verdict is Same.UNKNOWN:
        raise _NotDecidedError(reason)
    return verdict, reason


def _decide(gold: str, answer: str, options: MathOptions) -> tuple[Same, str]:  # noqa: PLR0911 - one line for each way to decide
    if _written_alike(gold, answer):
        return Same.YES, "the answer is written like the gold"
    expected = read(gold)
    found = read(answer, expected.variables)
    if expected.text == found.text and expected.text:
        return Same.YES, "the answer is written like the gold"
    if found.too_large:
        return Same.NO, found.problem
    if expected.value is None:
        return Same.UNKNOWN, f"the gold is not mathematics that is read ({expected.problem}), and the answer is written differently"
    if found.value is None:
        return Same.NO, f"the answer is not mathematics that is read: {found.problem}"
    try:
        return _in_both_readings(expected, found, options, gold, answer)
    except RecursionError:  # thousands of signs behind one number, say
        return Same.UNKNOWN, "the answer or the gold is nested too deeply to compare"


def _in_both_readings(expected: Reading, found: Reading, options: MathOptions, gold: str, answer: str) -> tuple[Same, str]:
    """Of names that are functions in the gold and stand alone in the answer, what follows may be an argument as well as a factor:
    equal is what is equal both ways.
    """
    verdict, reason = _compared(expected, found, options)
    doubtful = expected.applied & found.variables
    if not doubtful:
        return verdict, reason
    other, _ = _compared(read(gold, doubtful), read(answer, expected.variables | doubtful), options)
    return (verdict, reason) if verdict is other else (Same.UNKNOWN, _EITHER)


def _written_alike(gold: str, answer: str) -> bool:
    return spelled(gold) == spelled(answer) != ""


def _compared(gold: Reading, answer: Reading, options: MathOptions) -> tuple[Same, str]:
    comparison = Comparison(options, _symbolic.prove)
    pairs = [(gold.value, answer.value), (gold.value, answer.other), (gold.other, answer.value)]
    if isinstance(gold.value, Num) and gold.value.digits:
        pairs.append((gold.value, decimal_comma(answer.written)))
    verdict = either(comparison.same(one, other) for one, other in pairs if one is not None and other is not None)
    if verdict is Same.YES and options.strict_form and not same_form(gold.text, answer.text):
        return Same.NO, "the answer equals the gold, but is written in another form"
    return verdict, _REASONS[verdict]


_EITHER = "whether the answer equals the gold depends on whether a name before brackets is a function or a factor"
_REASONS = {
    Same.YES: "the answer equals the gold",
    Same.NO: "the answer differs from the gold",
    Same.UNKNOWN: "neither equality nor difference was proven within the limits",
}
