"""Arithmetic on what the parser has read: each function makes one record of two, or says that they do not combine."""

from collections.abc import Callable
from fractions import Fraction

from oprime_verifier.math.read import words
from oprime_verifier.math.tree import matrices
from oprime_verifier.math.tree.values import (
    DEGREE,
    EXPRESSIONS,
    MINUS_ONE,
    PI,
    Add,
    Bracketed,
    Call,
    Const,
    Expr,
    Matrix,
    Mul,
    Num,
    Pow,
    Quantity,
    Sign,
    Sym,
    UnreadableError,
    Value,
    negative,
)

_TRIGONOMETRIC = words.names("sin cos tan cot sec csc")


def add(left: Value, right: Value) -> Value:
    if isinstance(left, EXPRESSIONS) and isinstance(right, EXPRESSIONS):
        terms = left.terms if isinstance(left, Add) else (left,)
        return Add((*terms, right))
    if isinstance(left, Matrix) and isinstance(right, Matrix) and _shape(left) == _shape(right):
        return Matrix(tuple(tuple(Add(pair) for pair in zip(*rows, strict=True)) for rows in zip(left.rows, right.rows, strict=True)))
    if isinstance(left, Quantity) and isinstance(right, Quantity) and left.unit == right.unit:
        return Quantity(Add((left.value, right.value)), left.unit)
    raise UnreadableError("these cannot be added")


def multiply(left: Value, right: Value) -> Value:
    if isinstance(left, EXPRESSIONS) and isinstance(right, EXPRESSIONS):
        factors = left.factors if isinstance(left, Mul) else (left,)
        return Mul((*factors, right))
    if isinstance(left, EXPRESSIONS) and isinstance(right, Matrix):
        return Matrix(tuple(tuple(Mul((left, entry)) for entry in row) for row in right.rows))
    if isinstance(left, EXPRESSIONS) and isinstance(right, Quantity):
        return Quantity(Mul((left, right.value)), right.unit)
    if isinstance(left, Matrix) and isinstance(right, Matrix) and len(left.rows[0]) == len(right.rows):
        return matrices.product(left, right)
    if isinstance(left, Matrix) and isinstance(right, EXPRESSIONS):
        return multiply(right, left)
    raise UnreadableError("these cannot be multiplied")


def _shape(matrix: Matrix) -> tuple[int, int]:
    return len(matrix.rows), len(matrix.rows[0])


def divide(left: Value, right: Value) -> Value:
    if not isinstance(right, EXPRESSIONS):
        raise UnreadableError("this cannot be divided by")
    if isinstance(left, Num) and isinstance(right, Num) and right.value and not (left.digits or right.digits):
        return Num(left.value / right.value)
    if isinstance(left, EXPRESSIONS):
        return Mul((left, Pow(right, MINUS_ONE)))
    return multiply(Pow(right, MINUS_ONE), left)


def power(base: Value, exponent: Value) -> Value:
    if not isinstance(base, EXPRESSIONS):
        return _matrix_power(base, exponent)
    if not isinstance(exponent, EXPRESSIONS):
        raise UnreadableError("this is no exponent")
    return Pow(base, exponent)


def _matrix_power(base: Value, exponent: Value) -> Value:
    if isinstance(base, Matrix) and exponent in (Sym("T"), Const("top")):
        return Matrix(tuple(zip(*base.rows, strict=True)))
    if isinstance(base, Matrix) and isinstance(exponent, Num) and exponent.value.denominator == 1:
        return matrices.power(base, int(exponent.value))
    raise UnreadableError("this has no powers")


def residue(value: Value, modulus: Value) -> Value:
    """A class of residues: of numbers, by its least natural representative."""
    if isinstance(value, Num) and isinstance(modulus, Num) and value.value.denominator == modulus.value.denominator == 1 <= modulus.value:
        return Call("@residue", (Num(value.value % modulus.value), modulus))
    if isinstance(value, Call) and value.name == "@residue":
        raise UnreadableError("a residue of a residue")
    return call("@residue", (value, modulus))


def negate(value: Value) -> Value:
    if isinstance(value, Call) and value.name == "@residue":
        return residue(negate(value.args[0]), value.args[1])
    if isinstance(value, EXPRESSIONS):
        return negative(value)
    if isinstance(value, Quantity):
        return Quantity(negative(value.value), value.unit)
    return multiply(MINUS_ONE, value)


def signed(value: Value, sign: Sign) -> Value:
    return multiply(sign, value)


def call(name: str, args: tuple[Value, ...]) -> Expr:
    """A function of expressions; an angle in degrees becomes radians inside a trigonometric function."""
    if name == "abs" and len(args) == 1 and isinstance(args[0], Matrix):
        return matrices.determinant(args[0])
    if name == "det" and len(args) == 1 and isinstance(args[0], Matrix):
        return matrices.determinant(args[0])
    plain = numbers(name, args)
    if name in _TRIGONOMETRIC:
        plain = tuple(replaced(value, DEGREE, Mul((PI, Num(Fraction(1, 180))))) for value in plain)
    return Call(name, plain)


def numbers(name: str, args: tuple[Value, ...]) -> tuple[Expr, ...]:
    """The arguments of a function, all of which must be expressions."""
    plain = [value for value in args if isinstance(value, EXPRESSIONS)]
    if len(plain) != len(args):
        raise UnreadableError(f"{name} takes numbers")
    return tuple(plain)


def replaced(tree: Expr, old: Expr, new: Expr) -> Expr:
    """The tree with `new` for each `old`."""
    return mapped(tree, lambda part: new if part == old else part)


def mapped(tree: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """The tree with each part changed, from the leaves up."""
    if isinstance(tree, Add):
        return change(Add(tuple(mapped(part, change) for part in tree.terms)))
    if isinstance(tree, Mul):
        return change(Mul(tuple(mapped(part, change) for part in tree.factors)))
    if isinstance(tree, Pow):
        return change(Pow(mapped(tree.base, change), mapped(tree.exponent, change)))
    if isinstance(tree, Call):
        return change(Call(tree.name, tuple(mapped(part, change) for part in tree.args)))
    return change(tree)


def fraction(upper: Value, lower: Value) -> Value:
    """A quotient, or a derivative where both halves are differentials."""
    if _is_derivative_part(upper) and _is_derivative_part(lower):
        return call("@derivative", (upper, lower))
    return divide(upper, lower)


def _is_derivative_part(value: Value) -> bool:
    """Whether this is dx, d^2 x, or d alone: half of a derivative, and no product."""
    if isinstance(value, Mul):
        return _is_differential(value.factors[0])
    return _is_differential(value)


def _is_differential(value: Value) -> bool:
    base = value.base if isinstance(value, Pow) else value
    return isinstance(base, Sym) and base.name in ("d", "partial")


def point(items: tuple[Value, ...], opening: str, closing: str) -> Value:
    """One item in round or square brackets is the item; more are a tuple. Rows of equal length in square brackets are a matrix."""
    if len(items) == 1:
        if (opening, closing) not in (("(", ")"), ("[", "]")):
            raise UnreadableError("a bracket is closed by another one")
        return items[0]
    if len(items) > 2 and (opening, closing) in (("(", "]"), ("[", ")")):
        raise UnreadableError("a bracket is closed by another one")
    rows = [item.items for item in items if isinstance(item, Bracketed) and item.opening == "[" and item.closing == "]"]
    if opening == "[" and closing == "]" and len(rows) == len(items) and len({len(row) for row in rows}) == 1:
        return Matrix(tuple(tuple(_entry(entry) for entry in row) for row in rows))
    return Bracketed(items, opening, closing)


def _entry(value: Value) -> Expr:
    if isinstance(value, EXPRESSIONS):
        return value
    raise UnreadableError("a matrix holds expressions")
