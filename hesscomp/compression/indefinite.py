"""Nystrom approximation of indefinite operators, with a truncated core."""

import numpy as np

from hesscomp.compression.approximation import Approximation
from hesscomp.compression.nystrom import Nystrom
from hesscomp.dense import sorted_eigh
from hesscomp.sketching.orthonormalize import orthonormalize


class IndefiniteNystrom(Nystrom):
    """F = Y (Z^T Y)_k^+ Y^T, Y = H Z, the core cut to its k leading eigenpairs by |w|.

    Nakatsukasa and Park (2023), "Randomized low-rank approximation for symmetric indefinite
    matrices". The core of an indefinite operator may have eigenvalues near zero, and inverting
    them is what breaks plain Nystrom; a core of a sketch wider than k, truncated, has none. k is
    the rank asked for, two thirds of the sketch where a tolerance was. Take an oversample of at
    least half the rank; the factor is checked by probes and may be poor without power steps.

    A block of b columns costs (1 + power) b product columns, the first one `probe_count` more.
    Memory: four (n, l) arrays.
    """

    name = "nystrom-indefinite"
    needs_psd = False
    leave_one_out = False

    def approximation(self) -> Approximation:
        world, layout = self.operator.world, self.operator.layout
        kept = min(self.size, self.options.rank or max(2 * self.size // 3, 1))
        inverse, *V = world.on_root(_truncated_core, layout.inner(self.Z, self.Y), kept)
        B = layout.combine(self.Y, np.array(V))
        Q = orthonormalize(B, layout)
        R = layout.inner(Q, B)
        w, S = layout.eigenpairs((R * inverse) @ R.T)
        return Approximation(w, layout.combine(Q, S), layout)


def _truncated_core(core: np.ndarray, kept: int) -> np.ndarray:
    """Inverses of the `kept` leading eigenvalues (0 for 0), above their eigenvectors."""
    w, *V = sorted_eigh(core)
    nonzero = np.abs(w) > len(w) * np.finfo(np.float64).eps * np.abs(w[0])
    inverse = np.divide(1.0, w, out=np.zeros_like(w), where=nonzero)
    return np.vstack([inverse, np.array(V)])[:, :kept]
