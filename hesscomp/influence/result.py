"""What `sensitivity` finds."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RowStatistics:
    """Statistics of all m rows by the factor, which stands for the inverse of the Hessian.

    With K_i = J_i (F + shift I)^-1 J_i^T / m, J_i the Jacobian of row i's C outputs, B_i the second
    derivative of its loss by them and r_i the first. Where rows have weights, its loss has its
    weight, and m is their sum; parameters without a ridge have none in the shift.

    Attributes
    ----------
    self_influence : (m,) array
        r^T K r: how much the row's own loss rises, to first order, where the row is left out.
    leverage : (m,) array
        tr(B K): of a generalised linear model the diagonal of the hat matrix.
    cook : (m,) array
        Cook's distance of one Newton step without the row (Pregibon 1981): z^T K z / (p dispersion)
        with z = (I - B K)^-1 r. Infinite where the row alone determines a direction.
    left_out : (m, k) array
        Change of each target in that step: the influence with the row's own curvature.
    effective_parameters : float
        p, the sum of the leverages.
    dispersion : float
        The scale of the likelihood.
    """

    self_influence: np.ndarray
    leverage: np.ndarray
    cook: np.ndarray
    left_out: np.ndarray
    effective_parameters: float
    dispersion: float


@dataclass(frozen=True)
class Laplace:
    """Standard deviations of the posterior N(x, dispersion (F + shift I)^-1 / m).

    Attributes
    ----------
    parameters : (n,) array
    outputs : (test rows, C) array, or None without test rows
        Of the model's output, linearised in the parameters; logits of classifiers.
    dispersion : float
    """

    parameters: np.ndarray
    outputs: np.ndarray | None
    dispersion: float


@dataclass(frozen=True)
class Sensitivity:
    """Derivatives of a minimum x* of f, and of functions T of it (the targets), by the data.

    x* depends on a number t of the objective by dx*/dt = -H^-1 d_t grad f, and T(x*) by the product
    of that with grad T. H is the Hessian, with ridge and damping; m
    stands for the sum of the rows' weights, where they have some.

    Attributes
    ----------
    problem, dataset, operator : str
    rows, n : int
        m and n.
    shift : float
        The ridge and the damping.
    objective, gradient_norm : float
        f and ||grad f|| at x: where the gradient is not zero, x is no minimum and the derivatives
        are those of a linearised problem.
    gradient_rows : float
        The same gradient as a number of rows: m ||grad f|| over the root mean square of the rows'
        gradients. Above 1, what is left of it exceeds a single row's share.
    targets : tuple of str
    values : (k,) array
        The targets at x; NaN of others than the test loss.
    influence : (m, k) array
        dT/dw_i by a factor w_i (at 1) of each row's loss, while m stays. Minus this is the
        first-order change when it is left out.
    by_ridge : (k,) array
        dT/dridge.
    labels : (m, ..., k) array, or None
        dT/dy_i, for each number of a target; of a class by the probability of each class.
    shifts, scales : (features, k) arrays, or None
        dT by a number added to a column of the inputs, and by a factor (at 1) that multiplies it.
    chosen : (c,) array
        The most influential rows, by the first target, or else by Cook's distance.
    parameters : (n, c) array
        dx*/dw_i of the chosen rows.
    parameters_by_ridge : (n,) array
        dx*/dridge.
    self_influence : (c,) array
        Of the chosen rows, from the solves: `RowStatistics` has those by the factor.
    factor_gap : float
        The largest relative difference of the two; NaN without the statistics.
    tolerance : float
        Asked of the residuals.
    residuals : (k + 1 + c,) array
        ||b - H s|| / ||b|| of the solves for the targets, the ridge and the chosen rows, each by a
        product with its solution.
    iterations : (k + 1 + c,) array
    converged : bool
        Whether all residuals reached the tolerance.
    factor : str
        What preconditions the solves, and gives the statistics.
    statistics : RowStatistics or None
    laplace : Laplace or None
    columns : tuple of str
        Names of the features, where they are known.
    """

    problem: str
    dataset: str
    operator: str
    rows: int
    n: int
    shift: float
    objective: float
    gradient_norm: float
    gradient_rows: float
    targets: tuple[str, ...]
    values: np.ndarray
    influence: np.ndarray
    by_ridge: np.ndarray
    labels: np.ndarray | None
    shifts: np.ndarray | None
    scales: np.ndarray | None
    chosen: np.ndarray
    parameters: np.ndarray
    parameters_by_ridge: np.ndarray
    self_influence: np.ndarray
    factor_gap: float
    tolerance: float
    residuals: np.ndarray
    iterations: np.ndarray
    converged: bool
    factor: str
    statistics: RowStatistics | None = None
    laplace: Laplace | None = None
    columns: tuple[str, ...] = ()

    @property
    def stationary(self) -> bool:
        """Whether the gradient that is left is below the share of a single row."""
        return self.gradient_rows <= 1
