"""One spelling for what different writers type differently: Unicode, delimiters, spacing, doubled backslashes."""

# ruff: noqa: RUF001 - the tables are about characters that look alike

import re
import unicodedata
from collections.abc import Callable

from oprime_verifier.math.read import words

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ⁽⁾", "0123456789+-ni()", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₙₓ", "0123456789+-nx", strict=True))
_FRACTIONS = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5), "⅘": (4, 5), "⅙": (1, 6),
    "⅚": (5, 6), "⅐": (1, 7), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8), "⅑": (1, 9), "⅒": (1, 10),
}  # fmt: skip
_CHARACTERS = {
    **{symbol: f"\\frac{{{upper}}}{{{lower}}}" for symbol, (upper, lower) in _FRACTIONS.items()},
    **dict.fromkeys("−–—﹣－‐‑‒", "-"),
    **dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad\u2061\u2062\u2063", ""),
    "×": " \\times ", "⋅": " \\cdot ", "·": " \\cdot ", "∙": " \\cdot ", "•": " \\cdot ", "÷": " \\div ", "∗": "*", "∕": "/", "⁄": "/",
    "≤": " \\le ", "≥": " \\ge ", "⩽": " \\le ", "⩾": " \\ge ", "≦": " \\le ", "≧": " \\ge ", "≠": " \\ne ", "≈": " \\approx ",
    "≃": " \\approx ", "≅": " \\cong ", "≡": " \\equiv ", "∪": " \\cup ", "∩": " \\cap ", "∖": " \\setminus ", "∈": " \\in ",
    "∅": " \\emptyset ", "⌀": " \\emptyset ", "Ø": " \\emptyset ", "∞": " \\infty ", "±": " \\pm ", "∓": " \\mp ",
    "°": "^\\circ ", "º": "^\\circ ",
    "√": "\\sqrt ", "∛": "\\cbrt ", "∑": "\\sum ", "∏": "\\prod ", "∫": "\\int ", "∂": "\\partial ", "∠": "\\angle ", "△": "\\triangle ",
    "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}", "ℚ": "\\mathbb{Q}", "ℂ": "\\mathbb{C}", "ℓ": "\\ell ",
    "⌊": "\\lfloor ", "⌋": "\\rfloor ", "⌈": "\\lceil ", "⌉": "\\rceil ", "⟨": "\\langle ", "⟩": "\\rangle ", "∣": "|", "∧": " \\land ",
    "∨": " \\lor ", "→": "\\to ", "…": "\\ldots ", "⋯": "\\cdots ", "′": "'", "″": "''", "’": "'", "‘": "'", "“": '"', "”": '"',
    **dict.fromkeys("„‟«»", '"'), **dict.fromkeys("‚‛", "'"),
    "、": ", ", "。": ".",
    "％": "\\%", "ℏ": "\\hbar ", "Å": "\\AA ", "\u212b": "\\AA ", "\u2126": "\\Omega ", "µ": "\\mu ",
    "π": "\\pi ", "α": "\\alpha ", "β": "\\beta ", "γ": "\\gamma ", "δ": "\\delta ", "ε": "\\epsilon ", "θ": "\\theta ", "λ": "\\lambda ",
    "μ": "\\mu ", "ρ": "\\rho ", "σ": "\\sigma ", "τ": "\\tau ", "φ": "\\phi ", "ϕ": "\\phi ", "χ": "\\chi ", "ψ": "\\psi ",
    "ω": "\\omega ",
    "Δ": "\\Delta ", "Σ": "\\Sigma ", "Ω": "\\Omega ", "Π": "\\Pi ", "Γ": "\\Gamma ", "Φ": "\\Phi ", "ξ": "\\xi ", "η": "\\eta ",
    "κ": "\\kappa ",
}  # fmt: skip
_TABLE = str.maketrans(_CHARACTERS)
_RAISED = re.compile(f"[{''.join(map(re.escape, _SUPERSCRIPTS))}]+")
_LOWERED = re.compile(f"[{''.join(map(re.escape, _SUBSCRIPTS))}]+")
_BARE_ROOT = re.compile(r"\\(sqrt|cbrt)\s+\(([^()]*)\)")

_ENDINGS = {"1": "st", "2": "nd", "3": "rd"}


def _without_ordinal(found: re.Match[str]) -> str:
    """5 for 5th; what has another ending is left as it is."""
    number, ending = found[1], found[2] or found[3]
    wanted = "th" if number[-2:-1] == "1" else _ENDINGS.get(number[-1], "th")
    if ending == "nd" and "^" in found[0] and "\\" not in found[0]:  # 2^{nd} is a power
        return found[0]
    unclosed = found[0].count("{") - found[0].count("}")
    return found[0] if ending != wanted or unclosed > 0 else number + "}" * -unclosed


def _choices_in_front(found: re.Match[str]) -> str:
    """{}_5C_2 and ^5C_2 by the upper number in front."""
    upper, lower = found[1], found[3] or found[4]
    return f"\\binom{{{upper}}}{{{lower}}}" if found[2] == "C" else f"\\frac{{{upper}!}}{{({upper}-{lower})!}}"


_CHOICES_IN_FRONT = re.compile(
    r"(?:\{\s*\}\s*)?[_^]\s*\{?\s*([a-zA-Z0-9]{1,6})\s*\}?\s*([CP])\s*_\s*(?:\{\s*([a-zA-Z0-9]{1,6})\s*\}|([a-zA-Z0-9]))"
)
_ORDINAL = re.compile(
    r"(?<![\d.])(\d+)\s*(?:\^\s*)?(?:\{\s*)?(?:\\(?:text|mathrm|textrm|rm|textsuperscript|mbox)\s*)?"
    r"(?:\{\s*(st|nd|rd|th)\s*\}|(st|nd|rd|th)(?![a-zA-Z]))(?:\s*\})?"
)


def _with_plain_numbers(text: str) -> str:
    """Ordinals as their numbers, and numbers of choices with the upper number in front as what they are."""
    if any(ending in text for ending in ("st", "nd", "rd", "th")):
        text = _ORDINAL.sub(_without_ordinal, text)
    return _CHOICES_IN_FRONT.sub(_choices_in_front, text) if "_" in text and ("C" in text or "P" in text) else text


_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z{}$%(\[])")
_ROW_SPACE = re.compile(r"\\\\\s*\[[^\]]{0,12}(?:pt|em|ex|mm|cm|in)\s*\]")
_RULES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"\\(?:left|right)\s*\.|\\left\s*\\\{(?=\s*\\begin)"), " "),
    (re.compile(r"\\(?:left|right|big|Big|bigg|Bigg|bigl|bigr|Bigl|Bigr|biggl|biggr|middle|displaystyle|textstyle|scriptstyle"
                r"|limits|nolimits|mathstrut|strut|phantom\{[^{}]*\}|hspace\*?\{[^{}]*\}|vspace\*?\{[^{}]*\}|label\{[^{}]*\}"
                r"|tag\*?\{[^{}]*\}|hline|noindent|rm|bf|it|sf|large|Large|small|centering|par)(?![a-zA-Z])"), " "),
    (re.compile(r"(?<!\\)\\!\s*"), ""),
    (re.compile(r"(?<!\\)\\[,;:> ](?!\d{3})|\\q?quad|\\(?:thinspace|enspace|nobreakspace)(?![a-zA-Z])"), " "),
    (re.compile(r"~|(?<!\\)\\[,;: ](?=\d{3})"), " "),
    (re.compile(r"\\(?:text)?color(?:box)?\s*(?:\[[^\]]*\]\s*)?\{[^{}]*\}"), " "),
    (re.compile(r"\\(?:[dtc]|nice|s)frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\not\s*="), r"\\ne "),
    (re.compile(r"\\([lr])brack(?![a-zA-Z])"), lambda found: "[" if found[1] == "l" else "]"),
    (re.compile(r"(?<![\d.])\.(?=\s*\\(?:overline|bar|dot)(?![a-zA-Z]))"), "0."),
    (re.compile(r"(?<=\.)(\d*)\{\s*(\\(?:overline|bar|dot)\s*\{\d+\})\s*\}"), r"\1\2"),
    (re.compile(r"(?<![\d.'])\d{1,3}(?:'\d{3})+(?![\d'])"), lambda found: found[0].replace("'", "")),
    (re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*\^\s*\{?\s*[-+]?\d)"), r"\\times "),
    (re.compile(r"\\mu\s*\\(?:text|mathrm)\s*\{\s*([mgsLlAVW])\s*\}"), r"\\text{ u\1}"),
    (re.compile(r"\\[dt]binom(?![a-zA-Z])"), r"\\binom"),
    (re.compile(r"(?<!\\)\\[()\[\]]"), " "),
    (re.compile(r"\{\s*\}\s*(?=\^)"), ""),
    (re.compile(r"(?<=\d)\s*\{(\\frac\s*\{[^{}]*\}\s*\{[^{}]*\})\}"), r"\1"),
    (re.compile(r"\bper cent\b"), "percent"),
    (re.compile(r"^\s*(-?)\s*(USD|US\s*\\?\$|EUR|GBP)\s*(?=\d)"),
     lambda found: found[1] + {"EUR": "\u20ac", "GBP": "\u00a3"}.get(found[2], "\\$")),
    (re.compile(r"(\\mathbb\s*\{?R\}?)\s*(?:-|\\backslash)\s*(?=\\\{)"), r"\1 \\setminus "),
    (re.compile(r"(?<=[\d}])\s+((?:[kcm]?m|ft|mi|kg|g|mg|L|k?J)/(?:s|h|hr|min|mol|L|kg|m|cm)(?:\^\{?[23]\}?)?)(?![a-zA-Z])"),
     r"\\text{ \1}"),
    (re.compile(r"\{\s*,\s*\}(?=\d{3}(?!\d))"), ","),
    (re.compile(r"(?<=\d)\{\s*,\s*\}(?=\d)"), "."),
)  # fmt: skip
_BOX = re.compile(r"^\s*\\(?:boxed|fbox)\s*\{")
_SAID_BASE = re.compile(r"(-?[0-9A-F]{0,64}\d[0-9A-F]{0,64})(?:[\s{}()_,~-]|\\(?:text|mathrm)(?![a-z]))*(?:in\s+)?base[\s-]*"
                        r"(?:[\s{}()_]|\\text(?![a-z]))*" + f"(\\d{{1,2}}|{'|'.join(words.BASES)})[\\s{{}})]*")  # fmt: skip
_BRACKETED_BASE = re.compile(r"(?<![\w\\})'\]])\(\s*([0-9A-F]{0,64}\d[0-9A-F]{0,64}|[0-9A-F]{1,64}(?=\s*\)\s*_\s*\{?\s*16))\s*\)(?=\s*_)")
_QUOTES = ('"', "'", "``")
_QUOTED_WORDS = re.compile(r"[^\W\d_](?:[^\W\d_]|[ ,.-])*")
"""Words may be quoted; quotes around a number make it text of a program."""
_ENDS = " \t\n.,;:\\"
_PLAIN_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_SPACES = re.compile(r"\s+")
_IDLE_SPACES = re.compile(r"(?<![\w.])\s|\s(?![\w.])")


def clean(text: str) -> str:
    """LaTeX in one spelling, without display commands, delimiters or a final stop."""
    if _PLAIN_NUMBER.fullmatch(text):
        return text
    text = _ascii(text)
    if "\\begin" not in text and "&" not in text:
        text = _DOUBLED.sub(r"\\", text)
    text = _dollars(_ROW_SPACE.sub(r"\\\\", text))
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    text = _with_plain_numbers(text)
    return _with_one_letter_form(_with_base_below(_trimmed(text)))


def _with_one_letter_form(text: str) -> str:
    """\\varphi as \\phi, and its like, where a text does not have both forms."""
    for letter in words.LETTER_FORMS if "\\var" in text else ():
        if f"\\var{letter}" in text and not re.search(rf"\\{letter}(?![a-zA-Z])", text):
            text = re.sub(rf"\\var{letter}(?![a-zA-Z])", rf"\\{letter}", text)
    return text


def _with_base_below(text: str) -> str:
    """A number with its base in one way: 101_{2} for 101 in base 2, 101 (base two) and (101)_2."""
    said = _SAID_BASE.fullmatch(text) if "base" in text else None
    if said:
        return f"{said[1]}_{{{said[2]}}}" if said[2].isdigit() else f"{said[1]}_{{\\text{{{said[2]}}}}}"
    return _BRACKETED_BASE.sub(r"\1", text)


def spelled(text: str) -> str:
    """The text with spaces between letters or digits alone, for telling whether two answers are written alike."""
    return _IDLE_SPACES.sub("", _SPACES.sub(" ", text))


def _ascii(text: str) -> str:
    if text.isascii():
        return text
    text = _RAISED.sub(lambda run: f"^{{{''.join(_SUPERSCRIPTS[character] for character in run[0])}}}", text)
    text = _LOWERED.sub(lambda run: f"_{{{''.join(_SUBSCRIPTS[character] for character in run[0])}}}", text)
    text = _BARE_ROOT.sub(r"\\\1{\2}", text.translate(_TABLE))
    return "".join(map(_plain_character, unicodedata.normalize("NFKC", text).translate(_TABLE)))


def _plain_character(character: str) -> str:
    """A digit of any script as it is written here; nothing for marks that only direct the layout."""
    if character.isascii():
        return character
    if unicodedata.category(character) == "Cf":
        return ""
    digit = unicodedata.decimal(character, None)
    return character if digit is None else str(digit)


def _dollars(text: str) -> str:
    """Remove dollar signs that delimit mathematics; a single one is money."""
    unescaped = [place for place, character in enumerate(text) if character == "$" and text[place - 1 : place] != "\\"]
    if len(unescaped) == 1:
        return text.replace("$", "\\$") if text[unescaped[0] + 1 : unescaped[0] + 2].strip() or text[: unescaped[0]].strip() else ""
    return re.sub(r"(?<!\\)\$", " ", text)


def _trimmed(text: str) -> str:
    previous = None
    while text != previous:
        previous = text
        text = text.strip()
        if not text.endswith(("\\}", "\\%", "\\$", "...", "\\ldots")):
            text = text.rstrip(_ENDS)
        if text.startswith("\\\\"):
            text = text[2:]
        text = _unwrapped(text)
    return text


def _unwrapped(text: str) -> str:
    """Without braces, emphasis or a box around the whole."""
    for start, stop in (("**", "**"), ("__", "__"), ("``", "''"), ("`", "`"), ('"', '"'), ("'", "'")):
        if text.startswith(start) and text.endswith(stop) and len(text) > len(start) + len(stop):
            inner = text[len(start) : -len(stop)]
            return inner if start not in _QUOTES or _QUOTED_WORDS.fullmatch(inner) else text
    box = _BOX.match(text)
    if box and _closes_at_end(text, box.end() - 1):
        return text[box.end() : -1]
    return text[1:-1] if text.startswith("{") and _closes_at_end(text, 0) else text


def _closes_at_end(text: str, start: int) -> bool:
    depth = 0
    for place in range(start, len(text)):
        if text[place] in "{}" and text[place - 1 : place] != "\\":
            depth += 1 if text[place] == "{" else -1
            if depth == 0:
                return place == len(text) - 1
    return False
