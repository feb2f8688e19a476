"""SOAP: its authors' numbers, its layers, and the same run on any number of ranks."""

from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from oracles import by_rank_0
from test_training import SHORT, check_kills, equal

from hesscomp.curvature.tensorflow import keras
from hesscomp.errors import InputError
from hesscomp.optimizers.batches import Batches, Sampling
from hesscomp.optimizers.loop import Saving, Stopping, train
from hesscomp.optimizers.optimizer import SPREAD
from hesscomp.optimizers.soap import MEANS_FIRST, SOAP, Part, equal_slices, layers_of, shares
from hesscomp.parallel.rows import row_range
from hesscomp.parallel.world import World
from hesscomp.problems.keras import KerasProblem
from hesscomp.problems.problem import ParameterBlock

pytestmark = pytest.mark.ranks(most=3)
BATCHES = Sampling(gradient=0.5, seed=7)
SMALL = SOAP(0.02, every=3, rotation=10.0)

# Of github.com/nikhilvyas/SOAP with PyTorch, its casts to float32 left out: lr 0.05, betas 0.9 and
# 0.8, shampoo_beta 0.7, precondition_frequency 3, 13 steps from zero.
OF_ITS_AUTHORS = [
    [0.1062583652, -0.0048203424, 0.0250100587, -0.0055744351],
    [0.2702025741, 0.0648495051, -0.1764546684, -0.0497632548],
    [0.0644107918, -0.0836448279, 0.2158502074, 0.0886322165],
]


@pytest.mark.serial
def test_steps_are_those_of_its_authors():
    blocks = (ParameterBlock("W", (3, 4), 0),)
    world = World.serial()
    problem = SimpleNamespace(
        rows=1, row_work=1e9, parameter_blocks=blocks, world=world, gradient_dtype="float64"
    )
    batches = SimpleNamespace(problem=problem, sampling=Sampling())
    soap, x = SOAP(0.05, beta1=0.9, beta2=0.8, memory=0.7, every=3), np.zeros(12)
    state = {**soap.start(x), SPREAD: np.zeros(soap.part_here(batches)[1])}
    for k in range(13):
        g = np.cos((12 * k + np.arange(12.0)) ** 1.5)
        task = SimpleNamespace(
            x=x, gradient=g, batches=batches, gradient_batch=batches, world=world
        )
        outcome = soap.step(task, state)
        x, state = outcome.x, outcome.state
        assert k or not x.any()  # the first update is skipped
    np.testing.assert_allclose(x.reshape(3, 4), OF_ITS_AUTHORS, atol=1e-7)


def network(world):
    """A convolution and a dense layer, on rows of which each rank has some."""
    rng = np.random.default_rng(0)
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((4, 4, 1)), layers.Conv2D(3, 2, activation="tanh", name="taps"),
        layers.Flatten(), layers.Dense(3, name="last"),
    ], name="small")  # fmt: skip
    model.set_weights([rng.standard_normal(w.shape) / 3 for w in model.get_weights()])
    X, y = rng.standard_normal((60, 4, 4, 1)), rng.integers(0, 3, 60)
    rows = slice(*row_range(60, world.rank, world.size))
    return KerasProblem(
        model, "softmax-cross-entropy", (X[rows], y[rows]), world, dtype="float64", check="off"
    )


@pytest.fixture(scope="module")
def small(world):
    return network(world)


@pytest.fixture(scope="module")
def pair(world):
    """The same problem over all ranks, and over this rank alone, both reproducible."""
    return [network(World(comm, reproducible=True)) for comm in (world.comm, World.serial().comm)]


@pytest.mark.serial
def test_layers_are_matrices_and_the_cheapest_sides_are_rotated(small):
    parts, _ = SMALL._parts(Batches(small, Sampling()))
    found = [(p.layer.first, p.layer.shape, p.side and p.side.axis) for p in parts]
    layers = (0, (5, 3)), (15, (28, 3))
    assert found == [(*layer, axis) for layer in layers for axis in (0, 1, None)]
    # 3 for each parameter, those of the convolution at 9 places
    assert small.row_work == 3 * (9 * 15 + 84)
    sides = [axis for layer in layers_of(small.parameter_blocks, 3000.0, 10) for axis in layer.axes]
    assert sides == [0, 1, 1]  # all but that of 28
    assert not any(layer.axes for layer in layers_of(small.parameter_blocks, 1.0, 10))
    alone = (ParameterBlock("a/gamma", (3,), 0), ParameterBlock("b/bias", (3,), 3))
    assert [layer.shape for layer in layers_of(alone, 1e9, 10)] == [(3, 1), (3, 1)]
    assert equal_slices(np.array([3.0, 1.0, 1.0, 1.0]), 2) == [slice(0, 1), slice(1, 4)]
    assert equal_slices(np.array([1.0]), 3) == [slice(0, 0), slice(0, 1), slice(1, 1)]
    # The first side's renewals alone keep its rank: the steps' work is what can be shared.
    layer = layers_of(alone, 1e9, 10)[0]
    some = [Part(layer, None, 1, 1.0, renewal) for renewal in (90.0, 0.0, 0.0, 0.0)]
    assert shares(tuple(some), 2, 10) == [slice(0, 2), slice(2, 4)]


def test_it_trains_and_ranks_change_its_rounding_alone(world, small):
    settings = {"sampling": BATCHES, "stopping": Stopping(max_steps=40)}
    found = train(small, SMALL, **settings)
    assert found.best_objective < 0.7 * found.history.rows[0]["full_objective"]
    np.testing.assert_array_equal(found.history.column("learning_rate")[1:3], [0, 0.02])
    serial = by_rank_0(world, lambda: train(network(World.serial()), SMALL, **settings))
    np.testing.assert_allclose(found.x, serial.x, atol=1e-7)


def test_reproducible_runs_go_on_with_another_number_of_ranks(world, pair, shared_tmp):
    """With the same bits, although each rank holds and saves the state of some parts only."""
    spread, alone = pair
    settings = {"sampling": BATCHES, "stopping": Stopping(max_steps=12)}
    whole = by_rank_0(world, train, alone, SMALL, **settings)
    assert equal(train(spread, SMALL, **settings), whole)
    saving = Saving(str(shared_tmp), every=1)
    seventh = (lambda row, x: row["step"] == 7,)
    train(spread, SMALL, sampling=BATCHES, saving=saving, callbacks=seventh)
    assert equal(by_rank_0(world, train, alone, SMALL, saving=saving, **settings), whole)


@pytest.mark.serial
def test_a_state_in_another_order_is_refused(small, tmp_path):
    """As the version before wrote it: of as many numbers, and without a word on their order."""
    saving = Saving(str(tmp_path), every=1)
    train(small, SMALL, sampling=BATCHES, saving=saving, stopping=Stopping(max_steps=3))
    for path in tmp_path.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            del file[f"state/{MEANS_FIRST}"]
    with pytest.raises(InputError, match=f"{MEANS_FIRST}.* to start again"):
        train(small, SMALL, sampling=BATCHES, saving=saving, stopping=Stopping(max_steps=5))


@pytest.mark.ranks(most=2)
def test_a_killed_run_goes_on_as_if_nothing_had_been(small, shared_tmp):
    check_kills(small, shared_tmp, SMALL, 3, BATCHES, **SHORT)
