"""The verifier `paper_math`: the paper's own grading of mathematics (arXiv 2502.01456), so that published numbers can be compared.

For training it is no good: it pays for answers that are wrong by a factor of 100 or by 1e-4.
"""

from typing import Literal

from pydantic import ValidationError

from oprime.core.verification import Outcome, Verdict, VerificationRequest, correct, incorrect, no_answer, unscored
from oprime.runtime.settings import Section
from oprime_verifier.math.read.extract import final_text
from oprime_verifier.paper.equality import boxed_equal, harness_equal
from oprime_verifier.paper.extraction import boxed_answer, harness_answer, plainly

MOST_SHOWN = 200
_PHRASES = ("The final answer is ", ". I hope it is correct.")


class PaperMathOptions(Section):
    rules: Literal["boxed", "harness"] = "boxed"
    """`boxed`: the authors' scripts for AIME, AMC and MATH-500; `harness`: the Qwen2.5-Math harness, for Minerva Math and OlympiadBench."""
    stripped: bool = False
    """`boxed`: letters of "The final answer is" and "I hope it is correct" are cut off the ends of the answer, as done for AIME and AMC."""
    units: bool = False
    """`harness`: units stay in the answer, as with Minerva Math."""


def verify_paper_math(request: VerificationRequest) -> Outcome:
    """CORRECT or INCORRECT; the authors know nothing between. BAD_TASK without a gold or with wrong options."""
    try:
        options = PaperMathOptions.model_validate(dict(request.options))
    except ValidationError as error:
        return unscored(Verdict.BAD_TASK, f"the options of paper_math are wrong: {error.errors()[0]['msg']}")
    golds = [gold for gold in request.golds if gold.strip()]
    if not golds:
        return unscored(Verdict.BAD_TASK, "the task has no gold answer: paper_math needs one to compare with; correct the task's row")
    if options.rules == "harness":
        answer = harness_answer(request.response, units=options.units)
        right = any(harness_equal(answer, _harness_gold(gold, units=options.units)) for gold in golds)
    else:
        answer = _boxed(request.response, stripped=options.stripped)
        right = any(boxed_equal(answer, gold) for gold in golds)
    if not answer:
        return no_answer("the response has no answer")
    return correct(answer=answer[:MOST_SHOWN]) if right else incorrect(answer=answer[:MOST_SHOWN])


def _boxed(response: str, *, stripped: bool) -> str:
    answer = boxed_answer(response)
    for phrase in _PHRASES if stripped else ():
        answer = answer.strip(phrase)
    return answer


def _harness_gold(gold: str, *, units: bool) -> str:
    """The box of a solution, or the answer itself."""
    text = final_text(gold) if "\\boxed" in gold else gold.strip("$")
    return plainly(text, units=units)
