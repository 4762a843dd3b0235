"""Multiple choice: dropped, kept, or made open questions by a model."""

import hashlib
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from oprime.core.types import ChatMessage
from oprime_cli.chat.model import ChatModel, ChatRefusedError, ChatRequest
from oprime_cli.chat.settings import ChatModelSection, chat_model
from oprime_cli.data.record_log import RecordLog
from oprime_cli.data.rules import is_choice, letter_of, options_of
from oprime_cli.data.settings import ChoicesSection
from oprime_cli.data.stages import Dropped, Item
from oprime_cli.data.usage import UsageNotes
from oprime_cli.in_order import in_order

REWRITE = """You turn multiple-choice questions of mathematics into open ones.

First decide whether the question can be answered without seeing its options: it can when the answer is a value, an expression, an \
interval or a name that follows from the question alone. It cannot when one has to compare the options, for example to say which of them \
is true.

Answer in exactly this form:
OPEN: yes or no
QUESTION: the question without its options and their letters, asking for the result itself; nothing where the answer is no

Keep all mathematical notation and all conditions, and don't give the answer away."""
_REPLY = re.compile(r"^\s*OPEN:\s*(yes|no)\b[^\n]*\n?\s*(?:QUESTION:[ \t]*(.*))?$", re.IGNORECASE | re.DOTALL)
_LEANS_ON_OPTIONS = re.compile(r"\b(?:following|statements?|options?|choices?)\b", re.IGNORECASE)


def open_answer(gold: str, text: str) -> str:
    """The answer itself where the gold is an option's letter; empty where that option cannot be found."""
    letter = letter_of(gold)
    return options_of(text).get(letter, "") if letter else gold


class Choices:
    name = "choices"

    def __init__(self, section: ChoicesSection, usage: UsageNotes) -> None:
        self._section = section
        self._usage = usage
        self.settings = [section.model_dump(exclude={"model"}), asked_as(section.model), REWRITE]

    async def run(self, items: Iterator[Item], folder: Path) -> AsyncGenerator[Item | Dropped]:
        model_section = self._section.model
        if self._section.treatment != "rewrite" or model_section is None:
            for item in items:
                choice = item.question.kind == "choice" and self._section.treatment == "drop"
                yield Dropped(reason="multiple choice", item=item) if choice else item
            return
        log = RecordLog(folder / f"{self.name}.asked.jsonl")
        async with AsyncExitStack() as stack:
            stack.callback(log.close)
            model = await stack.enter_async_context(chat_model(model_section))
            stack.callback(self._usage.note, self.name, model_section, model.usage)
            rewriter = _Rewriter(model, model_section, log, self._section.tries)
            results = await stack.enter_async_context(aclosing(in_order(items, rewriter.open, at_once=4 * model_section.at_once)))
            async for _, outcome in results:
                yield outcome


class _Rewriter:
    def __init__(self, model: ChatModel, section: ChatModelSection, log: RecordLog, tries: int) -> None:
        self._model = model
        self._section = section
        self._log = log
        self._tries = tries

    async def open(self, item: Item) -> Item | Dropped:
        """Raises ChatUnavailableError."""
        question = item.question
        if question.kind != "choice":
            return item
        gold = open_answer(question.ground_truth, question.text)
        if not gold:
            return Dropped(reason="choice whose right option was not found", item=item, detail=question.ground_truth)
        reply = await self._reply(question.text)
        if reply.get("open") == "no":
            return Dropped(reason="choice that needs its options", item=item)
        text = reply.get("question", "")
        if not text:
            return Dropped(reason="choice that was not rewritten", item=item, detail=reply.get("said", ""))
        return replace(item, question=replace(question, text=text, ground_truth=gold, kind="open"))

    async def _reply(self, text: str) -> Mapping[str, Any]:
        key = key_of(REWRITE, text, asked_as(self._section))
        if key not in self._log:
            try:
                self._log.append(key, await self._asked(text))
            except ChatRefusedError as error:
                return {"said": str(error)}
        return self._log[key]

    async def _asked(self, text: str) -> dict[str, str]:
        said = ""
        for attempt in range(self._tries):
            request = ChatRequest(
                messages=(ChatMessage(role="system", content=REWRITE), ChatMessage(role="user", content=text)),
                temperature=self._section.temperature,
                top_p=self._section.top_p,
                max_tokens=self._section.max_response_tokens,
                seed=attempt,
            )
            said = (await self._model.respond(request)).text
            found = read_reply(said)
            if found:
                return found
        return {"said": said[:500]}


def read_reply(said: str) -> dict[str, str]:
    """`open`, and the `question` where that is yes; empty where the reply is of no use."""
    found = _REPLY.match(said)
    if found is None:
        return {}
    if found[1].lower() == "no":
        return {"open": "no"}
    text = (found[2] or "").strip()
    return {} if not text or is_choice(text) or _LEANS_ON_OPTIONS.search(text) else {"open": "yes", "question": text}


def asked_as(section: ChatModelSection | None) -> Any:
    """What a model's responses depend on: not how fast it is asked, nor where it stands."""
    return section and section.model_dump(include={"name", "path", "max_response_tokens", "temperature", "top_p", "dtype"})


def key_of(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
