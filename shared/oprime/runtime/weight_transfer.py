"""Weights straight from the learner's GPU to those of the generators: who takes part is agreed on through the queue's values.

The store stays what counts: a version exists once its manifest does, and a replica that takes no part in a transfer, for whatever reason,
follows by the store. A generator announces itself while it can take part; once a version is published the learner offers it to all that
did, each with its own ranks in a group of one transfer, and then sends.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from oprime.ports import Values

ANNOUNCED = "transfer/"
OFFER = "transfer-offer"
ANNOUNCE_EVERY_S = 1.0
ANNOUNCEMENT_S = 3.0
"""An announcement outlasts its author by so much at most: whoever is gone is waited for in vain."""
OFFER_S = 30.0
"""From the offer on, all must have met, received and switched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One version, from rank 0 (the learner) to all others."""

    version: int
    host: str
    port: int
    world_size: int
    first_ranks: Mapping[str, int]
    """By generator: the rank of its first worker; its other workers follow."""
    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    """As torch names them."""
    shapes: tuple[tuple[int, ...], ...]

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        document = json.loads(text)
        shapes = tuple(tuple(shape) for shape in document.pop("shapes"))
        return cls(**{**document, "names": tuple(document["names"]), "dtypes": tuple(document["dtypes"]), "shapes": shapes})


async def announce(values: Values, generator_id: str, workers: int) -> None:
    await values.set_value(f"{ANNOUNCED}{generator_id}", str(workers).encode(), expires_s=ANNOUNCEMENT_S)


async def offer(
    values: Values, *, version: int, host: str, port: int, tensors: Mapping[str, tuple[str, tuple[int, ...]]]
) -> Transfer | None:
    """Offer a version, with the type and shape of each tensor in the order in which they are sent; None if nobody is there to take it."""
    announced = await values.values(ANNOUNCED)
    if not announced:
        return None
    first_ranks: dict[str, int] = {}
    world_size = 1
    for name in sorted(announced):
        first_ranks[name.removeprefix(ANNOUNCED)] = world_size
        world_size += int(announced[name])
    transfer = Transfer(
        version=version,
        host=host,
        port=port,
        world_size=world_size,
        first_ranks=first_ranks,
        names=tuple(tensors),
        dtypes=tuple(dtype for dtype, _ in tensors.values()),
        shapes=tuple(shape for _, shape in tensors.values()),
    )
    await values.set_value(OFFER, transfer.to_json(), expires_s=OFFER_S)
    return transfer


async def offered(values: Values, generator_id: str, *, above: int) -> Transfer | None:
    """The transfer of a version above `above` in which this generator has a part."""
    text = await values.value(OFFER)
    transfer = Transfer.from_json(text) if text else None
    return transfer if transfer is not None and transfer.version > above and generator_id in transfer.first_ranks else None
