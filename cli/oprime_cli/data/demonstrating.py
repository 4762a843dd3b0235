"""`oprime data actions`: demonstrations of the seven actions, written by a model and kept where form and answer are right."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from oprime.core.types import ChatMessage
from oprime.core.verification import Verdict
from oprime.tasks.actions import long_prompt, short_prompt, trace_actions
from oprime_cli.chat.model import ChatModel, ChatRefusedError, ChatRequest
from oprime_cli.chat.settings import chat_model
from oprime_cli.data.choices import asked_as, key_of
from oprime_cli.data.judging import Judge, judging
from oprime_cli.data.reading import questions_of
from oprime_cli.data.record_log import RecordLog
from oprime_cli.data.settings import ActionsConfig
from oprime_cli.data.stages import Dropped, Item, JsonLines
from oprime_cli.data.usable import task_of
from oprime_cli.data.usage import UsageNotes
from oprime_cli.in_order import in_order
from oprime_cli.lock_file import sole_writer

Attempt = dict[str, Any]
"""`text` of a response and, where it is not kept, the `reason`."""


@dataclass(slots=True)
class Made:
    """What a run of the command did."""

    questions: int = 0
    kept: int = 0
    unread: Counter[str] = field(default_factory=Counter[str])
    """Rows without a question, by reason."""
    dropped: Counter[str] = field(default_factory=Counter[str])
    """Responses that were not kept, by reason."""


async def demonstrate(config: ActionsConfig, note: Callable[[int], None], usage: UsageNotes) -> Made:
    """Write a row for each question to which a good response was found. Raises OprimeError; what was asked is not asked again."""
    made, output = Made(), Path(config.output)
    async with AsyncExitStack() as stack:
        stack.enter_context(sole_writer(output, "oprime data actions"))
        log = RecordLog(output.with_name(f"{output.name}.asked.jsonl"))
        stack.callback(log.close)
        judge = await stack.enter_async_context(judging(config.verifier))
        model = await stack.enter_async_context(chat_model(config.model))
        stack.callback(usage.note, "actions", config.model, model.usage)
        good = stack.enter_context(JsonLines(output))
        bad = stack.enter_context(JsonLines(output.with_name(f"{output.name}.dropped.jsonl")))
        writer = _Writer(config, model, judge, log)
        results = in_order(_questions(config, made), writer.attempts, at_once=2 * config.model.at_once)
        async for item, attempts in await stack.enter_async_context(aclosing(results)):
            made.questions += 1
            for attempt in attempts:
                if "reason" not in attempt:
                    made.kept += 1
                    good.write(_row(config, item, attempt["text"]))
                else:
                    made.dropped[attempt["reason"]] += 1
                    bad.write({"origin": item.origin, **attempt})
            note(made.questions)
    return made


def _questions(config: ActionsConfig, made: Made) -> Iterator[Item]:
    everything = (outcome for section in config.sources for outcome in questions_of(section, "sources.file"))

    def read() -> Iterator[Item]:
        for outcome in everything:
            if isinstance(outcome, Dropped):
                made.unread[outcome.reason] += 1
            else:
                yield outcome

    return islice(read(), config.limit or None)


def _row(config: ActionsConfig, item: Item, response: str) -> dict[str, Any]:
    """A conversation for supervised training."""
    system = {"short": short_prompt(), "long": long_prompt(), "none": ""}[config.system]
    task = task_of(item.question, system=system, suffix=_suffix(config, item))
    turns = [*task.messages, ChatMessage(role="assistant", content=response)]
    return {
        "messages": [{"role": turn.role, "content": turn.content} for turn in turns],
        "data_source": item.question.data_source,
        "ability": item.question.ability,
        "actions": list(trace_actions(response).actions),
    }


def _suffix(config: ActionsConfig, item: Item) -> str:
    return config.code_suffix if item.question.ability == "code" else config.math_suffix


class _Writer:
    def __init__(self, config: ActionsConfig, model: ChatModel, judge: Judge, log: RecordLog) -> None:
        self._config = config
        self._model = model
        self._judge = judge
        self._log = log

    async def attempts(self, item: Item) -> list[Attempt]:
        """Responses one after another, up to the first that is good. Raises ChatUnavailableError."""
        done: list[Attempt] = []
        for index in range(self._config.samples):
            done.append(await self._attempt(item, self._config.seed + index))
            if "reason" not in done[-1]:
                break
        return done

    async def _attempt(self, item: Item, seed: int) -> Attempt:
        key = key_of(item.question.text, seed, _asked(self._config, item))
        try:
            response = await self._response(f"response {key}", item, seed)
        except ChatRefusedError as error:
            return {"text": "", "reason": "refused by the model", "detail": str(error)}
        text: str = response["text"]
        trace = trace_actions(text)
        if response["cut"]:
            return {"text": text, "reason": "cut at max_response_tokens"}
        if trace.faults:
            return {"text": text, "reason": f"form: {trace.faults[0]}"}
        if not item.question.ground_truth:
            return {"text": text}
        judged_as = key_of(key, item.question.ground_truth, self._judge.fingerprint)
        verdict = await self._verdict(f"verdict {judged_as}", item, text)
        if verdict["score"] == 1:
            return {"text": text}
        return {"text": text, "reason": "not judged" if verdict["score"] is None else "wrong answer", "detail": verdict["reason"]}

    async def _response(self, key: str, item: Item, seed: int) -> Mapping[str, Any]:
        """The `text`, and whether it was `cut`. Raises ChatRefusedError."""
        if key in self._log:
            return self._log[key]
        section = self._config.model
        request = ChatRequest(
            messages=task_of(item.question, system=long_prompt(), suffix=_suffix(self._config, item)).messages,
            temperature=section.temperature,
            top_p=section.top_p,
            max_tokens=section.max_response_tokens,
            seed=seed,
        )
        response = await self._model.respond(request)
        found = {"text": response.text.strip(), "cut": response.cut}
        self._log.append(key, found)
        return found

    async def _verdict(self, key: str, item: Item, text: str) -> Mapping[str, Any]:
        """The `score`, None where there is none, and the `reason`."""
        if key in self._log:
            return self._log[key]
        outcome = await self._judge.outcome(task_of(item.question), text)
        found = {"score": outcome.score, "reason": outcome.reason}
        if outcome.verdict is not Verdict.INFRA_ERROR:
            self._log.append(key, found)
        return found


def _asked(config: ActionsConfig, item: Item) -> Any:
    return [long_prompt(), _suffix(config, item), asked_as(config.model)]
