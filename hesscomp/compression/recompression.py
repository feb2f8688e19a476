"""Hierarchical factors brought up to date: sums of operators whose products cost nothing."""

from dataclasses import replace

import numpy as np

from hesscomp.compression.formats import compress
from hesscomp.factors.certificate import Certificate
from hesscomp.factors.factor import scale_rows
from hesscomp.factors.hbs import Hbs
from hesscomp.factors.hierarchical import Hierarchical
from hesscomp.operators.operator import Operator
from hesscomp.parallel.layout import Layout, Replicated

TOLERANCE = 1e-10  # of a sum that nobody says how to cut


class LowRankChange(Operator):
    """B diag(c) B^T for a (rows, m) array B; its products cost nothing."""

    passes = 0

    def __init__(self, B: np.ndarray, c: np.ndarray, layout: Layout):
        super().__init__(layout.n, layout.world, psd=bool(np.all(c >= 0)))  # type: ignore[arg-type]
        self.layout, self.B, self.c = layout, B, c

    def block_product(self, V: np.ndarray) -> np.ndarray:
        return self.layout.combine(self.B, scale_rows(self.c, self.layout.inner(self.B, V)))


def update_hierarchical(
    factor: Hbs, B: np.ndarray, c: np.ndarray | None = None, *, tolerance: float = TOLERANCE
) -> Hbs:
    """Return F + B diag(c) B^T as a factor over the same tree, with bases cut to a tolerance.

    Parameters
    ----------
    factor : Hbs
    B : (n,) or (n, m) array
        In the layout of the factor.
    c : (m,) array, optional
        Of either sign; ones by default.
    tolerance : float
        Of what cutting the bases changes, relative to the result.

    Returns
    -------
    Hbs
        Its certificate takes B diag(c) B^T as exactly the change of H: the error is that of F, and
        of what is cut.

    Raises
    ------
    InputError
        For shapes that do not fit and numbers that are not finite.

    Notes
    -----
    No product of H: F + B diag(c) B^T is sketched, at the cost of a compression outside its
    products.

    Examples
    --------
    >>> import numpy as np
    >>> import hesscomp as hc
    >>> from hesscomp.compression import update_hierarchical
    >>> F = hc.compress(np.diag(np.arange(1.0, 65)), tolerance=1e-6, format="hbs")
    >>> G = update_hierarchical(F, np.ones(64), np.array([-2.0]))
    >>> np.allclose(G.to_dense(), F.to_dense() - 2), int(G.ranks.max())
    (True, 1)
    """
    B, c = factor.checked_change(B, c)
    known = factor
    if factor.world is None:  # read by one process; a compression counts what it does
        from hesscomp.parallel.world import World

        known = factor.in_layout(Replicated(factor.n, World.serial()))
    change = LowRankChange(B, c, known.layout)
    made = _sum(known, change, factor.certificate, tolerance, "update")
    return replace(made, layout=factor.layout)


def correct_hierarchical(
    operator: Operator,
    factor: Hbs,
    *,
    rank: int | None = None,
    tolerance: float | None = None,
    **options,
) -> Hbs:
    """Bring an HBS factor up to date: compress H - F at a small rank, and add it. Collective.

    Parameters
    ----------
    operator : Operator
        H, at a new point.
    factor : Hbs
        F, of a nearby operator.
    rank, tolerance, **options
        Of the compression of H - F over the tree of F, as in `compress`; a tolerance is relative
        to H - F.

    Returns
    -------
    Hbs
        Its certificate is that of H - F, whose fresh probes measured what is missing, and of the
        cut of the sum at `TOLERANCE`.
    """
    before = factor.in_layout(operator.layout)
    change = compress(
        operator - before, rank, tolerance, format=Hbs.kind, tree=before.tree, **options
    )
    summed = _sum(before, change, change.certificate, TOLERANCE, "correction")
    return operator.describe(replace(summed, provenance=change.provenance.derived("correction")))


def _sum(
    factor: Hierarchical, change: Operator, known: Certificate, tolerance: float, how: str
) -> Hbs:
    """Return F + change as one factor; `known` is the certificate of what the sum misses."""
    whole = factor + change
    made = compress(whole, tolerance=tolerance, format=Hbs.kind, tree=factor.tree)
    assert isinstance(made, Hbs)  # as asked
    cut = made.certificate
    certificate = replace(
        known,
        frobenius_error_estimate=known.frobenius_error_estimate + cut.frobenius_error_estimate,
        frobenius_norm_estimate=cut.frobenius_norm_estimate,
        spectral_error_bound=known.spectral_error_bound + cut.spectral_error_bound,
    )
    return replace(
        made,
        certificate=certificate,
        provenance=factor.provenance.derived(how),
        parameters=factor.parameters,
        blocks=factor.blocks,
    )
