"""Whose signature a user's function has: read from its parameters' names."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from oprime.core.verification import VerificationRequest
from oprime.runtime.errors import SettingsError

_MARKS: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"solution_strs"}), "verl_batch"),
    (frozenset({"solution_str"}), "verl"),
    (frozenset({"completions"}), "trl"),
    (frozenset({"queries", "labels"}), "openrlhf"),
    (frozenset({"queries", "prompts"}), "openrlhf"),
    (frozenset({"task_info", "action"}), "rllm"),
)
"""Parameters that only functions of this style have. First match wins."""

GOLD_NAMES = ("gold", "ground_truth", "solution", "answer", "label", "target", "reference", "expected", "expected_answer", "golds")
"""Usual names of the ground truth, where the style does not fix one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What a function can be given."""

    positional: tuple[str, ...]
    """Names that may be given by position, in order."""
    required: frozenset[str]
    names: frozenset[str]
    takes_any: bool
    """It has **kwargs."""
    annotations: Mapping[str, str]

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "Parameters":
        """Raises SettingsError for a function whose parameters cannot be read."""
        try:
            listed = list(inspect.signature(function).parameters.values())
        except (ValueError, TypeError) as error:
            raise SettingsError(f"its parameters cannot be read ({error}): wrap it in a function of your own") from error
        named = [one for one in listed if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
        return cls(
            positional=tuple(one.name for one in named if one.kind is not one.KEYWORD_ONLY),
            required=frozenset(one.name for one in named if one.default is one.empty),
            names=frozenset(one.name for one in named),
            takes_any=any(one.kind is one.VAR_KEYWORD for one in listed),
            annotations={one.name: _text(one.annotation) for one in named if one.annotation is not one.empty},
        )

    def accepted(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of `values` that may be given by name."""
        return {name: value for name, value in values.items() if self.takes_any or name in self.names}


def style_of(parameters: Parameters) -> str:
    """The style that the parameters' names show; `plain` where they show none."""
    if _wants_the_request(parameters):
        return "request"
    style = next((style for marks, style in _MARKS if marks <= parameters.names), "plain")
    return "trl_text" if style == "trl" and _reads_plain_text(parameters) else style


def _wants_the_request(parameters: Parameters) -> bool:
    alone = parameters.positional[:1]
    return bool(alone) and len(parameters.required) <= 1 and (
        alone == ("request",) or VerificationRequest.__name__ in parameters.annotations.get(alone[0], "")
    )  # fmt: skip


def _reads_plain_text(parameters: Parameters) -> bool:
    """TRL gives a list of strings or of chats, by the data set; only an annotation tells which one a function reads."""
    return parameters.annotations.get("completions", "").replace("List", "list") == "list[str]"


def _text(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation
    return annotation.__name__ if type(annotation) is type else str(annotation)
