"""How long what was written is needed."""

import pytest

from oprime.core.payload_needs import is_needed, rollouts_of, unneeded

BOTH = {"learner": 4, "prm": 6}
"""The newest step that each trainer's checkpoint contains: a restart of the learner comes back to step 5."""

TABLE = [
    # What was written, and the ledger's states of its rollouts; then whether it is needed.
    ("rollout/12:3", {"12:3": "live"}, True),
    ("rollout/12:3", {"12:3": "dead:rollouts"}, True),  # a person may replay it
    ("rollout/12:3", {"12:3": "trained:5"}, True),
    ("rollout/12:3", {"12:3": "trained:4"}, False),
    ("rollout/12:3", {"12:3": "baseline:5"}, True),
    ("rollout/12:3", {"12:3": "baseline:4"}, False),
    ("rollout/12:3", {"12:3": "filtered:too_easy"}, False),
    ("rollout/12:3", {"12:3": "dropped:stale"}, False),
    ("rollout/12:3", {}, False),  # never issued: a run that was here before
    ("rollout/12:3", {"12:2": "live"}, False),  # a sibling's need is not its own
    ("text/12:3", {"12:3": "live"}, True),
    ("text/12:3", {"12:3": "trained:5"}, True),
    ("text/12:3", {"12:3": "trained:4"}, False),
    ("reference/12:3", {"12:3": "live"}, True),
    ("reference/12:3", {"12:3": "trained:4"}, False),
    # What judges a group's rollouts, of which there are four: while any may be judged, or judged again.
    ("task/12", {"12:0": "trained:9", "12:1": "dropped:stale", "12:2": "filtered:too_easy", "12:3": "live"}, True),
    ("task/12", {"12:0": "dead:rollouts"}, True),
    ("task/12", {"12:0": "trained:9", "12:1": "baseline:9"}, False),
    ("task/12", {"12:4": "live", "1:0": "live"}, False),  # of other groups
    ("task/12", {}, False),
    # Token rewards: the learner alone reads them.
    ("rewards/5", {}, True),
    ("rewards/4", {}, False),
]


@pytest.mark.parametrize(("owner", "states", "needed"), TABLE)
def test_what_is_needed(owner: str, states: dict[str, str], needed: bool) -> None:
    assert is_needed(owner, states, BOTH, group_size=4) == needed


@pytest.mark.parametrize(
    ("owner", "released", "needed"),
    [
        ("rollout/12:3", {"learner": 3, "prm": 3}, False),
        ("rollout/12:3", {"learner": 2, "prm": 3}, True),
        ("rollout/12:3", {"learner": 3, "prm": 2}, True),
        ("rollout/12:3", {"learner": 3}, False),  # a run without a PRM
        ("rollout/12:3", {}, True),  # nobody has said anything yet
        ("rewards/3", {"learner": 3, "prm": 2}, False),
        ("rewards/3", {"learner": 2, "prm": 3}, True),
        ("rewards/3", {}, True),
    ],
    ids=str,
)
def test_what_was_trained_on_is_needed_until_every_trainers_checkpoint_contains_its_step(
    owner: str, released: dict[str, int], needed: bool
) -> None:
    assert is_needed(owner, {"12:3": "trained:3"}, released, group_size=4) == needed


def test_an_owner_belongs_to_rollouts() -> None:
    assert rollouts_of("rollout/12:3", group_size=2) == rollouts_of("text/12:3", group_size=2) == ("12:3",)
    assert rollouts_of("reference/12:3", group_size=2) == ("12:3",)
    assert rollouts_of("task/12", group_size=2) == ("12:0", "12:1")
    assert rollouts_of("rewards/7", group_size=2) == ()


def test_an_unknown_kind_is_refused_rather_than_swept() -> None:
    with pytest.raises(ValueError, match=r"payload owner 'other/12' is of no known kind: rollout, text, reference, task or rewards"):
        is_needed("other/12", {}, {}, group_size=4)


def test_of_many_names_those_that_nobody_needs_are_found() -> None:
    names = {"a": "rollout/1:0", "b": "rollout/1:1", "c": "rewards/4", "d": "task/1"}
    assert list(unneeded(names, {"1:0": "live", "1:1": "dropped:stale"}, BOTH, group_size=2)) == ["b", "c"]


def test_what_is_of_no_known_kind_is_never_called_needless() -> None:
    names = {"notes/1/x": "notes/1", "rollout/1:0/x": "rollout/1:0"}
    assert list(unneeded(names, {"1:0": "filtered:accuracy_low"}, {"learner": 0}, group_size=1)) == ["rollout/1:0/x"]
