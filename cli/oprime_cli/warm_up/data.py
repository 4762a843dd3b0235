"""Demonstrations for supervised warm-up: read, tokenised, and laid out as rows for the train engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from oprime.core.types import ChatMessage
from oprime.lm.tokenizers import render_prompt, render_text
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

Bools = Sequence[bool] | npt.NDArray[np.bool_]

ROW_FIELDS = ("messages", "system", "conversations")
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
SEED_STRIDE = 2**32
"""Demonstrations of the chain task that belong to one seed."""


@dataclass(frozen=True, slots=True, eq=False)
class Demonstration:
    """One conversation."""

    ids: npt.NDArray[np.int32]
    is_trained: npt.NDArray[np.bool_]
    """True for what the assistant says, each turn up to its end token."""


class Demonstrations(Protocol):
    """An endless sequence of demonstrations; a position alone says which one comes there."""

    def at(self, position: int) -> Demonstration: ...


class Encoder:
    """Writes conversations through a tokenizer's chat template."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", end_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._end_ids = tuple(end_ids)

    def encode(self, messages: Sequence[ChatMessage]) -> Demonstration:
        """Token ids of a conversation whose last turn is the assistant's; each of the assistant's turns ends with an end token.

        What stands before a turn has the very ids that the generator samples after. A turn that the template writes otherwise once others
        follow it (without its reasoning, say) is context, not trained on. Raises UnusableInputError if the last turn is one.
        """
        prompt = render_text(self._tokenizer, messages[:-1], asks=True)
        ids, is_trained, written = list[int](), list[bool](), ""
        for place in (place for place, message in enumerate(messages) if place and message.role == "assistant"):
            is_last = place == len(messages) - 1
            before = prompt if is_last else render_text(self._tokenizer, messages[:place], asks=True)
            after = render_text(self._tokenizer, messages[: place + 1], asks=False)
            if not (before.startswith(written) and after.startswith(before) and (is_last or prompt.startswith(after))):
                if is_last:
                    raise UnusableInputError(
                        "the chat template does not write the prompt of this conversation as it writes the beginning of the whole, "
                        "so the response cannot be told apart: use a model whose template does"
                    )
                continue
            context = self._ids(before[len(written) :]) if written else render_prompt(self._tokenizer, messages[:place])
            response, rest = self._split(self._ids(after[len(before) :]))
            ids += [*context, *response, *([] if is_last else rest)]
            is_trained += [False] * len(context) + [True] * len(response) + ([] if is_last else [False] * len(rest))
            written = after
        return Demonstration(np.asarray(ids, dtype=np.int32), np.asarray(is_trained, dtype=np.bool_))

    def _ids(self, text: str) -> list[int]:
        encoded: Any = self._tokenizer(text, add_special_tokens=False)
        return list(encoded["input_ids"])

    def _split(self, ids: list[int]) -> tuple[list[int], list[int]]:
        """Up to the last end token, which is where sampling would stop (with one, if the template writes none), and what follows."""
        ends = [place for place, token in enumerate(ids) if token in self._end_ids]
        return (ids[: ends[-1] + 1], ids[ends[-1] + 1 :]) if ends else ([*ids, self._end_ids[0]], [])


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
            self._records.append(np.stack((found.ids, found.is_trained)).astype("<i4").tobytes())
        self._order = PromptOrder(settings.seed, len(self._records))

    def __len__(self) -> int:
        return len(self._records)

    def at(self, position: int) -> Demonstration:
        ids, is_trained = np.frombuffer(self._records[self._order.index(position)], dtype="<i4").reshape(2, -1)
        return Demonstration(ids, is_trained.astype(np.bool_))


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
