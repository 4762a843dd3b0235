"""Which positions of a training's data each optimizer step takes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    steps: int
    batch: int
    """Positions of a step; the last one may have fewer."""
    positions_in_all: int

    @classmethod
    def of(cls, *, size: int, epochs: int, steps: int, batch: int) -> "Steps":
        """`steps` of them, or where that is 0 as many as `epochs` of `size` positions need."""
        positions = steps * batch or epochs * size
        return cls(steps=-(-positions // batch), batch=batch, positions_in_all=positions)

    def positions(self, number: int) -> range:
        """Those of step `number`, from 1."""
        first = (number - 1) * self.batch
        return range(first, min(first + self.batch, self.positions_in_all))
