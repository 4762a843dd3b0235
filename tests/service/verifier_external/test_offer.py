"""Built-in verifiers, plug-ins, webhooks and compositions together, from settings to outcomes, on real worker processes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from oprime.core.verification import Outcome, Verdict, VerificationRequest
from oprime.runtime.errors import SettingsError
from oprime_verifier.config import VerifierSection
from oprime_verifier.offer import Offer
from service.verifier_external.conftest import Server, says

REWARDS = f"{Path(__file__).parent}/user_rewards.py"


@asynccontextmanager
async def offering(**settings: Any) -> AsyncIterator[Offer]:
    offer = Offer(VerifierSection.model_validate({"workers": 1, "deadline_s": 20.0, **settings}))
    try:
        await offer.start()
        yield offer
    finally:
        await offer.close()


async def judged(offer: Offer, kind: str, response: str, gold: str = "8") -> Outcome:
    return await offer.dispatcher.verify(VerificationRequest(kind=kind, response=response, golds=(gold,), request_id="r1"))


async def test_plugins_webhooks_and_compositions_are_kinds_like_the_built_in_ones(server: Server) -> None:
    server.answers = [says({"data": [{"verdict": "CORRECT", "score": 1.0}]})]
    settings = {
        "plugins": {"boxed": f"{REWARDS}:exact", "verl": {"target": f"{REWARDS}:compute_score"}, "broken": "no_such_module:fn"},
        "webhooks": {"judge": {"url": f"{server.url}/judge"}},
        "compositions": {
            "careful": {"mode": "first_decided", "parts": ["math", "judge"]},
            "formatted": {"mode": "gate", "parts": ["boxed", "math"]},
            "hopeless": {"mode": "all", "parts": ["math", "broken"]},
        },
    }
    async with offering(**settings) as offer:
        right = "so \\boxed{8}"
        assert (await judged(offer, "boxed", right)).verdict is Verdict.CORRECT
        assert (await judged(offer, "verl", right)).components == {"length": 12.0}
        assert (await judged(offer, "judge", right)).verdict is Verdict.CORRECT
        # Mathematics can tell, so nobody asks the judge, who would pay for anything.
        asked = len(server.seen)
        assert (await judged(offer, "careful", "so \\boxed{9}")).verdict is Verdict.INCORRECT
        assert len(server.seen) == asked
        # 8.0 is right, but not what the gate wants to see.
        assert (await judged(offer, "math", "so \\boxed{8.0}")).verdict is Verdict.CORRECT
        assert (await judged(offer, "formatted", "so \\boxed{8.0}")).verdict is Verdict.INCORRECT
        assert (await judged(offer, "formatted", right)).components == {"boxed": 1.0, "math": 1.0}
        hopeless = await judged(offer, "hopeless", right)
        assert (hopeless.verdict, hopeless.score) == (Verdict.INFRA_ERROR, None)
        problems = {known.name: known.problem for known in offer.dispatcher.describe() if known.problem}
        assert set(problems) == {"broken", "hopeless"}
        assert "no_such_module" in problems["broken"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"plugins": {"math": "operator:eq"}}, "verifier.plugins.math"),
        ({"plugins": {"a": "operator:eq"}, "webhooks": {"a": {"url": "http://judge.example"}}}, "verifier.webhooks.a"),
        ({"compositions": {"whole": {"mode": "all", "parts": ["nobody"]}}}, "'nobody'"),
        ({"compositions": {"a": {"mode": "all", "parts": ["b"]}, "b": {"mode": "all", "parts": ["a"]}}}, "circle"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_before_anything_starts(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        Offer(VerifierSection.model_validate(settings))
