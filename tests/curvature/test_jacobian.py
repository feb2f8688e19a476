"""The Jacobian: blocks and vectors in any panels, the same bits on any ranks, shapes refused."""

import numpy as np
import pytest
from keras_oracle import in_float64
from marks import several_but, two_ranks_but
from oracles import by_rank_0
from shards import mine
from test_networks import ROWS, dense_matrices, mlp, rows, softmax_loss

import hesscomp as hc
from hesscomp.curvature.jacobian import Jacobian
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.errors import InputError
from hesscomp.parallel.world import World
from hesscomp.problems.keras import KerasProblem

pytestmark = pytest.mark.ranks
LOSS = "softmax-cross-entropy"
MEMORIES = [("float64", 2**30), ("float32", 200_000)]  # of panels whole, and of some columns


@pytest.fixture(scope="module")
def model():
    return in_float64(mlp)


@pytest.mark.parametrize("memory", [2**30, 2000], ids=["whole", "panels"])
def test_vectors_and_panels(world, model, memory):
    X, y = rows(model)
    J = dense_matrices(model, softmax_loss, X, y)[2].reshape(ROWS, 3, -1)
    data = mine(world, X, y)
    problem = KerasProblem(model, LOSS, data, world, dtype="float64", memory=memory)
    jacobian, rng = Jacobian(problem, problem.initial), np.random.default_rng(0)
    V, U = rng.standard_normal((problem.n, 5)), rng.standard_normal((ROWS, 3, 5))
    (here,), (u,) = mine(world, J), mine(world, U)
    np.testing.assert_allclose(jacobian @ V, here @ V, atol=1e-12)
    np.testing.assert_allclose(jacobian @ V[:, 0], here @ V[:, 0], atol=1e-12)
    whole = np.einsum("icn,ick->nk", J, U)
    np.testing.assert_allclose(jacobian.T @ u, whole, atol=1e-12)
    np.testing.assert_allclose(jacobian.T @ u[..., 1], whole[:, 1], atol=1e-12)


def test_blocks_that_do_not_fit_are_refused(world, model):
    problem = KerasProblem(model, LOSS, mine(world, *rows(model)), world)
    jacobian = Jacobian(problem, problem.initial)
    with pytest.raises(InputError, match="it cannot multiply"):
        jacobian @ np.ones((problem.n + 1, 2))
    with pytest.raises(InputError, match="this rank's rows"):
        jacobian.T @ np.ones((ROWS + 1, 3, 2))
    with pytest.raises(InputError, match="this rank's rows"):  # wrong on one rank: all hear of it
        jacobian.T @ np.ones((len(problem.data.X) + (world.rank == 0), 3, 2))
    if world.size > 1:
        with pytest.raises(InputError, match="differ in more than their rows"):
            jacobian.T @ np.ones((len(problem.data.X), 3, 2 + world.rank))


def test_reproducible_on_any_number_of_ranks(model):
    world = World(reproducible=True)
    X, y = rows(model)
    shares = np.linspace(0, ROWS, world.size + 1).astype(int)
    here = slice(shares[world.rank], shares[world.rank + 1])
    problem = KerasProblem(model, LOSS, (X[here], y[here]), world)
    alone = KerasProblem(model, LOSS, (X, y), World(World.serial().comm, reproducible=True))
    U, x = np.random.default_rng(1).standard_normal((ROWS, 3, 4)), problem.initial
    np.testing.assert_array_equal(Jacobian(problem, x).T @ U[here], Jacobian(alone, x).T @ U)


def collocation(world, dtype, memory):
    """Pose residuals of one and of two numbers at 190 points: blocks of 3 and a rest."""
    keras.utils.set_random_seed(1)
    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((2,)), dense(16, "tanh"), dense(9, "tanh"), dense(1)])
    square = hc.Box([0, 0], [1, 1])
    groups = [
        hc.Group(square.random(131, seed=3), lambda laplacian, x: laplacian + 3 * x[:, 0]),
        hc.Group(square.boundary_random(59, seed=4), lambda u: tf.stack([u, u * u], 1), weight=3),
    ]
    return hc.ResidualProblem(model, groups, world, dtype=dtype, memory=memory)


@pytest.mark.ranks(most=4)
@pytest.mark.parametrize(
    ("dtype", "memory"), several_but(MEMORIES[:1], two_ranks_but(MEMORIES[1:], MEMORIES))
)
def test_rows_products_and_gram_matrix_have_the_same_bits_on_any_number_of_ranks(
    world, dtype, memory
):
    spread = collocation(World(reproducible=True), dtype, memory)
    alone = collocation(World(World.serial().comm, reproducible=True), dtype, memory)
    here = slice(spread.data.start, spread.data.start + spread.rows_here)
    rng = np.random.default_rng(2)
    V, U = rng.standard_normal((spread.n, 3)), rng.standard_normal((spread.rows, 2, 3))

    def numbers(problem, U):
        J = hc.jacobian(problem)
        return J.rows(), J @ V, J.T @ U, J.gram()

    rows, product, transposed, gram = by_rank_0(world, numbers, alone, U)
    found = numbers(spread, U[here])
    for each, expected in zip(found, (rows[here], product[here], transposed, gram), strict=True):
        np.testing.assert_array_equal(each, expected)
