"""Whether a payload is still needed: what its owner's name, the ledger and the trainers' checkpoints say."""

from collections.abc import Iterable, Mapping

ROLLOUT, TEXT, REFERENCE, MATERIAL, REWARDS = "rollout", "text", "reference", "task", "rewards"
KINDS = (ROLLOUT, TEXT, REFERENCE, MATERIAL, REWARDS)
"""Kinds of owners: `rollout/12:3`, `text/12:3`, `reference/12:3`, `task/12`, `rewards/7`."""


def rollouts_of(owner: str, *, group_size: int) -> tuple[str, ...]:
    """Ledger names of the rollouts that `owner` belongs to; none for token rewards. Raises ValueError for an unknown kind."""
    kind, _, name = owner.partition("/")
    if kind in (ROLLOUT, TEXT, REFERENCE):
        return (name,)
    if kind == MATERIAL:
        return tuple(f"{name}:{index}" for index in range(group_size))
    if kind == REWARDS:
        return ()
    raise ValueError(f"payload owner {owner!r} is of no known kind: {ROLLOUT}, {TEXT}, {REFERENCE}, {MATERIAL} or {REWARDS}")


def is_known(owner: str) -> bool:
    return owner.partition("/")[0] in KINDS


def is_needed(owner: str, states: Mapping[str, str], released: Mapping[str, int], *, group_size: int) -> bool:
    """`states` has the ledger's states of the owner's rollouts; `released`, by trainer, the newest step that its checkpoint contains.

    A rollout is needed while it is live, while it is a dead letter that may be replayed, and while a trainer may come back to the step
    that it was trained at; what judges it while it may be judged; token rewards while the learner may come back to their step.
    """
    if owner.startswith(f"{REWARDS}/"):
        return int(owner.partition("/")[2]) > released.get("learner", 0)
    found = (states.get(name, "") for name in rollouts_of(owner, group_size=group_size))
    upto = min(released.values(), default=0)
    for state in found:
        kind, _, step = state.partition(":")
        trained_again = kind in ("trained", "baseline") and int(step) > upto and not owner.startswith(f"{MATERIAL}/")
        if kind in ("live", "dead") or trained_again:
            return True
    return False


def unneeded(names: Mapping[str, str], states: Mapping[str, str], released: Mapping[str, int], *, group_size: int) -> Iterable[str]:
    """Those of `names` (payload name -> owner) that nobody needs. What is of no known kind is somebody else's, and stays."""
    return (name for name, owner in names.items() if is_known(owner) and not is_needed(owner, states, released, group_size=group_size))
