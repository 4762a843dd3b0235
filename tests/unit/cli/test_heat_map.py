from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oprime_cli.scoring.heat_map import END_MARK, NEGATIVE, POSITIVE, Stretch, article, strengths, stretches
from oprime_cli.scoring.score import prompt_text


def test_tokens_that_share_a_character_are_one_piece_and_text_between_tokens_has_no_reward() -> None:
    tokens = {"char_spans": [[0, 1], [1, 2], [1, 2], [3, 4], [4, 4]], "rewards": [1.0, 0.5, 0.25, -2.0, 3.0]}
    assert stretches("a\U0001f600 b", tokens) == [
        Stretch(text="a", reward=1.0),
        Stretch(text="\U0001f600", reward=0.75),
        Stretch(text=" ", reward=None),
        Stretch(text="b", reward=-2.0),
        Stretch(text=END_MARK, reward=3.0),
    ]


def test_the_largest_reward_by_size_has_the_whole_colour() -> None:
    pieces = [Stretch(text="a", reward=1.0), Stretch(text="b", reward=None), Stretch(text="c", reward=-4.0)]
    assert strengths(pieces) == [0.25, 0.0, -1.0]
    assert strengths([Stretch(text="a", reward=0.0)]) == [0.0]


@given(st.text(max_size=20), st.data())
def test_the_pieces_are_the_response(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    spans = list(pairwise(cuts))
    pieces = stretches(text, {"char_spans": spans, "rewards": [1.0] * len(spans)})
    assert "".join(piece.text for piece in pieces if piece.text != END_MARK or END_MARK in text) == text


def test_a_negative_token_is_told_by_more_than_its_colour() -> None:
    shown = article("a", "p", [Stretch(text="x", reward=-0.5), Stretch(text="<", reward=0.25), Stretch(text="y", reward=None)], -0.25)
    assert '<span class="negative" style="--strength:100%" title="-0.5">x</span>' in shown
    assert '<span class="positive" style="--strength:50%" title="0.25">&lt;</span>y' in shown


@pytest.mark.parametrize("colour", [POSITIVE, NEGATIVE])
def test_white_text_on_a_terminal_can_be_read(colour: tuple[int, int, int]) -> None:
    # WCAG: relative luminance, and a contrast of 4.5 to white.
    linear = [part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in colour]
    luminance = sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    assert 1.05 / (luminance + 0.05) >= 4.5


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"prompt": "1 + 1?", "response": "2"}, "1 + 1?"),
        (
            {
                "messages": [
                    {"role": "system", "content": "Be short."},
                    {"role": "user", "content": [{"type": "text", "text": "1 +"}, {"type": "text", "text": " 1?"}]},
                    {"role": "assistant", "content": "2"},
                ]
            },
            "system: Be short.\nuser: 1 + 1?",
        ),
        ({"prompt_token_ids": [1], "response_token_ids": [2]}, ""),
    ],
)
def test_prompts_are_shown_as_a_person_reads_them(row: dict[str, Any], shown: str) -> None:
    assert prompt_text(row) == shown
