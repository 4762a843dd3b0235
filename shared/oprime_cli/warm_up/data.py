"""Demonstrations for supervised warm-up: read, tokenised, and packed into rows whose documents cannot see each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from oprime.core.types import ChatMessage
from oprime.lm.tokenizers import render_prompt
from oprime.runtime.errors import UnusableInputError
from oprime.runtime.settings import ChainSection
from oprime.tasks.chain import Teacher
from oprime.tasks.dataset import PromptOrder, usable_rows
from oprime.tasks.record_file import RecordFile
from oprime.tasks.row_files import read_rows
from oprime.tasks.rows import BadRowError, RawRow, messages_of, row_object
from oprime_cli.run_config import SftSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROW_FIELDS = ("messages", "system", "conversations")
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
SEED_STRIDE = 2**32
"""Demonstrations of the chain task that belong to one seed."""


@dataclass(frozen=True, slots=True, eq=False)
class Demonstration:
    ids: npt.NDArray[np.int32]
    """Prompt, response and end token."""
    prompt_tokens: int


class Demonstrations(Protocol):
    """An endless sequence of demonstrations; a position alone says which one comes there."""

    def at(self, position: int) -> Demonstration: ...


class Encoder:
    """Writes conversations through a tokenizer's chat template."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", end_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._end_ids = tuple(end_ids)

    def encode(self, messages: Sequence[ChatMessage]) -> Demonstration:
        """Token ids of a conversation; its last turn is the response, which ends with an end token.

        The prompt has the very ids that the generator samples after. Raises UnusableInputError when the template writes the
        conversation otherwise once the answer is known.
        """
        prompt_ids = render_prompt(self._tokenizer, messages[:-1])
        prompt = self._text(messages[:-1], asks=True)
        whole = self._text(messages, asks=False)
        if not whole.startswith(prompt):
            raise UnusableInputError(
                "the chat template does not write the prompt of this conversation as it writes the beginning of the whole, "
                "so the response cannot be told apart: use a model whose template does"
            )
        encoded: Any = self._tokenizer(whole[len(prompt) :], add_special_tokens=False)
        response_ids = self._ended(list(encoded["input_ids"]))
        return Demonstration(np.asarray([*prompt_ids, *response_ids], dtype=np.int32), len(prompt_ids))

    def _text(self, messages: Sequence[ChatMessage], *, asks: bool) -> str:
        conversation = [{"role": message.role, "content": message.content} for message in messages]
        text: Any = self._tokenizer.apply_chat_template(conversation, add_generation_prompt=asks, tokenize=False)
        return text

    def _ended(self, response_ids: list[int]) -> list[int]:
        """Up to the last end token, which is where sampling would stop; with one, if the template writes none."""
        ends = [place for place, token in enumerate(response_ids) if token in self._end_ids]
        return response_ids[: ends[-1] + 1] if ends else [*response_ids, self._end_ids[0]]


class ChainDemonstrations:
    """The noisy teacher's responses: a new problem at every position."""

    def __init__(self, settings: ChainSection, seed: int, encoder: Encoder, max_tokens: int) -> None:
        self._teacher = Teacher(settings.teacher_seed)
        self._operations = settings.operations
        self._first = seed * SEED_STRIDE
        self._encoder = encoder
        self._max_tokens = max_tokens

    def at(self, position: int) -> Demonstration:
        prompt, response = self._teacher.demonstration(self._first + position, self._operations)
        found = self._encoder.encode((ChatMessage(role="user", content=prompt), ChatMessage(role="assistant", content=response)))
        if len(found.ids) > self._max_tokens:
            raise UnusableInputError(
                f"a chain demonstration has {len(found.ids)} tokens, more than sft.max_tokens = {self._max_tokens}: raise it"
            )
        return found


class FileDemonstrations:
    """Demonstrations of a file, tokenised once into a file of their own, in a seeded order that is new in each epoch."""

    def __init__(self, settings: SftSection, encoder: Encoder) -> None:
        """Raises SettingsError for a file that cannot be used, and for bad rows unless they may be skipped."""

        def convert(row: RawRow) -> Demonstration:
            return demonstration_of_row(row, encoder, settings.max_tokens)

        origin = f"sft.demonstrations = {settings.demonstrations}"
        rows = read_rows(settings.demonstrations, "sft.demonstrations", ROW_FIELDS)
        self._records = RecordFile()
        for found in usable_rows(rows, convert, origin, "sft.skip_bad_rows", skip=settings.skip_bad_rows):
            self._records.append(np.concatenate(([found.prompt_tokens], found.ids)).astype("<i4").tobytes())
        self._order = PromptOrder(settings.seed, len(self._records))

    def __len__(self) -> int:
        return len(self._records)

    def at(self, position: int) -> Demonstration:
        stored = np.frombuffer(self._records[self._order.index(position)], dtype="<i4")
        return Demonstration(stored[1:], int(stored[0]))


def demonstration_of_row(row: RawRow, encoder: Encoder, max_tokens: int) -> Demonstration:
    """Raises BadRowError with file, row, field, rule and remedy."""
    messages = conversation_of_row(row)
    if len(messages) < 2:
        raise BadRowError(row, "messages", "missing prompt", "the answer needs a turn before it; remove the row")
    try:
        found = encoder.encode(messages)
    except UnusableInputError as error:
        raise BadRowError(row, "messages", "no usable conversation", str(error)) from error
    if len(found.ids) > max_tokens:
        rule = f"{len(found.ids)} tokens are more than sft.max_tokens = {max_tokens}; raise it or remove the row"
        raise BadRowError(row, "messages", "too long", rule)
    return found


def conversation_of_row(row: RawRow) -> tuple[ChatMessage, ...]:
    """`messages`, or `system` with `conversations`; the last turn is the assistant's. Raises BadRowError."""
    value = row_object(row)
    turns = value.get("conversations")
    if value.get("messages") is not None or turns is None:
        return messages_of(row, "messages", value.get("messages"), last_role="assistant")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BadRowError(row, "conversations", "wrong conversation", "must be a list of {from, value}; correct the row")
    messages = [{"role": SPEAKERS.get(str(turn.get("from")), turn.get("from")), "content": turn.get("value")} for turn in turns]
    if value.get("system"):
        messages.insert(0, {"role": "system", "content": value["system"]})
    return messages_of(row, "conversations", messages, last_role="assistant")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedRows:
    """Documents side by side. All tensors are [row, token]."""

    input_ids: Tensor
    position_ids: Tensor
    """Counts from 0 in each document."""
    document: Tensor
    """Which document of its row a token belongs to, from 1; 0 is padding."""
    is_response: Tensor

    @property
    def sees(self) -> Tensor:
        """[row, 1, token, token]: whether a token attends to another: earlier or itself, and of the same document."""
        same = self.document[:, :, None] == self.document[:, None, :]
        return torch.tril(same)[:, None]


def packed_places(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Places of documents by row, first fit, so that no row is longer than `max_tokens`."""
    rows: list[list[int]] = []
    free: list[int] = []
    for place, length in enumerate(lengths):
        row = next((row for row, left in enumerate(free) if left >= length), None)
        if row is None:
            rows.append([place])
            free.append(max_tokens - length)
        else:
            rows[row].append(place)
            free[row] -= length
    return rows


def packed_rows(demonstrations: Sequence[Sequence[Demonstration]], pad_id: int) -> PackedRows:
    """Rows of documents, padded on the right."""
    width = max(sum(len(found.ids) for found in row) for row in demonstrations)
    shape = (len(demonstrations), width)
    input_ids, positions, document = (np.full(shape, fill, dtype=np.int64) for fill in (pad_id, 0, 0))
    is_response = np.zeros(shape, dtype=bool)
    for row, documents in enumerate(demonstrations):
        start = 0
        for number, found in enumerate(documents, start=1):
            end = start + len(found.ids)
            input_ids[row, start:end] = found.ids
            positions[row, start:end] = np.arange(len(found.ids))
            document[row, start:end] = number
            is_response[row, start + found.prompt_tokens : end] = True
            start = end
    tensors = (torch.from_numpy(array) for array in (input_ids, positions, document, is_response))
    return PackedRows(**dict(zip(("input_ids", "position_ids", "document", "is_response"), tensors, strict=True)))
