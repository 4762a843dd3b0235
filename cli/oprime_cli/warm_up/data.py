"""Demonstrations to learn from: read, tokenised, held out, and put in order."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from oprime.core.types import ChatMessage
from oprime.lm.conversations import ConversationEncoder, EncodedConversation
from oprime.runtime.errors import SettingsError, UnusableInputError
from oprime.runtime.settings import ChainSection
from oprime.tasks.chain import Teacher
from oprime.tasks.conversation_formats.registry import open_conversations
from oprime.tasks.conversations import ConversationReader, read_conversation
from oprime.tasks.dataset import PromptOrder, usable_rows
from oprime.tasks.record_file import RecordFile
from oprime.tasks.rows import BadRowError, RawRow
from oprime_cli.console import count, say
from oprime_cli.warm_up.config import SftSection

SEED_STRIDE = 2**32
"""Demonstrations of the chain task that belong to one seed; the last ones are held out."""
SAY_EVERY_S = 10.0
HELD_OUT = 2**31
"""Tells the choice of what is held out from the orders of epochs, which are seeded alike."""


class Demonstrations(Protocol):
    """A sequence of demonstrations without an end; a position alone says which one comes there."""

    @property
    def size(self) -> int:
        """Demonstrations of one epoch; 0 where each is new."""
        ...

    def at(self, position: int) -> EncodedConversation: ...


@dataclass(slots=True)
class Counts:
    """What was found in a file, in tokens, rows and turns."""

    tokens: int = 0
    trained_tokens: int = 0
    cut: int = 0
    left_out: int = 0
    rewritten: int = 0

    def notes(self, max_tokens: int) -> Iterator[str]:
        """What somebody might not expect of the file."""
        if self.rewritten:
            yield rewritten_note(self.rewritten)
        if self.cut:
            yield f"demonstrations cut at sft.max_tokens = {max_tokens}, which do not teach how they end: {self.cut}"
        if self.left_out:
            yield f"demonstrations left out because they have more than sft.max_tokens = {max_tokens}: {self.left_out}"


class ChainDemonstrations:
    """The noisy teacher's responses: a new problem at every position."""

    size = 0

    def __init__(self, chain: ChainSection, settings: SftSection, encoder: ConversationEncoder) -> None:
        self._teacher = Teacher(chain.teacher_seed)
        self._operations = chain.operations
        self._first = settings.seed * SEED_STRIDE
        self._encoder = encoder
        self._max_tokens = settings.max_tokens

    def at(self, position: int) -> EncodedConversation:
        prompt, response = self._teacher.demonstration(self._first + position, self._operations)
        found = self._encoder.encode((ChatMessage(role="user", content=prompt), ChatMessage(role="assistant", content=response)))
        if len(found.ids) > self._max_tokens:
            raise UnusableInputError(
                f"a chain demonstration has {len(found.ids)} tokens, more than sft.max_tokens = {self._max_tokens}: raise it"
            )
        return found

    def held_out(self, number: int) -> list[EncodedConversation]:
        """Demonstrations that no training comes to."""
        return [self.at(SEED_STRIDE - 1 - place) for place in range(number)]


class StoredDemonstrations(Sequence[EncodedConversation]):
    """Demonstrations of a file, in its order, tokenised once into a file of their own."""

    def __init__(self, location: str, setting: str, settings: SftSection, encoder: ConversationEncoder) -> None:
        """`setting` names the file in errors. Raises SettingsError for a file that cannot be used, and for bad rows unless they may be
        skipped."""
        self.counts = Counts()
        self._records = RecordFile()
        reader, rows = open_conversations(location, setting, settings.reader, "sft.reader")

        def convert(row: RawRow) -> EncodedConversation | None:
            return demonstration_of_row(row, reader, encoder, settings)

        said = time.monotonic()
        for found in usable_rows(rows, convert, f"{setting} = {location}", "sft.skip_bad_rows", skip=settings.skip_bad_rows):
            self._keep(found, settings.max_tokens)
            if time.monotonic() - said > SAY_EVERY_S:
                said = time.monotonic()
                say(f"  {count(len(self))} demonstrations read")
        if not len(self):
            raise SettingsError(
                f"{setting} = {location}: all of its demonstrations are longer than sft.max_tokens = {settings.max_tokens}: raise it, or "
                "set sft.long_rows=cut"
            )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, place: int) -> EncodedConversation:  # type: ignore[override] - nobody needs slices
        ids, is_trained = np.frombuffer(self._records[place], dtype="<i4").reshape(2, -1)
        return EncodedConversation(ids, is_trained.astype(np.bool_))

    def _keep(self, found: EncodedConversation | None, most: int) -> None:
        if found is None:
            self.counts.left_out += 1
            return
        ids, is_trained = found.ids[:most], found.is_trained[:most]
        self.counts.tokens += len(ids)
        self.counts.trained_tokens += int(is_trained.sum())
        self.counts.cut += len(ids) < len(found.ids)
        self.counts.rewritten += found.rewritten
        self._records.append(np.stack((ids, is_trained)).astype("<i4").tobytes())


class FileDemonstrations:
    """Some demonstrations of a file, in a seeded order that is new in each epoch."""

    def __init__(self, stored: StoredDemonstrations, places: Sequence[int], seed: int) -> None:
        self._stored = stored
        self._places = places
        self._order = PromptOrder(seed, len(places))

    @property
    def size(self) -> int:
        return len(self._places)

    def at(self, position: int) -> EncodedConversation:
        return self._stored[self._places[self._order.index(position)]]


def rewritten_note(turns: int) -> str:
    return (
        "turns of the assistant that the chat template writes otherwise once others follow (without their reasoning, say), so that they "
        f"are context and not trained on: {turns}"
    )


def hold_out(size: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Places of a file of `size` demonstrations that are trained on, and those that are held out. Raises SettingsError if there are none to
    train on."""
    number = max(1, round(share * size)) if share else 0
    if number >= size:
        raise SettingsError(f"sft.heldout_share = {share:g} leaves none of the {size} demonstrations to train on: lower it")
    shuffled = np.random.Generator(np.random.PCG64([seed, HELD_OUT])).permutation(size)
    return sorted(shuffled[number:].tolist()), sorted(shuffled[:number].tolist())


def demonstration_of_row(
    row: RawRow, reader: ConversationReader, encoder: ConversationEncoder, settings: SftSection
) -> EncodedConversation | None:
    """None for one that is too long and may be left out; too long still if it may be cut. Raises BadRowError with file, row, field, rule
    and remedy."""
    messages = read_conversation(row, reader)
    field = reader.fields[0] if reader.fields else "row"
    try:
        found = encoder.encode(messages)
    except UnusableInputError as error:
        raise BadRowError(row, field, "no usable conversation", str(error)) from error
    if len(found.ids) <= settings.max_tokens:
        return found
    if settings.long_rows == "refuse":
        rule = (
            f"{len(found.ids)} tokens are more than sft.max_tokens = {settings.max_tokens}; raise it, remove the row, or set sft.long_rows "
            "to cut or leave_out"
        )
        raise BadRowError(row, field, "too long", rule)
    if settings.long_rows == "leave_out" or not found.is_trained[: settings.max_tokens].any():
        return None
    return found
