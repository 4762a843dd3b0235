"""Rows of tokens and the way between ragged numbers and matrices."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oprime.core.token_rows import ragged, response_matrix, token_rows, token_rows_of, trained_tokens_alone

PAD = 9


def test_prompt_response_and_padding_stand_side_by_side() -> None:
    rows = token_rows([[1, 2], [3]], [[4], [5, 6, 7]], pad_id=PAD)
    assert rows.input_ids.tolist() == [[1, 2, 4, PAD], [3, 5, 6, 7]]
    assert rows.attention_mask.tolist() == [[True, True, True, False], [True, True, True, True]]
    assert rows.is_trained.tolist() == [[False, False, True, False], [False, True, True, True]]
    assert rows.input_ids.dtype == torch.int64


def test_what_others_wrote_in_between_is_read_but_not_trained_on() -> None:
    # Prompt 1 2, a turn 3, a tool's answer 4 5, a turn 6; and a shorter row.
    rows = token_rows_of([[1, 2, 3, 4, 5, 6], [7, 8]], [[False, False, True, False, False, True], [False, True]], pad_id=PAD)
    assert rows.input_ids.tolist() == [[1, 2, 3, 4, 5, 6], [7, 8, PAD, PAD, PAD, PAD]]
    assert rows.attention_mask.tolist() == [[True] * 6, [True, True, False, False, False, False]]
    assert rows.is_trained.tolist() == [[False, False, True, False, False, True], [False, True, False, False, False, False]]


def test_trained_tokens_alone_move_to_the_left() -> None:
    assert trained_tokens_alone([2, 0, 3]).tolist() == [[True, True, False], [False, False, False], [True, True, True]]
    assert trained_tokens_alone([]).shape == (0, 0)


def test_a_token_that_equals_the_padding_still_counts() -> None:
    rows = token_rows([[PAD], [1]], [[PAD], [1, 1]], pad_id=PAD)
    assert rows.attention_mask.tolist() == [[True, True, False], [True, True, True]]
    assert rows.is_trained.tolist() == [[False, True, False], [False, True, True]]


def test_no_rollouts_make_an_empty_matrix() -> None:
    rows = token_rows([], [], pad_id=PAD)
    assert rows.input_ids.shape == rows.attention_mask.shape == rows.is_trained.shape == (0, 0)


def test_a_response_without_tokens_is_a_row_without_response() -> None:
    rows = token_rows([[1, 2]], [[]], pad_id=PAD)
    assert rows.input_ids.tolist() == [[1, 2]]
    assert not rows.is_trained.any()


def test_bad_rows_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="row 1 has an empty prompt"):
        token_rows([[1], []], [[2], [3]], pad_id=PAD)
    with pytest.raises(ValueError, match="row 0 has an empty prompt"):
        token_rows_of([[1, 2, 3]], [[True, False, True]], pad_id=PAD)
    with pytest.raises(ValueError, match="row 0 has an empty prompt"):
        token_rows_of([[]], [[]], pad_id=PAD)
    with pytest.raises(ValueError, match="2 prompts for 1 responses"):
        token_rows([[1], [2]], [[2]], pad_id=PAD)
    with pytest.raises(ValueError, match="2 rows of tokens for 1 rows of marks"):
        token_rows_of([[1, 2], [1, 2]], [[False, True]], pad_id=PAD)
    with pytest.raises(ValueError, match="one mark per token"):
        token_rows_of([[1, 2, 3]], [[False, True]], pad_id=PAD)


def test_ragged_numbers_land_on_their_response_tokens() -> None:
    rows = token_rows([[1, 2], [3]], [[4], [5, 6, 7]], pad_id=PAD)
    matrix = response_matrix([[0.5], np.array([1, 2, 3], dtype=np.float32)], rows.is_trained)
    assert matrix.tolist() == [[0, 0, 0.5, 0], [0, 1, 2, 3]]
    assert matrix.dtype == torch.float32


def test_arrays_straight_from_a_message_are_read_only_and_usable() -> None:
    ids, floats = np.frombuffer(b"\x01\0\0\0", dtype="<i4"), np.frombuffer(b"\0\0\0\x3f", dtype="<f4")
    rows = token_rows([ids], [ids], pad_id=PAD)
    assert rows.input_ids.tolist() == [[1, 1]]
    assert response_matrix([floats], rows.is_trained).tolist() == [[0, 0.5]]


def test_a_wrong_number_of_numbers_is_refused() -> None:
    rows = token_rows([[1], [1]], [[2], [3, 4]], pad_id=PAD)
    with pytest.raises(ValueError, match=r"\[1, 1\] do not match response tokens per rollout \[1, 2\]"):
        response_matrix([[0.5], [0.5]], rows.is_trained)
    with pytest.raises(ValueError, match="one per response token"):
        response_matrix([[0.5]], rows.is_trained)


@settings(max_examples=60)
@given(st.data())
def test_gathering_undoes_scattering(data: st.DataObject) -> None:
    number = st.floats(-5, 5, width=32)
    # Marks after a prompt of one token: trained on or not, in any order.
    marks = data.draw(st.lists(st.lists(st.booleans(), max_size=8), max_size=5))
    values = [[data.draw(number) for _ in range(sum(row))] for row in marks]
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    rows = token_rows_of([[1] * (1 + len(row)) for row in marks], [[False, *row] for row in marks], pad_id=PAD)
    back = ragged(response_matrix(values, rows.is_trained, dtype=dtype), rows.is_trained)
    assert [row.tolist() for row in back] == values
    assert all(row.dtype == dtype for row in back)
