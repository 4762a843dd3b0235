"""Verifiers by name: the built-in ones and plug-ins. Lives in worker processes; the service itself imports no plug-in."""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from numbers import Real
from typing import Any

from oprime.core.types import Outcome, OutcomeStatus
from oprime.runtime.errors import SettingsError, UnusableInputError
from oprime_verifier.exact_verifier import verify_chain, verify_exact
from oprime_verifier.math_verifier import verify_math

Verifier = Callable[[str, str], Any]
"""`(response, ground_truth)` to a score in [0, 1], a mapping with `score` (and `answer`, `reason`), or an Outcome."""

MAX_SHOWN_CHARS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    name: str
    verify: Verifier
    version: str
    description: str


def load_registry(plugins: Mapping[str, str]) -> "Registry":
    """The built-in verifiers and `plugins` (name -> "module:function"). Raises SettingsError for one that cannot be used."""
    entries = {entry.name: entry for entry in _built_in()}
    for name, target in plugins.items():
        if name in entries:
            raise SettingsError(f"verifier.plugins.{name}: the built-in verifier {name} has this name; choose another")
        entries[name] = _load_plugin(name, target)
    return Registry(entries)


def _built_in() -> tuple[Entry, ...]:
    oprime, math_verify = version("oprime"), version("math-verify")
    return (
        Entry(
            name="math",
            verify=verify_math,
            version=f"{oprime} (math-verify {math_verify})",
            description="Mathematical equality of the final answer.",
        ),
        Entry(
            name="exact",
            verify=verify_exact,
            version=oprime,
            description="Equality of the text after the last #, or of the whole response.",
        ),
        Entry(name="chain", verify=verify_chain, version=oprime, description="The last word must be #ANSWER (built-in chain task)."),
    )


def _load_plugin(name: str, target: str) -> Entry:
    setting = f"verifier.plugins.{name} = {target!r}"
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise SettingsError(f'{setting}: a plug-in is "module:function"')
    try:
        module = importlib.import_module(module_name)
        function = getattr(module, attribute)
    except Exception as error:
        # A plug-in's module is other people's code: whatever it raises, the operator must read it.
        problem = f"{type(error).__name__}: {error}"
        raise SettingsError(f"{setting} cannot be imported ({problem}): install it where the verifier runs, or correct the name") from error
    if not callable(function):
        raise SettingsError(f"{setting} is a {type(function).__name__}, not a function (response, ground_truth) -> score")
    description = (function.__doc__ or "").strip().partition("\n")[0]
    return Entry(name=name, verify=function, version=str(getattr(module, "__version__", "")), description=description or target)


class Registry:
    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = dict(entries)

    def judge(self, name: str, response: str, ground_truth: str) -> Outcome:
        """Judge one response. A verifier that raises or answers nonsense gives ERROR, never a score."""
        entry = self.entries.get(name)
        if entry is None:
            raise UnusableInputError(unknown_verifier(name, self.entries))
        try:
            outcome = to_outcome(entry.verify(response, ground_truth))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plug-in may raise anything; it must not end the worker
            outcome = Outcome(status=OutcomeStatus.ERROR, score=None, reason=f"verifier {name} raised {type(error).__name__}: {error}")
        return replace(outcome, verifier=name, reason=outcome.reason[:MAX_SHOWN_CHARS], answer=outcome.answer[:MAX_SHOWN_CHARS])


def unknown_verifier(name: str, known: Mapping[str, object]) -> str:
    return f"unknown verifier {name!r}: this service offers {', '.join(sorted(known))}; add others under [verifier.plugins]"


def to_outcome(result: object) -> Outcome:
    """What a verifier returned, as an Outcome; ERROR where it breaks the contract."""
    if isinstance(result, Outcome):
        return _checked(result)
    if isinstance(result, Mapping):
        if "score" not in result:
            return _broken(f"a mapping with the keys {sorted(map(str, result))}, without `score`")
        outcome = to_outcome(result["score"])
        return (
            outcome
            if outcome.score is None
            else replace(outcome, answer=str(result.get("answer", "")), reason=str(result.get("reason", "")))
        )
    if not isinstance(result, Real):
        close = getattr(result, "close", None)
        if callable(close):  # an async function's coroutine would warn that nobody awaited it
            close()
        return _broken(f"{_shown(result)}, a {type(result).__name__}")
    score = float(result)
    if not (math.isfinite(score) and 0 <= score <= 1):
        return _broken(f"the score {score}")
    return Outcome(status=OutcomeStatus.SCORED, score=score)


def _checked(outcome: Outcome) -> Outcome:
    if outcome.status is OutcomeStatus.ERROR:
        return replace(outcome, score=None)
    judged = to_outcome(outcome.score)
    return judged if judged.score is None else replace(outcome, score=judged.score)


def _broken(what: str) -> Outcome:
    rule = "a verifier returns a score in [0, 1], a mapping with `score`, or an Outcome"
    return Outcome(status=OutcomeStatus.ERROR, score=None, reason=f"the verifier returned {what}; {rule}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."
