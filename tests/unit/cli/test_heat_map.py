from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from oprime_cli.scoring.heat_map import END_MARK, Stretch, strengths, stretches


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
