"""Prompts that ask for actions, and what a response did."""

import pytest

from oprime.tasks.actions import ACTIONS, FormFault, long_prompt, short_prompt, trace_actions

WELL_FORMED = r"""[ASSESS]

# Two numbers are given
Their sum is asked for.

# One addition is enough

Next action: [ADVANCE]

[ADVANCE]

# Add
2 + 2 = 4, and the area
[ABC]
has nothing to do with it.

Next action: [OUTPUT]

[OUTPUT]

The sum is \boxed{4}.
"""


def test_names_actions_and_steps_of_a_response_that_keeps_the_form() -> None:
    trace = trace_actions(WELL_FORMED)

    assert trace.actions == ("ASSESS", "ADVANCE", "OUTPUT")
    assert trace.steps == (2, 1, 0)
    assert trace.output == r"The sum is \boxed{4}."
    assert trace.faults == ()
    assert trace.keeps_form


def test_a_program_is_an_output_and_line_ends_of_other_systems_are_line_ends() -> None:
    program = WELL_FORMED.replace(r"The sum is \boxed{4}.", "```python\n# reads nothing\nprint([4][0])\n```").replace("\n", "\r\n")

    trace = trace_actions(program)

    assert trace.keeps_form
    assert trace.output.startswith("```python\n# reads")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("[ASSESS]\n", "Let me think.\n\n[ASSESS]\n"), FormFault.TEXT_BEFORE),
        (("# Add\n", ""), FormFault.NO_STEP),
        (("# Add\n", "So we add.\n# Add\n"), FormFault.TEXT_BEFORE_STEP),
        (("Next action: [ADVANCE]\n", ""), FormFault.NO_NEXT),
        (("Next action: [ADVANCE]\n", "Next action: [ADVANCE]\nThis is the best.\n"), FormFault.NO_NEXT),
        (("Next action: [ADVANCE]", "Next action: [COMPUTE]"), FormFault.UNKNOWN_NEXT),
        (("Next action: [ADVANCE]", "Next action: [PIVOT]"), FormFault.OTHER_NEXT),
        (("Next action: [ADVANCE]\n\n[ADVANCE]\n", "Next action: [ADVANCE]\n"), FormFault.OTHER_NEXT),
        ((r"The sum is \boxed{4}.", ""), FormFault.EMPTY_OUTPUT),
        (("[OUTPUT]\n\nThe", "The"), FormFault.NO_OUTPUT),
        ((r"\boxed{4}.", "\\boxed{4}.\n\nNext action: [VERIFY]"), FormFault.AFTER_OUTPUT),
        ((r"\boxed{4}.", "\\boxed{4}.\n\n[OUTPUT]\n\nOnce more: 4"), FormFault.AFTER_OUTPUT),
    ],
)
def test_says_how_a_response_breaks_the_form(change: tuple[str, str], fault: FormFault) -> None:
    broken = WELL_FORMED.replace(*change)
    assert broken != WELL_FORMED

    assert fault in trace_actions(broken).faults


def test_a_response_without_actions_has_none() -> None:
    for response in ("", "The answer is 4.", "[ABC] = 4"):
        trace = trace_actions(response)
        assert (trace.actions, trace.faults, trace.output) == ((), (FormFault.NO_ACTION,), "")


def test_a_response_that_was_cut_off_has_the_actions_that_it_took() -> None:
    trace = trace_actions(WELL_FORMED[: WELL_FORMED.index("Next action: [OUTPUT]")])

    assert trace.actions == ("ASSESS", "ADVANCE")
    assert trace.faults == (FormFault.NO_NEXT, FormFault.NO_OUTPUT)


def test_both_prompts_name_all_actions_and_the_form_and_the_long_one_says_what_they_are_for() -> None:
    for prompt in (short_prompt(), long_prompt()):
        assert all(f"[{name}]" in prompt for name in ACTIONS)
        assert "\n# " in prompt
        assert "Next action: [" in prompt
    assert all(meaning in long_prompt() for meaning in ACTIONS.values())
    assert len(short_prompt()) < len(long_prompt()) / 3
