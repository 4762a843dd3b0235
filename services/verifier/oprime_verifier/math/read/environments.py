"""Environments: matrices, functions by cases, systems, and lines that are aligned."""

from typing import TYPE_CHECKING

from oprime_verifier.math.read import words
from oprime_verifier.math.read.tokens import Token
from oprime_verifier.math.tree import matrices
from oprime_verifier.math.tree.values import (
    EXPRESSIONS,
    Branch,
    Expr,
    Items,
    Matrix,
    Piecewise,
    Relation,
    TooLargeError,
    UnreadableError,
    Value,
)

if TYPE_CHECKING:
    from oprime_verifier.math.read.parser import Parser

MAX_BRANCHES = 24
_MATRICES = ("matrix", "pmatrix", "bmatrix", "array", "smallmatrix", "Bmatrix")
_ALIGNED = words.names("aligned align align* gathered gather gather* split eqnarray eqnarray*")
_CASES = ("cases", "dcases", "rcases")
_CONDITIONS = words.names("if for when where whenever provided on")
_OTHERWISE = words.names("otherwise else elsewhere")


def environment(parser: "Parser") -> Value:
    name = parser.raw_group()
    if name == "array" and parser.is_next("mark", "{"):
        columns = parser.raw_group()
        has_relation = any(token.text in words.RELATIONS for token in parser.tokens[parser.place :])
        name = "cases" if has_relation and set(columns) <= set("lcr|@ ") else name
    if name in _CASES:
        return _cases(parser)
    if name in _ALIGNED:
        return _aligned(parser)
    if name not in (*_MATRICES, "vmatrix"):
        raise UnreadableError(f"the environment {name} is not read")
    rows = _rows(parser)
    if parser.raw_group() != name:
        raise UnreadableError(f"\\begin{{{name}}} ends as something else")
    matrix = Matrix(rows)
    return matrices.determinant(matrix) if name == "vmatrix" else matrix


# Cases


def _cases(parser: "Parser") -> Value:
    """Equations one above the other, or a function with a condition for each of its values."""
    branches = list[Branch]()
    rest = parser.tokens[parser.place :]
    parser.tokens[parser.place :] = [token for place, token in enumerate(rest) if not _is_last_mark(rest, place)]
    while not parser.accept("name", "end"):
        branches.append(_branch(parser))
        if len(branches) > MAX_BRANCHES:
            raise TooLargeError(f"a function has more than {MAX_BRANCHES} cases")
        parser.accept("mark", ",", ";", ".")
        parser.accept("name", "\\")
    parser.raw_group()
    if branches and all(branch.condition is None and isinstance(branch.value, Relation) for branch in branches):
        return Items(tuple(branch.value for branch in branches))
    if len(branches) < 2 or any(branch.condition is None for branch in branches[:-1]):
        raise UnreadableError("cases are equations, or values with a condition each")
    return Piecewise(tuple(branches))


def _is_last_mark(tokens: list[Token], place: int) -> bool:
    """Whether it is a comma or stop at the end of a line."""
    if tokens[place].kind != "mark" or tokens[place].text not in (",", ";", ".") or place + 1 == len(tokens):
        return False
    follows = tokens[place + 1]
    return follows.kind == "name" and follows.text in ("\\", "end")


def _branch(parser: "Parser") -> Branch:
    value = parser.relation()
    parser.accept("mark", ",", ";")
    has_condition = parser.accept("mark", "&")
    has_condition = _accept_words(parser, _CONDITIONS) or has_condition
    if _accept_words(parser, _OTHERWISE) or not has_condition:
        return Branch(value, None)
    condition = parser.items()
    return Branch(value, condition)


def _accept_words(parser: "Parser", wanted: frozenset[str]) -> bool:
    token = parser.peek()
    if token.kind != "word" or token.text.lower().split()[0].strip(",.") not in wanted:
        return False
    parser.take()
    return True


# Lines


def _aligned(parser: "Parser") -> Value:
    """One equation below the other; a line that begins with a sign goes on with the one above it."""
    _unaligned(parser)
    found = list[Value]()
    while not parser.accept("name", "end"):
        line = parser.relation()
        found.append(line)
        parser.accept("mark", ",", ";", ".")
        parser.accept("name", "\\")
    parser.raw_group()
    if not found:
        raise UnreadableError("an environment without lines")
    return found[0] if len(found) == 1 else Items(tuple(found))


def _unaligned(parser: "Parser") -> None:
    """Drop the marks of alignment, and the ends of lines before a sign, up to the end of the environment that begins here."""
    end = next((place for place in range(parser.place, len(parser.tokens)) if parser.tokens[place].text == "end"), len(parser.tokens))
    kept = [token for token in parser.tokens[parser.place : end] if token.text != "&"]
    joined = [
        token
        for place, token in enumerate(kept)
        if not (token.text == "\\" and token.kind == "name" and place + 1 < len(kept) and kept[place + 1].text in words.RELATIONS)
    ]
    parser.tokens[parser.place : end] = joined


# Matrices


def _rows(parser: "Parser") -> tuple[tuple[Expr, ...], ...]:
    rows, row = list[tuple[Expr, ...]](), list[Expr]()
    while not parser.accept("name", "end"):
        entry = parser.sum()
        if not isinstance(entry, EXPRESSIONS):
            raise UnreadableError("a matrix holds expressions")
        row.append(entry)
        if parser.peek().text == "&":
            parser.take()
            continue
        rows.append(tuple(row))
        row = []
        parser.accept("name", "\\")
    if not rows or len({len(found) for found in rows}) != 1:
        raise UnreadableError("the rows of a matrix have one length")
    return tuple(rows)
