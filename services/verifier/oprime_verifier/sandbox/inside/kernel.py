"""System calls that Python does not offer, through ctypes."""

import ctypes
import os
from collections.abc import Callable
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def prctl(option: int, *arguments: int) -> None:
    """Raises OSError."""
    prepared_prctl(option, *arguments)()


def prepared(number: int, *arguments: ctypes.Array[ctypes.c_char]) -> Callable[[], None]:
    """A system call whose arguments are converted already, which costs a child more than the call. What it returns raises OSError."""
    return _prepared(_libc.syscall, (ctypes.c_long(number), *arguments), f"system call {number}")


def prepared_prctl(option: int, *arguments: int) -> Callable[[], None]:
    """Likewise."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return _prepared(_libc.prctl, (ctypes.c_int(option), *(ctypes.c_ulong(value) for value in padded)), f"prctl {option}")


def _prepared(function: Any, converted: tuple[Any, ...], name: str) -> Callable[[], None]:
    def call() -> None:
        _checked(function(*converted), name)

    return call


def syscall(number: int, *arguments: int | ctypes.Array[ctypes.c_char] | None) -> int:
    """Raises OSError."""
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *wide), f"system call {number}")


def unshare(flags: int) -> None:
    """Raises OSError."""
    _checked(_libc.unshare(flags), "unshare")


def mount(kind: bytes, target: bytes, flags: int) -> None:
    """Mount a file system that needs no device. Raises OSError."""
    _checked(_libc.mount(kind, target, kind, ctypes.c_ulong(flags), None), "mount")


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
