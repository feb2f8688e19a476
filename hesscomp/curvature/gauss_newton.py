"""Gauss-Newton and Fisher matrices: J^T B J with B a curvature of the loss in its output."""

import numpy as np

from hesscomp.curvature.hessian import CurvatureOperator
from hesscomp.errors import InputError


class GaussNewtonOperator(CurvatureOperator):
    """(1/m) sum of J^T B J over all rows: J the output's Jacobian, B the loss's second derivative.

    The Hessian of the model's regularisers is added. Equal to the Hessian where the output is
    linear in the parameters; positive semidefinite where the loss is convex in the output and the
    regularisers are Keras' L1 and L2. The output is the logits where the model ends in softmax or
    sigmoid and the loss is a cross-entropy (`KerasProblem.at_logits`). Schraudolph, "Fast curvature
    matrix-vector products for second-order gradient descent" (Neural Computation 14, 2002).

    Parameters
    ----------
    problem : Problem
        With the capability `GAUSS_NEWTON`.
    x : (n,) array

    Notes
    -----
    Of a network, a product costs about two thirds of the Hessian's.
    """

    def __init__(self, problem, x: np.ndarray):
        super().__init__(problem, x, problem.gauss_newton(x), psd=problem.gauss_newton_psd)


class FisherOperator(CurvatureOperator):
    """The Fisher matrix of the known losses; the model's regularisers are no part of it.

    Softmax and sigmoid cross-entropy and squared error are negative log-likelihoods with natural
    parameters, whose Fisher matrix is the Gauss-Newton matrix (Martens, "New insights and
    perspectives on the natural gradient method", JMLR 21, 2020, section 9.2). For any other loss
    the problem lacks the capability `FISHER`.
    """

    def __init__(self, problem, x: np.ndarray):
        super().__init__(problem, x, problem.fisher(x), psd=True)


class MonteCarloFisherOperator(CurvatureOperator):
    """(1/m) sum of g g^T over all rows and S targets drawn from the model at x, divided by S.

    Its expectation is the Fisher matrix; its rank is at most S m.

    Parameters
    ----------
    problem : Problem
        With the capability `MONTE_CARLO_FISHER`, and a loss that is a likelihood.
    x : (n,) array
    samples : int
        S, drawn once for each row.
    seed : int
        The targets of a row depend on it and on the row alone, not on the number of ranks.

    Raises
    ------
    InputError
        If the problem lacks the capability, its loss is not a likelihood, or `samples` is below 1.
    """

    def __init__(self, problem, x: np.ndarray, samples: int = 1, seed: int = 0):
        if samples < 1:
            raise InputError(f"a Monte Carlo Fisher matrix needs at least 1 sample, not {samples}")
        super().__init__(problem, x, problem.monte_carlo_fisher(x, samples, seed), psd=True)


class EmpiricalFisherOperator(CurvatureOperator):
    """(1/m) sum of g g^T over all rows, g being a row's gradient: the gradients' second moment.

    Not centred, and not the Fisher matrix: the targets are those of the data. The problem needs
    the capability `EMPIRICAL_FISHER`.
    """

    def __init__(self, problem, x: np.ndarray):
        super().__init__(problem, x, problem.empirical_fisher(x), psd=True)
