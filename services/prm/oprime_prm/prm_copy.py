"""The PRM's weights in a model of their own, which only scores: in another type than training computes in, or beside it."""

import threading
from collections.abc import Iterator

from torch import Tensor

from oprime.lm.frozen import FrozenModel


class PrmCopy:
    """`lock` keeps a refresh and a pass of another thread apart."""

    def __init__(self, model: FrozenModel) -> None:
        """`model` has the weights that the PRM starts with, version 0."""
        self.model = model
        self.version = 0
        """Of the weights that it has."""
        self.lock = threading.Lock()

    def refresh(self, weights: Iterator[tuple[str, Tensor]], version: int) -> None:
        """Move to another version; waits for the pass under way at most."""
        with self.lock:
            self.model.load_weights(weights)
            self.version = version
