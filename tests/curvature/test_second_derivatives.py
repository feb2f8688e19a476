"""Second derivatives of any function: right where TensorFlow holds back gradients, or refused."""

import numpy as np
import pytest
import scipy.special
from keras_oracle import in_float64
from oracles import check_operator

from hesscomp.curvature.finite_difference import FiniteDifferenceHessian
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.errors import InputError
from hesscomp.parallel.world import World
from hesscomp.problems.function import FunctionProblem
from hesscomp.problems.keras import KerasProblem

layers = keras.layers
rng = np.random.default_rng(0)
X, Y = rng.standard_normal((6, 4)), rng.integers(0, 3, 6)


@pytest.mark.parametrize("keepdims", [False, True])
def test_softmax_regression_by_logsumexp(keepdims):
    """Against its closed form: the sum of (diag(p) - p p^T) over the classes times a a^T."""

    def loss_sum(theta, X, y):
        logits = X @ theta
        total = tf.reshape(tf.reduce_logsumexp(logits, 1, keepdims=keepdims), [-1])
        return tf.reduce_sum(total - tf.gather(logits, y, batch_dims=1))

    theta = rng.standard_normal((4, 3))
    problem = FunctionProblem(loss_sum, theta, (X, Y), World(), dtype="float64")
    p = scipy.special.softmax(X @ theta, axis=1)
    B = np.einsum("ic,cd->icd", p, np.eye(3)) - np.einsum("ic,id->icd", p, p)
    H = np.einsum("ia,ib,icd->acbd", X, X, B).reshape(12, 12) / len(X)
    check_operator(HessianOperator(problem, problem.initial), H, 1e-12)


@pytest.mark.parametrize("hold", [tf.stop_gradient, lambda v: tf.nn.moments(v, [1], None, True)[1]])
def test_other_stopped_gradients_are_refused(hold):
    def loss_sum(theta, X, y):
        return tf.reduce_sum((X @ theta) ** 2 * hold(X @ theta))

    problem = FunctionProblem(
        loss_sum, np.ones((4, 3)), (X, Y), World(), dtype="float64", check="off"
    )
    with pytest.raises(InputError, match="stops the gradient"):
        HessianOperator(problem, problem.initial).to_dense()


def normalising():
    """A sum that the layer-wise engine does not know, and two layers with moments."""
    data = layers.Input((4,))
    hidden = layers.LayerNormalization()(layers.Dense(4)(data))
    return keras.Model(data, layers.GroupNormalization(2)(hidden + data), name="normalising")


def test_networks_that_normalise():
    problem = KerasProblem(
        in_float64(normalising), "softmax-cross-entropy", (X, Y), World(), dtype="float64"
    )
    x = problem.initial
    assert problem.engine.name == "generic"
    differences = FiniteDifferenceHessian(problem, x).to_dense()
    hessian = HessianOperator(problem, x).to_dense()
    assert np.linalg.norm(hessian - differences) <= 1e-7 * np.linalg.norm(hessian)
