"""The filter of system calls, run by a small machine for classic BPF, for both kinds of processor."""

import errno
import struct

import pytest

from oprime_verifier.sandbox.inside import profiles, seccomp
from oprime_verifier.sandbox.inside.syscalls import MACHINES, NUMBERS

ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS, 0x80000000


def decide(program: bytes, machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=iIQ6Q", number, MACHINES[machine][1] if architecture is None else architecture, 0, *padded)
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at = value = 0
    while True:
        operation, when_true, when_false, k = code[at]
        at += 1
        match operation:
            case 0x20:
                (value,) = struct.unpack_from("=I", data, k)
            case 0x54:
                value &= k
            case 0x05:
                at += k
            case 0x15 | 0x35 | 0x45:
                holds = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[operation]
                at += when_true if holds else when_false
            case 0x06:
                return k


def python_filter(machine: str) -> bytes:
    return seccomp.build(profiles.ALLOWED, profiles.RULES, machine)


@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_listed_passes_and_everything_else_is_refused(machine: str) -> None:
    program, column = python_filter(machine), MACHINES[machine][0]
    listed = {NUMBERS[name][column] for name in profiles.ALLOWED}
    ruled = {NUMBERS[name][column] for name in profiles.RULES}
    for number in range(452):
        if number not in ruled:
            assert decide(program, machine, number) == (ALLOW if number in listed else EPERM)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "decision"),
    [
        ("clone", (0x3D0F00,), ALLOW),
        ("clone", (17,), EPERM),
        ("clone", (0x10000011,), EPERM),
        ("clone3", (1, 88), ENOSYS),
        ("kill", (1, 9), EPERM),
        ("kill", (0xFFFFFFFF, 9), EPERM),
        ("kill", (seccomp.OWN_PID, 6), ALLOW),
        ("sendto", (3, 1, 1, 0, 0), ALLOW),
        ("sendto", (3, 1, 1, 0, 1 << 32), EPERM),
        ("sendto", (3, 1, 1, 0, 4096), EPERM),
        ("socketpair", (1, 0x80801), ALLOW),
        ("socketpair", (1, 2), EPERM),
        ("fcntl", (0, 8, 1), EPERM),
        ("fcntl", (0, 3), ALLOW),
        ("ioctl", (0, 0x5412), EPERM),
        ("ioctl", (0, 0x5401), ALLOW),
        ("prctl", (4, 1), EPERM),
        ("prlimit64", (0, 0), ALLOW),
        ("prlimit64", (1, 0), EPERM),
    ],
)
def test_arguments_decide(machine: str, name: str, arguments: tuple[int, ...], decision: int) -> None:
    number = NUMBERS[name][MACHINES[machine][0]]
    assert number is not None
    assert decide(python_filter(machine), machine, number, *arguments) == decision


@pytest.mark.parametrize("machine", MACHINES)
def test_a_foreign_or_x32_call_ends_the_process_and_a_newer_one_is_unknown(machine: str) -> None:
    program = python_filter(machine)
    assert decide(program, machine, 1, architecture=0x40000003) == KILL
    assert decide(program, machine, 0x40000001) == KILL
    assert decide(program, machine, 460) == ENOSYS


def _decided_by_arguments(machine: str) -> set[int | None]:
    return {NUMBERS[name][MACHINES[machine][0]] for name in (*profiles.RULES, *profiles.FORKING_RULES)}


def strictest(*decisions: int) -> int:
    """Of several filters the kernel follows the one with the lowest action; of equals, the newest."""
    return min(reversed(decisions), key=lambda decision: decision & 0x7FFF0000 if decision != KILL else -1)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_two_filters_of_a_repeated_job_are_together_the_one_of_a_single_job(machine: str) -> None:
    single = python_filter(machine)
    forking = seccomp.build(profiles.ALLOWED, {**profiles.RULES, **profiles.FORKING_RULES}, machine)
    narrowed = seccomp.narrow(profiles.ALLOWED, profiles.RULES, profiles.FORKING_RULES, machine)
    telling = (0, 1, 2, 3, 8, 9, 15, 17, 22, 0x5401, 0x5412, 0x10000, 0x3D0F00, 0x10000011, 0xFFFFFFFF, seccomp.OWN_PID)
    clone = NUMBERS["clone"][MACHINES[machine][0]]
    for number in (*range(460), 0x40000001):
        for value in telling if number in _decided_by_arguments(machine) else (0,):
            for arguments in ((value,), (0, value), (3, 1, 1, 0, value), (3, 1, 1, 0, value << 32)):
                one = decide(single, machine, number, *arguments)
                both = [decide(program, machine, number, *arguments) for program in (forking, narrowed)]
                # A thread in a namespace of its own, which the kernel refuses anyway, is refused before it.
                assert strictest(*both) == one or (number == clone and arguments[0] >= 0x80000000), (number, arguments)
    assert decide(forking, machine, 1, architecture=0x40000003) == KILL


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("flags", "decision"), [(17, ALLOW), (0x10000011, EPERM), (0x20000, EPERM)])
def test_the_process_of_a_repeated_job_forks_and_makes_no_namespace(machine: str, flags: int, decision: int) -> None:
    number = NUMBERS["clone"][MACHINES[machine][0]]
    assert number is not None
    program = seccomp.build(profiles.ALLOWED, {**profiles.RULES, **profiles.FORKING_RULES}, machine)
    assert decide(program, machine, number, flags) == decision


@pytest.mark.parametrize("machine", MACHINES)
def test_without_landlock_nothing_is_opened_for_writing(machine: str) -> None:
    rules = {**profiles.RULES, **profiles.READ_ONLY_RULES}
    program = seccomp.build(profiles.ALLOWED, rules, machine)
    number = NUMBERS["openat"][MACHINES[machine][0]]
    assert number is not None
    assert [decide(program, machine, number, 0, 0, flags) for flags in (0o2000000, 1, 2, 0o100, 0o1000)] == [ALLOW, *[EPERM] * 4]
