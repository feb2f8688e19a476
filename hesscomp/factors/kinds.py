"""The kinds of factor: a kind that is listed here can be read, written and kept in checkpoints."""

from typing import Any

import numpy as np

from hesscomp.errors import InputError
from hesscomp.factors.certificate import Certificate
from hesscomp.factors.diagonal import Diagonal
from hesscomp.factors.factor import Factor
from hesscomp.factors.hbs import Hbs
from hesscomp.factors.hodlr import Hodlr
from hesscomp.factors.kronecker import Kronecker
from hesscomp.factors.lowrank import LowRank
from hesscomp.factors.sparse import Sparse
from hesscomp.factors.structured import DiagonalPlus, HbsPlus, HodlrPlus, SparsePlus

KINDS: dict[str, type[Factor]] = {
    kind.kind: kind
    for kind in (
        *(LowRank, Diagonal, Kronecker, Hbs, Hodlr, Sparse),
        *(DiagonalPlus, HodlrPlus, HbsPlus, SparsePlus),
    )
}


def from_contents(arrays: dict[str, np.ndarray], certificate: Certificate) -> Factor:
    """Return the replicated factor that these arrays hold, of the kind whose arrays are all there.

    Of several the one with the most. InputError if there is none, or the arrays contradict each
    other.
    """
    kinds = [kind for kind in KINDS.values() if kind.arrays.keys() <= arrays.keys()]
    if not kinds:
        raise InputError(f"the arrays {', '.join(arrays)} are those of no kind of factor")
    kind = max(kinds, key=lambda each: len(each.arrays))
    held: dict[str, Any] = {name: arrays[name] for name in kind.arrays}
    factor = kind(**held, certificate=certificate)
    if not factor.is_blank:
        factor.check()
    return factor
