"""What the conformance suite can be run against: a gRPC service, a gateway, a webhook, or a plug-in."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
import httpx

from oprime.core.verification import VerificationRequest
from oprime.runtime.errors import OprimeError, SettingsError
from oprime.runtime.grpc_client import connect
from oprime.runtime.secret_files import read_secret
from oprime.runtime.settings import TlsSection
from oprime.wire.verification import request_to_proto
from oprime_proto.v1 import verifier_pb2
from oprime_proto.v1.verifier_pb2_grpc import VerifierServiceStub
from oprime_verifier.external.json_mapping import requests_to_json
from oprime_verifier.ports import VerifierDescription
from oprime_verifier.working.worker import WorkerSetup
from oprime_verifier.working.worker_pool import WorkerPool

WAIT_S = 120.0
PLUGIN_MEMORY_BYTES = 4 * 1024**3
PLUGIN_DEADLINE_S = 30.0
_ADDRESS = re.compile(r"[\w.\[\]:-]+:\d+|(dns|ipv4|ipv6|unix):\S+")


class RefusedError(OprimeError):
    """The target said that the request is wrong."""


class TargetFailedError(OprimeError):
    """The target did not answer, or not in the protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An outcome as it came, before anything is made of it."""

    request_id: str
    verdict: str
    score: float | None
    reason: str = ""


class Target(Protocol):
    """Raises RefusedError or TargetFailedError."""

    name: str
    speaks_kinds: bool
    """It knows several kinds by name and refuses others."""

    async def describe(self) -> list[VerifierDescription]: ...

    async def verify(self, requests: Sequence[VerificationRequest]) -> list[Answer]: ...

    async def close(self) -> None: ...


class GrpcTarget:
    """A VerifierService."""

    speaks_kinds = True

    def __init__(self, address: str, tls: TlsSection | None = None) -> None:
        """Raises SettingsError for certificates that cannot be used."""
        self.name = f"gRPC service {address}"
        self._channel = connect(address, tls)
        self._stub = VerifierServiceStub(self._channel)

    async def describe(self) -> list[VerifierDescription]:
        answer = await _called(self._stub.Describe(verifier_pb2.DescribeRequest(), timeout=WAIT_S))
        return [VerifierDescription(name=item.name, version=item.version, problem=item.problem) for item in answer.verifiers]

    async def verify(self, requests: Sequence[VerificationRequest]) -> list[Answer]:
        message = verifier_pb2.VerifyBatchRequest(requests=[request_to_proto(request) for request in requests])
        answer = await _called(self._stub.VerifyBatch(message, timeout=WAIT_S))
        return [_answer_of_proto(item) for item in answer.responses]

    async def close(self) -> None:
        await self._channel.close()


class HttpTarget:
    """A gateway, or a webhook that speaks the same JSON. A URL without a path is a gateway's."""

    def __init__(self, url: str, kind: str, key_file: Path | None) -> None:
        parsed = httpx.URL(url)
        self.speaks_kinds = parsed.path in ("", "/", "/v1/verify")
        self.name = f"{'gateway' if self.speaks_kinds else 'webhook'} {url}"
        self._kind = kind or "webhook"
        self._url = parsed.copy_with(path="/v1/verify") if self.speaks_kinds else parsed
        key = read_secret(key_file, "--key-file").decode() if key_file else ""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.AsyncClient(headers=headers, timeout=WAIT_S, trust_env=False)

    async def describe(self) -> list[VerifierDescription]:
        if not self.speaks_kinds:
            return [VerifierDescription(name=self._kind)]
        answer = await self._json("GET", self._url.copy_with(path="/v1/verifiers"))
        return [
            VerifierDescription(name=str(item.get("name", "")), version=str(item.get("version", "")), problem=str(item.get("problem", "")))
            for item in _data(answer)
        ]

    async def verify(self, requests: Sequence[VerificationRequest]) -> list[Answer]:
        return [_answer_of_json(item) for item in _data(await self._json("POST", self._url, requests_to_json(requests)))]

    async def close(self) -> None:
        await self._client.aclose()

    async def _json(self, method: str, url: httpx.URL, message: Any = None) -> Any:
        try:
            response = await self._client.request(method, url, json=message)
            if 400 <= response.status_code < 500:
                raise RefusedError(f"{response.status_code}: {response.text[:500]}")
            response.raise_for_status()
            return response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise TargetFailedError(f"{method} {url}: {type(error).__name__}: {error}") from error


class PluginTarget:
    """A plug-in, in a worker process like the one that a service gives it."""

    speaks_kinds = False

    def __init__(self, target: str, kind: str, settings: Mapping[str, Any]) -> None:
        self.name = f"plug-in {target}"
        self._kind = kind or "plugin"
        plugin = {"name": self._kind, "target": target, **settings}
        setup = WorkerSetup(memory_bytes=PLUGIN_MEMORY_BYTES, deadline_s=PLUGIN_DEADLINE_S, plugin=plugin)
        self._pool = WorkerPool(setup, workers=1, attempts=1)
        self._started = False

    async def describe(self) -> list[VerifierDescription]:
        await self._start()
        return list(self._pool.verifiers.values())

    async def verify(self, requests: Sequence[VerificationRequest]) -> list[Answer]:
        await self._start()
        outcomes = [await self._pool.judge(request) for request in requests]
        return [
            Answer(
                request_id=request.request_id,
                verdict=outcome.verdict.value,
                score=outcome.score,
                reason=outcome.reason,
            )
            for request, outcome in zip(requests, outcomes, strict=True)
        ]

    async def close(self) -> None:
        await self._pool.close()

    async def _start(self) -> None:
        if not self._started:
            await self._pool.start()
            self._started = True


def open_target(text: str, *, kind: str = "", key_file: Path | None = None, style: str = "auto", tls: TlsSection | None = None) -> Target:
    """The target that a person named. Raises SettingsError for a text that names none, and for certificates that cannot be used."""
    if text.startswith(("http://", "https://")):
        return HttpTarget(text, kind, key_file)
    if text.startswith("grpc://") or _ADDRESS.fullmatch(text):
        return GrpcTarget(text.removeprefix("grpc://"), tls)
    if ":" in text:
        return PluginTarget(text, kind, {"style": style})
    raise SettingsError(f"{text!r} is no target: give HOST:PORT of a verifier, a URL, module:function or FILE.py:function")


async def _called(call: Any) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        text = f"{error.code().name}: {error.details()}"
        wrong = error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
        raise (RefusedError(text) if wrong else TargetFailedError(text)) from error


def _answer_of_proto(item: Any) -> Answer:
    name = type(item).DESCRIPTOR.fields_by_name["verdict"].enum_type.values_by_number
    return Answer(
        request_id=item.request_id,
        verdict=name[item.verdict].name.removeprefix("VERDICT_") if item.verdict in name else str(item.verdict),
        score=item.score if item.HasField("score") else None,
        reason=item.reason,
    )


def _answer_of_json(item: Any) -> Answer:
    if not isinstance(item, Mapping):
        raise TargetFailedError(f"an outcome is a {type(item).__name__}, not an object: {json.dumps(item)[:200]}")
    score = item.get("score")
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
        raise TargetFailedError(f"a score is {score!r}, not a number or null")
    return Answer(
        request_id=str(item.get("request_id", "")),
        verdict=str(item.get("verdict", "")).removeprefix("VERDICT_"),
        score=score,
        reason=str(item.get("explanation", "")),
    )


def _data(answer: Any) -> list[Any]:
    data = answer.get("data") if isinstance(answer, Mapping) else None
    if not isinstance(data, list):
        raise TargetFailedError("the answer has no list `data`")
    return data
