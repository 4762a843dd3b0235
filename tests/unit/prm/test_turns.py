"""Who is scored next: everybody in turn, and nobody for long."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from oprime_prm.scoring.turns import Row, Waiting, cut

MODEL = object()


def request(*lengths: int, model: object = MODEL, prompt: int = 1, shares: bool = False) -> Waiting:
    """Rows of a prompt of so many tokens and responses of these lengths."""
    rows = [Row(place, 0 if shares else place, prompt, length - (0 if shares else prompt), shares) for place, length in enumerate(lengths)]
    return Waiting(model, rows)


def places(waiting: "deque[Waiting]", tokens: int) -> list[list[int]]:
    return [[row.place for row in share.rows] for share in cut(waiting, tokens)]


def test_a_short_request_joins_the_next_micro_batch_of_a_long_one() -> None:
    waiting = deque([request(*[10] * 100)])
    assert places(waiting, 40) == [[0, 1, 2, 3]]
    short = request(10)
    waiting.append(short)
    # Half of 40 tokens for each; what the short one leaves goes to the long one.
    assert places(waiting, 40) == [[4, 5, 6], [0]]
    assert list(waiting) == [waiting[0]]
    assert waiting[0] is not short


def test_each_long_request_holds_a_short_one_up_by_one_row_at_most() -> None:
    long, longer, short = request(*[30] * 5), request(*[30] * 5), request(5)
    waiting = deque([long, longer, short])
    assert [share.request for share in cut(waiting, 40)] == [long, short]
    assert list(waiting) == [longer, long]


def test_a_row_beyond_the_bound_has_a_micro_batch_of_its_own() -> None:
    waiting = deque([request(100, 5), request(5)])
    assert places(waiting, 40) == [[0]]
    assert places(waiting, 40) == [[0], [1]]
    assert not waiting


def test_rows_of_another_model_wait_for_their_own_turn() -> None:
    other = object()
    first, second, third = request(10, 10), request(10, model=other), request(10)
    waiting = deque([first, second, third])
    assert [share.request for share in cut(waiting, 25)] == [first, third]
    assert list(waiting) == [second, first]
    assert [share.request for share in cut(waiting, 25)] == [second]


def test_a_prompt_that_is_shared_counts_once_in_a_micro_batch() -> None:
    # 30 + 5 + 5 make 40; the next micro-batch has the prompt again.
    waiting = deque([request(5, 5, 5, prompt=30, shares=True)])
    assert places(waiting, 40) == [[0, 1]]
    assert places(waiting, 40) == [[2]]


@given(st.lists(st.lists(st.integers(2, 60), min_size=1, max_size=6), min_size=1, max_size=6), st.integers(1, 80))
def test_every_row_is_scored_once_within_the_bound(lengths: list[list[int]], tokens: int) -> None:
    requests = [request(*each) for each in lengths]
    waiting = deque(requests)
    found: dict[int, list[int]] = {id(one): [] for one in requests}
    while waiting:
        head = waiting[0]
        shares = cut(waiting, tokens)
        rows = [row for share in shares for row in share.rows]
        assert shares[0].request is head
        assert len(rows) == 1 or sum(row.prompt_tokens + row.response_tokens for row in rows) <= tokens
        for share in shares:
            found[id(share.request)] += [row.place for row in share.rows]
    assert [sorted(found[id(one)]) for one in requests] == [list(range(len(each))) for each in lengths]
    assert all(one.tokens == 0 for one in requests)
