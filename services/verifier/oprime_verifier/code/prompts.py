"""Prompts of data sets that are source: imports, helpers, and a signature to complete."""

import ast
import warnings

_BODIES = ("", "\n    pass\n", "\n        pass\n")


def runnable(prompt: str) -> str:
    """The prompt as source that runs: one that ends with a signature gets a body. Empty where it is prose."""
    for body in _BODIES:
        source = (prompt.rstrip() + body) if body else prompt
        tree = parsed(source)
        if tree is not None:
            # A word or two of prose may be Python by chance.
            return source if any(isinstance(statement, _DEFINITIONS) for statement in tree.body) else ""
    return ""


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


def parsed(source: str) -> ast.Module | None:
    """Of trusted source alone: model code is parsed in the sandbox."""
    try:
        return parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def parse(source: str) -> ast.Module:
    """Without a word on the escapes in old test sources. Raises what `ast.parse` raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)
