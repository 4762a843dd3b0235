"""Who waits for whom, from the busy and idle seconds that services report. Pure."""

from collections.abc import Mapping

STAGES = ("generator", "verifier", "prm", "learner")


def busy_shares(before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Per stage, the mean share of time at work of its replicas between two reports; stages without two reports are left out."""
    shares: dict[str, list[float]] = {}
    for replica, report in after.items():
        stage = replica.partition("/")[0]
        earlier = before.get(replica)
        if earlier is None or stage not in STAGES:
            continue
        busy = report["busy_seconds"] - earlier["busy_seconds"]
        idle = report["idle_seconds"] - earlier["idle_seconds"]
        if busy + idle > 0:
            shares.setdefault(stage, []).append(busy / (busy + idle))
    return {stage: sum(values) / len(values) for stage, values in shares.items()}


def bottleneck(shares: Mapping[str, float]) -> str:
    """The stage that is at work the largest share of time: the others wait for it. Empty when nothing is known."""
    return max(shares, key=lambda stage: shares[stage], default="")
