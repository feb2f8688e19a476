"""Frobenius and spectral norm."""

import numpy as np

from hesscomp.errors import InputError
from hesscomp.estimators.leave_one_out import LeaveOneOut, of_exchangeable
from hesscomp.estimators.sampling import Estimate, NormBounds, check_counts, sphere
from hesscomp.krylov.lanczos import Lanczos
from hesscomp.operators.operator import Operator
from hesscomp.parallel import random

FAILURE = 1e-6  # probability that a spectral norm exceeds its bound


def frobenius_norm(operator: Operator, columns: int = 64, *, seed: int = 0) -> Estimate:
    """Estimate ||H||_F, as the root of an XTrace estimate of tr(H^2).

    With l = columns // 2 vectors, Q from H Omega as in XTrace, but H^2 in its place everywhere:
    ||H Q_i||_F^2 + (n - l + 1) ||H mu||^2 / ||mu||^2, for which H Omega and H Q suffice. So it
    costs 2 l columns in two block products of n l words; where `columns` reaches n the matrix is
    assembled. The square is unbiased; the root is low by about standard_error^2 / (2 value).
    InputError for fewer than 4 columns or a negative seed. Collective.
    """
    check_counts(seed, columns=(columns, 4))
    operator = operator.replicated()
    operator.world.ledger.expect(min(columns, operator.n))
    if columns >= operator.n:
        return Estimate.exactly(np.linalg.norm(operator.to_dense()), operator.n)
    l = columns // 2
    sketch = LeaveOneOut.draw(operator, sphere(operator.n, l, seed))
    Z = operator @ sketch.Q
    squares = np.sum(sketch.Y**2, axis=0)
    samples = operator.world.on_root(sketch.traces, Z.T @ Z, Z.T @ sketch.Y, squares)
    squared = of_exchangeable(samples, "xtrace", 2 * l)
    norm = float(np.sqrt(max(squared.value, 0.0)))
    slope = 2 * norm or np.inf  # of the square: errors are 0 where the norm is
    error, spread = squared.standard_error / slope, squared.spread / slope
    return Estimate(norm, error, "xtrace", 2 * l, l, spread)


def exact_frobenius_norm(operator: Operator, panel: int = 128) -> float:
    """Return ||H||_F by products with all n unit vectors, `panel` at a time: (n, panel) memory.

    Where (n, n) arrays fit, `frobenius_norm` with n columns is faster. Collective.
    """
    layout, columns = operator.layout, np.arange(operator.n)
    panels = (columns[start : start + panel] for start in range(0, operator.n, panel))
    return float(
        np.sqrt(sum(np.sum(layout.squares(operator @ layout.units(some))) for some in panels))
    )


def spectral_norm(
    operator: Operator,
    *,
    tolerance: float = 1e-3,
    gap: float = np.inf,
    probes: int = 2,
    max_steps: int = 100,
    seed: int = 0,
) -> NormBounds:
    """Estimate ||H||_2 from below by Lanczos, with an upper bound in probability.

    Parameters
    ----------
    tolerance, gap : float
        Stop when the residual of the largest Ritz pair is at most `tolerance` times its value, and
        the upper bound at most 1 + `gap` times it. By default any upper bound is accepted: the
        value is right to `tolerance` long before the bound can show it.
    probes : int
        Random start vectors that advance together; each makes a miss less likely by a power.
    max_steps : int
    seed : int
        The result does not depend on the number of ranks.

    Notes
    -----
    One block product of `probes` columns a step, one reduction of n probes words. Memory
    n probes max_steps numbers at most. InputError for arguments out of range. Collective.
    """
    check_counts(seed, probes=(probes, 1), max_steps=(max_steps, 1))
    if not (0 < tolerance < 1 and gap > 0):
        raise InputError(
            f"tolerance must lie between 0 and 1 and gap be positive, not {tolerance} and {gap}"
        )
    operator = operator.replicated()
    before = operator.world.ledger.columns
    lanczos = Lanczos(operator, sphere(operator.n, probes, seed, random.LANCZOS), max_steps)
    converged = False
    while not (converged or lanczos.finished):
        lanczos.advance()
        nodes, _, residuals = lanczos.ritz()
        largest = np.unravel_index(np.argmax(np.abs(nodes)), nodes.shape)
        value, residual = float(abs(nodes[largest])), float(residuals[largest])
        upper = _upper_bound(lanczos, value)
        near = upper is not None and (gap == np.inf or upper <= (1 + gap) * value)
        converged = near and residual <= tolerance * value
    columns = operator.world.ledger.columns - before
    return NormBounds(value, upper, FAILURE, residual, converged, columns)


def _upper_bound(lanczos: Lanczos, value: float) -> float | None:
    """Return what ||H||_2 exceeds with probability FAILURE at most, given the largest |Ritz value|.

    None where there are too few steps for a bound. Kuczynski and Wozniakowski (1992), theorem 4.2:
    from one random start, m steps miss the largest eigenvalue by more than a fraction e of the
    spectrum's spread with probability at most 1.648 sqrt(n) exp(-sqrt(e) (2 m - 1)). The spread is
    at most ||H||_2 for a semidefinite operator and twice that for any other. A random start whose
    Krylov space is exhausted has met every eigenvalue, and the bound is the value to rounding.
    """
    H, probes = lanczos.operator, len(lanczos.lengths)
    if lanczos.exhausted:
        return value * (1 + 20 * float(np.finfo(H.dtype).eps))
    each = FAILURE ** (1 / probes)
    root = np.log(1.648 * np.sqrt(H.n) / each) / (2 * lanczos.steps - 1)
    missed = float(root**2) * (1 if H.psd else 2)
    return value / (1 - missed) if missed < 1 else None
