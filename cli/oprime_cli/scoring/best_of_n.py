"""`oprime best-of-n`: rows of prompts and responses to the best response, by a gateway."""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from oprime.client import AsyncRewardClient, BestOfN, BestOfNOptions, RefusedError
from oprime.runtime.errors import SettingsError, did_you_mean
from oprime_cli.scoring.answer_file import Answer, Row, lacking
from oprime_cli.scoring.refusals import refused

FORMS = (("prompt", "responses"), ("messages", "responses"))


def problem_of(value: dict[str, Any]) -> str:
    if problem := lacking(value, FORMS):
        return problem
    responses = value["responses"]
    if not isinstance(responses, list) or not responses or not all(isinstance(response, str) for response in responses):
        return "responses must be a list of texts that is not empty"
    return ""


async def require_verifier(client: AsyncRewardClient, kind: str) -> None:
    """Raises SettingsError where nobody could count a vote, before anything is scored for one."""
    try:
        offered = [card["name"] for card in await client.verifiers()]
    except RefusedError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        raise SettingsError(
            f"--vote needs a verifier, and {client.url} gives process rewards alone, as `oprime serve prm` does: leave out --vote, or name "
            "the gateway of a run with --url"
        ) from error
    if kind not in offered:
        raise SettingsError(
            f"--verifier {kind} is not offered at {client.url}{did_you_mean(kind, offered)}: there are {', '.join(offered)}"
        )


class ChooseRows:
    """Asks for the best of each row's responses. A row that the gateway refuses fails alone."""

    def __init__(self, client: AsyncRewardClient, options: BestOfNOptions) -> None:
        self._client = client
        self._options = options

    async def __call__(self, rows: Sequence[Row]) -> list[Answer]:
        return list(await asyncio.gather(*map(self._chosen, rows)))

    async def _chosen(self, row: Row) -> Answer:
        question: Any = {name: row.value[name] for name in ("prompt", "messages") if name in row.value}
        try:
            found = await self._client.best_of_n(row.value["responses"], **question, **self._options)
        except RefusedError as error:
            if not error.about_inputs:
                raise
            return refused(row, str(error), error.status)
        return answer_of(row, found)


def answer_of(row: Row, found: BestOfN) -> Answer:
    """A row of the output."""
    rewards: list[float | None] = [None] * len(row.value["responses"])
    for one in found.ranking:
        rewards[one.index] = one.reward
    answer: Answer = {"id": row.id, "best": found.best, "rewards": rewards, "revision": found.revision}
    if found.best is None:
        return {**answer, "error": next((one.error for one in found.ranking if one.error), "no response has an answer to vote for")}
    answer |= {"response": row.value["responses"][found.best], "reward": rewards[found.best]}
    if found.votes:
        votes = [{"answer": vote.answer, "weight": vote.weight, "responses": list(vote.responses)} for vote in found.votes]
        answer |= {"answer": found.answer, "votes": votes}
    return answer
