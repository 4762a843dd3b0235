"""Stages that need the verifier: golds that it can compare, questions that a model solves, and how hard they are for it."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from oprime.core.verification import Outcome, Verdict
from oprime.tasks.sources.eurus_sources import CODE_SUFFIX, MATH_SUFFIX
from oprime_cli.chat.model import ChatModel, ChatRefusedError, ChatRequest
from oprime_cli.chat.settings import ChatModelSection, chat_model
from oprime_cli.data.choices import asked_as, key_of
from oprime_cli.data.judging import Judge
from oprime_cli.data.record_log import RecordLog
from oprime_cli.data.settings import AnswersSection, DifficultySection, SolveSection
from oprime_cli.data.stages import Dropped, Item
from oprime_cli.data.usable import task_of
from oprime_cli.data.usage import UsageNotes
from oprime_cli.in_order import in_order

AHEAD = 16
"""Questions under way for each worker of the verifier."""


class Answers:
    """Golds that are not found right when a response gives them would make a task that nobody can solve."""

    name = "answers"

    def __init__(self, section: AnswersSection, judge: Judge) -> None:
        self._section = section
        self._judge = judge
        self.settings = [section.model_dump(), judge.fingerprint]

    async def run(self, items: Iterator[Item], folder: Path) -> AsyncGenerator[Item | Dropped]:
        if not self._section.check:
            for item in items:
                yield item
            return
        async with aclosing(in_order(items, self._compared, at_once=AHEAD * self._judge.workers)) as results:
            async for _, outcome in results:
                yield outcome

    async def _compared(self, item: Item) -> Item | Dropped:
        if item.question.ability != "math":
            return item
        outcome = await self._judge.outcome(task_of(item.question), f"\\boxed{{{item.question.ground_truth}}}")
        if outcome.verdict is Verdict.CORRECT:
            return item
        return Dropped(reason="answer that the verifier cannot compare", item=item, detail=f"{outcome.verdict}: {outcome.reason}")


class Solve:
    """Samples responses and judges them. Keeps what is solved often enough, with its pass rate."""

    name = "solve"

    def __init__(self, section: SolveSection, judge: Judge, usage: UsageNotes) -> None:
        self._section = section
        self._judge = judge
        self._usage = usage
        self.settings = [section.model_dump(exclude={"model"}), asked_as(section.model), judge.fingerprint]

    async def run(self, items: Iterator[Item], folder: Path) -> AsyncGenerator[Item | Dropped]:
        model_section = self._section.model
        if model_section is None:
            for item in items:
                yield item
            return
        log = RecordLog(folder / f"{self.name}.asked.jsonl")
        async with AsyncExitStack() as stack:
            stack.callback(log.close)
            model = await stack.enter_async_context(chat_model(model_section))
            stack.callback(self._usage.note, self.name, model_section, model.usage)
            solver = _Solver(model, model_section, self._judge, log, self._section)
            results = await stack.enter_async_context(aclosing(in_order(items, solver.solved, at_once=2 * model_section.at_once)))
            async for _, outcome in results:
                yield outcome


class _Solver:
    def __init__(self, model: ChatModel, model_section: ChatModelSection, judge: Judge, log: RecordLog, section: SolveSection) -> None:
        self._model = model
        self._model_section = model_section
        self._judge = judge
        self._log = log
        self._section = section

    async def solved(self, item: Item) -> Item | Dropped:
        """Raises ChatUnavailableError."""
        samples = await asyncio.gather(*(self._sample(item, index) for index in range(self._section.samples)))
        judged = [sample for sample in samples if sample["score"] is not None]
        if not judged:
            return Dropped(reason="no sample could be judged", item=item, detail=samples[0]["answer"])
        right = sum(sample["score"] == 1 for sample in judged)
        other, times = self._rival(item, judged)
        if times > max(1, right):
            return Dropped(reason="samples agree on another answer", item=item, detail=f"{times} of {len(judged)} say {other[:100]!r}")
        if right < self._section.min_right:
            return Dropped(reason="not solved", item=item, detail=f"{right} of {len(judged)} samples are right")
        return replace(item, pass_rate=right / len(judged))

    def _rival(self, item: Item, judged: Sequence[Mapping[str, Any]]) -> tuple[str, int]:
        """The most frequent wrong answer, and how often it was given."""
        if not self._section.consistent or item.question.ability != "math":
            return "", 0
        wrong = Counter(sample["answer"] for sample in judged if sample["score"] != 1 and sample["answer"])
        return max(wrong.items(), key=lambda entry: entry[1], default=("", 0))

    async def _sample(self, item: Item, index: int) -> Mapping[str, Any]:
        """The `score`, None where there is none, and the `answer`."""
        seed = self._section.seed + index
        question = item.question
        key = key_of(question.text, question.ground_truth, seed, asked_as(self._model_section), self._judge.fingerprint)
        if key in self._log:
            return self._log[key]
        try:
            sample, outcome = await self._asked(item, seed)
        except ChatRefusedError as error:
            return {"score": None, "answer": str(error)}
        if outcome.verdict is not Verdict.INFRA_ERROR:
            self._log.append(key, sample)
        return sample

    async def _asked(self, item: Item, seed: int) -> tuple[dict[str, Any], Outcome]:
        task = task_of(item.question, suffix=CODE_SUFFIX if item.question.ability == "code" else MATH_SUFFIX)
        request = ChatRequest(
            messages=task.messages,
            temperature=self._model_section.temperature,
            top_p=self._model_section.top_p,
            max_tokens=self._model_section.max_response_tokens,
            seed=seed,
        )
        response = await self._model.respond(request)
        outcome = await self._judge.outcome(task, response.text)
        # Programs differ in every letter: only mathematical answers are counted.
        answer = outcome.answer[:200] if item.question.ability == "math" else ""
        return {"score": outcome.score, "answer": answer if outcome.score is not None else outcome.reason}, outcome


class Difficulty:
    """Chooses by pass rate; what was not sampled stays."""

    name = "difficulty"

    def __init__(self, section: DifficultySection) -> None:
        self._section = section
        self.settings = section.model_dump()

    async def run(self, items: Iterator[Item], folder: Path) -> AsyncGenerator[Item | Dropped]:
        for item in items:
            rate = item.pass_rate
            if rate is not None and rate > self._section.max_pass_rate:
                yield Dropped(reason="too easy", item=item, detail=f"pass rate {rate:.2f}")
            elif rate is not None and rate < self._section.min_pass_rate:
                yield Dropped(reason="too hard", item=item, detail=f"pass rate {rate:.2f}")
            else:
                yield item
