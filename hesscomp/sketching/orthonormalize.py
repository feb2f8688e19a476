"""Orthonormal bases of blocks of columns, in either layout."""

import numpy as np
import scipy.linalg

from hesscomp.dense import inverse_cholesky
from hesscomp.parallel.layout import Layout, RowLayout

# What the second projection of an orthonormal block takes off it: below the first it leaves the
# block orthonormal to rounding; above the second, rounding may be all that it leaves.
UNTOUCHED, CANCELLED = 1e-8, 0.5
NEAR = 1e-2  # largest |Q^T Q - I| from which one more Cholesky factorisation is exact to rounding
ROUNDING = np.finfo(np.float64).eps
CONDITION = 1e7  # of a block up to which CholeskyQR2 is tried


def orthonormalize(
    Y: np.ndarray, layout: Layout, against: np.ndarray | None = None, projected: bool = False
) -> np.ndarray:
    """Return an orthonormal basis, to rounding, of a block's columns, with as many columns.

    The condition that the Gram matrix shows decides how: CholeskyQR2 (Yamamoto, Nakatsukasa,
    Yanagisawa and Fukaya 2015) up to 1e7, shifted CholeskyQR3 (Fukaya, Kannan, Nakatsukasa,
    Yamamoto and Yanagisawa 2020) up to about 1e11; both consist of matrix products. Other blocks go
    to TSQR (Demmel, Grigori, Hoemmen and Langou 2012), which never fails: dependent columns are
    completed to an orthonormal set.

    Parameters
    ----------
    Y : (rows, l) array
        l <= n; this rank's rows, all of them where blocks are replicated.
    layout : Layout
    against : (rows, j) array, optional
        Orthonormal columns to which the result is made orthogonal (twice, so to rounding);
        l + j <= n.
    projected : bool
        Whether the caller has projected Y beside `against` once already.

    Notes
    -----
    About 6 n l^2 operations and two more (rows, l) arrays. In the row layout two to four
    reductions of l^2 words, and with `against` two of j l; TSQR gathers an l x l triangle from
    each rank on rank 0.
    """
    if against is None or not against.shape[1]:
        return _orthonormal(Y, layout)
    if not projected:
        Y = _subtract(Y, against, layout.inner(against, Y), layout)
    Q = _orthonormal(Y, layout)
    overlap = layout.inner(against, Q)
    overlap_norm = np.linalg.norm(overlap)
    Q = _subtract(Q, against, overlap, layout)
    if layout.decide(overlap_norm < UNTOUCHED):
        return Q
    fresh = cholesky_qr2(Q, layout) if layout.decide(overlap_norm < CANCELLED) else None
    if fresh is None:  # columns that vanished: complete them outside `against`
        fresh = tsqr(np.hstack([against, Q]), layout)[:, against.shape[1] :]
    return fresh


def _subtract(Y: np.ndarray, basis: np.ndarray, C: np.ndarray, layout: Layout) -> np.ndarray:
    """Return Y - basis C."""
    inside = layout.combine(basis, C)
    return np.subtract(Y, inside, out=inside)


def _orthonormal(Y: np.ndarray, layout: Layout) -> np.ndarray:
    gram = layout.inner(Y, Y)
    for method in (cholesky_qr2, shifted_cholesky_qr3):
        if (Q := method(Y, layout, gram)) is not None:
            return Q
    return tsqr(Y, layout)


def cholesky_qr2(
    Y: np.ndarray, layout: Layout, gram: np.ndarray | None = None
) -> np.ndarray | None:
    """Return an orthonormal basis of Y by two Cholesky factorisations; None past condition 1e7."""
    gram = layout.inner(Y, Y) if gram is None else gram
    inverse = _inverse_cholesky(gram, layout)
    if inverse is None:
        return None
    lengths = np.sqrt(np.diagonal(gram))
    condition = np.linalg.norm(inverse * lengths[:, None])  # of the columns at unit length
    if not layout.decide(condition <= CONDITION):
        return None
    Q = layout.combine(Y, inverse)
    gram = layout.inner(Q, Q)
    if not layout.decide(np.abs(gram - np.eye(len(gram), like=gram)).max(initial=0.0) < NEAR):
        return None
    return layout.combine(Q, layout.on_root(_inverse_of_triangle, gram, 0.0), out=Q)


def shifted_cholesky_qr3(
    Y: np.ndarray, layout: Layout, gram: np.ndarray | None = None
) -> np.ndarray | None:
    """Return `cholesky_qr2` after a shifted factorisation, which lowers the condition.

    The shift is that of Fukaya and others (2020), equation 4.1: 11 (n l + l (l + 1)) u ||Y||^2.
    None where the condition is too large even so: about 1e13 / sqrt(n l).
    """
    gram = layout.inner(Y, Y) if gram is None else gram
    l = len(gram)
    inverse = _inverse_cholesky(gram, layout, 11 * (layout.n * l + l * (l + 1)) * ROUNDING / 2)
    return None if inverse is None else cholesky_qr2(layout.combine(Y, inverse), layout)


def tsqr(Y: np.ndarray, layout: Layout) -> np.ndarray:
    """Return an orthonormal basis of any Y by Householder QR of each rank's rows, then of the R.

    Where blocks are replicated rank 0 does it all.
    """
    if not isinstance(layout, RowLayout):
        return layout.on_root(_householder, Y)
    factors = [
        scipy.linalg.qr(Y[rows], mode="economic", check_finite=False) for rows in layout.qr_blocks()
    ]
    tops = layout.world.through_root(_householder_of_stack, [R for _, R in factors])
    slabs = [Q @ top for (Q, _), top in zip(factors, tops, strict=True)]
    return np.concatenate([np.empty((0, Y.shape[1])), *slabs])


def _inverse_cholesky(gram: np.ndarray, layout: Layout, shift: float = 0.0) -> np.ndarray | None:
    """Return R^-1 for the Gram matrix R^T R, scaled to equal columns; None if that fails."""
    try:
        return layout.on_root(_inverse_of_triangle, gram, shift)
    except np.linalg.LinAlgError:
        return None


def _inverse_of_triangle(gram: np.ndarray, shift: float) -> np.ndarray:
    lengths = np.sqrt(np.diagonal(gram))
    if not np.all(lengths > 0):
        raise np.linalg.LinAlgError("a column is zero")
    scaled = gram / lengths / lengths[:, None]
    scaled[np.diag_indices_from(scaled)] += shift * len(gram)  # ||Y||^2 <= l at unit lengths
    return inverse_cholesky(scaled) / lengths[:, None]


def _householder(Y: np.ndarray) -> np.ndarray:
    return scipy.linalg.qr(Y, mode="economic", check_finite=False)[0]


def _householder_of_stack(triangles: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Return the orthonormal factor of all ranks' triangles, cut as they came."""
    sizes = [[len(R) for R in mine] for mine in triangles]
    Q = _householder(np.concatenate([R for mine in triangles for R in mine]))
    pieces = iter(np.split(Q, np.cumsum([size for mine in sizes for size in mine])[:-1]))
    return [[next(pieces) for _ in mine] for mine in sizes]
