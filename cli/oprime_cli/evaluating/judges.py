"""The verifier of an evaluation: local workers, as `oprime verify` uses them."""

from types import TracebackType
from typing import Self

from oprime.core.verification import Outcome, VerificationRequest
from oprime_cli.verifying.judge_file import judge
from oprime_verifier.config import VerifierSection
from oprime_verifier.offer import Offer


class LocalJudges:
    """The Judging port on worker processes of this machine."""

    def __init__(self, section: VerifierSection) -> None:
        self._offer = Offer(section)

    async def judge(self, request: VerificationRequest) -> Outcome:
        return await judge(self._offer, request)

    async def __aenter__(self) -> Self:
        await self._offer.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._offer.close()
