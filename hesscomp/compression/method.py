"""What all compression methods have in common."""

from abc import ABC, abstractmethod

import numpy as np

from hesscomp.compression.approximation import Approximation, Probes
from hesscomp.compression.options import SketchOptions
from hesscomp.operators.operator import Operator
from hesscomp.sketching.test_matrices import draw, probes


class Method(ABC):
    """A sketch of an operator that grows block by block, and the approximation that it gives.

    It has `size` columns so far; `probes` measure the error.
    """

    name: str  # in `compress`
    needs_psd = False  # whether it needs a positive semidefinite operator
    takes_ends = False  # whether it can take one end of the spectrum (`which`)
    leave_one_out = False  # whether it can measure its error by its own independent columns
    products = 1  # product columns that a column of the sketch costs without power steps

    def __init__(self, operator: Operator, options: SketchOptions):
        self.operator, self.options = operator, options
        self.size = 0
        self.probes: Probes | None = None

    @property
    def probed(self) -> bool:
        """Whether probes measure the error, because the sketch cannot do so itself."""
        return not (self.leave_one_out and self.options.independent)

    def width(self, sketch: int) -> int:
        """Return the columns to ask of `grow` for rank + oversample = `sketch`."""
        return sketch

    def columns(self, sketch: int) -> int:
        """Return the product columns that a sketch made in one block costs, at most."""
        probes = self.options.probe_count if self.probed else 0
        return (self.products + self.options.power) * sketch + probes

    @abstractmethod
    def grow(self, columns: int) -> None:
        """Add a block of columns to the sketch."""

    @abstractmethod
    def approximation(self) -> Approximation:
        """Return what the sketch tells of the operator so far."""

    def _draw(self, columns: int) -> np.ndarray:
        """Return the next columns of the test matrix."""
        first, self.size = self.size, self.size + columns
        options = self.options
        return draw(options.test_matrix, self.operator.layout, first, self.size, options.seed)

    def _multiply(self, block: np.ndarray) -> np.ndarray:
        """Return H times a block; the images of the probes come with the first such product."""
        H, options = self.operator, self.options
        if self.probes is not None or not self.probed:
            return H @ block
        vectors = probes(H.layout, 0, options.probe_count, options.seed)
        Y, columns = H @ np.hstack([block, vectors]), block.shape[1]
        self.probes = Probes(vectors, Y[:, columns:].copy())
        return Y[:, :columns]
