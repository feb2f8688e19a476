"""The points that clients have sent, by their content, as long as memory allows."""

import time
from collections import OrderedDict

import numpy as np

from hesscomp.errors import InputError

OVERHEAD = 1024  # bytes that a point takes besides its numbers


class Points:
    """Points, the least recently used of which leave when they take more than `most` bytes."""

    def __init__(self, most: float):
        self.most, self.bytes = most, 0
        self.held: OrderedDict[str, np.ndarray] = OrderedDict()
        self.used: dict[str, float] = {}

    def add(self, name: str, x: np.ndarray) -> list[str]:
        """Hold a point; return the names of those that leave for it."""
        size = x.nbytes + OVERHEAD
        if size > self.most:
            raise InputError(f"the point takes {size} bytes; the service holds {self.most:.0f}")
        if name not in self.held:
            self.bytes += size
        self.held[name] = x
        self[name]
        left = []
        while self.bytes > self.most:
            gone, array = self.held.popitem(last=False)
            self.bytes -= array.nbytes + OVERHEAD
            del self.used[gone]
            left.append(gone)
        return left

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a point, which counts as used; KeyError where it is not held."""
        self.held.move_to_end(name)
        self.used[name] = time.time()
        return self.held[name]

    def __contains__(self, name: str) -> bool:
        return name in self.held
