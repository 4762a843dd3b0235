"""How rewritten test source calls what checks it: by constants, for which functions are put in once it is compiled.

No name leads to those functions, so model code cannot put others in their place.
"""

import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any

CHECK = "\0oprime check"
"""`(number, *values)`: ends like an assert."""
ATOM = "\0oprime atom"
"""`(number, *values)`: whether a comparison inside of an assert holds."""
GUARD = "\0oprime guard"
"""`(thunk)`: its value; a StopIteration becomes a RuntimeError, as in a generator."""
GUARDED = "\0oprime guarded"
"""`(function)`: the same for every call of a function."""


def compiled(source: str, functions: Mapping[str, Callable[..., Any]]) -> types.CodeType:
    """Raises what `compile` raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _bound(compile(source, "tests.py", "exec", dont_inherit=True), functions)


def _bound(code: types.CodeType, functions: Mapping[str, Callable[..., Any]]) -> types.CodeType:
    constants = tuple(
        _bound(constant, functions)
        if isinstance(constant, types.CodeType)
        else functions.get(constant, constant)
        if type(constant) is str
        else constant
        for constant in code.co_consts
    )
    return code.replace(co_consts=constants)
