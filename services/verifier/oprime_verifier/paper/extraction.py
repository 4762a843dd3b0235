"""Which answer the paper's evaluation takes of a response, and how it writes it. Pure."""

import re

MOST_CHARS = 1000
_MARKERS = ("the answer is: ", "answer:\n", "answer: ")
_LAST_NUMBER = re.compile(r"-?\d*\.?\d+")


def boxed_answer(response: str) -> str:
    """AIME, AMC, MATH-500: what follows the last marker, and in it the last box; the whole rest where there is none."""
    rest = response
    for marker in _MARKERS:
        place = rest.lower().rfind(marker)
        if place >= 0:
            rest = rest[place + len(marker) :].strip()
    found = _last_box(rest)
    return found or rest


def _last_box(text: str) -> str:
    """The content of the last `\\boxed` or `\\fbox`; empty where it does not end."""
    start = text.rfind("\\boxed")
    start = text.rfind("\\fbox") if start < 0 else start
    opening = text.find("{", start) if start >= 0 else -1
    return "" if opening < 0 else _in_braces(text, opening, whole=True).strip()


def _in_braces(text: str, opening: int, *, whole: bool) -> str:
    """What stands in the braces that open there; where they do not close, nothing if it must be `whole`, else the rest."""
    depth = 0
    for place in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[opening + 1 : place]
    return "" if whole else text[opening + 1 :]


def harness_answer(response: str, *, units: bool) -> str:
    """Minerva Math, OlympiadBench: the last box, else what follows `answer is`, else the last number; then written plainly."""
    # Longer ones are never right, and some patterns below would take their time over them.
    found = re.sub(r"\n\s*", "", _harness_answer(response)[:MOST_CHARS])
    found = found.removeprefix(":").removesuffix(".").removesuffix("/")
    return plainly(plainly(found, units=units), units=units)


def _harness_answer(response: str) -> str:
    if "final answer is $" in response and "$. I hope" in response:
        return response.partition("final answer is $")[2].partition("$. I hope")[0].strip()
    if "boxed" in response:
        rest = response.rpartition("boxed")[2]
        return _in_braces(rest, 0, whole=False) if rest.startswith("{") else rest.partition("$")[0].strip()
    for marker in ("he answer is", "final answer is"):
        if marker in response:
            return response.rpartition(marker)[2].strip()
    numbers = _LAST_NUMBER.findall(response.replace(",", ""))
    return numbers[-1] if numbers else ""


_REPLACED = (
    ("\n", ""), ("\\!", ""), ("bmatrix", "pmatrix"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\neq", "\\ne"), ("\\leq", "\\le"),
    ("\\geq", "\\ge"), ("\\left", ""), ("\\right", ""), ("\\{", "{"), ("\\}", "}"),
)  # fmt: skip
_REMOVED = ("^{\\circ}", "^\\circ", "\\$", "$", "\\(", "\\)")
_LABELS = ("x=", "y=", "z=", "x\\in", "y\\in", "z\\in", "x\\to", "y\\to", "z\\to")
_SIGNS = ("\\%", "%")
_UNITS = (
    "degree", "deg", "mph", "kmph", "ft", "mile", "gm", "lb", "dm", "inches", "inch", "percent", "gal", "gallon", "kmh", "acre", "sq",
    "coin", "yr", "feet", "am", "pm", "hr", "square", "rupee", "cubic", "cc", "day", "hour", "minute", "min", "second", "sec", "hectare",
    "unit", "rs", "kg", "g", "month", "km", "m", "cm", "mm", "liter", "litre", "yard", "year", "metre", "meter", "men", "man", "women",
    "woman", "number", "h", "s", "c", "l", "t", "a", "d", "o",
)  # fmt: skip
"""Words and units that the harness strikes out."""
_UNIT = re.compile(rf"(^|\W)(?:{'|'.join(sorted((unit + end for unit in _UNITS for end in ('', 's')), key=len, reverse=True))})(?=$|\W)")


def plainly(text: str, *, units: bool) -> str:
    """An answer without units, signs of percentage, degrees and money, labels, and LaTeX that only sets it. `units` leaves units in."""
    text = text.strip().rstrip(".")
    for old, new in _REPLACED:
        text = text.replace(old, new)
    text = re.sub(r"\\text{.*?}$", "", text).strip() or text
    if not units:
        text = _UNIT.sub(r"\1", text).strip() or text
    for mark in _REMOVED:
        text = text.replace(mark, "")
    text = re.sub(r"\\text\{(.*?)\}", r"\1", text)
    for mark in (*_LABELS, *_SIGNS):
        text = text.replace(mark, "")
    return _numbers_plainly(text)


def _numbers_plainly(text: str) -> str:
    text = text.replace("infinity", "\\infty").replace("and", "").replace("\\mathbf", "").replace(" .", " 0.").replace("{.", "{0.")
    text = re.sub(r"\\mbox{.*?}", "", text)
    text = re.sub(r"(\d+)\.0*([^\d]|$)", r"\1\2", text)
    if text.startswith("."):
        text = f"0{text}"
    label, sign, value = text.partition("=")
    if sign and "=" not in value and len(label) <= 2:
        text = value
    text = re.sub(r"\\sqrt(\w+)", r"\\sqrt{\1}", text).replace(" ", "")
    # \frac12 and \frac1b, and 1/2.
    text = re.sub(r"\\frac(\w)(\w)", r"\\frac{\1}{\2}", text)
    return re.sub(r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}", text)
