"""For prime-rl: per-token advantages for its traces.

    from prime_rl.orchestrator.algo import Algorithm, assign_advantages
    from prime_rl.orchestrator.algo.base import iter_trainable_traces
    from oprime.client.shims.prime_rl import group_advantages

    class ProcessRewards(Algorithm):
        async def score_group(self, episodes):
            traces = [trace for _, trace in iter_trainable_traces(episodes)]
            for trace, advantages in zip(traces, await group_advantages(traces)):
                assign_advantages(trace, advantages)

prime-rl is not imported here.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from oprime.client.shims.asking import token_rewards
from oprime.client.shims.groups import leave_one_out_advantages


async def group_advantages(traces: Sequence[Any], *, discount: float = 1.0, process_weight: float = 1.0) -> list[list[float]]:
    """For each trace of one prompt an advantage per sampled token, in the order that `assign_advantages` takes.

    The outcome is the trace's own reward. Raises UnscoredError, and ValueError for a single trace.
    """
    rewards = await sampled_rewards(traces)
    return leave_one_out_advantages(rewards, [float(trace.reward) for trace in traces], discount=discount, process_weight=process_weight)


async def sampled_rewards(traces: Sequence[Any]) -> list[list[float]]:
    """For each trace the reward of every sampled token, node by node. Raises UnscoredError."""
    paths = [(place, path) for place, trace in enumerate(traces) for path in paths_of(trace)]
    found = await token_rewards([_parted(path) for _, path in paths])
    by_node: list[dict[int, list[float]]] = [{} for _ in traces]
    for (place, path), rewards in zip(paths, found, strict=True):
        for node, of_node in zip(path, _by_node(path, rewards), strict=True):
            # Branches share their beginnings, whose rewards are the same in each.
            by_node[place].setdefault(id(node), of_node)
    return [[reward for node in trace.nodes if any(node.mask) for reward in by_node[place][id(node)]] for place, trace in enumerate(traces)]


def paths_of(trace: Any) -> list[list[Any]]:
    """From the root to each node that nobody continues; only those that end in or pass through sampled tokens."""
    parents = {node.parent for node in trace.nodes}
    paths = [_path(trace.nodes, leaf) for leaf in range(len(trace.nodes)) if leaf not in parents]
    return [path for path in paths if any(any(node.mask) for node in path)]


def _path(nodes: Sequence[Any], leaf: int) -> list[Any]:
    path, place = list[Any](), leaf
    while place is not None:
        path.append(nodes[place])
        place = nodes[place].parent
    return path[::-1]


def _parted(path: Sequence[Any]) -> tuple[list[int], list[int]]:
    """Token ids before the first sampled one, and from it on."""
    ids, mask = _joined(path)
    first = mask.index(True)
    if first == 0:
        raise ValueError("a trace begins with a sampled token: a PRM needs a token before it")
    return ids[:first], ids[first:]


def _by_node(path: Sequence[Any], rewards: Sequence[float]) -> list[list[float]]:
    """Rewards of each node's sampled tokens."""
    ids, mask = _joined(path)
    of_all = [0.0] * (len(ids) - len(rewards)) + list(rewards)
    bounds = [0]
    for node in path:
        bounds.append(bounds[-1] + len(node.token_ids))
    return [[of_all[place] for place in range(start, end) if mask[place]] for start, end in pairwise(bounds)]


def _joined(path: Sequence[Any]) -> tuple[list[int], list[bool]]:
    return [token for node in path for token in node.token_ids], [bool(one) for node in path for one in node.mask]
