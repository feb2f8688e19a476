"""Gauss-Newton and Fisher matrices: J^T B J with B a curvature of the loss by the output."""

import numpy as np

from hesscomp.curvature.hessian import CurvatureOperator
from hesscomp.curvature.losses import Outer
from hesscomp.curvature.tensorflow import tf
from hesscomp.errors import InputError
from hesscomp.parallel import random


class GaussNewtonOperator(CurvatureOperator):
    """(1/m) sum of J^T B J over all rows: J the output's Jacobian, B the loss's second derivative.

    The Hessian of the model's regularisers is added. Equal to the Hessian where the output is
    linear in the parameters; positive semidefinite where the loss is convex in the output and the
    regularisers are Keras' L1 and L2. The output is the logits where the model ends in softmax or
    sigmoid and the loss is a cross-entropy (`KerasProblem.at_logits`). Schraudolph, "Fast curvature
    matrix-vector products for second-order gradient descent" (Neural Computation 14, 2002).

    Parameters
    ----------
    problem : KerasProblem
    x : (n,) array

    Raises
    ------
    InputError
        If the problem is no network with a loss of its output.

    Notes
    -----
    A product costs about two thirds of the Hessian's.
    """

    def __init__(self, problem, x: np.ndarray):
        loss = _loss(problem, type(self).__name__)
        shard = problem.products("penalized_gauss_newton", x, None, loss)
        psd = loss.convex and (problem.penalty is None or problem.penalty.convex)
        super().__init__(problem, x, shard, psd=psd)


class FisherOperator(CurvatureOperator):
    """The Fisher matrix of a loss whose Gauss-Newton matrix it is: the known losses.

    Of the data term: regularisers of the model are no part of it.

    Softmax and sigmoid cross-entropy and squared error are negative log-likelihoods with natural
    parameters, for which the two coincide (Martens, "New insights and perspectives on the natural
    gradient method", JMLR 21, 2020, section 9.2).

    Raises
    ------
    InputError
        For any other loss.
    """

    def __init__(self, problem, x: np.ndarray):
        loss = _loss(problem, type(self).__name__)
        if not loss.natural:
            raise InputError(
                f"the Fisher matrix of the loss {loss.name} is not known; take the "
                "Gauss-Newton matrix (ggn) or the empirical Fisher matrix (empirical-fisher)"
            )
        super().__init__(problem, x, problem.products("gauss_newton", x, None, loss), psd=True)


class MonteCarloFisherOperator(CurvatureOperator):
    """(1/m) sum of g g^T over all rows and S targets drawn from the model at x, divided by S.

    Its expectation is the Fisher matrix; its rank is at most S m.

    Parameters
    ----------
    problem : KerasProblem
        With a loss that is a likelihood.
    x : (n,) array
    samples : int
        S, drawn once for each row.
    seed : int
        The targets of a row depend on it and on the row alone, not on the number of ranks.

    Raises
    ------
    InputError
        If the problem is no network, its loss no likelihood, or `samples` below 1.
    """

    def __init__(self, problem, x: np.ndarray, samples: int = 1, seed: int = 0):
        loss = _loss(problem, type(self).__name__)
        if samples < 1:
            raise InputError(f"a Monte Carlo Fisher matrix needs at least 1 sample, not {samples}")
        with problem.world.phase("sampling targets"):
            targets = sampled_targets(problem, x, loss, samples, seed)
        shard = problem.products("gauss_newton", x, targets, Outer(loss, samples))
        super().__init__(problem, x, shard, psd=True)


class EmpiricalFisherOperator(CurvatureOperator):
    """(1/m) sum of g g^T over all rows, g being a row's gradient: the gradients' second moment.

    Not centred, and not the Fisher matrix: the targets are those of the data.

    Parameters
    ----------
    problem : KerasProblem
    x : (n,) array

    Raises
    ------
    InputError
        If the problem is no network with a loss of its output.
    """

    def __init__(self, problem, x: np.ndarray):
        loss = _loss(problem, type(self).__name__)
        shard = problem.products("gauss_newton", x, None, Outer(loss))
        super().__init__(problem, x, shard, psd=True)


def _loss(problem, name: str):
    loss = getattr(problem, "loss", None)
    if loss is None:
        raise InputError(
            f"{name} needs a network and a loss of its output; {problem.name} has none"
        )
    return loss


class _RowNoise:
    """Random numbers for rows start:stop of all ranks' rows, each time further ones."""

    def __init__(self, seed: int, start: int, stop: int):
        self.seed, self.rows, self.used = seed, (start, stop), 0

    def uniform(self, size: int) -> tf.Tensor:
        return self._draw(random.uniform, size)

    def normal(self, size: int) -> tf.Tensor:
        return self._draw(random.standard_normal, size)

    def _draw(self, draw, size):
        columns = (self.used, self.used + size)
        self.used += size
        return tf.constant(draw(self.seed, random.TARGET_SAMPLES, self.rows, columns))


def sampled_targets(problem, x, loss, samples: int, seed: int) -> tf.Tensor:
    """(rows, samples, ...) targets for this shard's rows, of float64 outputs, by chunks of rows."""

    def of(chunk: slice) -> tf.Tensor:
        start = problem.data.start
        noise = _RowNoise(seed, start + chunk.start, start + chunk.stop)
        output = tf.constant(problem.output(x, problem.data.X[chunk]))
        drawn = tf.stack([loss.sample(output, noise) for _ in range(samples)], axis=1)
        return tf.cast(drawn, problem.dtype) if drawn.dtype.is_floating else drawn

    chunks = [c for part in problem.parts_here for c in problem.chunks(part, "float64", samples)]
    return tf.concat([of(chunk) for chunk in chunks or [slice(0, 0)]], 0)
