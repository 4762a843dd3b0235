"""What the ledger says of a batch once its step is committed."""

from oprime.core.types import Batch
from oprime.ports import LedgerMove


def ledger_moves(batch: Batch) -> list[LedgerMove]:
    """Each rollout was trained on, and each greedy baseline compared with, at the batch's step."""
    trained = [LedgerMove(rollout_id=one.rollout.rollout_id, state=f"trained:{batch.step}") for one in batch.rollouts]
    return trained + [LedgerMove(rollout_id=one.rollout.rollout_id, state=f"baseline:{batch.step}") for one in batch.baselines]
