"""Whether an answer equals a gold: one rule for each pair of kinds."""

from collections.abc import Callable
from fractions import Fraction
from itertools import product

from oprime_verifier.math.decide.families import same_families
from oprime_verifier.math.decide.labels import Label, are_other_letters, is_one_name, label
from oprime_verifier.math.decide.piecewise import same_piecewise
from oprime_verifier.math.decide.quantities import same_quantities
from oprime_verifier.math.decide.relations import named_value, same_relations, split_name
from oprime_verifier.math.decide.scalar import Prove, Scalars
from oprime_verifier.math.decide.sets import same_sets
from oprime_verifier.math.decide.signs import with_signs_listed
from oprime_verifier.math.decide.vectors import in_components, in_one_font
from oprime_verifier.math.decide.verdicts import Same, either, every, is_true, matched
from oprime_verifier.math.options import MathOptions
from oprime_verifier.math.read import words
from oprime_verifier.math.read.counting import with_arrangements
from oprime_verifier.math.tree.build import replaced
from oprime_verifier.math.tree.values import (
    DOTS,
    EXPRESSIONS,
    INFINITY,
    Bracketed,
    Branch,
    Call,
    Choice,
    Expr,
    Family,
    Items,
    Matrix,
    Mul,
    NamedSet,
    Num,
    Piecewise,
    Pow,
    Quantity,
    Ratio,
    Relation,
    SetExpr,
    SetOf,
    Sym,
    Value,
    Words,
    free_symbols,
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
        self._rules: tuple[Callable[[Value, Value], Same | None], ...] = (
            self._choices,
            self._words,
            self._families,
            self._relations,
            self._piecewise,
            self._vectors,
            self._lists,
            self._matrices,
            self._sets,
            self._ratios,
        )

    def same(self, gold: Value, answer: Value) -> Same:
        """Proven equal, proven different, or unknown."""
        gold, answer = with_signs_listed(gold), with_signs_listed(answer)
        if gold == answer:
            return Same.YES
        for rule in self._rules:
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
            return is_true(NamedSet("empty") in (gold, answer) and text in words.NO_SOLUTION)
        if isinstance(gold, Words) and isinstance(answer, Words) and {gold.text, answer.text} <= words.NO_SOLUTION:
            return Same.YES
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
        if name is None or other is None:
            return None
        wanted, given = label(name), label(other)
        if are_other_letters(wanted, given):
            return Same.NO
        expected, found = named_value(gold, self.scalars), named_value(answer, self.scalars)
        if not is_one_name(wanted, given) or not expected or not found:
            return None
        if wanted.kind == given.kind == "function" and isinstance(wanted.of, Sym) and isinstance(given.of, Sym):
            if given.of != wanted.of and wanted.of.name in free_symbols(found[-1]):  # f(n) = x says something else than f(x) = x
                return Same.NO
            found = tuple(_renamed(value, given.of, wanted.of) for value in found)
        return either(self.same(*pair) for pair in product(expected, found))

    # Families, functions by cases, vectors

    def _families(self, gold: Value, answer: Value) -> Same | None:
        if isinstance(gold, Family) or isinstance(answer, Family):
            return same_families(gold, answer, self.scalars)
        return None

    def _piecewise(self, gold: Value, answer: Value) -> Same | None:
        if isinstance(gold, Piecewise) or isinstance(answer, Piecewise):
            return same_piecewise(gold, answer, self.scalars)
        return None

    def _vectors(self, gold: Value, answer: Value) -> Same | None:
        """2i - 3j is the point (2, -3)."""
        components = in_components(gold, answer)
        if components is not None:
            return self._in_order(*components)
        italics = in_one_font(gold, answer)
        return None if italics is None else self.same(*italics)

    # Lists, tuples, sets

    def _lists(self, gold: Value, answer: Value) -> Same | None:
        if self._are_conditions(gold, answer):
            return None
        gold, answer = _point_of(gold, answer), _point_of(answer, gold)
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
        if not any(isinstance(side, Items | SetOf) for side in (gold, answer)) or any(isinstance(side, SetExpr) for side in (gold, answer)):
            return None
        # Braces around nothing are read as the empty set itself, so these hold something, and finitely much of it.
        if {type(gold), type(answer)} == {SetOf, NamedSet} or not _may_share_labels(gold, answer):
            return Same.NO
        if isinstance(gold, Items) and isinstance(answer, Items):
            if _has_labels(gold) and not _labels(answer):
                return self._labelled(gold, answer, lambda values: self._in_order(values, answer.items))
            if _has_labels(answer) and not _labels(gold):
                return self._labelled(answer, gold, lambda values: self._in_order(gold.items, values))
            if _are_named(gold) and _are_named(answer):  # f(w) = x, f(x) = 2 - x: names are compared as well
                return self._as_elements(list(gold.items), list(answer.items), in_order=self.options.list_order == "kept")
        return self._two_collections(gold, answer)

    def _two_collections(self, gold: Value, answer: Value) -> Same:
        golds, answers = self._elements(gold), self._elements(answer)
        if DOTS in (*golds, *answers):
            return self._with_dots(golds, answers)
        if isinstance(gold, SetOf) or isinstance(answer, SetOf):
            golds, answers = self._distinct(golds), self._distinct(answers)
        is_list = isinstance(gold, Items) and isinstance(answer, Items)
        return self._as_elements(golds, answers, in_order=is_list and self.options.list_order == "kept")

    def _as_elements(self, golds: list[Value], answers: list[Value], *, in_order: bool) -> Same:
        if max(len(golds), len(answers)) > MAX_ITEMS:
            return self._many(golds, answers)
        return self._in_order(tuple(golds), tuple(answers)) if in_order else matched(golds, answers, self.same)

    def _with_dots(self, golds: list[Value], answers: list[Value]) -> Same:
        """Lists that go on: they are alike, or differ in what both show."""
        if len(golds) == len(answers) and (golds.index(DOTS) if DOTS in golds else -1) == (answers.index(DOTS) if DOTS in answers else -1):
            return self._in_order(tuple(golds), tuple(answers))
        return Same.UNKNOWN

    def _labelled(self, named: Items, bare: Items, in_order: Callable[[tuple[Value, ...]], Same]) -> Same:
        """x = 1, y = 2 beside 1, 2: the values in the order of the names, as they are written or in the alphabet's."""
        if len(named.items) != len(bare.items):
            return Same.NO
        written = tuple(split_name(item)[1][-1] for item in named.items if isinstance(item, Relation))
        return either((in_order(written), in_order(tuple(_assigned(named)))))

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
        if gold != (counted := with_arrangements(gold, answer)) or answer != with_arrangements(answer, gold):
            return self._numbers(counted, with_arrangements(answer, gold))
        if isinstance(gold, EXPRESSIONS) and isinstance(answer, EXPRESSIONS):
            return self._letters(gold, answer)
        if isinstance(gold, (*EXPRESSIONS, Quantity)) and isinstance(answer, (*EXPRESSIONS, Quantity)):
            return same_quantities(gold, answer, self.options, self.scalars.same)
        return Same.NO

    def _letters(self, gold: Expr, answer: Expr) -> Same:
        """MR and RM: a product commutes, and the letters of a name do not."""
        are_products = isinstance(gold, Mul) and isinstance(answer, Mul)
        return Same.UNKNOWN if are_products and are_other_letters(label(gold), label(answer)) else self._bases(gold, answer)

    def _bases(self, gold: Expr, answer: Expr) -> Same:
        if self.options.base_optional and _has_digits_of(gold, answer):
            return Same.YES
        return self.scalars.same(gold, answer)


def _point_of(value: Value, other: Value) -> Value:
    """A(1, 2) beside a point is the point with its name."""
    if (
        isinstance(other, Bracketed)
        and isinstance(value, Call)
        and value.name[0] == "@"
        and value.name[1:2].isupper()
        and len(value.args) > 1
    ):
        return Bracketed(value.args, "(", ")")
    return value


def _may_share_labels(gold: Value, answer: Value) -> bool:
    """Whether no value of one name is beside a value of another one, where a side gives one name to all of its values."""
    one, other = (_labels(side) for side in (gold, answer))
    if not one or not other or (len(one) > 1 and len(other) > 1):
        return True
    return all(is_one_name(*pair) for pair in product(one, other))


def _are_named(value: Value) -> bool:
    """Whether it is a list of equations with names."""
    return isinstance(value, Items) and all(isinstance(item, Relation) and split_name(item)[0] is not None for item in value.items)


def _labels(value: Value) -> frozenset[Label]:
    items = value.items if isinstance(value, Items | SetOf) else (value,)
    names = [split_name(item)[0] for item in items if isinstance(item, Relation)]
    return frozenset(label(name) for name in names if name is not None)


def _has_labels(value: Items) -> bool:
    """Whether each item has a name of its own."""
    names = [split_name(item)[0] if isinstance(item, Relation) else None for item in value.items]
    return None not in names and len(set(names)) == len(names) > 1


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


def _renamed(value: Value, old: Sym, new: Sym) -> Value:
    if isinstance(value, EXPRESSIONS):
        return replaced(value, old, new)
    if isinstance(value, Piecewise):
        return Piecewise(
            tuple(Branch(_renamed(one.value, old, new), one.condition and _renamed(one.condition, old, new)) for one in value.branches)
        )
    if isinstance(value, Relation):
        return Relation(tuple(_renamed(side, old, new) for side in value.sides), value.operators)
    return value


def _is_clock(ratio: Ratio) -> bool:
    """10:45 is a time, where 3:4 is a ratio."""
    written = ratio.written.split(":")
    return len(written) == 2 and all(part.isdigit() for part in written) and len(written[1]) == _CLOCK_MINUTES


def _times(one: Expr, other: Expr) -> Expr:
    return Mul((one, other))


def _over(ratio: Ratio) -> Expr:
    return Mul((ratio.parts[0], Pow(ratio.parts[1], Num(-_ONE))))
