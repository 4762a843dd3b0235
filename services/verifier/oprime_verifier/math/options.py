"""Options of the math verifier: the policies on which graders differ, with defaults that never pay for a wrong answer."""

from typing import Literal

from pydantic import Field

from oprime.runtime.settings import Section


class MathOptions(Section):
    bare: bool = False
    """The response is the bare answer: no box and no marker is looked for."""
    boxes: Literal["last", "same"] = "last"
    """Several boxes: the last one counts, or they must all say the same (`same`)."""
    unmarked: Literal["conclusion", "none"] = "conclusion"
    """Without a box or a marker such as `####`: read the response if it is nothing but an answer or ends in one set apart as
    mathematics (`conclusion`), or pay nothing (`none`). A number inside prose is never picked up."""
    reasoning_tags: tuple[str, ...] = ("think", "thinking", "reasoning")
    """Tags around reasoning. What stands inside is not graded, and reasoning that does not end earns nothing."""
    answer_tags: tuple[str, ...] = ("answer",)
    """Tags around the answer, as in `<answer>5</answer>`. Where a response has them, the last pair alone is graded."""
    answer_heading: bool = True
    """Without a box or `####`: what follows a line `**Final Answer**` is the answer."""
    starts_in_reasoning: bool = False
    """The prompt has opened the reasoning already, so the response must close it."""
    decimal_digits: int = Field(default=12, ge=2, le=100)
    """Significant digits to which a decimal must agree with an exact value that no finite decimal equals."""
    relative_tolerance: float = Field(default=0.0, ge=0, lt=1)
    """Accepted difference between numbers, relative to the gold. 0 compares exactly."""
    absolute_tolerance: float = Field(default=0.0, ge=0)
    """Accepted difference between numbers. 0 compares exactly."""
    percent_bare: bool = True
    """Accept 50 for 50%, and 50% for a gold of 50 (not for a gold of 1 or less, where it would be a factor of 100)."""
    unit_optional: bool = True
    """Accept an answer without the gold's unit, and one with a unit where the gold has none."""
    unit_conversion: bool = True
    """Accept 120 minutes for 2 hours."""
    degrees_radians: bool = True
    """Accept pi/2 for 90 degrees."""
    base_optional: bool = True
    """Accept 1010 for 1010 in base 2."""
    list_order: Literal["free", "kept"] = "free"
    """Whether the order of a bare list counts. Brackets always keep the order; braces never do."""
    inequality_for_interval: bool = True
    """Accept a solved inequality for an interval, and an interval for a solved inequality."""
    strict_form: bool = False
    """Demand a value in the gold's own form: not 2/4 for 1/2, nor 3+4 for 7. Spacing and notation do not count."""
    symbolic_deadline_s: float = Field(default=1.0, gt=0, le=30)
    """Seconds for one proof in the symbolic process, which is killed when they are over."""

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__.values()))
