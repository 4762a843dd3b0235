"""Rows of tokens and the way between ragged numbers and matrices."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oprime.core.token_rows import ragged, response_matrix, token_rows

PAD = 9


def test_prompt_response_and_padding_stand_side_by_side() -> None:
    rows = token_rows([[1, 2], [3]], [[4], [5, 6, 7]], pad_id=PAD)
    assert rows.input_ids.tolist() == [[1, 2, 4, PAD], [3, 5, 6, 7]]
    assert rows.attention_mask.tolist() == [[True, True, True, False], [True, True, True, True]]
    assert rows.is_response.tolist() == [[False, False, True, False], [False, True, True, True]]
    assert rows.input_ids.dtype == torch.int64


def test_a_length_adds_padding_on_the_right() -> None:
    rows = token_rows([np.array([1], dtype=np.int32)], [np.array([2], dtype=np.int32)], pad_id=PAD, length=4)
    assert rows.input_ids.tolist() == [[1, 2, PAD, PAD]]
    assert rows.attention_mask.tolist() == [[True, True, False, False]]
    assert rows.is_response.tolist() == [[False, True, False, False]]


def test_a_token_that_equals_the_padding_still_counts() -> None:
    rows = token_rows([[PAD]], [[PAD]], pad_id=PAD, length=3)
    assert rows.attention_mask.tolist() == [[True, True, False]]
    assert rows.is_response.tolist() == [[False, True, False]]


@pytest.mark.parametrize("length", [None, 5])
def test_no_rollouts_make_an_empty_matrix(length: int | None) -> None:
    rows = token_rows([], [], pad_id=PAD, length=length)
    assert rows.input_ids.shape == rows.attention_mask.shape == rows.is_response.shape == (0, length or 0)


def test_a_response_without_tokens_is_a_row_without_response() -> None:
    rows = token_rows([[1, 2]], [[]], pad_id=PAD)
    assert rows.input_ids.tolist() == [[1, 2]]
    assert not rows.is_response.any()


def test_bad_rows_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="row 1 has an empty prompt"):
        token_rows([[1], []], [[2], [3]], pad_id=PAD)
    with pytest.raises(ValueError, match=r"row 1 has 4 tokens but length is 3: .* at least 4"):
        token_rows([[1], [1, 2]], [[2], [3, 4]], pad_id=PAD, length=3)
    with pytest.raises(ValueError, match="2 prompts for 1 responses"):
        token_rows([[1], [2]], [[2]], pad_id=PAD)


def test_ragged_numbers_land_on_their_response_tokens() -> None:
    rows = token_rows([[1, 2], [3]], [[4], [5, 6, 7]], pad_id=PAD)
    matrix = response_matrix([[0.5], np.array([1, 2, 3], dtype=np.float32)], rows.is_response)
    assert matrix.tolist() == [[0, 0, 0.5, 0], [0, 1, 2, 3]]
    assert matrix.dtype == torch.float32


def test_arrays_straight_from_a_message_are_read_only_and_usable() -> None:
    ids, floats = np.frombuffer(b"\x01\0\0\0", dtype="<i4"), np.frombuffer(b"\0\0\0\x3f", dtype="<f4")
    rows = token_rows([ids], [ids], pad_id=PAD)
    assert rows.input_ids.tolist() == [[1, 1]]
    assert response_matrix([floats], rows.is_response).tolist() == [[0, 0.5]]


def test_a_wrong_number_of_numbers_is_refused() -> None:
    rows = token_rows([[1], [1]], [[2], [3, 4]], pad_id=PAD)
    with pytest.raises(ValueError, match=r"\[1, 1\] do not match response tokens per rollout \[1, 2\]"):
        response_matrix([[0.5], [0.5]], rows.is_response)
    with pytest.raises(ValueError, match="one per response token"):
        response_matrix([[0.5]], rows.is_response)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_gathering_undoes_scattering(data: st.DataObject) -> None:
    number = st.floats(-5, 5, width=32)
    values = data.draw(st.lists(st.lists(number, max_size=6), max_size=5))
    prompts = [[0] * data.draw(st.integers(1, 4)) for _ in values]
    width = 12 + data.draw(st.integers(0, 3))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    rows = token_rows(prompts, [[1] * len(row) for row in values], pad_id=PAD, length=width)
    back = ragged(response_matrix(values, rows.is_response, dtype=dtype), rows.is_response)
    assert [row.tolist() for row in back] == values
    assert all(row.dtype == dtype for row in back)
