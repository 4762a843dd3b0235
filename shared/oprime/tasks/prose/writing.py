"""How a solution of the prose task is written: as named actions (`oprime.tasks.actions`), in blocks that an empty line separates.

[ASSESS]

# Ana has 12

Next action: [ADVANCE]

[ADVANCE]

# Ben has 12 + 5 = 17

Next action: [OUTPUT]

[OUTPUT]

\\boxed{17}
"""

from oprime.tasks.prose.problem import Solution

SEPARATOR = "\n\n"
"""Between two blocks, which are the steps that process rewards are judged by."""


def written(solution: Solution) -> str:
    """The response that says this solution."""
    return SEPARATOR.join(
        [
            "[ASSESS]",
            f"# {solution.given}",
            "Next action: [ADVANCE]",
            "[ADVANCE]",
            *(f"# {step}" for step in solution.steps),
            "Next action: [OUTPUT]",
            "[OUTPUT]",
            solution.output,
        ]
    )


def blocks(response: str) -> list[str]:
    return response.split(SEPARATOR)


def first_wrong_block(response: str, right: str) -> int | None:
    """Index of the first block that differs from the right response; None when there is none.

    A block that is missing counts at the place where it should be, one too many at its own place.
    """
    found, expected = blocks(response), blocks(right)
    for place, (block, right_block) in enumerate(zip(found, expected, strict=False)):
        if block.strip() != right_block.strip():
            return place
    return None if len(found) == len(expected) else min(len(found), len(expected))
