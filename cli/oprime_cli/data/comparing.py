"""Stages that compare questions: with those that came before, and with benchmarks."""

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

from oprime_cli.data.overlap import Collection, NearDuplicates, words_of
from oprime_cli.data.reading import file_state, questions_of
from oprime_cli.data.settings import DecontaminateSection, DuplicatesSection, SourceSection
from oprime_cli.data.stages import Dropped, Item

SHOWN_CHARS = 200


class Duplicates:
    """Keeps the first of equal and of nearly equal questions."""

    name = "duplicates"

    def __init__(self, section: DuplicatesSection) -> None:
        self._section = section
        self.settings = section.model_dump()

    async def run(self, items: Iterator[Item], folder: Path) -> AsyncGenerator[Item | Dropped]:
        near = NearDuplicates(similarity=self._section.similarity, length=self._section.shingle_words)
        answers: dict[tuple[str, ...], str] = {}
        seen: list[tuple[str, str]] = []
        for item in items:
            words, gold = words_of(item.question.text), item.question.ground_truth
            if words in answers:
                same = item.question.ability == "code" or answers[words] == gold
                yield Dropped(reason="duplicate" if same else "duplicate with another answer", item=item)
                continue
            answers[words] = gold if item.question.ability == "math" else ""
            one = near.fingerprint(item.question.text)
            alike = [seen[index] for index in near.alike(one)] if self._section.similarity < 1 else []
            same = [origin for origin, answer in alike if answer == answers[words]]
            if same or (alike and not self._section.keep_other_answers):
                reason = "near-duplicate" if same else "near-duplicate with another answer"
                yield Dropped(reason=reason, item=item, detail=f"of {(same or [alike[0][0]])[0]}")
                continue
            near.add(one)
            seen.append((item.origin, answers[words]))
            yield item


class Decontaminate:
    """Drops what stands in a benchmark, word by word or nearly."""

    name = "decontaminate"

    def __init__(self, section: DecontaminateSection) -> None:
        """Raises SettingsError for a benchmark that is not there."""
        self._section = section
        self.settings = [section.model_dump(), [file_state(file, "decontaminate.benchmarks") for file in section.benchmarks]]

    async def run(self, items: Iterator[Item], folder: Path) -> AsyncGenerator[Item | Dropped]:
        section = self._section
        known = [entry for file in section.benchmarks for entry in _benchmark(file)]
        benchmarks = Collection((text for _, text in known), length=section.shingle_words, min_words=section.min_words)
        for item in items:
            nearest = benchmarks.nearest(item.question.text)
            if nearest is None or nearest.share < section.share:
                yield item
                continue
            origin, text = known[nearest.index]
            kind = "in" if nearest.share == 1 else "nearly in"
            detail = f"{nearest.share:.2f} of {origin}: {text[:SHOWN_CHARS]}"
            yield Dropped(reason=f"{kind} {Path(origin.rpartition(', row ')[0]).name}", item=item, detail=detail)


def _benchmark(file: str) -> Iterator[tuple[str, str]]:
    """Origin and text of each question."""
    for outcome in questions_of(SourceSection(file=file), "decontaminate.benchmarks"):
        if isinstance(outcome, Item):
            yield outcome.origin, outcome.question.text
