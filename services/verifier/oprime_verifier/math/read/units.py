"""Units of measure: one spelling, a factor to base units and a dimension."""

import re
from fractions import Fraction
from functools import lru_cache

from oprime_verifier.math.read.nouns import is_counted, is_describing
from oprime_verifier.math.tree.values import Unit

Dimension = tuple[tuple[str, int], ...]

_F = Fraction
_PREFIXES = {"n": _F(1, 10**9), "u": _F(1, 10**6), "m": _F(1, 1000), "c": _F(1, 100), "d": _F(1, 10), "k": _F(1000), "M": _F(10**6),
             "G": _F(10**9), "p": _F(1, 10**12)}  # fmt: skip
_LONG_PREFIXES = {"nano": _F(1, 10**9), "micro": _F(1, 10**6), "milli": _F(1, 1000), "centi": _F(1, 100), "deci": _F(1, 10),
                  "kilo": _F(1000), "mega": _F(10**6), "giga": _F(10**9)}  # fmt: skip

_METRE, _KILOGRAM, _SECOND = {"m": 1}, {"kg": 1}, {"s": 1}
_PREFIXED: dict[str, tuple[str, Fraction, dict[str, int]]] = {
    "m": ("meter", _F(1), _METRE),
    "g": ("gram", _F(1, 1000), _KILOGRAM),
    "s": ("", _F(1), _SECOND),
    "L": ("liter", _F(1, 1000), {"m": 3}),
    "l": ("litre", _F(1, 1000), {"m": 3}),
    "J": ("joule", _F(1), {"kg": 1, "m": 2, "s": -2}),
    "W": ("watt", _F(1), {"kg": 1, "m": 2, "s": -3}),
    "N": ("newton", _F(1), {"kg": 1, "m": 1, "s": -2}),
    "Pa": ("pascal", _F(1), {"kg": 1, "m": -1, "s": -2}),
    "Hz": ("hertz", _F(1), {"s": -1}),
    "V": ("volt", _F(1), {"V": 1}),
    "A": ("ampere", _F(1), {"A": 1}),
    "eV": ("electronvolt", _F(1), {"eV": 1}),
    "mol": ("mole", _F(1), {"mol": 1}),
    "cal": ("calorie", _F(1), {"cal": 1}),
    "C": ("coulomb", _F(1), {"A": 1, "s": 1}),
    "K": ("kelvin", _F(1), {"K": 1}),
    "F": ("farad", _F(1), {"F": 1}),
    "T": ("tesla", _F(1), {"T": 1}),
    "H": ("henry", _F(1), {"H": 1}),
    "Wb": ("weber", _F(1), {"Wb": 1}),
    "Bq": ("becquerel", _F(1), {"Bq": 1}),
    "bar": ("", _F(10**5), {"kg": 1, "m": -1, "s": -2}),
    "pc": ("parsec", _F(1), {"pc": 1}),
    "Wh": ("", _F(3600), {"kg": 1, "m": 2, "s": -2}),
}
_PLAIN: dict[str, tuple[Fraction, dict[str, int]]] = {
    "metre": (_F(1), _METRE), "meter": (_F(1), _METRE), "kilometre": (_F(1000), _METRE), "centimetre": (_F(1, 100), _METRE),
    "millimetre": (_F(1, 1000), _METRE), "liter": (_F(1, 1000), {"m": 3}),
    "in": (_F(254, 10**4), _METRE), "inch": (_F(254, 10**4), _METRE), "ft": (_F(3048, 10**4), _METRE),
    "foot": (_F(3048, 10**4), _METRE), "feet": (_F(3048, 10**4), _METRE), "yd": (_F(9144, 10**4), _METRE),
    "yard": (_F(9144, 10**4), _METRE), "mi": (_F(1609344, 1000), _METRE), "mile": (_F(1609344, 1000), _METRE),
    "angstrom": (_F(1, 10**10), _METRE), "acre": (_F(40468564224, 10**7), {"m": 2}),
    "hectare": (_F(10**4), {"m": 2}), "ha": (_F(10**4), {"m": 2}),
    "kg": (_F(1), _KILOGRAM), "lb": (_F(45359237, 10**8), _KILOGRAM), "pound": (_F(45359237, 10**8), _KILOGRAM),
    "oz": (_F(45359237, 16 * 10**8), _KILOGRAM), "ounce": (_F(45359237, 16 * 10**8), _KILOGRAM), "ton": (_F(90718474, 10**5), _KILOGRAM),
    "tonne": (_F(1000), _KILOGRAM),
    "sec": (_F(1), _SECOND), "second": (_F(1), _SECOND), "min": (_F(60), _SECOND), "minute": (_F(60), _SECOND),
    "h": (_F(3600), _SECOND), "hr": (_F(3600), _SECOND), "hour": (_F(3600), _SECOND), "day": (_F(86400), _SECOND),
    "week": (_F(604800), _SECOND), "month": (_F(1), {"month": 1}), "year": (_F(12), {"month": 1}), "yr": (_F(12), {"month": 1}),
    "decade": (_F(120), {"month": 1}), "century": (_F(1200), {"month": 1}),
    "mph": (_F(1609344, 3600 * 1000), {"m": 1, "s": -1}), "kph": (_F(1000, 3600), {"m": 1, "s": -1}),
    "kmh": (_F(1000, 3600), {"m": 1, "s": -1}),
    "rpm": (_F(1), {"rpm": 1}), "gallon": (_F(1), {"gallon": 1}), "gal": (_F(1), {"gallon": 1}), "quart": (_F(1, 4), {"gallon": 1}),
    "pint": (_F(1, 8), {"gallon": 1}), "cup": (_F(1, 16), {"gallon": 1}), "cc": (_F(1, 10**6), {"m": 3}),
    "degree": (_F(1), {"degree": 1}), "deg": (_F(1), {"degree": 1}), "radian": (_F(1), {"radian": 1}), "rad": (_F(1), {"radian": 1}),
    "percent": (_F(1), {"percent": 1}), "pct": (_F(1), {"percent": 1}), "percentage": (_F(1), {"percent": 1}),
    "dollar": (_F(1), {"usd": 1}), "usd": (_F(1), {"usd": 1}), "buck": (_F(1), {"usd": 1}), "cent": (_F(1, 100), {"usd": 1}),
    "penny": (_F(1, 100), {"usd": 1}), "pennies": (_F(1, 100), {"usd": 1}), "euro": (_F(1), {"eur": 1}), "eur": (_F(1), {"eur": 1}),
    "gbp": (_F(1), {"gbp": 1}), "yen": (_F(1), {"yen": 1}), "rupee": (_F(1), {"inr": 1}), "rs": (_F(1), {"inr": 1}),
    "byte": (_F(1), {"byte": 1}), "bit": (_F(1), {"bit": 1}), "b": (_F(1), {"bit": 1}),
    "unit": (_F(1), {}), "sq": (_F(1), {}),
    "yuan": (_F(1), {"cny": 1}), "rmb": (_F(1), {"cny": 1}), "jiao": (_F(1, 10), {"cny": 1}), "jin": (_F(1, 2), _KILOGRAM),
    "li": (_F(500), _METRE),
    "mu": (_F(2000, 3), {"m": 2}), "degreec": (_F(1), {"degreeC": 1}), "degreef": (_F(1), {"degreeF": 1}),
    "celsius": (_F(1), {"degreeC": 1}), "fahrenheit": (_F(1), {"degreeF": 1}), "erg": (_F(1, 10**7), {"kg": 1, "m": 2, "s": -2}),
    "dyne": (_F(1, 10**5), {"kg": 1, "m": 1, "s": -2}), "gauss": (_F(1, 10**4), {"T": 1}), "atm": (_F(101325), {"kg": 1, "m": -1, "s": -2}),
    "torr": (_F(101325, 760), {"kg": 1, "m": -1, "s": -2}), "au": (_F(149597870700), _METRE), "ly": (_F(9460730472580800), _METRE),
    "lightyear": (_F(9460730472580800), _METRE), "rev": (_F(1), {"rev": 1}), "db": (_F(1), {"dB": 1}), "decibel": (_F(1), {"dB": 1}),
    "teaspoon": (_F(1, 768), {"gallon": 1}), "tablespoon": (_F(1, 256), {"gallon": 1}), "quid": (_F(1), {"gbp": 1}),
    "nickel": (_F(1), {"nickel": 1}), "dime": (_F(1), {"dime": 1}), "ohm": (_F(1), {"ohm": 1}),
    "knot": (_F(1852, 3600), {"m": 1, "s": -1}), "photon": (_F(1), {}), "electron": (_F(1), {}), "atom": (_F(1), {}),
    "molecule": (_F(1), {}),
    "particle": (_F(1), {}), "ion": (_F(1), {}), "nucleus": (_F(1), {}), "nuclei": (_F(1), {}),
}  # fmt: skip
CURRENCY_SIGNS = {"\\$": "dollar", "\u20ac": "euro", "\u00a3": "gbp", "\u00a5": "yen", "\u20b9": "rupee"}
_UPRIGHT_ONLY = frozenset("CKFTH")
_SQUARES = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_POWERS = {"squared": 2, "cubed": 3}
_INCH = "in"
_FILLERS = frozenset({"of", "the", "a", "an", "in", "total", "long", "old", "away", "each"})

DEGREES: Dimension = (("degree", 1),)
RADIANS: Dimension = (("radian", 1),)
PERCENT: Dimension = (("percent", 1),)
MONEY = frozenset({"usd", "eur", "gbp", "yen", "inr", "cny"})


def single(name: str) -> tuple[Fraction, dict[str, int]] | None:
    """One unit's factor and dimension by its name or symbol; None for a word that is none."""
    # One letter means one thing: 5 M is no length, and 5 n nothing at all.
    lowered = name.lower() if len(name) > 1 else name
    for candidate in (name, lowered, *_singulars(lowered)):
        if candidate in _PREFIXED:
            return _PREFIXED[candidate][1:]
        if candidate in _PLAIN:
            return _PLAIN[candidate]
    return _prefixed_symbol(name) or _prefixed_word(lowered)


def _singulars(word: str) -> tuple[str, ...]:
    endings = (("ies", "y"), ("es", ""), ("s", ""))
    return tuple(word[: -len(ending)] + other for ending, other in endings if word.endswith(ending) and len(word) > len(ending) + 1)


def _prefixed_symbol(name: str) -> tuple[Fraction, dict[str, int]] | None:
    prefix, rest = name[:1], name[1:]
    if prefix in _PREFIXES and rest in _PREFIXED:
        _, factor, dimension = _PREFIXED[rest]
        return _PREFIXES[prefix] * factor, dimension
    return None


def _prefixed_word(word: str) -> tuple[Fraction, dict[str, int]] | None:
    for _, (long_name, factor, dimension) in _PREFIXED.items():
        for name in (word, *_singulars(word)):
            if long_name and name == long_name:
                return factor, dimension
            if long_name and name.endswith(long_name) and name.removesuffix(long_name) in _LONG_PREFIXES:
                return _LONG_PREFIXES[name.removesuffix(long_name)] * factor, dimension
    return None


@lru_cache(maxsize=2048)
def is_unit_name(name: str) -> bool:
    return single(name) is not None


@lru_cache(maxsize=2048)
def is_plain_unit(name: str) -> bool:
    """Whether letters behind a number are a unit also in italics: cm is one, and kT is a product."""
    return is_unit_name(name) and not (name[-1:] in _UPRIGHT_ONLY and len(name) <= 2)


@lru_cache(maxsize=2048)
def make_unit(parts: tuple[tuple[str, int], ...]) -> Unit:
    """The unit of `parts`: words or symbols with their exponents. Unknown words make a unit without dimension."""
    factor, dimension, pending, unknown = Fraction(1), dict[str, int](), 1, False
    for place, (name, exponent) in enumerate(parts):
        if name.lower() in _SQUARES and place + 1 < len(parts):
            pending = _SQUARES[name.lower()]
            continue
        found = single(name)
        unknown = unknown or found is None
        scale, powers = found or (Fraction(1), {})
        total = exponent * pending
        pending = 1
        factor *= scale**total
        for base, power in powers.items():
            dimension[base] = dimension.get(base, 0) + power * total
    kept = tuple(sorted((base, power) for base, power in dimension.items() if power))
    return Unit(_spelling(parts), Fraction(1) if unknown else factor, None if unknown else kept, _is_known(parts))


def _is_known(parts: tuple[tuple[str, int], ...]) -> bool:
    """Whether all words measure, or count and describe what is counted."""
    measuring = [_measures(name) or (name.lower() in _SQUARES and len(parts) > 1) for name, _ in parts]
    return any(measuring) and all(found or is_describing(name) for found, (name, _) in zip(measuring, parts, strict=True))


def _measures(name: str) -> bool:
    parts = name.split("-")
    is_compound = len(parts) > 1 and all(is_counted(part) or len(part) == 1 for part in parts)
    return single(name) is not None or is_counted(name) or is_compound


def _spelling(parts: tuple[tuple[str, int], ...]) -> str:
    words = [
        (_one_form(name.lower()) if len(name) > 2 else name) + (f"^{exponent}" if exponent != 1 else "")
        for name, exponent in parts
        if name.lower() not in _FILLERS
    ]
    return " ".join(words)


def _one_form(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


_UNIT_TOKEN = re.compile(r"\^\s*\{?\s*([+-]?\d{1,2})\s*\}?|([/\u00b7*])|([^\W\d_]+(?:-[^\W\d_]+)*)|([%$\u00b0])")


def words_to_parts(text: str, sign: int = 1) -> tuple[tuple[str, int], ...]:
    """`square meters per second` as ((square, 1), (meters, 1), (second, -1)); what `/` and `per` precede is below the line."""
    parts: list[tuple[str, int]] = []
    for power, mark, word, symbol in _UNIT_TOKEN.findall(text):
        if power and parts:
            parts[-1] = (parts[-1][0], parts[-1][1] * int(power))
        elif mark == "/" or word.lower() == "per":
            sign = -1
        elif word.lower() in _POWERS and parts:
            parts[-1] = (parts[-1][0], parts[-1][1] * _POWERS[word.lower()])
        elif word and word.lower() not in _FILLERS:
            parts.append((word, sign))
        elif symbol:
            parts.append(({"%": "percent", "$": "dollar"}.get(symbol, "degree"), sign))
    # "10 in" has inches; "5 in total" and "10 cm in length" have none.
    return tuple(parts) or (((_INCH, sign),) if text.strip().lower().rstrip(".") == _INCH else ())
