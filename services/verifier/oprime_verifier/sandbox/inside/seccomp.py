"""A filter of system calls, written as classic BPF: what is listed passes, the rest fails with EPERM; a foreign ABI ends the process."""

import ctypes
import errno
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from oprime_verifier.sandbox.inside.kernel import prepared_prctl
from oprime_verifier.sandbox.inside.syscalls import LAST_KNOWN, MACHINES, NUMBERS

_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_X32_BIT = 0x40000000

_LOAD, _JUMP, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
_NR, _ARCH, _ARGUMENTS = 0, 4, 16
OWN_PID = 0xFFFFFFF7
"""Stands for the process's own id until the filter is installed."""

Instruction = tuple[int, int, int, int]
_INSTRUCTION = struct.Struct("=HBBI")


def _fail(number: int) -> Instruction:
    return (_RETURN, 0, 0, 0x00050000 | number)


@dataclass(frozen=True)
class OneOf:
    """Passes when an argument is one of some values; `mask` picks the bits that are compared."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF


@dataclass(frozen=True)
class HasBits:
    """Passes when an argument has at least one of these bits."""

    argument: int
    bits: int


@dataclass(frozen=True)
class LacksBits:
    """Passes when an argument has none of these bits."""

    argument: int
    bits: int


@dataclass(frozen=True)
class IsNull:
    """Passes when an argument, a pointer, is null."""

    argument: int


@dataclass(frozen=True)
class Missing:
    """The kernel is said not to have it."""


Rule = OneOf | HasBits | LacksBits | IsNull | Missing
ALLOW, DENY = "allow", "deny"
Action = str | Rule


def build(allowed: Iterable[str], rules: Mapping[str, Action], machine: str) -> bytes:
    """A filter that refuses what is not named; a rule goes before a name. Raises KeyError for a machine whose calls are not known."""
    return assemble(_numbered({**dict.fromkeys(allowed, ALLOW), **rules}, machine), DENY, machine)


def narrow(allowed: Iterable[str], rules: Mapping[str, Action], widened: Iterable[str], machine: str) -> bytes:
    """What makes `build(allowed, {**rules, **more}, machine)` as strict as `build(allowed, rules, machine)` where both are installed;
    `widened` are the calls that `more` names.
    """
    actions = {**dict.fromkeys(allowed, ALLOW), **rules}
    return assemble(_numbered({name: actions.get(name, DENY) for name in widened}, machine), ALLOW, machine)


def _numbered(actions: Mapping[str, Action], machine: str) -> dict[int, Action]:
    column, _ = MACHINES[machine]
    return {number: action for name, action in actions.items() if (number := NUMBERS[name][column]) is not None}


def assemble(actions: Mapping[int, Action], default: Action, machine: str) -> bytes:
    """A filter as the kernel reads it, from actions by number of the call."""
    _, architecture = MACHINES[machine]
    runs = [(0, actions.get(0, default))]
    for number in range(LAST_KNOWN + 1):
        action = actions.get(number, default)
        if action != runs[-1][1]:
            runs.append((number, action))
    runs.append((LAST_KNOWN + 1, Missing()))
    program = [
        (_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NR), (_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, _KILL),
        *_search(runs),
    ]  # fmt: skip
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)


class Filter:
    """A program of `build` or `narrow`, made ready for many processes: converting it costs a child more than the call."""

    def __init__(self, program: bytes) -> None:
        self._code = ctypes.create_string_buffer(program, len(program))
        self._header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // _INSTRUCTION.size, ctypes.addressof(self._code)))
        values = [value for *_, value in _INSTRUCTION.iter_unpack(program)]
        self._own_pids = [_INSTRUCTION.size * (place + 1) - 4 for place, value in enumerate(values) if value == OWN_PID]
        self._set = prepared_prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(self._header))

    def install(self, own_pid: int) -> None:
        """Filter this process from now on. Needs no_new_privs. Raises OSError."""
        for offset in self._own_pids:
            struct.pack_into("=I", self._code, offset, own_pid)
        self._set()


def _search(runs: Sequence[tuple[int, Action]]) -> list[Instruction]:
    """A binary search for the run that holds the call's number; loaded already."""
    if len(runs) == 1:
        return _act(runs[0][1])
    middle = len(runs) // 2
    lower, upper = _search(runs[:middle]), _search(runs[middle:])
    # A conditional jump reaches 255 instructions, an unconditional one all of them.
    return [(_AT_LEAST, 0, 1, runs[middle][0]), (_JUMP, 0, 0, len(lower)), *lower, *upper]


def _act(action: Action) -> list[Instruction]:  # noqa: PLR0911 - one per kind of action
    passes, refused = (_RETURN, 0, 0, _ALLOW), _fail(errno.EPERM)
    match action:
        case "allow":
            return [passes]
        case "deny":
            return [refused]
        case Missing():
            return [_fail(errno.ENOSYS)]
        case OneOf(argument, values, mask):
            checks = [step for value in values for step in ((_EQUAL, 0, 1, value), passes)]
            return [_low(argument), (0x54, 0, 0, mask), *checks, refused]
        case HasBits(argument, bits):
            return [_low(argument), (_ANY_BIT, 0, 1, bits), passes, refused]
        case LacksBits(argument, bits):
            return [_low(argument), (_ANY_BIT, 1, 0, bits), passes, refused]
        case IsNull(argument):
            high = (_LOAD, 0, 0, _ARGUMENTS + 8 * argument + 4)
            return [_low(argument), (_EQUAL, 0, 3, 0), high, (_EQUAL, 0, 1, 0), passes, refused]
    raise AssertionError(action)


def _low(argument: int) -> Instruction:
    # Both machines are little-endian.
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)
