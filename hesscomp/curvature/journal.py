"""An operator whose products are kept in a journal, so that a run resumes where it was ended."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from hesscomp.operators.operator import Operator
from hesscomp.runs.journal import Journal
from hesscomp.storage.lock import sole_use


@contextmanager
def journaled(
    operator: Operator, folder: str | os.PathLike, run_identity: dict[str, str]
) -> Iterator[Operator]:
    """Yield the operator with a journal of the products of one run in `folder`.

    The journal is removed where the block ends well: by then the result should be written.
    Collective; see `Journal`.
    """
    with sole_use(folder, operator.world):
        journal = Journal(folder, run_identity, operator.world)
        yield Journaled(operator, journal)
        journal.remove()


class Journaled(Operator):
    """An operator with a `Journal`: each block product is made once, whatever ends the run.

    The products of a run that is started again must come in the same order with the same blocks, as
    those of every method of `compress` with the same options and seed do; others are made again.
    """

    parts = ("base",)

    def __init__(self, base: Operator, journal: Journal):
        super().__init__(base.n, base.world, psd=base.psd, dtype=base.dtype)
        self.layout = base.layout
        self.base, self.journal, self.passes = base, journal, base.passes

    @property
    def name(self) -> str:
        return self.base.name

    def describe(self, factor):
        return self.base.describe(factor)

    def block_product(self, V):
        return self._kept("block", (V,), (self.n, V.shape[1]), lambda: self.base.block_product(V))

    def _project(self, Q, V):
        shape = Q.shape[1], V.shape[1]
        return self._kept("projection", (Q, V), shape, lambda: self.base._project(Q, V))

    def _quadratic(self, V):
        shape = V.shape[1], V.shape[1]
        return self._kept("quadratic", (V,), shape, lambda: self.base._quadratic(V))

    @property
    def _assembles(self):
        return self.base._assembles

    def _assembled(self):
        return self._kept("matrix", (), (self.n, self.n), self.base._assembled)

    def _kept(self, kind, inputs, shape, make):
        return self.journal.result(kind, inputs, shape, self.layout, make)
