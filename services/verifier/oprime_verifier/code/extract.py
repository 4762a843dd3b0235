"""Find the program in a response.

The rule: reasoning ends at the last `</think>`; a `<think>` that is never closed leaves nothing to grade. In what follows, the last fenced
block in the wanted language counts, else the last block without a language. A block whose closing fence is missing counts too, as the
last one. Text outside fences is never code, unless the request says that the response is bare code.
"""

import re
import textwrap
from dataclasses import dataclass

# Possessive, so that no response makes the search slow.
_FENCE = re.compile(r"^[ \t]*+(?P<mark>`{3,}+|~{3,}+)(?P<tag>[^`\n]*+)$", re.MULTILINE)
_TAGS = {
    "python": {"python", "py", "python3", "py3", "python2", "pypy", "pypy3"},
    "cpp": {"cpp", "c++", "cxx", "cc", "c"},
    "javascript": {"javascript", "js", "node", "nodejs"},
}


class NoCodeError(Exception):
    """The response has nothing to grade; the message says why."""


@dataclass(frozen=True, slots=True)
class _Block:
    tag: str
    code: str


def extract_program(response: str, language: str = "python", bare: bool = False) -> str:
    """The code of a response. Raises NoCodeError."""
    if bare:
        if not response.strip():
            raise NoCodeError("no_code: the response is empty")
        return response
    blocks = _blocks(_after_reasoning(response))
    wanted = [block for block in blocks if block.tag in _TAGS[language]] or [block for block in blocks if not block.tag]
    if not wanted:
        found = ", ".join(sorted({block.tag for block in blocks}))
        raise NoCodeError(f"no_code: the response has no fenced block in {language}" + (f", only in {found}" if found else ""))
    if not wanted[-1].code.strip():
        raise NoCodeError("no_code: the last fenced block is empty")
    return wanted[-1].code


def _after_reasoning(response: str) -> str:
    answer = response.rpartition("</think>")[2]
    opened = answer.find("<think>")
    fence = _FENCE.search(answer)
    # Behind a fence, the word is part of a program.
    if opened >= 0 and (fence is None or opened < fence.start()):
        raise NoCodeError("unfinished_reasoning: <think> was never closed")
    return answer


def _blocks(text: str) -> list[_Block]:
    blocks: list[_Block] = []
    opening: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opening is None:
            opening = fence
        elif not fence["tag"].strip() and fence["mark"].startswith(opening["mark"]):
            blocks.append(_block(opening, text[opening.end() : fence.start()]))
            opening = None
    if opening is not None:
        blocks.append(_block(opening, text[opening.end() :]))
    return blocks


def _block(opening: re.Match[str], code: str) -> _Block:
    words = opening["tag"].split()
    tag = words[0].strip("{}.:").lower() if words else ""
    # A block inside a list is indented as a whole, with its fence.
    indent = re.match(r"[ \t]*", opening[0])
    code = code.removeprefix("\r").removeprefix("\n")
    return _Block(tag, textwrap.dedent(code) if indent and indent[0] else code)


def complete(program: str, prompt: str, entry_point: str) -> str:
    """The program, with the prompt before it where the program lacks what the prompt begins: a completion of its signature."""
    owner, _, method = entry_point.rpartition(".")
    name = owner.removesuffix("()") or method
    if not prompt or not name or _defines(program, name) or not _mentions(prompt, name):
        return program
    # A completion is the body of the prompt's last function; a chat model may have moved it to the left.
    body = program if program[:1] in (" ", "\t", "\n") else textwrap.indent(program, "    ")
    return prompt + ("" if prompt.endswith("\n") else "\n") + body


def _defines(program: str, name: str) -> bool:
    # By pattern: model code is parsed in the sandbox alone.
    return _mentions(program, name) or bool(re.search(rf"^{re.escape(name)}[ \t]*[:=]", program, re.MULTILINE))


def _mentions(source: str, name: str) -> bool:
    return bool(re.search(rf"^(?:async[ \t]+def|def|class)[ \t]+{re.escape(name)}\b", source, re.MULTILINE))


_DEFINED = re.compile(r"^(?:async[ \t]+def|def|class)[ \t]+(\w+)", re.MULTILINE)


def defined_names(program: str) -> list[str]:
    """Functions and classes at the left margin, in order."""
    return _DEFINED.findall(program)
