"""Factors brought to a new point: made again over what is known, or by the difference."""

from __future__ import annotations

from hesscomp.compression.correction import correct
from hesscomp.compression.formats import FORMATS, compress
from hesscomp.compression.structured import compress_beside
from hesscomp.errors import InputError
from hesscomp.factors.factor import Factor
from hesscomp.factors.hierarchical import InLeaves
from hesscomp.operators.operator import Operator

REFIT, DIFFERENCE = "refit", "difference"
WAYS = ("auto", REFIT, DIFFERENCE)
RANK = 10  # of a difference


def update_factor(
    operator: Operator,
    known: Factor,
    rank: int | None = None,
    tolerance: float | None = None,
    *,
    by: str = "auto",
    max_rank: int | None = None,
    **options,
) -> Factor:
    """Bring a factor of any kind to an operator at a new point. Collective.

    Parameters
    ----------
    operator : Operator
        H, of the new point.
    known : Factor
        F, of an earlier one.
    rank : int, optional
        Of the difference: the eigenpairs of H - F that are added (10). In a refit: the largest
        rank, at each node of a hierarchical factor; by default the ranks that F has.
    tolerance : float, optional
        Of a refit: as `compress`, instead of a rank.
    by : {"auto", "refit", "difference"}
        refit: compress H in the format of F, over its tree with the ranks of its nodes (hbs,
        hodlr), or from its range (low-rank). difference: compress H - F at a small rank, and add
        that: to the eigenpairs of F, or as low rank beside F (`Structured`). auto: a refit of hbs
        and hodlr, the difference of others. Measured, a refit of hbs takes 42 columns where the
        difference takes 120 for 40 times its error (deconvolution after a Newton step), and 170 for
        an error of 0.08 where the difference has 0.27 with 120 (a classifier after an epoch): what
        a Hessian gains on its way has no lower rank than it has itself. The difference pays where
        few directions change, and where nothing but its `rank` may be spent.
    max_rank : int, optional
        The most that is kept of the low rank as a whole, after a difference.
    **options
        Of `compress`.

    Returns
    -------
    Factor
        Of the kind of F, or `Structured` where low rank came beside a diagonal, hbs or hodlr one.
        Its certificate is that of H - F or of the refit, by products of H.

    Raises
    ------
    InputError
        For orders that differ, a kind that cannot be updated so, and as `compress`.

    Examples
    --------
    >>> import numpy as np
    >>> import hesscomp as hc
    >>> from hesscomp.compression import update_factor
    >>> x = np.linspace(0, 1, 256)
    >>> first, later = (np.exp(-np.abs(x[:, None] - x) / scale) for scale in (0.1, 0.11))
    >>> F = hc.compress(first, rank=4, format="hbs", leaf_size=8)
    >>> G = update_factor(hc.MatrixOperator(later), F, seed=1)
    >>> G.tree == F.tree, bool(np.abs(G.to_dense() - later).max() < 1e-12)
    (True, True)
    """
    if by not in WAYS:
        raise InputError(f"`by` must be one of {', '.join(WAYS)}, not {by}")
    if known.n != operator.n:
        raise InputError(f"a factor of n = {known.n} does not fit an operator of n = {operator.n}")
    if by == REFIT and known.kind not in FORMATS:
        raise InputError(
            f"no compression makes a {known.kind} factor again; take `by` {DIFFERENCE}"
        )
    if by == REFIT or (by == "auto" and isinstance(known, InLeaves)):
        if max_rank is not None:
            raise InputError("`max_rank` goes with `by` difference; in a refit give `rank`")
        before = known.in_layout(operator.layout)
        if rank is None and tolerance is None and known.has_eigenpairs:
            rank = max(known.rank, 1)
        return compress(operator, rank, tolerance, format=known.kind, start=before, **options)
    if tolerance is not None:
        raise InputError(f"`tolerance` goes with `by` {REFIT}; a difference takes a `rank`")
    rank = RANK if rank is None else rank
    if known.has_eigenpairs:
        factor = correct(operator, known, rank, **options)
        return factor if max_rank is None else factor.truncate(max_rank)
    return compress_beside(operator, known, rank, max_rank=max_rank, **options)
