"""Whether an answer equals a gold: one rule for each pair of kinds."""

from collections.abc import Callable
from fractions import Fraction
from itertools import product

from oprime_verifier.math.decide.quantities import same_quantities
from oprime_verifier.math.decide.relations import is_name, named_value, same_relations, split_name
from oprime_verifier.math.decide.scalar import Prove, Scalars
from oprime_verifier.math.decide.sets import same_sets
from oprime_verifier.math.decide.signs import with_signs_listed
from oprime_verifier.math.decide.verdicts import Same, either, every, is_true, matched
from oprime_verifier.math.options import MathOptions
from oprime_verifier.math.tree.build import mapped
from oprime_verifier.math.tree.values import (
    EXPRESSIONS,
    INFINITY,
    Bracketed,
    Call,
    Choice,
    Expr,
    Items,
    Matrix,
    Mul,
    NamedSet,
    Num,
    Pow,
    Quantity,
    Ratio,
    Relation,
    SetExpr,
    SetOf,
    Sym,
    Value,
    Words,
    symbols,
    walk,
)

MAX_ITEMS = 128
MAX_PROSE_WORDS = 6
_CLOCK_MINUTES = 2

_ONE = Fraction(1)


class Comparison:
    def __init__(self, options: MathOptions, prove: Prove) -> None:
        self.options = options
        self.scalars = Scalars(options, prove)

    def same(self, gold: Value, answer: Value) -> Same:
        """Proven equal, proven different, or unknown."""
        gold, answer = with_signs_listed(gold), with_signs_listed(answer)
        if gold == answer:
            return Same.YES
        for rule in (self._choices, self._words, self._relations, self._lists, self._matrices, self._sets, self._ratios):
            found = rule(gold, answer)
            if found is not None:
                return found
        return self._numbers(gold, answer)

    # Letters and words

    def _choices(self, gold: Value, answer: Value) -> Same | None:
        if isinstance(gold, Choice):
            return self._choice(gold, answer)
        if not isinstance(answer, Choice):
            return None
        if gold == Sym(answer.letter):
            return Same.YES
        return Same.NO if answer.rest is None else self.same(gold, answer.rest)

    def _choice(self, gold: Choice, answer: Value) -> Same:
        if isinstance(answer, Sym):
            return is_true(answer.name == gold.letter)
        if isinstance(answer, Relation):
            return either(self._choice(gold, value) for value in named_value(answer, self.scalars))
        if not isinstance(answer, Choice):
            return Same.NO if gold.rest is None else self.same(gold.rest, answer)
        if answer.letter.upper() != gold.letter.upper():
            return Same.NO
        if gold.rest is not None and answer.rest is not None:
            return self.same(gold.rest, answer.rest)
        return Same.YES

    def _words(self, gold: Value, answer: Value) -> Same | None:
        if not isinstance(gold, Words) and not isinstance(answer, Words):
            return None
        if {type(gold), type(answer)} == {Words, NamedSet}:
            text = next(side.text for side in (gold, answer) if isinstance(side, Words))
            return is_true(NamedSet("empty") in (gold, answer) and text in ("empty set", "the empty set"))
        if not (isinstance(gold, Words) and isinstance(answer, Words)):
            return Same.NO
        if _bare(gold.text) == _bare(answer.text):
            return Same.YES
        return Same.UNKNOWN if len(gold.text.split()) > MAX_PROSE_WORDS else Same.NO

    # Equations and inequalities

    def _relations(self, gold: Value, answer: Value) -> Same | None:
        if isinstance(gold, Relation) and isinstance(answer, Relation):
            return self._two_relations(gold, answer)
        if isinstance(answer, Relation) and not isinstance(gold, Items):
            return self._against_value(gold, answer, lambda value: self.same(gold, value))
        if isinstance(gold, Relation) and not isinstance(answer, Items):
            return self._against_value(answer, gold, lambda value: self.same(value, answer))
        return None

    def _against_value(self, other: Value, relation: Relation, same: Callable[[Value], Same]) -> Same | None:
        """A relation beside a value: x = 5 claims 5, and x > 2 is an interval."""
        values = named_value(relation, self.scalars)
        if values:
            return either(same(value) for value in values)
        if set(relation.operators) <= {"=", "~"}:
            return Same.NO
        return None if self.options.inequality_for_interval and _is_set(other) else Same.NO

    def _two_relations(self, gold: Relation, answer: Relation) -> Same | None:
        if set(gold.operators) <= {"=", "~", "in"} and set(answer.operators) <= {"=", "~", "in"}:
            named = self._two_names(gold, answer)
            return same_relations(gold, answer, self.scalars) if named is None else named
        found = same_relations(gold, answer, self.scalars)
        if found is Same.YES or symbols(gold) != symbols(answer):
            return found
        sets = same_sets(gold, answer, self.scalars.same)
        return found if sets is None else sets

    def _two_names(self, gold: Relation, answer: Relation) -> Same | None:
        """y = 2x and f(x) = 2x name one function; x = 5 and y = 5 say different things. None where they must be compared whole."""
        (name, *_), (other, *_) = split_name(gold), split_name(answer)
        if name is None or other is None or not (name == other or _names_functions(name, other)):
            return None
        expected, found = named_value(gold, self.scalars), named_value(answer, self.scalars)
        if not expected or not found:
            return None
        if isinstance(name, Call) and isinstance(other, Call) and name.args != other.args:
            found = tuple(_renamed(value, other, name) for value in found)
        return either(self.same(*pair) for pair in product(expected, found))

    # Lists, tuples, sets

    def _lists(self, gold: Value, answer: Value) -> Same | None:
        if self._are_conditions(gold, answer):
            return None
        if isinstance(gold, Bracketed) and isinstance(answer, Bracketed):
            return self._two_tuples(gold, answer)
        if isinstance(gold, Bracketed) and isinstance(answer, Items):
            return self._list_for_tuple(gold, answer, in_order=self.same)
        if isinstance(gold, Items) and isinstance(answer, Bracketed):
            return self._list_for_tuple(answer, gold, in_order=lambda one, other: self.same(other, one))
        return self._unordered(gold, answer)

    def _two_tuples(self, gold: Bracketed, answer: Bracketed) -> Same | None:
        if len(gold.items) != len(answer.items):
            return Same.NO
        alike = (gold.opening, gold.closing) == (answer.opening, answer.closing)
        if not alike and len(gold.items) == 2 and "<" not in (gold.opening, answer.opening):
            # An end at infinity is open, whatever its bracket.
            return None if any(part == INFINITY for part in walk(gold)) else Same.NO
        return self._in_order(gold.items, answer.items)

    def _in_order(self, golds: tuple[Value, ...], answers: tuple[Value, ...]) -> Same:
        if len(golds) != len(answers):
            return Same.NO
        return every(self.same(*pair) for pair in zip(golds, answers, strict=True))

    def _list_for_tuple(self, ordered: Bracketed, bare: Items, in_order: Callable[[Value, Value], Same]) -> Same | None:
        """x = 1, y = 2 is the point (1, 2); so is the bare list in that order."""
        if (ordered.opening, ordered.closing) not in (("(", ")"), ("<", ">")) and len(ordered.items) == 2:
            return None if bare.joiner != "," else Same.NO
        values = _assigned(bare)
        if bare.joiner == "or" or len(values) != len(ordered.items):
            return Same.NO
        return every(in_order(*pair) for pair in zip(ordered.items, values, strict=True))

    def _unordered(self, gold: Value, answer: Value) -> Same | None:
        if not any(isinstance(side, Items | SetOf) for side in (gold, answer)):
            return None
        if isinstance(gold, SetExpr) or isinstance(answer, SetExpr):
            return None
        if {type(gold), type(answer)} == {SetOf, NamedSet}:
            # Braces around nothing are read as the empty set itself, so these hold something, and finitely much of it.
            return Same.NO
        golds, answers = self._elements(gold), self._elements(answer)
        if isinstance(gold, SetOf) or isinstance(answer, SetOf):
            golds, answers = self._distinct(golds), self._distinct(answers)
        if max(len(golds), len(answers)) > MAX_ITEMS:
            return self._many(golds, answers)
        if self.options.list_order == "kept" and isinstance(gold, Items) and isinstance(answer, Items):
            return self._in_order(tuple(golds), tuple(answers))
        return matched(golds, answers, self.same)

    def _are_conditions(self, gold: Value, answer: Value) -> bool:
        """x < 1 or x > 3 is one set, and no list of two answers."""
        return any(
            isinstance(side, Items) and side.joiner != "," and all(_is_condition(item) for item in side.items) for side in (gold, answer)
        )

    def _elements(self, value: Value) -> list[Value]:
        if isinstance(value, SetOf):
            return list(value.items)
        if not isinstance(value, Items):
            return [value]
        items = list(value.items)
        names = [split_name(item)[0] if isinstance(item, Relation) else None for item in items]
        # x = 1 or 2, and x = 1 or x = 2, list values; x = 1, y = 2 keeps its names.
        if names[0] is not None and len({name for name in names if name is not None}) == 1:
            return [part for item in items for part in self._named_or_self(item)]
        return items

    def _named_or_self(self, item: Value) -> tuple[Value, ...]:
        values = named_value(item, self.scalars)[:1] if isinstance(item, Relation) else ()
        return values or (item,)

    def _distinct(self, values: list[Value]) -> list[Value]:
        found: list[Value] = []
        for value in values[:MAX_ITEMS]:
            if not any(self.same(other, value) is Same.YES for other in found):
                found.append(value)
        return found + values[MAX_ITEMS:]

    def _many(self, golds: list[Value], answers: list[Value]) -> Same:
        if not all(isinstance(value, Num) for value in (*golds, *answers)):
            return Same.UNKNOWN if len(golds) == len(answers) else Same.NO
        values = [sorted(value.value for value in side if isinstance(value, Num)) for side in (golds, answers)]
        return is_true(values[0] == values[1])

    def _sets(self, gold: Value, answer: Value) -> Same | None:
        if not (_is_set(gold) or _is_set(answer)):
            return None
        found = same_sets(gold, answer, self.scalars.same)
        if found is not None:
            return found
        if isinstance(gold, SetExpr) and isinstance(answer, SetExpr) and gold.operator == answer.operator:
            return self._two_set_expressions(gold, answer)
        return Same.NO

    def _two_set_expressions(self, gold: SetExpr, answer: SetExpr) -> Same:
        straight = self._in_order(gold.parts, answer.parts)
        if straight is Same.YES or gold.operator == "minus":
            return straight
        return either((straight, self._in_order(gold.parts, answer.parts[::-1])))

    # Matrices, ratios, numbers

    def _matrices(self, gold: Value, answer: Value) -> Same | None:
        if isinstance(gold, Matrix) and isinstance(answer, Matrix):
            if [len(row) for row in gold.rows] != [len(row) for row in answer.rows]:
                return Same.NO
            pairs = ((one, other) for rows in zip(gold.rows, answer.rows, strict=True) for one, other in zip(*rows, strict=True))
            return every(self.scalars.same(*pair) for pair in pairs)
        for matrix, point in ((gold, answer), (answer, gold)):
            if isinstance(matrix, Matrix):
                return self._vector(matrix, point)
        return None

    def _vector(self, matrix: Matrix, point: Value) -> Same:
        """A column vector may be written as a point."""
        if not isinstance(point, Bracketed) or point.opening == "[" or len(matrix.rows[0]) != 1:
            return Same.NO
        return self._in_order(tuple(row[0] for row in matrix.rows), point.items)

    def _ratios(self, gold: Value, answer: Value) -> Same | None:
        if isinstance(gold, Ratio) and isinstance(answer, Ratio):
            if len(gold.parts) != len(answer.parts):
                return Same.NO
            if _is_clock(gold) or _is_clock(answer):
                return self._in_order(gold.parts, answer.parts)
            first, other = gold.parts[0], answer.parts[0]
            pairs = zip(gold.parts[1:], answer.parts[1:], strict=True)
            return every(self.scalars.same(_times(part, other), _times(found, first)) for part, found in pairs)
        for ratio, number in ((gold, answer), (answer, gold)):
            if isinstance(ratio, Ratio):
                fits = isinstance(number, EXPRESSIONS) and len(ratio.parts) == 2 and not _is_clock(ratio)
                return self.scalars.same(_over(ratio), number) if fits else Same.NO  # pyright: ignore[reportArgumentType]
        return None

    def _numbers(self, gold: Value, answer: Value) -> Same:
        if isinstance(gold, EXPRESSIONS) and isinstance(answer, EXPRESSIONS):
            return self._bases(gold, answer)
        if isinstance(gold, (*EXPRESSIONS, Quantity)) and isinstance(answer, (*EXPRESSIONS, Quantity)):
            return same_quantities(gold, answer, self.options, self.scalars.same)
        return Same.NO

    def _bases(self, gold: Expr, answer: Expr) -> Same:
        if self.options.base_optional and _has_digits_of(gold, answer):
            return Same.YES
        return self.scalars.same(gold, answer)


def _has_digits_of(gold: Expr, answer: Expr) -> bool:
    """Whether the answer is the gold's digits without their base."""
    if not (isinstance(gold, Num) and isinstance(answer, Num) and gold.based) or answer.based:
        return False
    return answer.value.denominator == 1 and str(answer.value) == gold.based


def _bare(text: str) -> str:
    return " ".join(word for word in text.replace("-", " ").split() if word not in ("the", "a", "an"))


def _is_set(value: Value) -> bool:
    if isinstance(value, Items):
        return all(_is_condition(item) for item in value.items)
    if isinstance(value, Bracketed):
        return len(value.items) == 2
    return isinstance(value, SetExpr | NamedSet | SetOf) or _is_condition(value)


def _is_condition(value: Value) -> bool:
    return isinstance(value, Relation) and not set(value.operators) <= {"=", "~"}


def _assigned(bare: Items) -> list[Value]:
    """The values of a list, by the order of their names where each has its own."""
    names = [split_name(item)[0] if isinstance(item, Relation) else None for item in bare.items]
    if any(name is None for name in names) or len(set(names)) != len(names):
        return list(bare.items)
    values = [split_name(item)[1][0] for item in bare.items if isinstance(item, Relation)]
    return [value for _, value in sorted(zip(map(str, names), values, strict=True), key=lambda pair: pair[0])]


def _names_functions(one: Value, other: Value) -> bool:
    """Whether two names may stand for one function: f(x), g(n), y."""
    return all((isinstance(name, Call) and is_name(name)) or name in (Sym("y"), Sym("f"), Sym("g"), Sym("h")) for name in (one, other))


def _renamed(value: Value, call: Call, like: Call) -> Value:
    if not isinstance(value, EXPRESSIONS) or len(call.args) != len(like.args):
        return value
    table = dict(zip(call.args, like.args, strict=True))
    return mapped(value, lambda part: table.get(part, part))


def _is_clock(ratio: Ratio) -> bool:
    """10:45 is a time, where 3:4 is a ratio."""
    written = ratio.written.split(":")
    return len(written) == 2 and all(part.isdigit() for part in written) and len(written[1]) == _CLOCK_MINUTES


def _times(one: Expr, other: Expr) -> Expr:
    return Mul((one, other))


def _over(ratio: Ratio) -> Expr:
    return Mul((ratio.parts[0], Pow(ratio.parts[1], Num(-_ONE))))
