"""Hostile submissions get the verdict of the table, the judge lives on, and nothing of them stays behind."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from oprime.core.verification import Verdict, VerificationRequest
from oprime_verifier.code.verifier import CodeVerifier
from oprime_verifier.conformance.attacks.escapes import ESCAPES
from oprime_verifier.conformance.attacks.misbehaviours import MISBEHAVIOURS
from oprime_verifier.conformance.attacks.tasks import ECHO, Attack
from oprime_verifier.sandbox.native import NativeSandbox

LEFT = re.compile(r"oprime-(attack|\d+)")
"""Names that attacks write under. Others that begin so belong to tests in other processes."""
SHARED_FOLDERS = ("/tmp", "/dev/shm", "/var/tmp", "/")  # noqa: S108 - looked at, not written to


@pytest.fixture(scope="module")
def verifier(sandbox: NativeSandbox) -> CodeVerifier:
    return CodeVerifier(sandbox)


@pytest.fixture(autouse=True)
def nothing_stays(verifier: CodeVerifier) -> Iterator[None]:
    # The first job starts the zygote, which stays.
    honest = VerificationRequest(kind="code", response="```python\nprint(input())\n```", tests=str(ECHO).replace("'", '"'))
    assert verifier.verify(honest).verdict is Verdict.CORRECT
    before = _traces()
    yield
    assert _traces() == before
    assert verifier.verify(honest).verdict is Verdict.CORRECT


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
