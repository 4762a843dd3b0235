"""What stands between brackets, bars and braces, or in a matrix; and money, whose sign stands before it."""

from oprime_verifier.math import build, words
from oprime_verifier.math.cursor import CLOSING, Cursor
from oprime_verifier.math.tokens import Token
from oprime_verifier.math.units import CURRENCY_SIGNS, make_unit
from oprime_verifier.math.values import (
    EXPRESSIONS,
    Expr,
    Items,
    Matrix,
    Mul,
    NamedSet,
    Num,
    Quantity,
    Relation,
    SetOf,
    Sym,
    UnreadableError,
    Value,
    integer,
)

MONEY_SIGNS = {**{sign.lstrip("\\"): unit for sign, unit in CURRENCY_SIGNS.items()}, "pounds": "gbp", "euro": "euro", "yen": "yen"}
_BARS = ("|", "vert", "lvert", "rvert", "Vert", "lVert", "rVert")
_OPENING_BARS = ("|", "vert", "lvert")
_MATRICES = ("matrix", "pmatrix", "bmatrix", "array", "smallmatrix", "Bmatrix")


class Brackets(Cursor):
    def _braces(self) -> Value:
        self.expect("mark", "{")
        value = self.items()
        self.expect("mark", "}")
        return value

    def _mark(self, token: Token) -> Value:
        if token.text in ("(", "["):
            return self._closed(token.text)
        if token.text == "{":
            return self._group_of_braces()
        if token.text in _OPENING_BARS:
            return self._absolute()
        if token.text in MONEY_SIGNS:
            return self._money(token.text)
        raise UnreadableError(f"{token.text!r} is not expected there")

    def _group_of_braces(self) -> Value:
        """Braces around a factor. Digits beside such a group show as one number, and are no product."""
        self.place -= 1
        before = self.tokens[self.place - 1] if self.place else self.peek()
        value = self._braces()
        if isinstance(value, Num) and "number" in (before.kind, self.peek().kind):
            raise UnreadableError("digits stand inside and outside of braces")
        return value

    def _closed(self, opening: str) -> Value:
        outer, self.bars, self.in_set, in_set = self.bars, 0, False, self.in_set
        inner = self.items()
        closing = self.expect("mark", *CLOSING[opening]).text
        self.bars, self.in_set = outer, in_set
        items = inner.items if isinstance(inner, Items) and inner.joiner == "," else (inner,)
        return build.point(items, opening, closing)

    def _absolute(self) -> Value:
        self.bars += 1
        inner = self.sum()
        self.bars -= 1
        token = self.take()
        if token.text not in _BARS:
            raise UnreadableError("a bar is not closed")
        return build.call("abs", (inner,))

    def _money(self, sign: str) -> Value:
        negative = self.is_next("mark", "-")
        if negative:
            self.take()
        inner = build.negate(self.factor()) if negative else self.factor()
        if not isinstance(inner, EXPRESSIONS):
            raise UnreadableError("money is a number")
        value = Quantity(inner, make_unit(((MONEY_SIGNS[sign], 1),)))
        token = self.peek()
        first = token.text.split(" ")[0].lower() if token.kind == "word" else ""
        if first in words.MAGNITUDES:
            self.take()
            return Quantity(Mul((inner, integer(words.MAGNITUDES[first]))), value.unit)
        return value

    def _set(self) -> Value:
        if self.is_next("name", "}", "rbrace"):
            self.take()
            return NamedSet("empty")
        outer, self.in_set = self.in_set, True
        inner = self.items()
        self.in_set = outer
        if self.peek().text in ("|", ":", "mid", "vert", "colon"):
            self.take()
            condition = self.items()
            self.expect("name", "}", "rbrace")
            return _such_that(inner, condition)
        self.expect("name", "}", "rbrace")
        return SetOf(inner.items if isinstance(inner, Items) else (inner,))

    def _environment(self) -> Value:
        name = self.raw_group()
        if name == "array" and self.is_next("mark", "{"):
            columns = self.raw_group()
            name = "cases" if len(columns) == 1 and self._has_relation() else name
        if name == "cases":
            return self._system()
        if name not in (*_MATRICES, "vmatrix"):
            raise UnreadableError(f"the environment {name} is not read")
        rows = self._rows()
        if self.raw_group() != name:
            raise UnreadableError(f"\\begin{{{name}}} ends as something else")
        matrix = Matrix(rows)
        return build.determinant(matrix) if name == "vmatrix" else matrix

    def _has_relation(self) -> bool:
        return any(token.text in words.RELATIONS for token in self.tokens[self.place :])

    def _system(self) -> Value:
        """Equations one above the other."""
        found = list[Value]()
        while not self.is_next("name", "end"):
            found.append(self.relation())
            if self.is_next("mark", ","):
                self.take()
            if self.is_next("name", "\\"):
                self.take()
        self.take()
        self.raw_group()
        if not found or not all(isinstance(item, Relation) for item in found):
            raise UnreadableError("cases are read as equations alone")
        return Items(tuple(found))

    def _rows(self) -> tuple[tuple[Expr, ...], ...]:
        rows, row = list[tuple[Expr, ...]](), list[Expr]()
        while not self.is_next("name", "end"):
            entry = self.sum()
            if not isinstance(entry, EXPRESSIONS):
                raise UnreadableError("a matrix holds expressions")
            row.append(entry)
            if self.peek().text == "&":
                self.take()
                continue
            rows.append(tuple(row))
            row = []
            if self.is_next("name", "\\"):
                self.take()
        self.take()
        if not rows or len({len(found) for found in rows}) != 1:
            raise UnreadableError("the rows of a matrix have one length")
        return tuple(rows)


def _such_that(inner: Value, condition: Value) -> Value:
    """{x | x > 2} and {x in R : x > 2} are their condition."""
    if isinstance(inner, Relation) and inner.operators == ("in",) and inner.sides[1] == NamedSet("R"):
        inner = inner.sides[0]
    if isinstance(inner, Sym) and isinstance(condition, Relation | Items):
        return condition
    raise UnreadableError("this set is described in words that are not read")
