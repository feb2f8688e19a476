"""Where in the parameters a factor's eigenvectors live."""

import numpy as np

from hesscomp.factors import Factor


def block_energy(factor: Factor, leading: int | None = None) -> np.ndarray:
    """Return the share of each eigenvector's squared norm that lies in each parameter block.

    Entry (b, j) of the (blocks, leading) array is the sum of squares of u_j over block b of
    ``factor.blocks``, over ||u_j||^2 (which is 1 but for rounding on disk), so each column sums to
    1. Without blocks it has no rows; `leading` is by default the number of all eigenvectors.

    Costs 2 n leading operations, and the memory of one block's rows beside the result.
    """
    U = factor.eigenvectors[:, :leading]
    energy = np.empty((len(factor.blocks), U.shape[1]))
    for row, (_, shape, offset) in zip(energy, factor.blocks, strict=True):
        block = U[offset : offset + int(np.prod(shape))]
        row[:] = np.einsum("ij,ij->j", block, block)
    return energy / np.einsum("ij,ij->j", U, U)


def layer_energy(factor: Factor, leading: int | None = None) -> dict[str, np.ndarray]:
    """Return `block_energy` summed over each layer's blocks (names up to the "/")."""
    total: dict[str, np.ndarray] = {}
    for (name, _, _), energy in zip(factor.blocks, block_energy(factor, leading), strict=True):
        layer = name.rpartition("/")[0] or name
        total[layer] = total.get(layer, 0.0) + energy
    return total
