"""A scorer in this process, called as the others are, without a network between."""

import asyncio
from collections.abc import Awaitable
from typing import Protocol

import grpc
import structlog

from oprime.runtime.errors import OprimeError
from oprime.runtime.grpc_server import code_of
from oprime_gateway.problems import ServiceFailedError
from oprime_proto.v1 import prm_pb2

log = structlog.get_logger()


class Servicer(Protocol):
    """What answers over gRPC elsewhere."""

    def Score(self, request: prm_pb2.ScoreRequest, context: object) -> Awaitable[prm_pb2.ScoreResponse]: ...  # noqa: N802
    def Status(  # noqa: N802
        self, request: prm_pb2.PrmServiceStatusRequest, context: object
    ) -> Awaitable[prm_pb2.PrmServiceStatusResponse]: ...


class LocalScorer:
    """`PrmMethods` of a servicer. Its errors become those that the same service would give over gRPC."""

    def __init__(self, servicer: Servicer) -> None:
        self._servicer = servicer

    async def Score(self, request: prm_pb2.ScoreRequest, *, timeout: float) -> prm_pb2.ScoreResponse:  # noqa: N802, ASYNC109 - gRPC's own
        try:
            async with asyncio.timeout(timeout):
                return await self._servicer.Score(request, None)
        except OprimeError as error:
            raise ServiceFailedError("prm", code_of(error), str(error)) from error
        except TimeoutError as error:
            raise ServiceFailedError("prm", grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer within {timeout:g} s") from error
        except Exception as error:
            log.exception("scoring_failed")
            raise ServiceFailedError("prm", grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}") from error

    async def Status(  # noqa: N802
        self,
        request: prm_pb2.PrmServiceStatusRequest,
        *,
        timeout: float,  # noqa: ASYNC109
    ) -> prm_pb2.PrmServiceStatusResponse:
        return await self._servicer.Status(request, None)
