"""Seeded chance that is the same on every platform: named by what is drawn, so that one draw never moves another."""

import random
from collections.abc import Sequence
from typing import TypeVar

ItemT = TypeVar("ItemT")


def chance(*name: object) -> random.Random:
    """The chance of this name. Seeding with text hashes it with SHA-512: unlike that of any other name."""
    return random.Random(" ".join(["oprime prose", *map(str, name)]))  # noqa: S311


def below(drawn: random.Random, bound: int) -> int:
    """A whole number from 0 to below `bound`."""
    # random() is the one method whose sequence Python promises never to change.
    return int(drawn.random() * bound)


def one_of(drawn: random.Random, items: Sequence[ItemT]) -> ItemT:
    return items[below(drawn, len(items))]


def shuffled(drawn: random.Random, items: Sequence[ItemT]) -> list[ItemT]:
    weighed = [(drawn.random(), place) for place in range(len(items))]
    return [items[place] for _, place in sorted(weighed)]
