"""`oprime score`: rows to rewards, by a gateway."""

from collections.abc import Sequence
from typing import Any

from oprime.client import AsyncRewardClient, ScoredInput
from oprime.client.forms import Options
from oprime_cli.scoring.answer_file import Answer, Row, lacking
from oprime_cli.scoring.refusals import refused

FORMS = (("prompt", "response"), ("messages",), ("prompt_token_ids", "response_token_ids"))
FIELDS = frozenset({"raw", *(name for form in FORMS for name in form)})


def problem_of(value: dict[str, Any]) -> str:
    return lacking(value, FORMS)


class ScoreRows:
    """Asks for the rewards of rows. A row that the gateway refuses fails alone, and no other is scored twice for it."""

    def __init__(self, client: AsyncRewardClient, options: Options) -> None:
        self._client = client
        self._options = options

    async def __call__(self, rows: Sequence[Row]) -> list[Answer]:
        inputs: list[Any] = [{name: value for name, value in row.value.items() if name in FIELDS} for row in rows]
        items = (await self._client.rewards(inputs, **self._options)).items
        return [answer_of(row, item) for row, item in zip(rows, items, strict=True)]


def answer_of(row: Row, item: ScoredInput) -> Answer:
    """A row of the output."""
    if item.error is not None:
        return refused(row, item.error, item.refused) if item.refused else {"id": row.id, "error": item.error}
    answer: Answer = {"id": row.id, "reward": item.reward, "revision": item.revision}
    if item.steps is not None:
        answer["steps"] = {"rewards": list(item.steps.rewards), "char_spans": [list(span) for span in item.steps.char_spans]}
    if item.tokens is not None:
        tokens = item.tokens
        answer["tokens"] = {
            "rewards": list(tokens.rewards),
            "texts": list(tokens.texts),
            "char_spans": [list(span) for span in tokens.char_spans],
            "end_token": tokens.end_token,
        }
    if item.dropped_prompt_tokens or item.dropped_response_tokens:
        answer["dropped_tokens"] = {"prompt": item.dropped_prompt_tokens, "response": item.dropped_response_tokens}
    return answer


def prompt_text(value: dict[str, Any]) -> str:
    """What a row asks, for a person: a text, or a line for each turn before the last; nothing of token ids."""
    if "messages" in value:
        return "\n".join(f"{turn['role']}: {_text(turn['content'])}" for turn in value["messages"][:-1])
    return str(value.get("prompt", ""))


def response_text(value: dict[str, Any], answer: Answer) -> str:
    """What was scored, of a row and its answer."""
    if "response" in value:
        return str(value["response"])
    if "messages" in value:
        return _text(value["messages"][-1]["content"])
    return "".join(answer.get("tokens", {}).get("texts", ()))


def _text(content: Any) -> str:
    """Of a turn, whose content is a text or a list of its parts."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
