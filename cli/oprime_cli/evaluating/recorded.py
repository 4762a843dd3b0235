"""Responses that were recorded elsewhere, in place of a model: JSONL with {"problem", "response", "sample"?}."""

import json
from pathlib import Path

from oprime.evaluation.benchmark import Decoding, Problem
from oprime.evaluation.evaluate import Response
from oprime.runtime.errors import UnusableInputError


class RecordedResponses:
    """The Sampling port on a file."""

    def __init__(self, path: Path) -> None:
        """Raises UnusableInputError for a line that is no response."""
        self._path = path
        self._responses = _read(path)

    async def sample(self, problem: Problem, number: int, decoding: Decoding, seed: int) -> Response:
        """Raises UnusableInputError where the file has no such response."""
        text = self._responses.get((problem.id, number))
        if text is None:
            raise UnusableInputError(f"{self._path} has no response {number} to problem {problem.id}")
        return Response(text=text, finish_reason="stop", tokens=0)


def _read(path: Path) -> dict[tuple[str, int], str]:
    """Responses by problem and number; rows without a number count up."""
    found: dict[tuple[str, int], str] = {}
    seen: dict[str, int] = {}
    with path.open("rb") as lines:
        for place, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                problem, response = str(row["problem"]), row["response"] + ""
                number = int(row.get("sample", seen.get(problem, 0)))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UnusableInputError(
                    f'{path}, line {place} is no response ({error!r}): write {{"problem": ID, "response": TEXT, "sample": 0}}'
                ) from error
            seen[problem] = number + 1
            found[problem, number] = response
    return found
