import pytest

from oprime.core.verification import Outcome, Verdict, VerificationRequest
from oprime_verifier.math.verifier import verify_math


def judged(answer: str, *golds: str, **options: object) -> Verdict:
    return outcome_of(answer, *golds, bare=True, **options).verdict


def outcome_of(response: str, *golds: str, **options: object) -> Outcome:
    return verify_math(VerificationRequest(kind="math", response=response, golds=golds, options=options))


RIGHT, WRONG = Verdict.CORRECT, Verdict.INCORRECT


@pytest.mark.parametrize(
    ("answer", "gold", "options"),
    [
        ("1.4142135623", "\\sqrt{2}", {"decimal_digits": 10}),
        ("3.14", "\\pi", {"relative_tolerance": 0.01}),
        ("9.81", "9.8", {"relative_tolerance": 0.01}),
        ("0.3333", "\\frac13", {"absolute_tolerance": 0.001}),
        ("1000", "1001", {"relative_tolerance": 0.01}),
    ],
)
def test_a_setting_may_accept_what_the_default_rejects(answer: str, gold: str, options: dict[str, object]) -> None:
    assert judged(answer, gold) is WRONG
    assert judged(answer, gold, **options) is RIGHT


@pytest.mark.parametrize(
    ("answer", "gold", "options"),
    [
        ("1.4142135623731", "\\sqrt{2}", {"decimal_digits": 20}),
        ("50", "50\\%", {"percent_bare": False}),
        ("5", "5\\text{ cm}", {"unit_optional": False}),
        ("120 minutes", "2 hours", {"unit_conversion": False}),
        ("\\frac{\\pi}{2}", "90^\\circ", {"degrees_radians": False}),
        ("1010", "1010_2", {"base_optional": False}),
        ("2,1", "1,2", {"list_order": "kept"}),
        ("x>2", "(2,\\infty)", {"inequality_for_interval": False}),
        ("\\frac{2}{4}", "\\frac{1}{2}", {"strict_form": True}),
        ("3+4", "7", {"strict_form": True}),
        ("\\sqrt{8}", "2\\sqrt{2}", {"strict_form": True}),
    ],
)
def test_a_setting_may_reject_what_the_default_accepts(answer: str, gold: str, options: dict[str, object]) -> None:
    assert judged(answer, gold) is RIGHT
    assert judged(answer, gold, **options) is WRONG


@pytest.mark.parametrize(("answer", "gold"), [("1/2", "\\frac{1}{2}"), ("\\dfrac12", "\\frac{1}{2}"), ("x=7", "7"), ("1,000", "1000")])
def test_strict_form_is_about_form_and_not_about_notation(answer: str, gold: str) -> None:
    assert judged(answer, gold, strict_form=True) is RIGHT


@pytest.mark.parametrize("golds", [(), ("",), ("  ",), ("\\boxed{}",), ("####",), ("", " ")])
def test_a_task_without_a_gold_is_bad_and_never_paid(golds: tuple[str, ...]) -> None:
    outcome = outcome_of("\\boxed{5}", *golds)
    assert (outcome.verdict, outcome.score) == (Verdict.BAD_TASK, None)
    assert "gold" in outcome.reason


@pytest.mark.parametrize("options", [{"boxes": "first"}, {"unknown": 1}, {"decimal_digits": "many"}, {"relative_tolerance": -1}])
def test_wrong_options_are_a_bad_task_that_names_them(options: dict[str, object]) -> None:
    outcome = outcome_of("\\boxed{5}", "5", **options)
    assert (outcome.verdict, outcome.score) == (Verdict.BAD_TASK, None)
    assert next(iter(options)) in outcome.reason


def test_any_gold_will_do() -> None:
    assert judged("4", "3", "4") is RIGHT
    assert judged("5", "3", "4") is WRONG
    assert judged("4", "", "4") is RIGHT


def test_a_gold_that_is_not_read_pays_for_the_same_text_and_decides_nothing_else() -> None:
    gold = "\\frac{1}{"
    assert judged("\\frac{1}{", gold) is RIGHT
    assert judged(" \\frac {1}{ ", gold) is RIGHT
    assert judged("5", gold) is Verdict.UNDECIDED
    assert judged("5", gold, "5") is RIGHT


def test_a_sentence_as_gold_does_not_reject_another_sentence() -> None:
    gold = "the short run average cost equals the long run average cost"
    assert judged("short run average cost equals the long run average cost", gold) is RIGHT
    assert judged("both average costs are the same in this case", gold) is Verdict.UNDECIDED


def test_a_gold_may_be_a_whole_solution() -> None:
    assert judged("9", "Squaring gives \\boxed{9}.") is RIGHT
    assert judged("7", "He has 3 and gets 4.\n#### 7") is RIGHT
    assert judged("1,2", "$\\boxed{1}$ and $\\boxed{2}$") is RIGHT
    assert judged("2", "$\\boxed{1}$ and $\\boxed{2}$") is WRONG
