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
    return seccomp.build([name for name in profiles.ALLOWED if name not in profiles.RULES], profiles.RULES, machine)


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


@pytest.mark.parametrize("machine", MACHINES)
def test_without_landlock_nothing_is_opened_for_writing(machine: str) -> None:
    rules = {**profiles.RULES, **profiles.READ_ONLY_RULES}
    program = seccomp.build([name for name in profiles.ALLOWED if name not in rules], rules, machine)
    number = NUMBERS["openat"][MACHINES[machine][0]]
    assert number is not None
    assert [decide(program, machine, number, 0, 0, flags) for flags in (0o2000000, 1, 2, 0o100, 0o1000)] == [ALLOW, *[EPERM] * 4]
