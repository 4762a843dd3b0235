"""A sound ledger gives no findings; whatever is taken out of it, put into it or renamed is found and named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oprime.core.ledger_audit import ledger_findings

STATES = ("live", "trained:3", "baseline:3", "filtered:accuracy_low", "dropped:stale", "dead:rollouts")


def whole(*groups: int, size: int = 2) -> dict[str, str]:
    return {f"{group}:{index}": "live" for group in groups for index in range(size)}


def test_groups_that_are_whole_are_sound() -> None:
    assert ledger_findings(whole(0, 1, 2), next_group_id=3, size=2, passed_over=0) == []


def test_a_run_that_issued_nothing_is_sound() -> None:
    assert ledger_findings({}, next_group_id=0, size=4, passed_over=0) == []


def test_every_state_of_the_ledger_is_known() -> None:
    states = {f"{group}:0": state for group, state in enumerate(STATES)}
    assert ledger_findings(states, next_group_id=len(STATES), size=1, passed_over=0) == []


@pytest.mark.parametrize("state", ["", "alive", "trained", "trained:", "live:1", "lost:reason"])
def test_a_state_that_no_commit_writes_is_found(state: str) -> None:
    found = ledger_findings({"0:0": "live", "0:1": state}, next_group_id=1, size=2)
    assert found == ["1 rollout(s) are in a state that the ledger does not know: 0:1"]


def test_a_group_in_part_is_found() -> None:
    states = whole(0, 1, 2)
    del states["1:0"]
    assert ledger_findings(states, next_group_id=3, size=2) == ["1 group(s) have fewer than their 2 rollouts: 1"]


def test_a_rollout_beyond_the_size_is_found() -> None:
    assert ledger_findings({**whole(0, 1), "1:2": "live"}, next_group_id=2, size=2) == ["1 group(s) have rollouts beyond their 2: 1"]


def test_a_group_with_a_wrong_index_is_both_short_and_over() -> None:
    found = ledger_findings({"0:0": "live", "0:7": "live"}, next_group_id=1, size=2)
    assert found == ["1 group(s) have fewer than their 2 rollouts: 0", "1 group(s) have rollouts beyond their 2: 0"]


def test_a_group_that_was_never_issued_is_found_and_not_also_called_incomplete() -> None:
    found = ledger_findings({**whole(0), "1:0": "live", "5:0": "live"}, next_group_id=1, size=2, passed_over=0)
    assert found == ["2 group(s) have an id that was never issued (the next one is 1): 1, 5"]


def test_absent_groups_are_those_whose_prompt_was_passed_over() -> None:
    states = whole(0, 3)
    assert ledger_findings(states, next_group_id=4, size=2, passed_over=2) == []
    assert ledger_findings(states, next_group_id=4, size=2) == [], "the number is not known"
    assert ledger_findings(states, next_group_id=4, size=2, passed_over=1) == [
        "2 group(s) are absent, but 1 prompt(s) were passed over: 1, 2"
    ]


def test_a_group_too_many_is_found_by_the_number_of_prompts_passed_over() -> None:
    found = ledger_findings(whole(0, 1), next_group_id=2, size=2, passed_over=1)
    assert found == ["0 group(s) are absent, but 1 prompt(s) were passed over"]


def test_an_emptied_ledger_is_found() -> None:
    found = ledger_findings({}, next_group_id=12, size=4, passed_over=0)
    assert found == ["12 group(s) are absent, but 0 prompt(s) were passed over: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."]
    assert ledger_findings({}, next_group_id=2, size=4) == ["2 group(s) are absent, all that were issued: 0, 1"]
    assert ledger_findings({}, next_group_id=0, size=4) == []


@pytest.mark.parametrize("name", ["1/0", "1", "1:", ":0", "a:0", "1:0:0", "-1:0", "01:0", "1:00", "²:0"])
def test_an_id_that_is_no_group_and_index_is_found(name: str) -> None:
    found = ledger_findings({**whole(0), name: "live"}, next_group_id=1, size=2, passed_over=0)
    assert found == [f"1 rollout id(s) are not GROUP:INDEX: {name}"]


def test_at_most_ten_groups_are_named() -> None:
    (found,) = ledger_findings({f"{group}:0": "live" for group in range(11)}, next_group_id=11, size=2)
    assert found == "11 group(s) have fewer than their 2 rollouts: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."
    (found,) = ledger_findings({f"{group}:0": "live" for group in range(10)}, next_group_id=10, size=2)
    assert found.endswith(": 0, 1, 2, 3, 4, 5, 6, 7, 8, 9")


def test_everything_that_is_wrong_is_said() -> None:
    found = ledger_findings({"0:0": "odd", "x": "live", "9:0": "live", "1:5": "live"}, next_group_id=3, size=2, passed_over=0)
    assert len(found) == 6


@pytest.mark.parametrize(("next_group_id", "size"), [(-1, 2), (0, 0)])
def test_numbers_that_no_run_has_are_refused(next_group_id: int, size: int) -> None:
    with pytest.raises(ValueError, match="must be 0 or more"):
        ledger_findings({}, next_group_id=next_group_id, size=size)


@given(present=st.lists(st.booleans(), min_size=1, max_size=12), size=st.integers(1, 5), data=st.data())
def test_one_change_to_a_sound_ledger_is_always_found(present: list[bool], size: int, data: st.DataObject) -> None:
    groups = [group for group, there in enumerate(present) if there]
    passed_over = len(present) - len(groups)
    states = {name: data.draw(st.sampled_from(STATES)) for name in whole(*groups, size=size)}
    assert ledger_findings(states, next_group_id=len(present), size=size, passed_over=passed_over) == []
    every = [f"{group}:{index}" for group in range(len(present) + 1) for index in range(size + 1)]
    changed = data.draw(st.sampled_from(every))
    if changed in states:
        del states[changed]
    else:
        states[changed] = "live"
    assert len(ledger_findings(states, next_group_id=len(present), size=size, passed_over=passed_over)) >= 1
