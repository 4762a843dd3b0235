"""Payloads in one process, for tests and simulations."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from oprime.ports.payloads import check_payload_names, payload_name


class MemoryPayloads:
    """The Payloads port without a store. `now` is the wall clock that names carry."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._payloads: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, owner: str, payload: bytes) -> str:
        return self.put_many([(owner, payload)])[0]

    def put_many(self, payloads: Sequence[tuple[str, bytes]]) -> list[str]:
        named = {payload_name(owner, self._now()): payload for owner, payload in payloads}
        with self._lock:
            self._payloads.update(named)
        return list(named)

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        check_payload_names(names)
        with self._lock:
            return [self._payloads.get(name) for name in names]

    def delete(self, names: Sequence[str]) -> None:
        check_payload_names(names)
        with self._lock:
            for name in names:
                self._payloads.pop(name, None)

    def names(self, prefix: str = "") -> Iterator[str]:
        with self._lock:
            found = list(self._payloads)
        yield from (name for name in found if name.startswith(prefix))

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        return [None if payload is None else len(payload) for payload in self.get_many(names)]

    def close(self) -> None:
        """Nothing to let go of; the payloads stay."""
