"""A curvature operator on some of the parameters: named blocks, block diagonal."""

from dataclasses import replace

import numpy as np

from hesscomp.curvature.sharded import ProblemOperator, ShardedOperator
from hesscomp.errors import InputError


def select(blocks, names) -> np.ndarray:
    """Return the indices of the parameters in blocks of these names, in the vector's order.

    A name may also be the beginning of names, up to a "/": a layer. Raises InputError for a name
    that fits no block.
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


class _Part(ShardedOperator):
    """An operator of order n over the same data as another, and as exact."""

    def __init__(self, base: ProblemOperator, n: int):
        super().__init__(
            n,
            base.world,
            psd=base.psd,
            dtype=base.dtype,
            scale=base.scale,
            blocks=base.blocks,
            memory=base.memory,
        )
        self.base, self.passes = base, base.passes


class Restricted(_Part):
    """The rows and columns of a curvature operator that belong to named parameter blocks.

    Parameters
    ----------
    base : ProblemOperator
    names : list of str
        Blocks ("dense_1/kernel") or layers ("dense_1"); `indices` are their parameters.

    Notes
    -----
    With the layer-wise engine a product takes tangents from the lowest of these layers upward,
    adjoints down to it, and multiplies by no other layer's columns; else it costs one with `base`.
    It reduces only the words of its own order.
    """

    def __init__(self, base: ProblemOperator, names):
        blocks = base.problem.parameter_blocks
        self.indices = select(blocks, names)
        if not len(self.indices):
            raise InputError("a restriction needs the name of at least one parameter block")
        super().__init__(base, len(self.indices))
        chosen = tuple(i for i, b in enumerate(blocks) if b.size and b.offset in self.indices)
        self.narrow = base.narrowed(chosen)
        self.made_by = base if self.narrow is None else self.narrow

    def _columns(self, columns):
        return self.made_by._columns(columns)

    def describe(self, factor):
        factor = self.base.problem.describe(factor, self.base.x, self.indices)
        name = f"{self.base.name}, restricted"
        return replace(factor, provenance=replace(factor.provenance, operator=name))

    def _pieces(self, columns):
        return max(super()._pieces(columns), self.made_by._pieces(columns))

    def _local(self, V):
        if self.narrow is not None:
            return self.narrow._local(V)
        return self.base._local(self._whole(V))[self.indices]

    def _local_blocks(self, V):
        if self.narrow is not None:
            return self.narrow._local_blocks(V)
        return self.base._local_blocks(self._whole(V))[:, self.indices]

    def _whole(self, V):
        whole = np.zeros((self.base.n, V.shape[1]), V.dtype)
        whole[self.indices] = V
        return whole


class BlockDiagonal(_Part):
    """The diagonal blocks of a curvature operator, all else zero.

    Parameters
    ----------
    base : ProblemOperator
    groups : list of list of str, optional
        Names of parameter blocks or layers, as in `Restricted`, that keep their couplings; each
        parameter in at most one group, those in none get zero. Default: one group for each layer.

    Raises
    ------
    InputError
        For a name that the operator has not, and for a parameter in two groups.

    Notes
    -----
    A product costs one with the `Restricted` operator of each group (their tangents must stay
    apart), and one reduction in all.
    """

    def __init__(self, base: ProblemOperator, groups=None):
        if groups is None:
            names = (b.name.rpartition("/")[0] or b.name for b in base.problem.parameter_blocks)
            groups = [[layer] for layer in dict.fromkeys(names)]
        self.groups = [Restricted(base, names) for names in groups]
        indices = np.concatenate([group.indices for group in self.groups])
        if len(np.unique(indices)) < len(indices):
            raise InputError("a parameter block is in two groups of a block diagonal")
        super().__init__(base, base.n)
        self.passes = base.passes * len(self.groups)

    def describe(self, factor):
        return self.base.problem.describe(factor, self.base.x)

    def _columns(self, columns):
        return min(group._columns(columns) for group in self.groups)

    def _pieces(self, columns):
        return max(super()._pieces(columns), *(g._pieces(columns) for g in self.groups))

    def _local(self, V):
        out = np.zeros_like(V)
        for group in self.groups:
            out[group.indices] = group._local(V[group.indices])
        return out

    def _local_blocks(self, V):
        out = np.zeros((len(self.base.problem.blocks_here), *V.shape), V.dtype)
        for group in self.groups:
            out[:, group.indices] = group._local_blocks(V[group.indices])
        return out
