"""Models of several inputs and outputs from the command line: one file of arrays by their names."""

import h5py
import keras
import numpy as np
import pytest
from marks import two_ranks_but
from oracles import by_rank_0

import hesscomp as hc
from hesscomp.errors import InputError
from hesscomp.workflows import factors
from hesscomp.workflows.factors import CompressRequest

LOSS = "kind=sparse_categorical_crossentropy,price=mse"
ROWS = 31


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "words": rng.integers(0, 5, (ROWS, 3)),
        "picture": rng.standard_normal((ROWS, 4, 2)),
        "kind": rng.integers(0, 3, ROWS),
        "price": rng.standard_normal((ROWS, 1)),
    }


def model(outputs: int = 2) -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    words = keras.Input((3,), dtype="int32", name="words")
    picture = keras.Input((4, 2), name="picture")
    hidden = layers.Concatenate()(
        [layers.Flatten()(layers.Embedding(5, 2)(words)), layers.Flatten()(picture)]
    )
    kind, price = layers.Dense(3, name="kind")(hidden), layers.Dense(1, name="price")(hidden)
    return keras.Model([words, picture], [kind, price] if outputs == 2 else price)


def write(folder, world, outputs: int = 2, **changed) -> None:
    if world.rank == 0:
        model(outputs).save(folder / "m.keras")
        held = {name: each for name, each in (arrays() | changed).items() if each is not None}
        np.savez(folder / "d.npz", **held)
        with h5py.File(folder / "d.h5", "w") as file:
            for name, each in held.items():
                file[name] = each
    world.gather(None)


def compress(folder, world, file="d.npz", loss=LOSS, **options):
    request = CompressRequest(
        model=str(folder / "m.keras"), data=str(folder / file), loss=loss, rank=5,
        dtype="float64", **options,
    )  # fmt: skip
    return factors.compress(request, world).factor


@pytest.mark.ranks
@pytest.mark.parametrize("file", two_ranks_but(["d.npz"], ["d.npz", "d.h5"]))
def test_a_file_with_an_array_for_each_input_and_output(world, shared_tmp, file):
    """As in Python with the same arrays, on any number of ranks."""
    write(shared_tmp, world)
    found, rows = compress(shared_tmp, world, file), arrays()
    pair = ("words", "picture"), ("kind", "price")
    X, y = ({name: rows[name] for name in names} for names in pair)
    losses = dict(part.split("=") for part in LOSS.split(","))
    H = hc.hessian(model(), losses, (X, y), dtype="float64", world=hc.World.serial())
    expected = by_rank_0(world, lambda: hc.compress(H, 5).eigenvalues)
    np.testing.assert_allclose(found.eigenvalues, expected, rtol=1e-8)
    assert found.provenance.rows == ROWS and found.provenance.dataset.endswith(file)


@pytest.mark.parametrize("name", ["y", "price"])
def test_the_target_of_one_output(world, tmp_path, name):
    rows = arrays()
    write(tmp_path, world, 1, **{"kind": None, "price": None, name: rows["price"]})
    X = {each: rows[each] for each in ("words", "picture")}
    H = hc.hessian(model(1), "mse", (X, rows["price"]), dtype="float64", world=world)
    found = compress(tmp_path, world, loss="mse")
    np.testing.assert_allclose(found.eigenvalues, hc.compress(H, 5).eigenvalues, rtol=1e-8)


def test_what_a_file_lacks_is_said(world, tmp_path):
    cases = (
        (
            {"words": None},
            {},
            "has no array for words of .*; it has picture, kind, price. Store",
        ),
        ({"more": np.ones(ROWS)}, {}, "the targets name more, but there are kind, price"),
        ({"price": np.ones(3)}, {}, "its arrays differ in their rows: .* price 3"),
        ({"price": np.array([b"a"] * ROWS)}, {}, "price is no array of rows of numbers"),
        ({}, {"label": "kind"}, "`label` does not go with a file that has an array for each"),
    )
    for changed, options, message in cases:
        write(tmp_path, world, **changed)
        with pytest.raises(InputError, match=message):
            compress(tmp_path, world, **options)
