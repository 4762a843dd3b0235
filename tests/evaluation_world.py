"""Problems, a model that answers them from a table, and the verifier that compares text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from oprime.core.types import ChatMessage, Task
from oprime.core.verification import Outcome, Verdict, VerificationRequest, unscored
from oprime.evaluation.benchmark import Decoding, Problem
from oprime.evaluation.evaluate import Response
from oprime_verifier.exact_verifier import verify_exact


def problem(name: str, gold: str, *, index: int = 0, subset: str = "") -> Problem:
    task = Task(messages=(ChatMessage(role="user", content=name),), verifier="exact", ground_truth=gold, data_source=subset)
    return Problem(id=name, index=index, task=task, subset=subset)


@dataclass
class Table:
    """Answers each problem from a list, sample by sample; an answer that is an exception is raised."""

    answers: Mapping[str, Sequence[str | Exception]]
    asked: list[tuple[str, int, int]] = field(default_factory=list)

    async def sample(self, problem: Problem, number: int, decoding: Decoding, seed: int) -> Response:
        self.asked.append((problem.id, number, seed))
        answer = self.answers[problem.id][number]
        if isinstance(answer, Exception):
            raise answer
        return Response(text=answer, finish_reason="stop", tokens=len(answer))


@dataclass
class Comparing:
    """Judges with the verifier `exact`; fails for the responses in `failing`."""

    failing: set[str] = field(default_factory=set)
    judged: int = 0

    async def judge(self, request: VerificationRequest) -> Outcome:
        self.judged += 1
        if request.response in self.failing:
            return unscored(Verdict.INFRA_ERROR, "its worker died")
        return verify_exact(request)
