"""K-FAC and E-KFAC: against dense matrices, NumPy's Kronecker products, and one rank alone."""

import numpy as np
import pytest
import scipy.sparse.linalg
from marks import slow_but, two_ranks_but
from oracles import by_rank_0
from shards import block_rows, mine

import hesscomp as hc
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.errors import InputError
from hesscomp.parallel.world import World
from hesscomp.problems.keras import KerasProblem

pytestmark = pytest.mark.ranks(most=3)
L = keras.layers
ROWS, LOSS = 7, "softmax-cross-entropy"
RNG = np.random.default_rng(0)


def seeded(*stack) -> keras.Model:
    """The model with weights that depend on nothing but their shapes."""
    model, rng = keras.Sequential(list(stack)), np.random.default_rng(2)
    for variable in model.variables:
        values = rng.uniform(-0.8, 0.8, variable.shape)
        variable.assign(np.abs(values) if variable.name == "moving_variance" else values)
    return model


def convolutional():
    shared = L.Dense(3, "tanh", name="shared")
    return seeded(
        keras.Input((5, 5, 2)),
        L.Conv2D(2, 2, strides=2, padding="same", activation="tanh", name="strided"),
        L.BatchNormalization(name="norm"),
        L.Conv2D(2, 2, dilation_rate=2, padding="same", use_bias=False, name="dilated"),
        L.DepthwiseConv2D(2, name="depthwise"),
        L.Flatten(),
        L.Dense(3, name="first"),
        shared,
        shared,
        L.Dense(3, name="classes"),
    )


def sequences():
    return seeded(
        keras.Input((4,), dtype="int32"),
        L.Embedding(6, 2, name="words"),
        L.Conv1D(2, 2, padding="causal", name="past"),
        L.LayerNormalization(name="norm"),
        L.Dense(3, name="classes"),
    )


IMAGES = RNG.standard_normal((ROWS, 5, 5, 2)), np.arange(ROWS) % 3
WORDS = RNG.integers(0, 6, (ROWS, 4)).astype("int32"), RNG.integers(0, 3, (ROWS, 4))
MODELS = {"images": (convolutional, IMAGES), "sequences": (sequences, WORDS)}
FORMS = {
    "images": {
        "strided": "9 x 2", "norm": "diagonal", "dilated": "8 x 2", "depthwise": "diagonal",
        "first": "9 x 3", "shared": "diagonal", "classes": "4 x 3",
    },
    "sequences": {
        "words": "diagonal", "past": "5 x 2", "norm": "diagonal", "classes": "3 x 3",
    },
}  # fmt: skip


CASES = (("images", "type-2"), ("images", "empirical"), ("sequences", "sampled"))


@pytest.fixture(scope="module")
def problems(world):
    """Of each model a problem on all ranks, with no rows on the first, and on one rank alone."""
    made = {}
    for name, (make, data) in MODELS.items():
        spread = KerasProblem(make(), LOSS, mine(world, *data), world, dtype="float64")
        alone = KerasProblem(make(), LOSS, data, World.serial(), dtype="float64")
        made[name] = spread, spread if world.size == 1 else alone
    return made


def exact(problem, statistic):
    """The matrix that is approximated, by the operators."""
    return {
        "type-2": lambda: hc.ggn(problem),
        "sampled": lambda: hc.fisher(problem, samples=2, seed=3),
        "empirical": lambda: hc.empirical_fisher(problem),
    }[statistic]().to_dense()


def made(problem, statistic, **options):
    return hc.kfac(problem, statistic=statistic, samples=2, seed=3, **options)


def of_one_rank(problem, statistic):
    """The exact matrix and both of its approximations, dense."""
    factors = [made(problem, statistic, corrected=corrected) for corrected in (False, True)]
    return exact(problem, statistic), *(factor.to_dense() for factor in factors)


@pytest.mark.parametrize(
    "name, statistic", [*two_ranks_but([], CASES[:1]), *slow_but(CASES[2:], CASES[1:])]
)
def test_a_corrected_spectrum_is_the_diagonal_in_the_eigenbasis(world, problems, name, statistic):
    """So it is the best one in that basis; and other layers have the diagonal itself."""
    spread, alone = problems[name]
    D, *there = by_rank_0(world, of_one_rank, alone, statistic)
    K, E = (made(spread, statistic, corrected=corrected) for corrected in (False, True))
    assert E.forms == FORMS[name]
    assert E.provenance.rows == ROWS and E.provenance.operator == "E-KFAC"
    np.testing.assert_array_equal(E.bases, K.bases)
    np.testing.assert_allclose(E.trace(), np.trace(D), rtol=1e-12)
    rest = E._rest()
    np.testing.assert_allclose(E.diagonal()[rest], np.diag(D)[rest], rtol=1e-10, atol=1e-14)
    for first, Q, R in E._layers():
        part = slice(first, first + len(Q) * len(R))
        basis = np.kron(Q, R)
        inside = np.diag(basis.T @ D[part, part] @ basis)
        np.testing.assert_allclose(E.spectrum[part], inside, rtol=1e-9, atol=1e-13)
    errors = [np.linalg.norm(D - factor.to_dense()) for factor in (E, K)]
    assert errors[0] < errors[1] < np.linalg.norm(D)
    for factor, expected in zip((K, E), there, strict=True):  # the bases are those of one sum
        np.testing.assert_allclose(factor.to_dense(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.serial
def test_little_memory(problems):
    """The same numbers a row at a time."""
    make, data = MODELS["sequences"]
    alone = made(problems["sequences"][1], "type-2", corrected=True)
    few = KerasProblem(make(), LOSS, data, World.serial(), dtype="float64", memory=2e4)
    few = made(few, "type-2", corrected=True)
    np.testing.assert_allclose(few.to_dense(), alone.to_dense(), rtol=1e-10, atol=1e-13)


def test_reproducible_sums(world, problems):
    """The same bits on any ranks."""
    make, data = MODELS["sequences"]
    here = [part[block_rows(world, ROWS)] for part in data]

    def fixed(comm, data):
        return KerasProblem(make(), LOSS, data, World(comm, reproducible=True), dtype="float64")

    found = made(fixed(world.comm, here), "type-2", corrected=True)
    if world.size > 1:
        alone = fixed(World.serial().comm, data)
        spectrum = by_rank_0(world, lambda: made(alone, "type-2", corrected=True).spectrum)
        np.testing.assert_array_equal(found.spectrum, spectrum)
    plain = made(problems["sequences"][0], "type-2", corrected=True)
    np.testing.assert_allclose(found.to_dense(), plain.to_dense(), atol=1e-12)


def patches(x, size, stride):
    """The windows of (rows, h, w, c) images, without padding: (rows, places, size^2 c)."""
    steps = range(0, x.shape[1] - size + 1, stride)
    found = [x[:, i : i + size, j : j + size].reshape(len(x), -1) for i in steps for j in steps]
    return np.stack(found, 1)


def test_blocks_are_kronecker_products_by_numpy(world):
    """Of the data's gradients, by TensorFlow's tape at each layer's output."""
    X, y = RNG.standard_normal((ROWS, 5, 5, 2)), np.arange(ROWS) % 3
    model = seeded(
        keras.Input((5, 5, 2), dtype="float64"),
        L.Conv2D(3, 2, strides=2, name="conv", dtype="float64"),
        L.Activation("tanh", dtype="float64"),
        L.Flatten(dtype="float64"),
        L.Dense(3, name="dense", dtype="float64"),
    )
    problem = KerasProblem(model, LOSS, mine(world, X, y), world, dtype="float64")
    K = hc.kfac(problem, statistic="empirical")
    conv, tanh, flat, dense = model.layers
    with tf.GradientTape() as tape:
        before = conv(X)
        inputs = flat(tanh(before))
        output = dense(inputs)
        tape.watch([before, output])
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, output)
    by_conv, by_dense = tape.gradient(loss, [before, output])
    a = np.concatenate([patches(X, 2, 2), np.ones((ROWS, 4, 1))], -1)
    d = by_conv.numpy().reshape(ROWS, 4, 3)
    A, G = np.einsum("bti,btj->ij", a, a) / ROWS, np.einsum("bti,btj->ij", d, d) / (4 * ROWS)
    np.testing.assert_allclose(K.layer("conv").to_dense(), np.kron(A, G), atol=1e-13)
    a, d = np.concatenate([inputs, np.ones((ROWS, 1))], 1), by_dense.numpy()
    expected = np.kron(a.T @ a, d.T @ d) / ROWS**2
    np.testing.assert_allclose(K.layer("dense").to_dense(), expected, atol=1e-13)


@pytest.mark.parametrize("loss", ["mse", "squared-error", "log_cosh"])
def test_one_linear_layer_of_squared_error_is_exact(world, loss):
    X, Y = RNG.standard_normal((ROWS, 4)), RNG.standard_normal((ROWS, 2))
    model = seeded(keras.Input((4,)), L.Dense(2, name="only"))
    problem = KerasProblem(model, loss, mine(world, X, Y), world, dtype="float64")
    if loss == "log_cosh":  # convex, but not known to be
        with pytest.raises(InputError, match=r"not known to be convex .* statistic empirical"):
            hc.kfac(problem)
        return
    G = hc.ggn(problem)
    for corrected in (False, True):
        K = hc.kfac(problem, corrected=corrected)
        np.testing.assert_allclose(K.to_dense(), G.to_dense(), atol=1e-13)
    np.testing.assert_allclose(G.shifted(0.1) @ K.solve(np.ones(10), 0.1), 1.0, atol=1e-12)


def test_a_preconditioner_for_cg(world):
    X, y = RNG.standard_normal((60, 8)) * np.geomspace(1, 100, 8), np.arange(60) % 3
    model = seeded(keras.Input((8,)), L.Dense(3))
    problem = KerasProblem(model, LOSS, mine(world, X, y), world, ridge=1e-3, dtype="float64")
    A, b = hc.ggn(problem, at="zero").shifted(1e-3), np.linspace(-1, 2, problem.n)
    counts = []
    for M in (None, hc.kfac(problem, at="zero").preconditioner(1e-3)):
        steps = []
        x, failed = scipy.sparse.linalg.cg(A, b, M=M, rtol=1e-8, callback=steps.append)
        assert not failed
        counts.append(len(steps))
    assert counts[1] < counts[0] / 5
    np.testing.assert_allclose(A @ x, b, atol=1e-6)


@pytest.mark.serial
def test_what_has_no_kronecker_factors_is_refused(tmp_path):
    X, y = RNG.standard_normal((ROWS, 3)), np.arange(ROWS) % 3
    recurrent = seeded(keras.Input((3, 1)), L.SimpleRNN(2), L.Dense(3))
    problem = KerasProblem(recurrent, LOSS, (X[..., None], y), World.serial())
    with pytest.raises(InputError, match=r"generic engine.* need dense or convolutional layers"):
        hc.kfac(problem)
    with pytest.raises(InputError, match="lacks the capability 'Kronecker factors'"):
        hc.kfac(hc.LogisticRegression(hc.load_data("adult")))
    model = seeded(keras.Input((3,)), L.Dense(3))
    with pytest.raises(InputError, match="unknown statistic mc; use type-2, sampled or empirical"):
        hc.kfac(model, LOSS, (X, y), statistic="mc")
    with pytest.raises(InputError, match="at least 1 sample, not 0"):
        hc.kfac(model, LOSS, (X, y), statistic="sampled", samples=0)
    problem = KerasProblem(model, LOSS, (X, y), World.serial())
    with pytest.warns(DeprecationWarning, match="is now `kronecker_matrices`"):
        ((A, G),) = problem.kronecker_factors(problem.initial, seed=3)
    ((_, *now),) = problem.kronecker_matrices(problem.initial, "sampled", seed=3).layers
    np.testing.assert_array_equal(A, now[0])
    np.testing.assert_array_equal(G, now[1])
    K = hc.kfac(model, LOSS, (X, y))
    hc.save(K, tmp_path / "k.h5")
    assert hc.load(tmp_path / "k.h5").forms == K.forms == {model.layers[0].name: "4 x 3"}
