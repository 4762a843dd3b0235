"""Seeds of rollouts."""

import hashlib


def rollout_seed(run_seed: int, group_id: int, index: int) -> int:
    """Seed of rollout `index` of a group, in [0, 2**63): a hash, so it is the same on every machine and never runs in step with another."""
    name = f"oprime rollout {run_seed} {group_id} {index}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
