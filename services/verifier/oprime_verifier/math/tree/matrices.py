"""Products, powers and determinants of matrices of expressions."""

from fractions import Fraction

from oprime_verifier.math.tree.values import Add, Expr, Matrix, Mul, Num, Pow, TooLargeError, UnreadableError, integer, negative

MAX_SIZE = 6
MAX_POWER = 64
MAX_SYMBOLIC_POWER = 3
"""A power of variables grows with each factor."""
MAX_BITS = 13_300


def product(left: Matrix, right: Matrix) -> Matrix:
    columns = tuple(zip(*right.rows, strict=True))
    return Matrix(tuple(tuple(_dot(row, column) for column in columns) for row in left.rows))


def _dot(row: tuple[Expr, ...], column: tuple[Expr, ...]) -> Expr:
    numbers = [(one.value, other.value) for one, other in zip(row, column, strict=True) if isinstance(one, Num) and isinstance(other, Num)]
    if len(numbers) < len(row):
        return Add(tuple(Mul(pair) for pair in zip(row, column, strict=True)))
    value = sum((one * other for one, other in numbers), Fraction(0))
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooLargeError("an entry of a matrix is too large to compute")
    return Num(value)


def power(base: Matrix, exponent: int) -> Matrix:
    """A whole power of a square matrix. Raises UnreadableError for a matrix that has none, TooLargeError."""
    size = len(base.rows)
    if size != len(base.rows[0]) or size > MAX_SIZE:
        raise UnreadableError("only small square matrices have powers here")
    if exponent < 0:
        return power(inverse(base), -exponent)
    is_plain = all(isinstance(entry, Num) for row in base.rows for entry in row)
    if exponent > (MAX_POWER if is_plain else MAX_SYMBOLIC_POWER):
        raise TooLargeError("a power of a matrix is too large to compute")
    found = Matrix(tuple(tuple(integer(int(row == column)) for column in range(size)) for row in range(size)))
    for _ in range(exponent):
        found = product(found, base)
    return found


def inverse(matrix: Matrix) -> Matrix:
    """By cofactors. Raises UnreadableError where the determinant is a plain zero."""
    scale = determinant(matrix)
    size = len(matrix.rows)
    if isinstance(scale, Num) and not scale.value:
        raise UnreadableError("this matrix has no inverse")
    rows = tuple(tuple(_quotient(_cofactor(matrix, column, row), scale) for column in range(size)) for row in range(size))
    return Matrix(rows)


def _quotient(upper: Expr, lower: Expr) -> Expr:
    if isinstance(upper, Num) and isinstance(lower, Num):
        return Num(upper.value / lower.value)
    return Mul((upper, Pow(lower, Num(Fraction(-1)))))


def _cofactor(matrix: Matrix, row: int, column: int) -> Expr:
    if len(matrix.rows) == 1:
        return integer(1)
    found = determinant(_minor(matrix, row, column))
    return negative(found) if (row + column) % 2 else found


def _minor(matrix: Matrix, row: int, column: int) -> Matrix:
    return Matrix(tuple(entries[:column] + entries[column + 1 :] for place, entries in enumerate(matrix.rows) if place != row))


def determinant(matrix: Matrix) -> Expr:
    rows = matrix.rows
    if len(rows) != len(rows[0]) or len(rows) > MAX_SIZE:
        raise UnreadableError("only small square matrices have a determinant here")
    if len(rows) == 1:
        return rows[0][0]
    terms = [Mul((integer((-1) ** column), entry, determinant(_minor(matrix, 0, column)))) for column, entry in enumerate(rows[0])]
    numbers = [factor.value for term in terms for factor in term.factors if isinstance(factor, Num)]
    if len(numbers) < 3 * len(terms):
        return Add(tuple(terms))
    return Num(sum((numbers[place] * numbers[place + 1] * numbers[place + 2] for place in range(0, len(numbers), 3)), Fraction(0)))
