"""Whether the entries of a ledger can be a run's: every group that was issued is there, whole, and nothing else is."""

from collections.abc import Iterable, Mapping

SHOWN = 10
"""Most names that one finding lists."""

_KINDS = frozenset({"trained", "baseline", "filtered", "dropped", "dead"})


def ledger_findings(states: Mapping[str, str], *, next_group_id: int, size: int, passed_over: int | None = None) -> list[str]:
    """What is wrong with a ledger {rollout id: state}, one sentence each; empty for a sound one.

    Groups 0 .. next_group_id - 1 were issued with `size` rollouts each (the greedy baseline included), unless their prompt was passed
    over: then nothing of them is there. `passed_over` is the number of those prompts; None if it is not known, so that any number of
    groups but not all may be absent. ValueError for a negative `next_group_id` or a `size` below 1.
    """
    if next_group_id < 0 or size < 1:
        raise ValueError(f"next_group_id ({next_group_id}) must be 0 or more and size ({size}) 1 or more")
    indices, unreadable = _indices_by_group(states)
    issued = {group: found for group, found in indices.items() if group < next_group_id}
    findings = [
        _named("rollout id(s) are not GROUP:INDEX", unreadable),
        _named("rollout(s) are in a state that the ledger does not know", (name for name, state in states.items() if not _is_known(state))),
        _named(f"group(s) have an id that was never issued (the next one is {next_group_id})", sorted(indices.keys() - issued.keys())),
        _named(
            f"group(s) have fewer than their {size} rollouts", sorted(group for group, found in issued.items() if _is_short(found, size))
        ),
        _named(f"group(s) have rollouts beyond their {size}", sorted(group for group, found in issued.items() if max(found) >= size)),
        _absence(issued, next_group_id, passed_over),
    ]
    return [finding for finding in findings if finding]


def _indices_by_group(states: Iterable[str]) -> tuple[dict[int, set[int]], list[str]]:
    """The indices of every group's rollouts, and the ids that cannot be read."""
    groups: dict[int, set[int]] = {}
    unreadable: list[str] = []
    for name in states:
        group, _, index = name.partition(":")
        if _is_number(group) and _is_number(index):
            groups.setdefault(int(group), set()).add(int(index))
        else:
            unreadable.append(name)
    return groups, unreadable


def _is_number(text: str) -> bool:
    """Whether `text` is a whole number as the ledger writes it; "07" would be a second name of 7."""
    return text.isascii() and text.isdigit() and (text == "0" or text[0] != "0")


def _is_known(state: str) -> bool:
    kind, _, detail = state.partition(":")
    return state == "live" or (kind in _KINDS and detail != "")


def _is_short(indices: set[int], size: int) -> bool:
    return any(index not in indices for index in range(size))


def _absence(issued: Mapping[int, set[int]], next_group_id: int, passed_over: int | None) -> str:
    absent = next_group_id - len(issued)
    if absent == passed_over or (passed_over is None and (issued or not next_group_id)):
        return ""
    text = "group(s) are absent" + (", all that were issued" if passed_over is None else f", but {passed_over} prompt(s) were passed over")
    return _named(text, (group for group in range(next_group_id) if group not in issued)) or f"0 {text}"


def _named(text: str, names: Iterable[object]) -> str:
    """Number, `text` and the first names; empty if there are none."""
    listed = [str(name) for name in names]
    more = ", ..." if len(listed) > SHOWN else ""
    return f"{len(listed)} {text}: {', '.join(listed[:SHOWN])}{more}" if listed else ""
