"""The action-centric chain of thought: a response is a sequence of named actions, each a few steps, and the last one is the answer.

    [ASSESS]

    # What is given and what is asked
    ...

    Next action: [ADVANCE]

Prompts that ask for this form, a long one to make demonstrations with and a short one for training and evaluation, and a parser that
says which actions a response took and whether it keeps the form. The actions are those of the paper (arXiv 2502.01456, appendix D); the
words are oprime's.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

ACTIONS: dict[str, str] = {
    "ASSESS": "Look at where things stand: what is given, what is asked, what is known so far, and which ways forward there are.",
    "ADVANCE": "Take the next concrete steps along the way that was chosen: compute, derive or write what brings the answer nearer.",
    "VERIFY": "Test what has been done: recompute it another way, try a special case, look for slips in logic and arithmetic.",
    "SIMPLIFY": "Break something hard into smaller parts, or write it in an easier form without losing what matters.",
    "SYNTHESIZE": "Put partial results together into one whole, and say what follows from them.",
    "PIVOT": "Give up a way that does not lead on: say why it fails, and choose another.",
    "OUTPUT": "Write the final response, complete in itself.",
}
"""What each action is for, in the order in which prompts list them. The last one ends a response."""

LAST = "OUTPUT"

_OPENING = (
    "You solve difficult reasoning tasks as a sequence of actions. The following actions are at your disposal; use each as often as the "
    "task needs it."
)
_LAYOUT = """You should strictly follow the format below:

[ACTION NAME]

# First step of the action

# Second step of the action

# Third step of the action

...

Next action: [NAME OF THE NEXT ACTION]"""
_RULES = f"""Rules:

- After each action, decide which one serves the task best now and name it, as the format shows. No order is prescribed, and an action \
may come back.
- An action consists of steps. Every step begins with a line that starts with `#`; explain on the lines below it what you do and why.
- End every action with the line `Next action: [NAME]`, except [{LAST}], which ends the response.
- Choose [{LAST}] when you are sure of the result. Nobody sees what stands before it, so it must hold all that was asked for: the whole \
solution with its answer, or the whole program, in the form that the task asks for."""
_BEGIN = "Now, begin with the [ASSESS] action for the following task:"


def short_prompt() -> str:
    """The system turn of training and evaluation: the actions' names and the form."""
    return "\n\n".join([_OPENING, *(f"[{name}]" for name in ACTIONS), _LAYOUT])


def long_prompt() -> str:
    """The system turn for making demonstrations with a model that does not know the form: what each action is for, rules, and the form."""
    listed = "\n".join(f"- [{name}]: {meaning}" for name, meaning in ACTIONS.items())
    return "\n\n".join([_OPENING, f"Actions:\n\n{listed}", _RULES, _LAYOUT, _BEGIN])


class FormFault(StrEnum):
    """How a response may break the form."""

    NO_ACTION = "no action"
    TEXT_BEFORE = "text before the first action"
    NO_STEP = "an action without a step"
    TEXT_BEFORE_STEP = "an action that does not begin with a step"
    NO_NEXT = "an action that names no next one"
    UNKNOWN_NEXT = "a next action that does not exist"
    OTHER_NEXT = "a next action that does not follow"
    EMPTY_OUTPUT = "an empty output"
    NO_OUTPUT = "no output at the end"
    AFTER_OUTPUT = "something after the output"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionTrace:
    """What a response did."""

    actions: tuple[str, ...]
    """Names in the order in which they were taken."""
    steps: tuple[int, ...]
    """How many each action has; none are counted in OUTPUT."""
    faults: tuple[FormFault, ...]
    """Each at most once, in the order of FormFault."""
    output: str
    """What stands under the last action if that is OUTPUT; else empty."""

    @property
    def keeps_form(self) -> bool:
        return not self.faults


def trace_actions(response: str) -> ActionTrace:
    """The actions of a response and where it breaks the form.

    An action begins with a line that is its name in brackets; other words in brackets, such as the area [ABC], are text. OUTPUT needs no
    steps: it may be a program.
    """
    before, parts = _parts(response)
    found: set[FormFault] = set()
    if not parts:
        found.add(FormFault.NO_ACTION)
    elif before:
        found.add(FormFault.TEXT_BEFORE)
    for place, (name, body) in enumerate(parts):
        after = parts[place + 1][0] if place + 1 < len(parts) else None
        found |= _output_faults(body, after) if name == LAST else _faults(body, after)
    if parts and parts[-1][0] != LAST:
        found.add(FormFault.NO_OUTPUT)
    return ActionTrace(
        actions=tuple(name for name, _ in parts),
        steps=tuple(0 if name == LAST else sum(map(_is_step, body.splitlines())) for name, body in parts),
        faults=tuple(fault for fault in FormFault if fault in found),
        output=parts[-1][1] if parts and parts[-1][0] == LAST else "",
    )


_HEADER = re.compile(rf"^[ \t]*\[({'|'.join(ACTIONS)})\][ \t]*$", re.MULTILINE)
_NEXT = re.compile(r"^[ \t]*Next action:[ \t]*\[([^\[\]\n]*)\][ \t.]*$", re.MULTILINE)


def _parts(response: str) -> tuple[str, list[tuple[str, str]]]:
    """What stands before the first action, and each action's name and text."""
    before, *rest = _HEADER.split(response.replace("\r\n", "\n"))
    return before.strip(), [(name, body.strip()) for name, body in zip(rest[::2], rest[1::2], strict=True)]


def _is_step(line: str) -> bool:
    return line.lstrip().startswith("#")


def _faults(body: str, after: str | None) -> set[FormFault]:
    """Of an action that `after` follows; None where the response ends with it."""
    found: set[FormFault] = set()
    named = list(_NEXT.finditer(body))
    text = body[: named[-1].start()].strip() if named else body
    if not any(map(_is_step, text.splitlines())):
        found.add(FormFault.NO_STEP)
    elif not _is_step(text):
        found.add(FormFault.TEXT_BEFORE_STEP)
    if not named or body[named[-1].end() :].strip():
        found.add(FormFault.NO_NEXT)
    elif named[-1][1] not in ACTIONS:
        found.add(FormFault.UNKNOWN_NEXT)
    elif len(named) > 1 or (after is not None and named[-1][1] != after):
        found.add(FormFault.OTHER_NEXT)
    return found


def _output_faults(body: str, after: str | None) -> set[FormFault]:
    found = {FormFault.AFTER_OUTPUT} if after is not None or _NEXT.search(body) else set[FormFault]()
    return found if body else found | {FormFault.EMPTY_OUTPUT}
