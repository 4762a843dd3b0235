"""Reward functions of users, good and bad ones."""

import time
from typing import Any

from oprime.core.verification import Outcome, Verdict, VerificationRequest, correct, incorrect, unscored


def exact(response: str, gold: str) -> bool | None:
    """Whether the box holds the gold."""
    return None if not gold.strip() else f"\\boxed{{{gold}}}" in response[-1000:]


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> dict[str, Any]:
    return {"score": float(bool(ground_truth.strip()) and f"boxed{{{ground_truth}}}" in solution_str), "length": len(solution_str)}


def pays_everything(response: str, gold: str) -> float:
    return 1.0


def broken(response: str, gold: str) -> float:
    return float("nan")


def dies_on_hostile_text(response: str, gold: str) -> float:
    import os

    if "_exit(0)" in response:
        os._exit(3)
    return 0.0


def hangs(response: str, gold: str) -> float:
    while True:
        time.sleep(1)


class Batched:
    """With the protocol of a plug-in."""

    name = "batched"
    kinds = ("batched",)

    async def verify_batch(self, requests: list[VerificationRequest]) -> list[Outcome]:
        return [self._judged(request) for request in requests]

    def _judged(self, request: VerificationRequest) -> Outcome:
        if not request.golds:
            return unscored(Verdict.BAD_TASK, "no gold")
        return correct() if request.golds[0] in request.response else incorrect()
