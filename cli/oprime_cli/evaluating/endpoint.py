"""A model behind an OpenAI-compatible server, sampled for an evaluation."""

import re
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from oprime.client.exchange import Patience
from oprime.evaluation.benchmark import Decoding, Problem
from oprime.evaluation.evaluate import Response
from oprime.runtime.errors import OprimeError, SettingsError, UnusableInputError
from oprime.runtime.secret_files import read_secret
from oprime_cli.chat.endpoint import EndpointModel
from oprime_cli.chat.model import ChatRefusedError, ChatUnavailableError
from oprime_cli.evaluating.chat_requests import chat_request, response_of

TIMEOUT_S = 1800.0
VERSION = "/v1"
_TOO_LONG = re.compile(r"context (length|window)|max(imum)?[_ ]\w*[_ ]?(len|tokens)|too (long|many tokens)", re.IGNORECASE)
"""How servers say that a prompt leaves no room for a response."""

Answer = TypeVar("Answer")


class EndpointError(OprimeError):
    """The server does not answer, or refuses for good."""


class Endpoint:
    """The Sampling port on a server. `close` at the end."""

    def __init__(
        self, url: str, *, model: str = "", key_file: Path | None = None, at_once: int = 64, patience: Patience | None = None
    ) -> None:
        """`url` with or without /v1. Without `model` the server's only one is asked. Raises SettingsError for a key file without a key."""
        self.url = url.rstrip("/").removesuffix("/chat/completions").removesuffix(VERSION)
        key = read_secret(key_file, "--api-key-file").decode() if key_file is not None else ""
        self._chat = EndpointModel(self.url + VERSION, model, key=key, at_once=at_once, timeout_s=TIMEOUT_S, patience=patience)

    @property
    def model(self) -> str:
        return self._chat.name

    async def start(self) -> None:
        """Ask what the server serves. Raises EndpointError, SettingsError."""
        known = await _answered(self._chat.models())
        if self.model and known and self.model not in known:
            raise SettingsError(f"--model {self.model}: {self.url} serves {', '.join(known)}; name one of these")
        if not self.model and len(known) != 1:
            raise SettingsError(f"{self.url} serves {', '.join(known) or 'no model'}: name one with --model")
        self._chat.name = self.model or known[0]

    async def close(self) -> None:
        await self._chat.close()

    async def sample(self, problem: Problem, number: int, decoding: Decoding, seed: int) -> Response:
        """Raises UnusableInputError for a prompt that is too long, and EndpointError when the server stays out or refuses."""
        return response_of(await _answered(self._chat.respond(chat_request(problem, decoding, seed))))


async def _answered(asked: Awaitable[Answer]) -> Answer:
    try:
        return await asked
    except ChatRefusedError as error:
        if _TOO_LONG.search(str(error)):
            raise UnusableInputError(str(error)) from error
        raise EndpointError(_kept(error)) from error
    except ChatUnavailableError as error:
        raise EndpointError(_kept(error)) from error


def _kept(error: OprimeError) -> str:
    return f"{error}. What was answered before is kept: see to the server, then run the same command again"
