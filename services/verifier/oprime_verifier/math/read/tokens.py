"""Cleaned LaTeX as tokens: numbers with their thousands and periods, names, words, marks."""

import re
from dataclasses import dataclass
from fractions import Fraction

from oprime_verifier.math.read import chinese, words
from oprime_verifier.math.read.units import is_plain_unit, is_unit_name
from oprime_verifier.math.tree.values import Num, TooLargeError, UnreadableError

MAX_TOKENS = 3000
MAX_NESTING = 64
MAX_DIGITS = 4000
MAX_DECIMAL_EXPONENT = 4000
MAX_UNIT_CHARS = 80


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    """number, name (a command or known function), letter, word, mark or end."""
    text: str
    spaced: bool = False
    """A space stands before it."""
    number: Num | None = None


END = Token("end", "")

_INTEGER = r"(?:\d{1,3}(?:,\d{3})+(?![\d])|\d{1,3}(?: \d{3})+(?!\d)|\d+)"
_NUMBER = re.compile(rf"(?:{_INTEGER}(?:\.\d+|\.(?!\d))?|\.\d+)")
_PLAIN_NUMBER = re.compile(r"(?:\d+(?:\.\d+|\.(?!\d))?|\.\d+)")
_PERIOD = re.compile(r"\s*\\(?:overline|bar)\s*(?:\{\s*(\d+)\s*\}|(\d))|\((\d+)\)|\s*((?:\\dot\s*\{?\d\}?)\d*(?:\\dot\s*\{?\d\}?)?)")
_DOTTED_NUMBER = re.compile(r"(?:\d+)?\.")
_ELLIPSIS = re.compile(r"\s*(?:\.\.\.|\\(?:ldots|dots|cdots)(?![a-zA-Z]))")
_EXPONENT = re.compile(r"[eE]([+-]?\d+)(?![\d.a-zA-Z^_{])")
_COMMAND = re.compile(r"\\([a-zA-Z]+)\*?|\\(.)", re.DOTALL)
_LETTERS = re.compile(r"[a-zA-Z]+(?:[-'][a-zA-Z]{2,})*")
_OTHER_LETTERS = re.compile(r"[^\W\d_a-zA-Z]+")
_MARKS = ("<=", ">=", "!=", "==", ":=", "**", "->")
_BASED = re.compile(
    r"(?<![\w\\}])(?:([0-9A-F]*[A-F][0-9A-F]*)\s*_\s*\{?\s*(?:\d{2}|\\text\{[a-z]+\})"
    # 2b_{16} and ab_{12} are products of a variable with an index.
    r"|([a-f][0-9a-f]*\d[0-9a-f]*)(?=\s*_\s*\{?\s*\d{2})|([a-f]{2,})(?=\s*_\s*\{?\s*16(?!\d)))"
)
_LISTED = re.compile(r",|\d.*\b(?:and|or)\b|\b(?:and|or)\b.*\d")
_MEASURED = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s+([a-zA-Z][a-zA-Z ]*)")
_BASED_DIGITS = re.compile(r"([0-9A-F]*[A-F][0-9A-F]*|[0-9a-f]*\d[0-9a-f]*)\s*_\s*\{?\s*(?:\d{2}|\\text\{[a-z]+\})")
_UPRIGHT_UNIT = r"\\(?:text|mathrm|textrm)\s*\{[^{}]*\}\s*(?:\^\s*\{?-?\d\}?)?\s*"
_UNIT_FRACTION = re.compile(rf"\\frac\s*\{{\s*(?:{_UPRIGHT_UNIT})+\}}\s*\{{\s*(?:{_UPRIGHT_UNIT})+\}}")
_FONT = re.compile(r"\\(?:text|mathrm|textrm)(?=\s*\{)")
_FRACTION_MARKS = re.compile(r"\\frac\s*|\\(?:cdot|times)(?![a-zA-Z])|\\[,;: ]|\}\s*\{")
_UNIT_WORD = re.compile(r"([a-zA-Z]+)\s*(?:\^\s*\{?\s*-?\d\s*\}?)?|[\s/*{}]")
_DIRECTION = re.compile(r"\s*(?:\\(?:hat|vec|mathbf|bm|boldsymbol)\s*)?\{?\s*\\?([ijk])(?:math)?\s*\}?\s*")
_BARE_DIRECTION = re.compile(r"\s*\\?([ijk])(?:math)?(?![a-zA-Z])")
_GROUPING = re.compile(r"\d,\d{3}(?!\d)")
_LETTERS_AS_UNIT = re.compile(rf"[a-z}})]\s+(?:{'|'.join(sorted(words.PLAIN_UNITS))})(?![a-zA-Z])")
_GROUP = re.compile(r"\s*\{")


def tokenize(text: str, *, thousands: bool = True, units: bool = True) -> list[Token]:
    """Tokens of a cleaned text. Raises UnreadableError and TooLargeError.

    Without `thousands`, a comma always separates items. Without `units`, letters behind a symbol are a product.
    """
    return _Tokenizer(text, thousands=thousands, units=units).run()


def may_have_letters_as_unit(text: str) -> bool:
    """Whether letters behind a symbol may be a unit as well as a product."""
    return bool(_LETTERS_AS_UNIT.search(text))


def has_thousands(text: str) -> bool:
    """Whether some comma may be a thousands separator as well as a separator of items."""
    return bool(re.search(r"\d,\d{3}(?!\d)", text))


class _Tokenizer:
    def __init__(self, text: str, *, thousands: bool, units: bool = True) -> None:
        self.text, self.place, self.thousands, self.units = text, 0, thousands, units
        self.tokens: list[Token] = []
        self.spaced = False
        self.depth = 0
        self.spacing = _comma_spacing(text)

    def run(self) -> list[Token]:
        while self.place < len(self.text):
            character = self.text[self.place]
            if character.isspace():
                self.spaced = True
                self.place += 1
                continue
            self._step(character)
            self.spaced = False
            if len(self.tokens) > MAX_TOKENS:
                raise TooLargeError(f"the answer has more than {MAX_TOKENS} parts")
        return self.tokens

    def _step(self, character: str) -> None:
        if character.isdigit() or (character == "." and self.text[self.place + 1 : self.place + 2].isdigit()):
            self._number()
        elif character == "\\":
            self._command()
        elif character.isalpha():
            self._letters()
        else:
            self._mark(character)

    def _add(self, kind: str, text: str, number: Num | None = None) -> None:
        self.tokens.append(Token(kind, text, self.spaced, number))

    # Numbers

    def _number(self) -> None:
        based = _BASED.match(self.text, self.place)
        if based:
            self._add("digits", based[based.lastindex or 1])
            self.place = based.end(based.lastindex or 1)
            return
        digits = self._digits()
        if sum(map(str.isdigit, digits)) > MAX_DIGITS:
            raise TooLargeError(f"a number has more than {MAX_DIGITS} digits")
        number = self._periodic(digits) or _decimal(digits)
        exponent = _EXPONENT.match(self.text, self.place)
        if exponent and not number.based:
            number = _scaled(number, exponent[1])
            self.place = exponent.end()
        self._add("number", digits, number)

    def _digits(self) -> str:
        grouped = self.thousands and (self.spacing.get(self._opening(), self.depth == 0) if self.spacing else self.depth == 0)
        match = (_NUMBER if grouped else _PLAIN_NUMBER).match(self.text, self.place)
        if match is None:  # a digit of another script that Unicode does not call decimal
            raise UnreadableError(f"{self.text[self.place]!r} is no digit that is read")
        self.place = match.end()
        return match[0].replace(",", "").replace(" ", "")

    def _opening(self) -> int:
        """Place of the innermost bracket that is still open."""
        depth = 0
        for place in range(self.place - 1, -1, -1):
            if self.text[place] in ")]}":
                depth += 1
            elif self.text[place] in "([{":
                if depth == 0:
                    return place
                depth -= 1
        return -1

    def _periodic(self, digits: str) -> Num | None:
        period = _PERIOD.match(self.text, self.place) if "." in digits else None
        if period:
            self.place = period.end()
            repeated = period[1] or period[2] or period[3] or re.sub(r"\D", "", period[4])
            return _repeating(digits, repeated)
        ellipsis = _ELLIPSIS.match(self.text, self.place) if "." in digits else None
        if ellipsis:
            self.place = ellipsis.end()
            return _continued(digits)
        return None

    # Names

    def _command(self) -> None:
        match = _COMMAND.match(self.text, self.place)
        if match is None:
            raise UnreadableError("the answer ends in a backslash")
        self.place = match.end()
        name = match[1] or match[2]
        if name in words.SPACES:
            return
        unit = _UNIT_FRACTION.match(self.text, match.start()) if name == "frac" and self.tokens else None
        if unit and _is_compound_unit(_FONT.sub("", unit[0])):
            self.place = unit.end()
            self._add("word", _flat(_FONT.sub("", unit[0])))
            return
        if name in words.UPRIGHT:
            self._upright(name)
        elif name in words.FONTS:
            self._font(name)
        elif name in ("mathbb", "Bbb"):
            self._blackboard()
        else:
            self._named(name)

    def _blackboard(self) -> None:
        """A set of numbers, or the operator of a probability or mean before its argument."""
        content = self._group().strip()
        is_applied = content in ("E", "P") and self.text[self.place :].lstrip()[:1] in ("(", "[")
        self._add("letter" if is_applied else "set", content)

    def _named(self, name: str) -> None:
        if name in _COMMANDS or len(name) == 1:
            self._add("name", name)
            return
        if name in words.NAMED_FUNCTIONS:
            self._add("letter", name)
            return
        known = max((known for known in words.FUNCTIONS | {"pi"} if name.startswith(known)), key=len, default="")
        if not known or len(name) - len(known) > 2:
            raise UnreadableError(f"\\{name} is not a command that is read")
        self._add("name", known)
        for letter in name[len(known) :]:
            self._add("letter", letter)

    def _font(self, name: str) -> None:
        if not _GROUP.match(self.text, self.place):
            bare = _BARE_DIRECTION.match(self.text, self.place) if name in words.VECTOR_FONTS else None
            if bare:
                self.place = bare.end()
                self._add("letter", f"vec {bare[1]}")
            return
        content = self._group()
        if content.strip() in words.NAMED_SETS and name == "mathbf":
            self._add("set", content.strip())
        elif name in words.VECTOR_FONTS and (direction := _DIRECTION.fullmatch(content)):
            self._add("letter", f"vec {direction[1]}")
        else:
            self._inline(content)

    def _upright(self, name: str) -> None:  # noqa: C901 - one line for each kind of upright text
        if not _GROUP.match(self.text, self.place):
            return
        content = self._group().replace("\\ ", " ").replace("$", " ")
        lowered = content.strip().lower()
        if lowered in words.JOINERS:
            self._add("joiner", words.JOINERS[lowered])
        elif lowered == "pi":
            self._add("name", "pi")
        elif self._is_function(name, content.strip()):
            self._add("name", content.strip())
        elif (based := _BASED_DIGITS.match(f"{content.strip()}{self.text[self.place :]}")) and based.end(1) == len(content.strip()):
            self._add("digits", based[1])
        elif self.tokens and _is_compound_unit(content):
            self._add("word", _flat(content))
        elif "\\" in content or "{" in content or not any(map(str.isalpha, content)) or _LISTED.search(content):
            self._inline(content)
        elif measured := _MEASURED.fullmatch(content):
            self._inline(measured[1])
            self._add("word", measured[2])
        elif self._is_symbol(name, content.strip()) or self._is_applied(content.strip()):
            self._add("letter", content.strip())
        elif content.strip() and self._glued(content):
            self._add("word", self._behind_number(content.strip()))

    def _is_function(self, name: str, content: str) -> bool:
        """lcm in any upright font before its argument; min behind a number is minutes."""
        if content not in words.FUNCTIONS or (is_unit_name(content) and self.tokens and self.tokens[-1].kind == "number"):
            return False
        return name == "operatorname" or not is_unit_name(content) or self.text[self.place :].lstrip().startswith("(")

    def _is_symbol(self, font: str, content: str) -> bool:
        """Whether upright text is one letter and no unit, as in 3n and 4i; a unit is one only behind a value."""
        if len(content) != 1 or not content.isascii() or not content.isalpha():
            return False
        if not is_unit_name(content):
            return True
        return not self.tokens or (font == "mathrm" and self.tokens[-1].kind not in ("number", "word"))

    def _is_applied(self, content: str) -> bool:
        """Whether an upright word is the name of a function with its argument behind it, as Var in Var(X)."""
        return content in words.NAMED_FUNCTIONS and self.text[self.place :].lstrip()[:1] in ("(", "[", "{")

    def _behind_number(self, run: str) -> str:
        """Chinese behind a number in the words that the tables of units know."""
        is_behind = bool(self.tokens) and (self.tokens[-1].kind in ("number", "word") or self.tokens[-1].text in ("}", ")", "pi"))
        return chinese.behind_number(run) if is_behind and not run.isascii() else run

    def _glued(self, content: str) -> bool:
        """Join upright text to the upright text before it; whether there was none."""
        if self.tokens and self.tokens[-1].kind == "word":
            gap = " " if self.spaced or content[0] == " " else ""
            self.tokens[-1] = Token("word", self.tokens[-1].text + gap + content.strip(), self.tokens[-1].spaced)
            return False
        return True

    def _inline(self, content: str) -> None:
        if content.count("{") > MAX_NESTING:
            raise TooLargeError(f"brackets are nested deeper than {MAX_NESTING}")
        inner = _Tokenizer(content, thousands=self.thousands, units=self.units)
        inner.depth = self.depth
        self.tokens += inner.run()

    def _group(self) -> str:
        """Content of the braces that follow."""
        match = _GROUP.match(self.text, self.place)
        if match is None:
            return self._one_character()
        depth = 0
        for place in range(match.end() - 1, len(self.text)):
            if self.text[place] in "{}" and self.text[place - 1] != "\\":
                depth += 1 if self.text[place] == "{" else -1
                if depth == 0:
                    self.place = place + 1
                    return self.text[match.end() : place]
        raise UnreadableError("a brace is not closed")

    def _one_character(self) -> str:
        rest = self.text[self.place :].lstrip()
        self.place = len(self.text) - len(rest) + 1
        return rest[:1]

    def _letters(self) -> None:
        based = _BASED.match(self.text, self.place)
        if based:
            self._add("digits", based[based.lastindex or 1])
            self.place = based.end(based.lastindex or 1)
            return
        match = _LETTERS.match(self.text, self.place) or _OTHER_LETTERS.match(self.text, self.place)
        if match is None:
            raise UnreadableError(f"{self.text[self.place]!r} is not a character that is read")
        run = match[0]
        if "-" in run and not self._is_word(run):  # ab-ac is a difference
            run = run.partition("-")[0]
            match = _LETTERS.match(self.text, self.place, self.place + len(run)) or match
        follows = self.text[match.end() : match.end() + 1]
        self.place = match.end()
        self._run(run, follows)

    def _run(self, run: str, follows: str) -> None:
        lowered = run.lower()
        if lowered in words.JOINERS:
            self._add("joiner", words.JOINERS[lowered])
        elif lowered in words.CONSTANTS and len(run) > 1:
            self._add("name", "pi" if lowered == "pi" else "infty")
        elif run in ("frac", "dfrac", "tfrac", "sqrt", "boxed", "infty", "cdot", "times", "binom", "text") and follows in "{([ 0123456789":
            self._restart(run)
        elif run in words.FUNCTIONS and not self._is_measure(run, follows):
            self._add("name", run)
        elif self._is_applied(run) and follows in ("(", "["):
            self._add("letter", run)
        elif self._is_word(run) or self._is_unit_behind_symbol(run):
            self._word(self._behind_number(run))
        else:
            self._product(run)

    def _is_measure(self, run: str, follows: str) -> bool:
        """5 min and 90 deg, but not 5 min(2, 3)."""
        return is_unit_name(run) and bool(self.tokens) and self.tokens[-1].kind == "number" and follows not in ("(", "_", "{", "\\")

    def _is_unit_behind_symbol(self, run: str) -> bool:
        """2\\pi cm: letters that are a unit and end the answer, behind a value and a space."""
        if not self.units or run not in words.PLAIN_UNITS or not self.spaced or not self.tokens:
            return False
        is_last = not self.text[self.place :].lstrip(" \t^{23}.") or self.text[self.place :].lstrip()[:1] in (",", ";", "/")
        return is_last and (self.tokens[-1].text in ("}", ")", "pi", "e") or self.tokens[-1].kind in ("letter", "number"))

    def _product(self, run: str) -> None:
        """Letters side by side; a function's name may be among them, as in xsinx."""
        function = next((name for name in ("sin", "cos", "tan", "log", "ln", "sqrt", "pi", "exp") if run.startswith(name)), None)
        rest = run
        if function and len(run) - len(function) <= 2:
            self._add("name", function)
            rest = run[len(function) :]
        for letter in rest:
            self._add("letter", letter)
            self.spaced = False

    def _restart(self, run: str) -> None:
        """A command whose backslash was lost."""
        self.place -= len(run)
        rest = self.text[self.place :]
        self.text = f"{self.text[: self.place]}\\{rest[1:] if run in ('dfrac', 'tfrac') else rest}"

    def _is_word(self, run: str) -> bool:
        lowered = run.lower()
        if len(run) == 1:
            return not run.isascii()
        if lowered in words.SHORT_WORDS or lowered in words.MAGNITUDES:
            return not (run.isupper() and len(run) <= 3 and run != self.text.strip())
        if len(run) == 3 and run == self.text.strip() and set(lowered) & set("eiou") and not run.isupper():
            return True
        last = self.tokens[-1] if self.tokens else END
        if last.kind == "word" or (last.kind == "number" and is_plain_unit(run)):
            return True
        longest = max(map(len, run.split("-")))
        return ((longest >= 4 or not run.isascii()) and any(vowel in lowered for vowel in "aeiouy" if run.isascii())) or not run.isascii()

    def _word(self, run: str) -> None:
        if self.tokens and self.tokens[-1].kind == "word":
            self.tokens[-1] = Token("word", f"{self.tokens[-1].text} {run}", self.tokens[-1].spaced)
        else:
            self._add("word", run)

    # Marks

    def _mark(self, character: str) -> None:
        if self.text.startswith("...", self.place):
            self.place += 3
            self._add("name", "ldots")
            return
        mark = next((mark for mark in _MARKS if self.text.startswith(mark, self.place)), character)
        self.place += len(mark)
        self.depth += (mark in "([{") - (mark in ")]}")
        if self.depth > MAX_NESTING:
            raise TooLargeError(f"brackets are nested deeper than {MAX_NESTING}")
        self._add("mark", "^" if mark == "**" else mark)


_COMMANDS = (
    words.FUNCTIONS
    | words.GREEK
    | words.CONSTANTS.keys()
    | words.RELATIONS.keys()
    | words.SET_OPERATORS.keys()
    | words.NAMED_SETS.keys()
    | words.JOINERS.keys()
    | words.names(
        "frac sqrt cbrt binom choose over cdot times div bmod mod pmod pm mp circ prime degree overline bar begin end lfloor rfloor lceil "
        "rceil langle rangle lvert rvert vert mid lVert rVert Vert lbrace rbrace lbrack rbrack sum prod int lim to rightarrow infty ldots "
        "dots cdots angle triangle dot ddot AA pounds euro yen star ast bullet colon operatorname nearrow not perp parallel tfrac dfrac "
        "hat widehat tilde widetilde check breve acute grave"
        " odot oplus otimes dagger hphantom atop implies Rightarrow iff Leftrightarrow quad mathbb textdegree celsius"
    )
)


def _flat(content: str) -> str:
    """A unit of several symbols in one line: m s^{-1}, and m/s^2 for the fraction of both."""
    marks = {"}": "/", "\\cdot": "*", "\\times": "*", "\\frac": " "}
    flat = _FRACTION_MARKS.sub(lambda found: next((mark for start, mark in marks.items() if found[0].startswith(start)), " "), content)
    return re.sub(r"(?<!\^)\{|(?<!\d)\}|(?<=[a-zA-Z])\}", " ", flat).strip()


def _is_compound_unit(content: str) -> bool:
    """Whether symbols of units alone make up the text, with powers, products or a fraction; one bare word is left to the parser."""
    flat = _flat(content)
    if len(flat) > MAX_UNIT_CHARS or not re.search(r"[\s/*^]", flat) or "{" not in content:
        return False
    parts = _UNIT_WORD.findall(flat)
    return not _UNIT_WORD.sub("", flat) and any(parts) and all(is_unit_name(part) for part in parts if part)


def _comma_spacing(text: str) -> dict[int, bool]:
    """For each bracket that opens at a place (-1 for none): whether its items are separated by a comma and a space, so that a comma
    without one groups thousands. A comma without a space that groups nothing is a separator, and then all of them are.
    """
    found: dict[int, bool] = {}
    stack = [-1]
    for place, character in enumerate(text):
        if character in "([{":
            stack.append(place)
        elif character in ")]}" and len(stack) > 1:
            stack.pop()
        elif character in ",;":
            is_spaced = text[place + 1 : place + 2].isspace()
            if is_spaced or not _GROUPING.match(text, max(0, place - 1)):
                found[stack[-1]] = is_spaced and found.get(stack[-1], True)
    return found


def _decimal(digits: str) -> Num:
    whole, _, decimals = digits.partition(".")
    if not decimals:
        return Num(Fraction(int(whole)))
    value = Fraction(int((whole + decimals) or "0"), 10 ** len(decimals))
    return Num(value, len((whole + decimals).lstrip("0")) or 1)


def _repeating(digits: str, period: str) -> Num:
    if len(digits) + len(period) > MAX_DIGITS:
        raise TooLargeError(f"a number has more than {MAX_DIGITS} digits")
    whole, _, fixed = digits.partition(".")
    start = Fraction(int((whole + fixed) or "0"), 10 ** len(fixed))
    return Num(start + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed)))


def _continued(digits: str) -> Num:
    """`0.1666...`: a period that is written at least twice, or three times if it is one digit, goes on for ever."""
    whole, _, decimals = digits.partition(".")
    for length in range(1, len(decimals) // 2 + 1):
        period = decimals[-length:]
        times = 3 if length == 1 else 2
        if decimals.endswith(period * times):
            return _repeating(f"{whole}.{decimals[:-length]}", period)
    raise UnreadableError(f"{digits}... does not say how it goes on")


def _scaled(number: Num, exponent: str) -> Num:
    if len(exponent) > 6 or abs(int(exponent)) > MAX_DECIMAL_EXPONENT:
        raise TooLargeError(f"the decimal exponent {exponent[:12]} is larger than {MAX_DECIMAL_EXPONENT}")
    # A power of ten is written to as many digits as stand before it.
    digits = number.digits or (len(str(abs(number.value.numerator))) if number.value.denominator == 1 else 0)
    return Num(number.value * Fraction(10) ** int(exponent), 0 if number.value.denominator == 1 and not number.digits else digits)
