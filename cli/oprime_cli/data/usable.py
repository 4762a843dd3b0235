"""Whether a run could use a question: the checks of a run's own task rows, and of the verifier's own reader of tests."""

from oprime.core.types import ChatMessage, Task
from oprime.tasks.rows import BadRowError, RawRow, require_usable_task
from oprime.tasks.sources.question import Question


def require_usable(row: RawRow, question: Question) -> Question:
    """The question as it is. Raises BadRowError with file, row, field, rule and remedy."""
    from oprime_verifier.code.formats import parse_tests
    from oprime_verifier.code.suite import BadTaskError

    if not question.ground_truth:
        raise BadRowError(row, "answer", "no answer", "a row needs an answer or tests, and this has none; remove it or add one")
    require_usable_task(row, task_of(question))
    if question.ability == "code":
        try:
            parse_tests(question.ground_truth)
        except BadTaskError as error:
            raise BadRowError(row, "tests", "unusable tests", f"{error}; correct or remove the row") from error
    return question


def task_of(question: Question, *, system: str = "", suffix: str = "") -> Task:
    """The question as a run would pose it."""
    turns = [ChatMessage(role="system", content=system)] if system else []
    return Task(
        messages=(*turns, ChatMessage(role="user", content=question.text + suffix)),
        verifier=question.ability,
        ground_truth=question.ground_truth,
        data_source=question.data_source,
        verifier_options=question.verifier_options,
    )
