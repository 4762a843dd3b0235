"""A verifier behind HTTP."""

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from oprime.core.verification import Outcome, Verdict, VerificationRequest, scored, unscored
from oprime.ports import Clock
from oprime_verifier.external.attempts import Attempts, Deadline, TryFailedError
from oprime_verifier.external.circuit import CircuitState
from oprime_verifier.external.http_calls import JsonPoster
from oprime_verifier.external.json_mapping import outcomes_from_json, requests_to_json
from oprime_verifier.external.results import BrokenContractError, Scale, finite_numbers, number
from oprime_verifier.external.sandbox_fusion import check_ran, judge_with_run_code
from oprime_verifier.external.settings import WebhookSection
from oprime_verifier.external.signatures import openrlhf_outcome
from oprime_verifier.ports import VerifierDescription

Post = Callable[[Mapping[str, Any]], Awaitable[Any]]


class WebhookVerifier:
    """POSTs each request to a URL. Whatever fails is INFRA_ERROR with the reason."""

    def __init__(self, name: str, section: WebhookSection, *, clock: Clock | None = None, chance: random.Random | None = None) -> None:
        self._name = name
        self._section = section
        self._scale = Scale(low=section.range[0], high=section.range[1], clip=section.clip)
        self._attempts = Attempts(section, target=f"webhook {name} ({_shown(section.url)})", clock=clock, chance=chance)
        self._poster = JsonPoster(name, section)

    async def verify(self, request: VerificationRequest) -> Outcome:
        if self._section.mode == "sandbox_fusion":
            deadline = self._attempts.deadline(request)
            return await judge_with_run_code(request, lambda message: self._run_code(request, message, deadline))
        ask = _MODES[self._section.mode]

        async def once(seconds: float) -> Outcome:
            async def post(message: Mapping[str, Any]) -> Any:
                return await self._poster.post(_endpoint(self._section), message, timeout_s=seconds, key=request.request_id)

            try:
                return await ask(replace(request, deadline_s=round(seconds, 3)), post, self._section, self._scale)
            except BrokenContractError as error:
                raise TryFailedError(str(error), own=True) from error

        return await self._attempts.outcome(request, once)

    async def _run_code(self, request: VerificationRequest, message: Mapping[str, Any], deadline: Deadline) -> Mapping[str, Any] | Outcome:
        """The answer of /run_code, or INFRA_ERROR."""
        answers: list[Mapping[str, Any]] = []

        async def once(seconds: float) -> Outcome:
            answer = await self._poster.post(_endpoint(self._section), message, timeout_s=seconds)
            try:
                answers.append(check_ran(answer))
            except BrokenContractError as error:
                raise TryFailedError(str(error), own=True) from error
            return unscored(Verdict.UNDECIDED, "it ran")

        outcome = await self._attempts.outcome(request, once, deadline)
        return answers[-1] if answers else outcome

    def describe(self) -> VerifierDescription:
        circuit = self._attempts.circuit
        return VerifierDescription(
            name=self._name,
            description=f"Webhook at {_shown(self._section.url)} ({self._section.mode}).",
            problem="" if circuit.state is CircuitState.CLOSED else f"it failed repeatedly; its circuit is {circuit.state}",
            outage=self._attempts.outage,
        )

    async def close(self) -> None:
        await self._poster.close()


def _shown(url: str) -> str:
    """A URL without what only its owner may see: user, password and query."""
    scheme, _, rest = url.partition("?")[0].partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{path}"


def _endpoint(section: WebhookSection) -> str:
    """nemo_gym and sandbox_fusion servers have one path each; a URL without a path gets it."""
    path = {"nemo_gym": "/verify", "sandbox_fusion": "/run_code"}.get(section.mode, "")
    scheme, _, place = section.url.partition("://")
    return section.url if not path or "/" in place.rstrip("/") else f"{scheme}://{place.rstrip('/')}{path}"


async def _native(request: VerificationRequest, post: Post, _section: WebhookSection, _scale: Scale) -> Outcome:
    return outcomes_from_json(await post(requests_to_json([request])), [request])[0]


async def _openrlhf(request: VerificationRequest, post: Post, _section: WebhookSection, scale: Scale) -> Outcome:
    message = {"query": [request.prompt + request.response], "prompts": [request.prompt], "labels": [_gold(request)]}
    return openrlhf_outcome(await post(message), scale)


async def _nemo_gym(request: VerificationRequest, post: Post, section: WebhookSection, scale: Scale) -> Outcome:
    return nemo_gym_outcome(await post(nemo_gym_message(request, section.gold_field)), scale)


def nemo_gym_outcome(answer: object, scale: Scale) -> Outcome:
    """The `reward` of a /verify answer, unless it masks the response."""
    if not isinstance(answer, Mapping) or "reward" not in answer:
        raise BrokenContractError("it answered without `reward`")
    reason = str(answer.get("failure_reason") or "")
    if answer.get("mask_sample"):
        return unscored(Verdict.UNDECIDED, reason or f"it masked the response ({answer.get('failure_kind', 'no reason given')})")
    components = finite_numbers(answer.get("reward_components"))
    return scored(scale.score(number(answer["reward"])), reason=reason, components=components)


def nemo_gym_message(request: VerificationRequest, gold_field: str) -> dict[str, Any]:
    """The row's fields and the response as an OpenAI Responses object."""
    text = {"type": "output_text", "text": request.response, "annotations": []}
    said = {"id": "message_0", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    return {
        "data_source": request.data_source,
        "question": request.prompt,
        gold_field: _gold(request),
        **request.metadata,
        "responses_create_params": {"input": [{"role": "user", "content": request.prompt}]},
        "response": {
            "id": request.request_id or "response_0",
            "object": "response",
            "created_at": 0.0,
            "model": "policy",
            "output": [said],
            "parallel_tool_calls": False,
            "tool_choice": "none",
            "tools": [],
        },
    }


def _gold(request: VerificationRequest) -> str:
    """These protocols carry one ground truth."""
    return request.golds[0] if request.golds else request.tests


_MODES: Mapping[str, Callable[[VerificationRequest, Post, WebhookSection, Scale], Awaitable[Outcome]]] = {
    "native": _native,
    "openrlhf": _openrlhf,
    "nemo_gym": _nemo_gym,
}
