"""The final answer of a response: the last box, or what a marker or a conclusion sets apart. Reasoning is never graded."""

import re
from dataclasses import dataclass, field

from oprime_verifier.math.options import MathOptions

MAX_BOX_CHARS = 20_000
MAX_SEARCHED_CHARS = 20_000
"""Without a box or `####`, the answer is looked for in this many characters at the end of the response."""
MAX_LINE_CHARS = 400
MAX_BARE_GOLD_WORDS = 12
"""A longer gold may be a solution that ends in `the answer is ...`."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_BARE_BOX = re.compile(r"\\boxed\s+(?=[^\s${}\\]*\d|[A-Z](?![a-zA-Z]))([^\s${}\\]+)")
_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_JOINER = re.compile(r"^\s*(?:,|;|&)?\s*(?:\\text\s*\{\s*)?(and|or|,|;|&)?(?:\s*\})?\s*")
_MATH_SPACE = re.compile(r"\\q?quad(?![a-zA-Z])|\\[,;:! ()\[\]]|[$~]")
_NAMED = re.compile(r"(?:[A-Za-z](?:_\{?\w+\}?)?\s*=)?\s*")
_TRAILING_UNIT = re.compile(r"\s*(?:\\[,;: ]|~)*(\^\s*\{?\s*\\circ\s*\}?|\\%|\\(?:text|mathrm|textrm)\s*\{[^{}]{1,40}\}(?:\^\{?\d\}?)?)")
_STATED = re.compile(
    r"(?:final\s+answer|correct\s+answer|the\s+answer|answer|correct\s+(?:option|choice))\s*(?:\*\*)?\s*"
    r"(?:to\s+[^.\n]{0,80}?)?(?:(?:is|are|was|(?:would|should|must|will|can\s+only)\s+be|comes\s+to|equals)\s*:?|:|=)\s*(?:\*\*)?\s*(?:therefore\s+|thus\s+)?(?=([^\n]{0,400}))",
    re.IGNORECASE,
)
_CLAIM = re.compile(r"[A-Za-z$]\s+(?:is|are|equals)\s+(?:equal\s+to\s+)?(\$[^$]+\$|[-+]?\\?\$?\d[\d.,/]*\s*\\?%?)\s*$")
_CONCLUSION = re.compile(r"^(?:[^\n]*[.!]\s+)?(?:therefore|thus|so|hence|consequently|in conclusion)\b"
                         r"[^\n]*?[\s,](?:is|are|equals)\s+(?:\*\*)?"
                         r"(\$[^$\n]+\$|[-+]?\\?\$?\d[\d.,/]*\s*\\?%?)(?:\*\*)?\s*\.?\s*$", re.IGNORECASE)  # fmt: skip
_LABEL_LINE = re.compile(r"^\s*(?:\*\*)?A:\s*([^\n]+)$", re.MULTILINE)
_REASON = re.compile(
    r",?\s+(?:because|since|as|so|which|therefore|thus|hence|where)\s+(?=[\w$\\(])"
    r"|,\s+(?:in\s+total|in\s+all|altogether|making|giving|meaning|given|based|that|this|it|we|they|he|she|and\s+so|after|by"
    r"|corresponding|obtained|i\.e\.|namely|respectively|rounded|as|in|the|there)\b"
    r"|\s+(?:in\s+total|in\s+all|altogether)$|\s+[\u2013\u2014]\s+(?=[A-Za-z]{3,})"
)
_HEDGE = re.compile(
    r"\b(?:or|but|maybe|perhaps|possibly|either|not|unless|however|wait|instead|another|alternatively|if|except|also|actually|could|might)\b",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"\s*(?:\.{2,}|\\[lc]?dots|\u2026|\\?_+|\\cdot|\?|(?:\\text\s*\{)?\s*(?:your |the |final )*answer(?: here)?\s*\}?)?\s*", re.IGNORECASE
)
"""What a box holds that only shows how an answer should look."""
_HEADING = re.compile(
    r"^[ \t]{0,8}(?:#{1,6}[ \t]{0,8})?(?:\*\*|__)?[ \t]{0,8}(?:the[ \t])?final[ \t]{1,8}answer[ \t]{0,8}:?[ \t]{0,8}(?:\*\*|__)?"
    r"[ \t]{0,8}:?[ \t]{0,8}$",
    re.IGNORECASE | re.MULTILINE,
)
_FIRST_DISPLAY = re.compile(r"\s*(?:\$\$(?!\$)(.+?)\$\$|\\\[(.+?)\\\])", re.DOTALL)
_SENTENCE_END = re.compile(r"\.(?=\s+[A-Z\\$]|\s*$)|\s+I hope\b")
_DISPLAY = re.compile(r"^\s*(?:\$\$?|\\\[|\\\()(.+?)(?:\$\$?|\\\]|\\\))\.?\s*$", re.DOTALL)
_LAST_DISPLAY = re.compile(r"(?:\$\$(?!\$)(.+?)\$\$|\\\[(.+?)\\\])\s*\.?\s*$", re.DOTALL)
_HAS_WORDS = re.compile(r"[A-Za-z]{2,}[ ,;:]+[A-Za-z]{2,}[ ,;:]+[A-Za-z]{2,}")


@dataclass(frozen=True, slots=True)
class Extracted:
    answers: tuple[str, ...] = ()
    """What to grade: the answer, in the order of preference. Each reads the same answer with more or less around it."""
    parts: tuple[str, ...] = field(default=())
    """Boxes side by side that may be the parts of one answer, if the gold has as many."""
    problem: str = ""
    """Why there is no answer."""


def extract(response: str, options: MathOptions) -> Extracted:
    """The answer of a whole response."""
    visible, problem = _after_reasoning(response, options)
    if problem:
        return Extracted(problem=problem)
    tagged = _tagged(visible, options)
    if tagged is None:
        return _extracted(visible, options)
    if not _PLACEHOLDER.fullmatch(tagged):
        return _from_tag(tagged, options)
    boxes = [box for box in _boxes(visible) if not _PLACEHOLDER.fullmatch(box.content)]
    return _from_boxes(visible, boxes, options) if boxes else Extracted(problem="the answer between its tags is empty")


def _extracted(visible: str, options: MathOptions) -> Extracted:
    boxes = _boxes(visible)
    answers = [box for box in boxes if not _PLACEHOLDER.fullmatch(box.content)]
    if answers:
        return _from_boxes(visible, answers, options)
    hashes = _HASHES.findall(visible)
    if hashes:
        return _checked(hashes[-1].strip(), "the text after #### is empty")
    found = _concluded(visible[-MAX_SEARCHED_CHARS:], options)
    return Extracted(problem="the final box is empty") if boxes and not _states(visible[-MAX_SEARCHED_CHARS:]) else found


def _tagged(visible: str, options: MathOptions) -> str | None:
    """What stands between the last tags around an answer; None where there are none."""
    for tag in options.answer_tags:
        before, end, _ = visible.rpartition(f"</{tag}>")
        if end and f"<{tag}>" in before:
            return before.rpartition(f"<{tag}>")[2].strip()
    return None


def _from_tag(content: str, options: MathOptions) -> Extracted:
    found = _extracted(content, options)
    return found if found.answers or len(content) > MAX_LINE_CHARS else Extracted(answers=(content,))


def final_text(gold: str) -> str:
    """The answer of a gold that may be a whole solution."""
    boxes = _boxes(gold)
    if boxes:
        return ", ".join(_run(gold, boxes)[0])
    hashes = _HASHES.findall(gold)
    if hashes:
        return hashes[-1].strip()
    stated = list(_STATED.finditer(gold)) if len(gold.split()) > MAX_BARE_GOLD_WORDS else []
    return _sentence(stated[-1][1]) if stated else gold.strip()


def _after_reasoning(response: str, options: MathOptions) -> tuple[str, str]:
    visible, closed = response, False
    for tag in options.reasoning_tags:
        before, end, after = visible.rpartition(f"</{tag}>")
        if end:
            closed, visible = True, after
        del before
        if f"<{tag}>" in visible:
            return "", f"the response ends inside <{tag}>: it has no final answer"
    if options.starts_in_reasoning and not closed:
        return "", "the response does not end its reasoning: it has no final answer"
    return visible, ""


# Boxes


@dataclass(frozen=True, slots=True)
class _Box:
    content: str
    start: int
    stop: int


def _boxes(text: str) -> list[_Box]:
    """All complete boxes that are not inside another one, in order."""
    found: list[_Box] = []
    for match in _BOX.finditer(text):
        if found and match.start() < found[-1].stop:
            continue
        stop = _closing(text, match.end())
        if stop is not None:
            found.append(_Box(text[match.end() + 1 : stop - 1], match.start(), stop))
    bare = [_Box(match[1].rstrip(".,;"), match.start(), match.end()) for match in _BARE_BOX.finditer(text)]
    return sorted(found + bare, key=lambda box: box.start)


def _closing(text: str, start: int) -> int | None:
    """Place behind the brace that closes the one at `start`, if it comes soon enough."""
    depth = 0
    for place in range(start, min(len(text), start + MAX_BOX_CHARS)):
        if text[place] in "{}" and (text[place - 1] != "\\" or text[place - 2 : place] == "\\\\"):
            depth += 1 if text[place] == "{" else -1
            if depth == 0:
                return place + 1
    return None


def _from_boxes(text: str, boxes: list[_Box], options: MathOptions) -> Extracted:
    last = boxes[-1]
    contents = [box.content.strip() for box in boxes]
    if options.boxes == "same" and len(set(contents)) > 1:
        return Extracted(problem="several boxes hold different answers")
    unit = _TRAILING_UNIT.match(text, last.stop)
    answer = last.content + (unit[1] if unit else "")
    run, joiner = _run(text, boxes)
    if joiner == "or":  # a hedge: all of it is the answer
        return Extracted(answers=(" \\text{ or } ".join(run),))
    return Extracted(answers=(answer,), parts=tuple(run) if len(run) > 1 else ())


def _run(text: str, boxes: list[_Box]) -> tuple[list[str], str]:
    """The boxes at the end that only `and`, `or`, commas and names stand between."""
    run, joiner = [boxes[-1].content], ""
    for left, right in zip(reversed(boxes[:-1]), reversed(boxes), strict=False):
        between = _joined_by(text[left.stop : right.start])
        if not between:
            break
        joiner = "or" if between == "or" else joiner or between
        run.insert(0, left.content)
    return run, joiner


def _joined_by(between: str) -> str:
    """`and`, `or` or a comma, if nothing but that and a name stands between two boxes; else empty."""
    if "\n\n" in between or len(between) > 80:
        return ""
    plain = _MATH_SPACE.sub(" ", between)
    joiner = _JOINER.match(plain)
    if joiner is None or not _NAMED.fullmatch(plain[joiner.end() :].strip() + " "):
        return ""
    return joiner[1] or ("," if joiner[0].strip() else "")


# Without a box


def _concluded(text: str, options: MathOptions) -> Extracted:
    if "\\boxed{" in text:
        return Extracted(problem="the response ends inside a box: it has no answer")
    headed = _HEADING.split(text)[-1].strip() if options.answer_heading and _HEADING.search(text) else ""
    if headed:
        return _below_heading(headed)
    stated = list(_STATED.finditer(text))
    if stated:
        return _checked(_sentence(stated[-1][1]), "the stated answer is empty")
    labelled = _LABEL_LINE.findall(text)
    if labelled:
        return _checked(labelled[-1].strip(), "the text after A: is empty")
    if options.unmarked == "conclusion":
        found = _standing_alone(text.strip())
        if found:
            return Extracted(answers=(found,))
    return Extracted(problem="the response has no answer: no \\boxed{}, no ####, no stated answer")


def _states(text: str) -> bool:
    """Whether the text says what the answer is, besides an empty box."""
    return bool(_STATED.search(text) or _LABEL_LINE.search(text) or _HEADING.search(text))


def _below_heading(text: str) -> Extracted:
    """The mathematics set apart below a heading, what is stated there, or its first line."""
    display = _FIRST_DISPLAY.match(text)
    if display:
        return Extracted(answers=((display[1] or display[2]).strip(),))
    stated = list(_STATED.finditer(text))
    line = stated[-1][1] if stated else text.partition("\n")[0]
    return _checked(_sentence(line), "the text below the heading is empty")


def _standing_alone(text: str) -> str:
    """A response that is nothing but an answer, or whose last line is nothing but mathematics."""
    line = text.rpartition("\n")[2].strip()
    if "\n" not in text and len(text) <= MAX_LINE_CHARS and not _HAS_WORDS.search(text):
        return text
    display = _LAST_DISPLAY.search(text)
    if display:
        return (display[1] or display[2]).strip()
    concluded = _CONCLUSION.match(line)
    if concluded:
        return concluded[1].strip()
    alone = _DISPLAY.match(line)
    return alone[1].strip() if alone and "$" not in alone[1] else ""


def _sentence(text: str) -> str:
    """Up to the end of the sentence; of `the largest n is 34`, what it is."""
    end = _SENTENCE_END.search(text)
    sentence = _without_reason((text[: end.start()] if end else text).strip().strip("*").strip())
    claim = _CLAIM.search(sentence)
    return claim[1].strip() if claim else sentence


def _without_reason(sentence: str) -> str:
    """`64, in total, so the shop earns that much` without what is said of the answer behind it.

    What takes it back or names another one stays, so that it is no answer: `5, but maybe 6`, `A or B`.
    """
    reason = _REASON.search(sentence)
    if not reason or _HEDGE.search(sentence[reason.start() :]):
        return sentence
    return sentence[: reason.start()].strip().strip("*").strip() or sentence


def _checked(answer: str, problem: str) -> Extracted:
    return Extracted(answers=(answer,)) if answer else Extracted(problem=problem)
