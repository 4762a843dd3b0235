"""Tables of names: functions, constants, symbols, words that join or measure."""

from fractions import Fraction

from oprime_verifier.math.read import chinese


def _in_order(text: str) -> list[str]:
    return text.split()


def names(text: str) -> frozenset[str]:
    """The words of a text, for tables that read well."""
    return frozenset(text.split())


FUNCTIONS = names(
    "sin cos tan cot sec csc sinh cosh tanh coth sech csch arcsin arccos arctan arccot arcsec arccsc asin acos atan "
    "arcsinh arccosh arctanh asinh acosh atanh ln log lg exp det gcd lcm max min arg Re Im sgn sign zeta Gamma deg dim ker "
    "cis abs floor ceil gamma cosec tg ctg arctg sqrt cbrt factorial"
)
FUNCTION_ALIASES = {
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "arcsec": "asec", "arccsc": "acsc",
    "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh", "cosec": "csc", "tg": "tan", "ctg": "cot", "arctg": "atan",
    "gamma": "Gamma", "sgn": "sign", "Re": "re", "Im": "im",
}  # fmt: skip
INVERSES = {
    "sin": "asin", "cos": "acos", "tan": "atan", "cot": "acot", "sec": "asec", "csc": "acsc",
    "sinh": "asinh", "cosh": "acosh", "tanh": "atanh",
}  # fmt: skip

GREEK = names(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho varrho sigma varsigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar nabla partial Re Im "
    "mho aleph imath jmath"
)
LETTER_FORMS = ("phi", "epsilon", "theta", "rho", "sigma", "kappa", "pi")
"""Greek letters that are written in two forms."""
CONSTANTS = {"pi": "pi", "infty": "inf", "infinity": "inf", "inf": "inf", "oo": "inf"}

RELATIONS = {
    "=": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!=": "!=", "==": "=", ":=": "=",
    "le": "<=", "leq": "<=", "leqslant": "<=", "leqq": "<=", "ge": ">=", "geq": ">=", "geqslant": ">=", "geqq": ">=",
    "lt": "<", "gt": ">", "ne": "!=", "neq": "!=", "in": "in", "approx": "~", "simeq": "~", "sim": "~", "doteq": "~", "cong": "~",
    "approxeq": "~", "thickapprox": "~", "equiv": "=",
}  # fmt: skip
SET_OPERATORS = {"cup": "union", "cap": "intersection", "setminus": "minus", "backslash": "minus", "smallsetminus": "minus"}
NAMED_SETS = {
    "R": "R", "Z": "Z", "N": "N", "Q": "Q", "C": "C", "emptyset": "empty", "varnothing": "empty", "Reals": "R",
    "reals": "R",
}  # fmt: skip

JOINERS = {
    "and": "and", "or": "or", "land": "and", "lor": "or", "wedge": "and", "vee": "or", "&": "and",
}  # fmt: skip
FONTS = names("mathbf mathit mathsf mathtt mathcal mathscr mathfrak boldsymbol bm vec pmb bold mathnormal overrightarrow")
VECTOR_FONTS = names("mathbf vec boldsymbol bm bold pmb overrightarrow hat")
UPRIGHT = names(
    "text textbf textit textrm textsf texttt mathrm mbox operatorname rm textnormal emph textup mathop hbox underline bf it textsc"
)
SPACES = names("quad qquad , ; : ! > enspace thinspace hfill nobreakspace space") | {" "}

MAGNITUDES: dict[str, Fraction] = {
    word: Fraction(size)
    for word, size in {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
    "hundreds": 10**2, "thousands": 10**3, "millions": 10**6, "billions": 10**9, "trillions": 10**12, "lakh": 10**5, "crore": 10**7,
    "dozens": 12, "mn": 10**6, "bn": 10**9, "tens": 10, **chinese.MAGNITUDES,
    }.items()
} | {
    word + plural: Fraction(1, size)
    for word, size in {
        "third": 3, "fourth": 4, "quarter": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10,
        "eleventh": 11,
        "twelfth": 12, "sixteenth": 16, "twentieth": 20, "hundredth": 100, "thousandth": 1000, "millionth": 10**6,
    }.items()
    for plural in ("", "s")
} | {"half": Fraction(1, 2), "halves": Fraction(1, 2)}  # fmt: skip
"""Words behind a number that multiply it."""
POWER_WORDS = {"squared": 2, "cubed": 3}
NUMBER_WORDS = {
    word: number
    for number, word in enumerate(
        _in_order(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
            "nineteen twenty"
        )
    )
} | {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "hundred": 100, "thirty-six": 36}
BASES = {word: number for word, number in NUMBER_WORDS.items() if 2 <= number <= 12 or number == 16}

SHORT_WORDS = names(
    "yes no odd even red blue all any none not one two six ten man men boy cat dog day sun mon tue wed thu fri sat true false neither "
    "both per max min top left right up down east west north south is the it if nan dne undefined"
)
"""Words of fewer than four letters (and a few longer ones) that are no product of variables."""

SYNONYMS = {
    "dne": "does not exist", "no solutions": "no solution", "no real solutions": "no real solution", "infinity": "infinity",
    "infinite": "infinitely many", "infinitely many solutions": "infinitely many", "none of these": "none of the above",
}  # fmt: skip
NO_SOLUTION = frozenset({
    "no solution", "no solutions", "no real solution", "no real solutions", "empty set", "the empty set", "none", "there is no solution",
    "there are no solutions", "there is no real solution", "there are no real solutions", "no solution exists", "no solutions exist",
    "no real roots", "has no solution", "无解", "无实数解", "空集",
})  # fmt: skip
"""What says that a set of solutions is empty."""
REAL_NUMBERS = frozenset({"all real numbers", "all reals", "the real numbers", "real numbers", "all real values"})
INFINITE = frozenset({"infinity", "infinite", "positive infinity"})
LEADING_PHRASES = (
    "the final answer is", "the answer is", "final answer is", "answer is", "the value is", "it is", "it equals", "equals", "answer",
    "final answer", "approximately", "about", "exactly", "therefore", "thus", "so", "hence", "is",
)  # fmt: skip
NAMED_FUNCTIONS = names("Pr Var Cov Corr Area Vol Res Tr tr rank span perm nCr nPr Li")
"""Words that are names of functions where brackets follow."""
PLAIN_UNITS = names("cm mm km dm kg ft lb lbs oz mph sec hr hrs kPa kHz MHz Hz kJ kW kWh mol mL units unit degrees radians")
"""Units that are read behind a symbol also in plain letters; their `other` reading is a product. Not mg, ms and ml, which often are one."""
ACCENTS = names("dot ddot hat widehat tilde widetilde check breve acute grave")
NO_UNITS = names("or and more less fewer greater not than least most over under at up to between but no wait maybe")
"""Words behind a number that change what is said of it, and measure nothing."""
PYTHON_WORDS = names("if else lambda import exec eval print def return True None for while class")
