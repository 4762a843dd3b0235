"""Judges the rows of a file with local workers, several at once, and hands the results back in the file's order."""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from oprime.core.verification import Outcome, Verdict, VerificationRequest, unscored
from oprime.runtime.errors import UnusableInputError
from oprime_cli.continued_file import continued, line_of
from oprime_cli.in_order import in_order
from oprime_cli.verifying.rows import Row, is_settled, out_row, read_rows, written_rows
from oprime_verifier.config import VerifierSection
from oprime_verifier.offer import Offer, config_hash

AHEAD = 64
"""Rows under way beyond the oldest unfinished one, for each worker: one slow row must not idle the others."""


@dataclass(slots=True)
class Tally:
    """What a run of `oprime verify` saw."""

    verdicts: Counter[Verdict] = field(default_factory=Counter[Verdict])
    scores: list[float] = field(default_factory=list[float])
    unusable: Counter[str] = field(default_factory=Counter[str])
    """Rows that can never be judged as they stand, by reason."""
    unnamed: int = 0
    """Rows without an id."""
    reused: int = 0
    """Rows that an earlier run had judged."""
    changed: int = 0
    """Rows that an earlier run had judged with other content or settings."""

    def add(self, row: Row, result: dict[str, Any]) -> None:
        verdict = Verdict(result["verdict"])
        self.verdicts[verdict] += 1
        self.unnamed += row.id is None
        if verdict is Verdict.BAD_TASK:
            self.unusable[result["reason"].removeprefix(f"line {row.number} ")] += 1
        if result["score"] is not None:
            self.scores.append(result["score"])

    @property
    def rows(self) -> int:
        return self.verdicts.total()

    @property
    def failed(self) -> int:
        """Rows whose verification failed, and may not fail the next time."""
        return self.verdicts[Verdict.INFRA_ERROR]

    @property
    def all_judged(self) -> bool:
        return not self.unusable and not self.failed


def judges_name(section: VerifierSection) -> str:
    """Equal for versions and settings of the verifier that judge alike."""
    return f"{version('oprime')} {config_hash(section)}"


async def judge_file(source: Path, out: Path | None, sink: IO[str], section: VerifierSection, note: Callable[[Tally], None]) -> Tally:
    """Judge every row of `source`; write to `out`, after the rows that it holds already, or to `sink`.

    Raises UnusableInputError when a file cannot be used or `out` belongs to another input, SettingsError for wrong settings.
    """
    judges = judges_name(section)
    tally, before = Tally(), written_rows(out)
    known = _settled_rows(source, out, before, judges, tally)
    kept = next(place for place in itertools.count(1) if place not in known) - 1
    offer = Offer(section)
    await offer.start()
    try:
        rows = enumerate(read_rows(source), start=1)
        work = partial(_result, offer, known, judges)
        with continued(out, before, kept) if out is not None else nullcontext(partial(_print, sink)) as write:
            async with aclosing(in_order(rows, work, at_once=section.workers * AHEAD)) as results:
                async for (_, row), result in results:
                    tally.add(row, result)
                    tally.reused += tally.rows in known
                    if tally.rows > kept:
                        write(result)
                    note(tally)
    finally:
        await offer.close()
    return tally


def _print(sink: IO[str], result: dict[str, Any]) -> None:
    sink.write(line_of(result))
    sink.flush()


def _settled_rows(
    source: Path, out: Path | None, written: Sequence[dict[str, Any]], judges: str, tally: Tally
) -> dict[int, dict[str, Any]]:
    """Results of an earlier run that stand, by place in the file; the others are counted where they were verdicts."""
    known: dict[int, dict[str, Any]] = {}
    rows = read_rows(source)
    for place, result in enumerate(written, start=1):
        row = next(rows, None)
        if row is None or row.id != result.get("id"):
            has = "no such row" if row is None else f"{row.id!r}"
            raise UnusableInputError(
                f"{out}, line {place} has the id {result.get('id')!r} where {source} has {has}: it is the output of another file; "
                "name another --out or add --fresh"
            )
        if is_settled(result, row, judges):
            known[place] = result
        else:
            tally.changed += row.request is not None and result["verdict"] is not Verdict.INFRA_ERROR
    return known


async def _result(offer: Offer, known: Mapping[int, dict[str, Any]], judges: str, placed: tuple[int, Row]) -> dict[str, Any]:
    place, row = placed
    if place in known:
        return known[place]
    return out_row(row, await judge(offer, row.request) if row.request else unscored(Verdict.BAD_TASK, row.problem), judges)


async def judge(offer: Offer, request: VerificationRequest) -> Outcome:
    """BAD_TASK for a verifier that nobody offers."""
    try:
        return await offer.dispatcher.verify(request)
    except UnusableInputError as error:
        return unscored(Verdict.BAD_TASK, str(error))
