"""Which files a process can reach, by Landlock: what a rule names, and nothing else; no TCP, no signals or sockets to the outside."""

import ctypes
import os
import struct
from collections.abc import Iterable

from oprime_verifier.sandbox.inside.kernel import syscall

_CREATE, _ADD, _RESTRICT = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
_FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | (1 << 14) | (1 << 15)
ALL_OF_A_FOLDER = (1 << 16) - 1
READ = READ_FILE | READ_DIR
_BITS = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many file rights an ABI knows; 16 from ABI 5 on."""
Rule = tuple[str, int]
"""A path and the rights below it."""


def abi() -> int:
    """The kernel's version of Landlock; 0 when it has none or does not allow it."""
    try:
        return syscall(_CREATE, 0, 0, 1)
    except OSError:
        return 0


def build(rules: Iterable[Rule]) -> int:
    """A rule set as a descriptor, for `restrict`. Paths that are not there are passed over. Raises OSError."""
    version = abi()
    handled = (1 << _BITS.get(version, 16)) - 1
    network = 3 if version >= 4 else 0
    scopes = 3 if version >= 6 else 0
    attributes = struct.pack("=QQQ", handled, network, scopes)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = syscall(_CREATE, buffer(attributes), len(attributes), 0)
    for path, rights in rules:
        _allow(ruleset, path, rights & handled)
    return ruleset


def restrict(ruleset: int) -> None:
    """Needs no_new_privs. Raises OSError."""
    syscall(_RESTRICT, ruleset, 0)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        folder = os.path.isdir(path)  # noqa: PTH112 - runs in children, where pathlib is not loaded
        syscall(_ADD, ruleset, 1, buffer(struct.pack("=Qi", rights if folder else rights & _FILE_RIGHTS, fd)), 0)
    finally:
        os.close(fd)


def buffer(content: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(content, len(content))
