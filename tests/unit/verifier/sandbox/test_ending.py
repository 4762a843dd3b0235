"""How an ending is decided from what was seen from outside."""

import signal
from dataclasses import replace

import pytest

from oprime_verifier.sandbox.ending import Facts, ending_of, violations_of
from oprime_verifier.sandbox.inside import stage
from oprime_verifier.sandbox.types import MIB, Ending, Limits, SandboxFailedError

LIMITS = Limits(cpu_s=1.0, memory_bytes=100 * MIB, output_bytes=1000)
FINE = Facts(
    stage=stage.RUNNING, reason="", status=0, expired=False, asked=False, cpu_s=0.1, peak_bytes=MIB,
    stdout_bytes=10, stderr_bytes=0, stderr=b"",
)  # fmt: skip
EXIT_1 = 1 << 8


@pytest.mark.parametrize(
    ("facts", "ending"),
    [
        (FINE, Ending.EXITED),
        (replace(FINE, status=EXIT_1), Ending.EXITED),
        (replace(FINE, status=signal.SIGSEGV), Ending.SIGNALLED),
        (replace(FINE, status=signal.SIGSEGV, peak_bytes=95 * MIB), Ending.MEMORY),
        (replace(FINE, status=signal.SIGKILL), Ending.MEMORY),
        (replace(FINE, status=signal.SIGKILL, expired=True), Ending.TIME),
        (replace(FINE, status=signal.SIGKILL, cpu_s=2.0), Ending.TIME),
        (replace(FINE, cpu_s=1.01), Ending.TIME),
        (replace(FINE, status=signal.SIGXCPU, cpu_s=0.99), Ending.TIME),
        (replace(FINE, status=signal.SIGKILL, asked=True), Ending.SIGNALLED),
        (replace(FINE, stdout_bytes=1001), Ending.OUTPUT),
        (replace(FINE, stdout_bytes=1000), Ending.EXITED),
        (replace(FINE, status=EXIT_1, stderr=b"Traceback\nMemoryError\n"), Ending.MEMORY),
        (replace(FINE, status=EXIT_1, stderr=b"numpy.core._exceptions._ArrayMemoryError: Unable to allocate\n"), Ending.MEMORY),
        (replace(FINE, status=signal.SIGABRT, stderr=b"terminate called after throwing an instance of 'std::bad_alloc'\n"), Ending.MEMORY),
        (replace(FINE, stderr=b"MemoryError\n"), Ending.EXITED),
        (replace(FINE, stage=stage.REFUSED, status=EXIT_1), Ending.COMPILE),
        (replace(FINE, stage=stage.READY, status=signal.SIGSEGV), Ending.COMPILE),
    ],
)
def test_facts_decide_the_ending(facts: Facts, ending: Ending) -> None:
    assert ending_of(facts, LIMITS) is ending


@pytest.mark.parametrize("mark", [stage.BROKEN, b"\0", b""])
def test_a_child_that_never_got_ready_is_the_sandboxes_failure(mark: bytes) -> None:
    with pytest.raises(SandboxFailedError):
        ending_of(replace(FINE, stage=mark, status=EXIT_1), LIMITS)


def test_a_child_that_a_stalled_machine_kept_from_starting_says_nothing_of_the_program() -> None:
    with pytest.raises(SandboxFailedError, match=r"not ready within .* overloaded"):
        ending_of(replace(FINE, stage=b"\0", status=signal.SIGKILL, expired=True), LIMITS)


def test_a_refusal_counts_only_when_the_program_failed_by_it() -> None:
    refused = b"Traceback (most recent call last):\nPermissionError: [Errno 1] Operation not permitted\n"
    assert violations_of(replace(FINE, status=EXIT_1, stderr=refused)) != ()
    assert violations_of(replace(FINE, stderr=refused)) == ()
    assert violations_of(replace(FINE, status=EXIT_1, stderr=b"ValueError: PermissionError: [Errno 1]\n")) == ()
    assert violations_of(replace(FINE, status=signal.SIGSYS)) != ()
