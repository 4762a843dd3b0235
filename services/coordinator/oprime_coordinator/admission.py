"""How many groups may be issued now. Pure."""

from oprime.core.staleness import admissible_groups
from oprime_coordinator.state import CoordinatorState

SURPLUS_SIGMAS = 3.0
"""With S > 0, groups that pass but find no place in time would be thrown away: so many standard deviations make that a rarity."""


def groups_to_issue(
    state: CoordinatorState, *, ready: int, live: int, groups_per_batch: int, max_staleness: int, max_live_groups: int, total_steps: int
) -> int:
    """Number of new groups that the learner could still use within the staleness bound.

    `ready` groups passed the filter and wait for a batch, `live` groups are undecided.
    """
    batches_left = total_steps - state.next_step + 1
    if batches_left <= 0:
        return 0
    if max_staleness == 0 and live > 0:
        # The synchronous algorithm decides in waves, so that its result does not depend on which response ends first.
        return 0
    within_bound = admissible_groups(
        state.committed_step,
        next_step=state.next_step,
        max_staleness=max_staleness,
        groups_per_batch=groups_per_batch,
        ready_groups=ready,
        live_groups=live,
        acceptance=state.acceptance_rate,
        decided=state.decided,
        # A synchronous wave costs the time of its longest response, so the surplus of one wave is cheaper than a second one.
        sigmas=SURPLUS_SIGMAS if max_staleness > 0 else 0.0,
    )
    still_needed = (batches_left * groups_per_batch - ready) / state.acceptance_rate - live
    return max(0, min(within_bound, -int(-still_needed // 1), max_live_groups - live - ready))
