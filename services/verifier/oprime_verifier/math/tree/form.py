"""Whether two equal answers are written in one form."""

import re

_NOTATION = (
    (re.compile(r"\\frac\{([^{}]+)\}\{([^{}]+)\}"), r"\1/\2"),
    (re.compile(r"\\frac(\d)(\d)"), r"\1/\2"),
    (re.compile(r"^[A-Za-z](?:\([a-z]\))?="), ""),
    (re.compile(r"\\cdot|\\times|\*"), ""),
    (re.compile(r"(?<=\d),(?=\d{3})"), ""),
    (re.compile(r"\\text(?:bf|rm)?\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\^\{(\w)\}"), r"^\1"),
    (re.compile(r"\.0+$|(?<=\.\d)0+$"), ""),
)


def same_form(gold: str, answer: str) -> bool:
    """Whether the texts are one but for notation. Both are cleaned and without spaces."""
    return _plain(gold) == _plain(answer)


def _plain(text: str) -> str:
    for pattern, replacement in _NOTATION:
        text = pattern.sub(replacement, text)
    return text.strip("(){}").lower()
