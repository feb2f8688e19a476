"""The points that clients have sent, by their content, as long as memory allows."""

import time
from collections import OrderedDict

import numpy as np

from hesscomp.client import point_id
from hesscomp.errors import InputError


class Points:
    """Points, the least recently used of which leave when they take more than `most` bytes."""

    def __init__(self, most: float):
        self.most, self.bytes = most, 0
        self.held: OrderedDict[str, np.ndarray] = OrderedDict()
        self.used: dict[str, float] = {}
        self.left: list[str] = []  # those that have gone since the ranks were told

    def add(self, x: np.ndarray) -> str:
        """Hold a point; return its name."""
        if x.nbytes > self.most:
            raise InputError(f"the point takes {x.nbytes} bytes; the service holds {self.most:.0f}")
        name = point_id(x)
        if name not in self.held:
            self.bytes += x.nbytes
        self.held[name] = x
        self[name]
        while self.bytes > self.most:
            gone, array = self.held.popitem(last=False)
            self.bytes -= array.nbytes
            del self.used[gone]
            self.left.append(gone)
        return name

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a point, which counts as used; KeyError where it is not held."""
        self.held.move_to_end(name)
        self.used[name] = time.time()
        return self.held[name]

    def __contains__(self, name: str) -> bool:
        return name in self.held
