"""Texts coloured by their token rewards, for terminals and as a page. Pure."""

import html
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

END_MARK = "\N{SYMBOL FOR END OF TEXT}"
POSITIVE, NEGATIVE = (29, 111, 174), (168, 85, 4)
"""Blue and orange, which tell good from bad without colour vision too; dark enough for white text."""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
:root {{ color-scheme: light dark; --page: #ffffff; --ink: #16191d; --soft: #4b5563;
  --negative: #f08a24; --positive: #4a9fe0; --bad: #a83600 }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #101317; --ink: #edf0f4; --soft: #b0b8c4; --negative: #a85504; --positive: #1d6fae; --bad: #ff9d5c }}
}}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  background: var(--page); color: var(--ink) }}
h1, h2 {{ overflow-wrap: anywhere }}
article {{ border-top: 1px solid #8884; padding: 1rem 0 }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; margin: .5rem 0; font-size: 14px; line-height: 1.7 }}
pre.prompt, small {{ color: var(--soft) }}
span {{ unicode-bidi: isolate; background: color-mix(in srgb, var(--colour) var(--strength), var(--page)) }}
.positive {{ --colour: var(--positive) }}
.negative {{ --colour: var(--negative); border-bottom: 2px solid var(--bad) }}
.error {{ color: var(--bad) }}
</style></head><body><main><h1>{title}</h1>
<p>Blue tokens have a positive reward, orange and underlined ones a negative one; the strongest colour is the largest reward of a response.
Hold the pointer over a token for its reward.</p>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A piece of a response, and the reward of the tokens that wrote it; None where no token did."""

    text: str
    reward: float | None


def stretches(text: str, tokens: dict[str, Any]) -> list[Stretch]:
    """The response in pieces. Tokens that share a character, as parts of an emoji do, are one piece."""
    found, position = list[Stretch](), 0
    for start, end, reward in _merged(tokens):
        if start > position:
            found.append(Stretch(text=text[position:start], reward=None))
        shown = text[start:end] or (END_MARK if start >= len(text) else "")
        found.append(Stretch(text=shown, reward=reward))
        position = max(position, end)
    if position < len(text):
        found.append(Stretch(text=text[position:], reward=None))
    return found


def _merged(tokens: dict[str, Any]) -> Iterator[tuple[int, int, float]]:
    """Spans that do not overlap, with the sum of their tokens' rewards."""
    held: tuple[int, int, float] | None = None
    for (start, end), reward in zip(tokens["char_spans"], tokens["rewards"], strict=True):
        if held is not None and start < held[1]:
            held = (held[0], max(end, held[1]), held[2] + reward)
            continue
        if held is not None:
            yield held
        held = (start, end, reward)
    if held is not None:
        yield held


def strengths(pieces: Sequence[Stretch]) -> list[float]:
    """From -1 to 1, where 1 is the largest reward of the response by size."""
    most = max((abs(piece.reward) for piece in pieces if piece.reward is not None), default=0.0)
    return [(piece.reward or 0.0) / most if most else 0.0 for piece in pieces]


def for_terminal(title: str, pieces: Sequence[Stretch]) -> "Text":
    """Coloured text. Control characters of a response never reach the terminal."""
    from rich.text import Text

    shown = Text(f"{harmless(title)}\n", style="bold")
    for piece, strength in zip(pieces, strengths(pieces), strict=True):
        # On black, so that little reward is little colour.
        red, green, blue = (round(abs(strength) * part) for part in (POSITIVE if strength > 0 else NEGATIVE))
        shown.append(harmless(piece.text), style=f"not bold white on rgb({red},{green},{blue})" if strength else "not bold")
    return shown


def harmless(text: str) -> str:
    return "".join(character if character.isprintable() or character in "\n\t" else "\N{REPLACEMENT CHARACTER}" for character in text)


def page(title: str, articles: Iterable[str]) -> Iterator[str]:
    """The whole page, in pieces."""
    yield PAGE.format(title=html.escape(title))
    yield from articles
    yield "</main></body></html>\n"


def article(name: str, prompt: str, pieces: Sequence[Stretch], reward: float | None) -> str:
    """One response of the page."""
    spans = "".join(_span(piece, strength) for piece, strength in zip(pieces, strengths(pieces), strict=True))
    shown = "none" if reward is None else f"{reward:.6g}"
    heading = f"<h2>{html.escape(name)} <small>reward {shown}</small></h2>"
    return f'<article>{heading}<pre class="prompt">{html.escape(prompt)}</pre><pre>{spans}</pre></article>\n'


def failed_article(name: str, error: str) -> str:
    return f'<article><h2>{html.escape(name)}</h2><p class="error">{html.escape(error)}</p></article>\n'


def _span(piece: Stretch, strength: float) -> str:
    if piece.reward is None:
        return html.escape(piece.text)
    side = "negative" if strength < 0 else "positive"
    return f'<span class="{side}" style="--strength:{abs(strength):.0%}" title="{piece.reward:.6g}">{html.escape(piece.text)}</span>'
