"""A curvature operator on some of the parameters: named blocks, block diagonal, diagonal."""

import numpy as np

from hesscomp.curvature.hessian import CurvatureOperator
from hesscomp.curvature.operator import Operator, ShardedOperator
from hesscomp.errors import InputError


def select(blocks, names) -> np.ndarray:
    """The indices of the parameters in blocks of these names, in the vector's order.

    A name may also be the beginning of names, up to a "/": a layer.

    Raises
    ------
    InputError
        For a name that fits no block.
    """
    chosen = []
    for name in names:
        fitting = [b for b in blocks if b.name == name or b.name.startswith(f"{name}/")]
        if not fitting:
            known = ", ".join(b.name for b in blocks)
            raise InputError(f"no parameter block is called {name}; they are {known}")
        chosen += fitting
    spans = [np.arange(b.offset, b.offset + b.size) for b in chosen]
    return np.unique(np.concatenate([np.empty(0, np.int64), *spans]))


class Restricted(ShardedOperator):
    """The rows and columns of a curvature operator that belong to named parameter blocks.

    Parameters
    ----------
    base : CurvatureOperator
    names : list of str
        Blocks ("dense_1/kernel") or layers ("dense_1"); `indices` are their parameters.

    Notes
    -----
    A product costs one with `base`, and reduces only the words of its own order.
    """

    def __init__(self, base: CurvatureOperator, names):
        self.indices = select(base.problem.blocks, names)
        if not len(self.indices):
            raise InputError("a restriction needs the name of at least one parameter block")
        _inherit(self, base, len(self.indices))

    def _local(self, V):
        return self.base._local(self._embedded(V))[self.indices]

    def _local_blocks(self, V):
        return self.base._local_blocks(self._embedded(V))[:, self.indices]

    def _embedded(self, V):
        whole = np.zeros((self.base.n, V.shape[1]), V.dtype)
        whole[self.indices] = V
        return whole


class BlockDiagonal(ShardedOperator):
    """The diagonal blocks of a curvature operator, all else zero.

    Parameters
    ----------
    base : CurvatureOperator
    groups : list of list of str, optional
        Names of parameter blocks or layers, as in `Restricted`, that keep their couplings; each
        parameter in at most one group, those in none get zero. Default: one group for each layer.

    Notes
    -----
    A product costs one with `base` for each group, and one reduction in all.
    """

    def __init__(self, base: CurvatureOperator, groups=None):
        blocks = base.problem.blocks
        if groups is None:
            groups = [
                [layer]
                for layer in dict.fromkeys(b.name.rpartition("/")[0] or b.name for b in blocks)
            ]
        self.groups = [select(blocks, names) for names in groups]
        if len(np.unique(np.concatenate(self.groups))) < sum(map(len, self.groups)):
            raise InputError("a parameter block is in two groups of a block diagonal")
        _inherit(self, base, base.n)
        self.passes = base.passes * len(self.groups)

    def _local(self, V):
        return self._blockwise(V, self.base._local)

    def _local_blocks(self, V):
        return self._blockwise(V, self.base._local_blocks)

    def _blockwise(self, V, product):
        out = None
        for indices in self.groups:
            part = np.zeros_like(V)
            part[indices] = V[indices]
            multiplied = product(part)
            out = np.zeros_like(multiplied) if out is None else out
            out[..., indices, :] = multiplied[..., indices, :]
        return out


class Diagonal(Operator):
    """The diagonal of a curvature operator as an operator.

    Costs n product columns once, and nothing after that; `estimators.diagonal` estimates it from
    a few. The words of one reduction are n.
    """

    def __init__(self, base: Operator, panel: int = 64):
        super().__init__(base.n, base.world, psd=base.psd, dtype=base.dtype)
        columns = np.arange(base.n)
        base = base.replicated()
        parts = []
        for start in range(0, base.n, panel):
            indices = columns[start : start + panel]
            parts.append((base @ base.layout.units(indices))[indices, indices - start])
        self.values = np.concatenate(parts)

    def _block(self, V):
        return self.layout.local(self.values)[:, None] * V


def _inherit(operator: ShardedOperator, base: CurvatureOperator, n: int) -> None:
    """Make an operator of order n over the same data as `base`."""
    ShardedOperator.__init__(
        operator,
        n,
        base.world,
        psd=base.psd,
        dtype=base.dtype,
        scale=base.scale,
        blocks=base.blocks,
    )
    operator.base, operator.passes = base, base.passes
