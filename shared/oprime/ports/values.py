"""Small values that the processes of a run share."""

from typing import Protocol


class Values(Protocol):
    async def set_value(self, name: str, value: bytes, *, expires_s: float | None = None) -> None:
        """With `expires_s`, the value is gone after that many seconds unless it is set again."""
        ...

    async def value(self, name: str) -> bytes | None: ...

    async def values(self, prefix: str) -> dict[str, bytes]: ...

    async def put_notice(self, name: str, value: bytes) -> None:
        """A value apart from the others, for who may not read those. Nobody else should rely on it: who may read it may change it."""
        ...

    async def notice(self, name: str) -> bytes | None: ...
