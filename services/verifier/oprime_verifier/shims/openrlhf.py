"""For OpenRLHF: `--reward.remote_url .../oprime_verifier/shims/openrlhf.py` (older: `--remote_rm_url`)."""

from collections.abc import Sequence
from typing import Any

from oprime_verifier.shims.client import number_of, request_of, shared_client


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **kwargs: Any) -> dict[str, Any]:
    """Judge a batch. Raises UnscoredError for a response that cannot be judged, unless OPRIME_UNSCORED is the number to use."""
    import torch

    rows = zip(queries, prompts, labels, strict=True)
    requests = [
        request_of(response_of(query, prompt), label, prompt=prompt, kind=str(kwargs.get("kind") or "")) for query, prompt, label in rows
    ]
    outcomes = shared_client().verify(requests)
    scores = torch.tensor([number_of(outcome, kwargs.get("unscored")) for outcome in outcomes], dtype=torch.float32)
    judged = torch.tensor([outcome.score is not None for outcome in outcomes], dtype=torch.float32)
    return {"rewards": scores, "scores": scores, "extra_logs": {"judged": judged}}


def response_of(query: str, prompt: str) -> str:
    """A query is prompt and response, perhaps behind a special token. Raises ValueError where the prompt is not in it."""
    if prompt not in query:
        raise ValueError(
            f"the query {query[:80]!r} does not hold its prompt {prompt[:80]!r}, so the response cannot be told apart from it: "
            "pass prompts as they were given to the model"
        )
    return query.partition(prompt)[2] if prompt else query
