"""Hostile submissions get the verdict of the table, the judge lives on, and nothing of them stays behind."""

import json
import os
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from oprime.core.verification import Verdict, VerificationRequest
from oprime_verifier.code.verifier import CodeVerifier
from oprime_verifier.conformance.attacks.escapes import ESCAPES
from oprime_verifier.conformance.attacks.misbehaviours import MISBEHAVIOURS
from oprime_verifier.conformance.attacks.tasks import ECHO, REVERSE_ASSERTS, Attack
from oprime_verifier.sandbox.native import NativeSandbox
from oprime_verifier.sandbox.repeated import FreshEachTime
from oprime_verifier.sandbox.types import Job, Repeated

LEFT = re.compile(r"oprime-(attack|\d+)")
"""Names that attacks write under. Others that begin so belong to tests in other processes."""
_numbers = count()
SHARED_FOLDERS = ("/tmp", "/dev/shm", "/var/tmp", "/")  # noqa: S108 - looked at, not written to


class Unrepeated(NativeSandbox):
    """In which each run is a job of its own, as it is for a task with one test."""

    def repeat(self, job: Job, runs: int) -> Repeated:
        del runs
        return FreshEachTime(self, job)


@pytest.fixture(scope="module", params=[NativeSandbox, Unrepeated], ids=["repeated", "fresh each time"])
def verifier(request: pytest.FixtureRequest) -> Iterator[CodeVerifier]:
    sandbox: NativeSandbox = request.param()
    yield CodeVerifier(sandbox)
    sandbox.close()


@pytest.fixture(autouse=True)
def nothing_stays(verifier: CodeVerifier) -> Iterator[None]:
    # The first job of a kind starts a zygote, which stays.
    _judge_honest(verifier)
    before = _traces()
    yield
    assert _traces() == before
    _judge_honest(verifier)


def _judge_honest(verifier: CodeVerifier) -> None:
    for source, tests in (("print(input())", ECHO), ("def f(x):\n    return x[::-1]", REVERSE_ASSERTS)):
        # What was judged before would be answered from memory.
        unique = f"```python\n{source}\n# {next(_numbers)}\n```"
        request = VerificationRequest(kind="code", response=unique, tests=json.dumps(tests))
        assert verifier.verify(request).verdict is Verdict.CORRECT


@pytest.mark.parametrize("attack", ESCAPES, ids=lambda attack: attack.name)
def test_no_way_leads_out(verifier: CodeVerifier, attack: Attack) -> None:
    _judge(verifier, attack)


@pytest.mark.slow
@pytest.mark.parametrize("attack", MISBEHAVIOURS, ids=lambda attack: attack.name)
def test_misbehaviour_gets_its_verdict(verifier: CodeVerifier, attack: Attack) -> None:
    _judge(verifier, attack)


def _judge(verifier: CodeVerifier, attack: Attack) -> None:
    outcome = verifier.verify(attack.request())
    assert outcome.verdict in attack.verdicts, outcome.reason


def _traces() -> dict[str, list[str]]:
    """Descendants, descriptors, sockets of this process, and what attacks would leave in shared folders."""
    descriptors = [str(link.readlink()).split(":")[0] for link in Path("/proc/self/fd").iterdir() if link.exists()]
    folders = [path.name for folder in SHARED_FOLDERS for path in Path(folder).iterdir() if LEFT.fullmatch(path.name)]
    return {"processes": _descendants(), "descriptors": sorted(descriptors), "files": sorted(folders)}


def _descendants() -> list[str]:
    parents: dict[str, str] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[stat.parent.name] = stat.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
    found, fresh = set[str](), {str(os.getpid())}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return sorted(found)
