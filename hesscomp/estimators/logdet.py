"""The logarithm of the determinant of a positive definite operator."""

import numpy as np

from hesscomp.errors import InputError, NumericalError
from hesscomp.estimators.quadrature import spectral_quadrature
from hesscomp.estimators.results import Estimate
from hesscomp.operators.operator import Operator


def logdet(
    operator: Operator, *, shift: float = 0.0, probes: int = 10, steps: int = 80, seed: int = 0
) -> Estimate:
    """Estimate log det(H + shift I) by stochastic Lanczos quadrature.

    Parameters
    ----------
    operator : Operator
        H + shift I must be positive definite; H itself may be indefinite.
    shift : float
        Added to the diagonal: the ridge, or a damping.
    probes, steps, seed : int
        See `spectral_quadrature`, whose costs these are.

    Raises
    ------
    InputError
        For arguments out of range.
    NumericalError
        If H + shift I is seen not to be positive definite to rounding.

    Notes
    -----
    log is completely monotone up to sign, so every Gauss quadrature is an upper bound of its
    omega^T log(H + shift I) omega (Golub and Meurant 2010, section 6.2): the truncation error is
    one-sided. The steps needed grow with the square root of the condition number of H + shift I.
    """
    if not np.isfinite(shift):
        raise InputError(f"shift must be finite, not {shift}")
    quadrature = spectral_quadrature(operator, probes=probes, steps=steps, seed=seed)
    smallest, largest = quadrature.nodes.min() + shift, np.abs(quadrature.nodes).max()
    if not smallest > np.finfo(operator.dtype).eps * max(largest, abs(shift)):
        raise NumericalError(
            f"the operator plus shift {shift:g} is not positive definite: its spectrum reaches "
            f"{smallest:.3g}; take a larger shift"
        )
    return quadrature.trace_of(lambda nodes: np.log(nodes + shift))
