"""Bulk bytes that are written once and read by name; streams carry the names.

A name is `OWNER/TIME-UNIQUE`. OWNER says what it belongs to, for example `rollout/12:3`. TIME is the writer's wall clock in
milliseconds, as 12 hexadecimal digits: whoever sweeps knows how old a name is without asking the store. UNIQUE is 64 random
bits: two workers that repeat one stage never share a name.
"""

import re
import secrets
from collections.abc import Iterator, Sequence
from typing import Protocol

LONGEST_OWNER = 200
"""Characters: a name must fit into a file name."""

_PART = r"[A-Za-z0-9:_-][A-Za-z0-9:._-]*"
_OWNER = re.compile(rf"{_PART}(?:/{_PART})*")
_NAME = re.compile(rf"({_PART}(?:/{_PART})*)/([0-9a-f]{{12}})-[0-9a-f]{{16}}")


class Payloads(Protocol):
    """A store of payloads of one run. Synchronous: services call it in threads, ranks directly. Thread-safe.

    Every method raises PayloadsUnavailableError when no answer came, and ValueError for an owner or a name that cannot be one.
    """

    def put(self, owner: str, payload: bytes) -> str:
        """Keep a payload under a new name. Nobody else gets that name, also for the same owner and payload."""
        ...

    def put_many(self, payloads: Sequence[tuple[str, bytes]]) -> list[str]:
        """`put` for each (owner, payload); the names are in their order. All are kept, or the call fails."""
        ...

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """The payloads in the order of `names`, which may repeat; None where there is none."""
        ...

    def delete(self, names: Sequence[str]) -> None:
        """Remove payloads. What is not there is no error."""
        ...

    def names(self, prefix: str = "") -> Iterator[str]:
        """Every name that begins with `prefix`, once, in no order; read in pages while others write and delete.

        A name that comes or goes meanwhile may be among them or not.
        """
        ...

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """Bytes of each payload in the order of `names`; None where there is none. For audits."""
        ...

    def close(self) -> None:
        """Let go of connections. The payloads stay."""
        ...


def payload_name(owner: str, written_at: float) -> str:
    """A new name for a payload of `owner`; `written_at` is the wall clock in seconds since 1970. For adapters."""
    if len(owner) > LONGEST_OWNER or ".." in owner or not _OWNER.fullmatch(owner):
        raise ValueError(f"{owner!r} is no owner of a payload: {_RULE}, for example rollout/12:3")
    return f"{owner}/{round(written_at * 1000):012x}-{secrets.token_hex(8)}"


def payload_owner(name: str) -> str:
    """OWNER of a name. Raises ValueError if it is none."""
    return _parts(name)[0]


def payload_written_at(name: str) -> float:
    """When its writer's clock said that it was written, in seconds since 1970. Raises ValueError if it is no name."""
    return int(_parts(name)[1], 16) / 1000


def check_payload_names(names: Sequence[str]) -> None:
    """Raise ValueError at the first that cannot be a name. For adapters."""
    for name in names:
        _parts(name)


def is_payload_name(text: str) -> bool:
    found = _NAME.fullmatch(text)
    return found is not None and len(found[1]) <= LONGEST_OWNER and ".." not in text


def _parts(name: str) -> tuple[str, str]:
    found = _NAME.fullmatch(name)
    if found is None or not is_payload_name(name):
        raise ValueError(f"{name!r} is no name of a payload: use what put gave, OWNER/TIME-UNIQUE; an owner has {_RULE}")
    return found[1], found[2]


_RULE = (
    f"parts of letters, digits and the signs : . - _ with / between them, {LONGEST_OWNER} characters at most, no part empty or with a dot "
    'in front, no ".."'
)
