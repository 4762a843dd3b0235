"""Types, shapes and axes of what enters the core are checked where it enters: in the product too, not only in tests.

Loads neither torch nor beartype before the first call. JAXTYPING_DISABLE=1 leaves the checks out.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import jaxtyping

Checked = TypeVar("Checked", bound=Callable[..., Any])


def checked(function: Checked) -> Checked:
    """Check arguments and result of `function` against its annotations, or what a dataclass is made of.

    An axis that is named twice must be equally long. Raises `jaxtyping.TypeCheckError` with the argument and its shape.
    """
    if isinstance(function, type):
        record = cast("Any", function)
        record.__init__ = _checked_calls(record.__init__)
        return record
    return _checked_calls(function)


def _checked_calls(function: Any) -> Any:
    made: list[Callable[..., Any]] = []

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if not made:
            from beartype import beartype

            made.append(cast("Any", jaxtyping).jaxtyped(function, typechecker=beartype))
        return made[0](*arguments, **options)

    return call
