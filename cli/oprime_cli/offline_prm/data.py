"""Response-level data, tokenised: one prompt with its labelled responses at each position of an endless order."""

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from oprime.core.outcome_balance import balanced_by
from oprime.core.types import TokenIds
from oprime.lm.responses import EncodedResponse, ResponseEncoder
from oprime.runtime.errors import SettingsError, UnusableInputError
from oprime.runtime.settings import ChainSection
from oprime.tasks.chain import Teacher
from oprime.tasks.dataset import PromptOrder, usable_rows
from oprime.tasks.record_file import RecordFile
from oprime.tasks.response_formats.chain import teacher_responses
from oprime.tasks.response_formats.registry import open_responses
from oprime.tasks.responses import LabelledResponses, read_responses
from oprime.tasks.rows import BadRowError, RawRow
from oprime_cli.offline_prm.config import OfflinePrmSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEED_STRIDE = 2**32
"""Problems of the chain task that belong to one seed."""
TRIES = 64
"""Problems of the chain task that are looked at for one position."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledTokens:
    """One response with its prompt."""

    prompt_ids: TokenIds
    response_ids: TokenIds
    outcome_reward: float


class LabelledGroups(Protocol):
    """Prompts in an endless order; a position from 0 alone says which one comes there."""

    @property
    def size(self) -> int:
        """Prompts of one epoch; 0 where each is new."""
        ...

    def at(self, position: int) -> list[LabelledTokens]: ...


class Encoder:
    """Makes tokens of prompts and responses, as sampling would have laid them out."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", end_id: int, max_tokens: int) -> None:
        self._encoder = ResponseEncoder(tokenizer, end_id)
        self._max_tokens = max_tokens

    def encode(self, labelled: LabelledResponses) -> list[EncodedResponse]:
        """Raises UnusableInputError for texts that cannot be tokenised, and for a response that is too long."""
        found = self._encoder.encode(labelled.messages, labelled.responses)
        longest = max(one.tokens for one in found)
        if longest > self._max_tokens:
            raise UnusableInputError(
                f"prompt and response have {longest} tokens, more than offline_prm.max_tokens = {self._max_tokens}: raise it "
                "or remove the row"
            )
        return found


class ChainGroups:
    """The noisy teacher's responses: a new problem at every position."""

    size = 0

    def __init__(self, chain: ChainSection, settings: OfflinePrmSection, encoder: Encoder) -> None:
        self._teacher = Teacher(chain.teacher_seed)
        self._operations = chain.operations
        self._number = settings.teacher_responses
        self._pairs = settings.chosen_loss.statistics is not None
        self._first = settings.seed * SEED_STRIDE
        self._encoder = encoder

    def at(self, position: int) -> list[LabelledTokens]:
        for attempt in range(TRIES):
            index = self._first + position * TRIES + attempt
            labelled = teacher_responses(self._teacher, "train", index, self._operations, self._number)
            if not self._pairs or len(set(labelled.outcome_rewards)) > 1:
                return _tokens(labelled, self._encoder.encode(labelled))
        raise SettingsError(
            f"none of {TRIES} chain problems has both right and wrong responses with offline_prm.teacher_responses = {self._number} and "
            f"tasks.chain.operations = {self._operations}: ask for more responses"
        )


class FileGroups:
    """Responses of a file, tokenised once into a file of their own. Rows with the same prompt are one group."""

    def __init__(self, settings: OfflinePrmSection, encoder: Encoder) -> None:
        """Raises SettingsError for a file that cannot be used, for bad rows unless they may be skipped, and for a loss that compares
        siblings where there are none."""
        self._records = RecordFile()
        self._outcomes = array("d")
        self._prompt_tokens = array("l")
        members: dict[str, list[int]] = {}
        reader, rows = open_responses(settings.data, "offline_prm.data", settings.reader, "offline_prm.reader")

        def convert(row: RawRow) -> tuple[LabelledResponses, list[EncodedResponse]]:
            labelled = read_responses(row, reader)
            try:
                return labelled, encoder.encode(labelled)
            except UnusableInputError as error:
                raise BadRowError(row, "row", "no usable response", str(error)) from error

        origin = f"offline_prm.data = {settings.data}"
        for labelled, encoded in usable_rows(rows, convert, origin, "offline_prm.skip_bad_rows", skip=settings.skip_bad_rows):
            key = json.dumps([[message.role, message.content] for message in labelled.messages])
            for outcome, one in zip(labelled.outcome_rewards, encoded, strict=True):
                members.setdefault(key, []).append(len(self._records))
                self._outcomes.append(outcome)
                self._prompt_tokens.append(len(one.prompt_ids))
                self._records.append(np.concatenate((one.prompt_ids, one.response_ids)).astype("<i4").tobytes())
        self._groups = self._usable(list(members.values()), settings)
        self._order = PromptOrder(settings.seed, len(self._groups))

    @property
    def size(self) -> int:
        return len(self._groups)

    @property
    def responses(self) -> int:
        """Those that are trained on."""
        return sum(len(group) for group in self._groups)

    def at(self, position: int) -> list[LabelledTokens]:
        return [self._response(place) for place in self._groups[self._order.index(position)]]

    def _response(self, place: int) -> LabelledTokens:
        ids = np.frombuffer(self._records[place], dtype="<i4")
        prompt = self._prompt_tokens[place]
        return LabelledTokens(ids[:prompt], ids[prompt:], self._outcomes[place])

    def _usable(self, groups: list[list[int]], settings: OfflinePrmSection) -> list[list[int]]:
        """The groups that the loss can learn from."""
        if settings.chosen_loss.statistics is not None:
            groups = [group for group in groups if len({self._outcomes[place] for place in group}) > 1]
            if not groups:
                raise SettingsError(
                    f'offline_prm.loss = "{settings.loss}" compares responses to one prompt, and no prompt of offline_prm.data = '
                    f"{settings.data} has a right and a wrong one: use offline_prm.loss=ce"
                )
        balanced = balanced_by(dict(settings))
        if balanced and max(map(len, groups)) < 2:
            raise SettingsError(
                f"offline_prm.{' and offline_prm.'.join(balanced)}: balancing looks at how many responses to one prompt are right, and "
                f"every prompt of offline_prm.data = {settings.data} has one response; leave it out"
            )
        return groups


def _tokens(labelled: LabelledResponses, encoded: Sequence[EncodedResponse]) -> list[LabelledTokens]:
    return [
        LabelledTokens(one.prompt_ids, one.response_ids, outcome) for one, outcome in zip(encoded, labelled.outcome_rewards, strict=True)
    ]
