"""Texts of verifiers on their way to people, logs and messages, which take only what has a UTF-8 form."""

from dataclasses import replace

from oprime.core.verification import Outcome

MAX_SHOWN_CHARS = 1000
MAX_NAME_CHARS = 100
MAX_FLAGS = 64


def printable(text: str, most: int = MAX_SHOWN_CHARS) -> str:
    """At most so many characters; half a character (a lone surrogate) is written as its escape."""
    return text[:most].encode("utf-8", "backslashreplace").decode()


def shown(outcome: Outcome) -> Outcome:
    """The same judgement with texts that every log and message can hold."""
    return replace(
        outcome,
        reason=printable(outcome.reason),
        answer=printable(outcome.answer),
        flags=tuple(printable(flag, MAX_NAME_CHARS) for flag in outcome.flags[:MAX_FLAGS]),
        components={printable(name, MAX_NAME_CHARS): value for name, value in outcome.components.items()},
        timings={printable(name, MAX_NAME_CHARS): value for name, value in outcome.timings.items()},
    )
