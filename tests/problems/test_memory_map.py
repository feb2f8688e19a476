"""Rows that stay in their file: the numbers of those in memory, and what cannot be mapped."""

import h5py
import numpy as np
import pytest
from marks import serial_but
from mpi4py import MPI

import hesscomp as hc
from hesscomp.curvature.tensorflow import keras
from hesscomp.datasets import load_dataset
from hesscomp.errors import InputError
from hesscomp.optimizers.batches import Sampling
from hesscomp.optimizers.first_order import SGD
from hesscomp.optimizers.loop import Stopping, train
from hesscomp.parallel.world import World
from hesscomp.problems.keras import KerasProblem
from hesscomp.storage.npy import is_mapped

ROWS, FEATURES = 61, 5


def rows(dtype="float32"):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((ROWS, FEATURES)).astype(dtype)
    return X, (X.sum(axis=1) > 0).astype(np.int64)


def write(path, X, y, **how):
    if path.suffix == ".npz":
        np.savez(path, X=X, y=y)
    elif path.suffix == ".npy":
        np.save(path, np.column_stack((X, y)).astype(X.dtype))
    else:
        with h5py.File(path, "w", userblock_size=how.pop("userblock", 0)) as file:
            file.create_dataset("X", data=X, **how)
            file.create_dataset("y", data=y)
    return path


def problem(data, world):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((FEATURES,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)]
    return KerasProblem(keras.Sequential(layers), "softmax-cross-entropy", data, world)


@pytest.mark.ranks
@pytest.mark.parametrize("name", serial_but(["d.h5"], ["d.h5", "d.npz", "d.npy"]))
def test_mapped_rows_give_the_same_numbers(shared_tmp, world, name):
    path = shared_tmp / name
    if world.rank == 0:
        write(path, *rows(), **({"userblock": 512} if name == "d.h5" else {}))
    world.comm.Barrier()
    mapped, held = (
        load_dataset(path, world, targets="classes", memory_map=flag) for flag in (True, False)
    )
    assert is_mapped(mapped.train.X) and not is_mapped(held.train.X)
    assert mapped.fingerprint == held.fingerprint
    one, other = problem(mapped, world), problem(held, world)
    x = one.initial
    for here, there in (
        (one.objective(x), other.objective(x)),
        (one.objective_and_gradient(x)[1], other.objective_and_gradient(x)[1]),
        (hc.hessian(one) @ x, hc.hessian(other) @ x),
        (one.squared_gradients(x), other.squared_gradients(x)),
        (one.row_squares(x), other.row_squares(x)),
    ):
        np.testing.assert_allclose(here, there, rtol=1e-6, atol=1e-8)
    found = [
        train(each, SGD(0.1), sampling=Sampling(0.3), stopping=Stopping(max_steps=3)).x
        for each in (one, other)
    ]
    np.testing.assert_array_equal(*found)


def test_a_users_own_map_is_left_in_its_file(tmp_path):
    X, y = rows()
    np.save(tmp_path / "X.npy", X)
    mapped = problem((np.load(tmp_path / "X.npy", mmap_mode="r"), y), World(MPI.COMM_SELF))
    assert is_mapped(mapped.data.X)
    held = problem((X, y), World(MPI.COMM_SELF))
    found = [hc.per_example_gradients(each) for each in (mapped, held)]
    np.testing.assert_allclose(*found, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"compression": "gzip"}, "stored in chunks.*h5repack -l CONTI"),
        ({"dtype": "int32"}, "X has type int32; store a dense array of float32 or float64"),
        ({"dtype": ">f4"}, "X has type >f4"),
    ],
)
def test_what_cannot_be_mapped_is_refused(tmp_path, how, told):
    path = write(tmp_path / "d.h5", *rows(), **how)
    with pytest.raises(InputError, match=told):
        load_dataset(path, World(MPI.COMM_SELF), memory_map=True)


def test_other_formats_and_types_are_refused(tmp_path):
    (tmp_path / "d.csv").write_text("a,b\n1,0\n2,1\n")
    with pytest.raises(InputError, match="`memory_map` goes with HDF5, NPZ and NPY files"):
        load_dataset(tmp_path / "d.csv", World(MPI.COMM_SELF), memory_map=True)
    path = write(tmp_path / "d.npz", *rows())
    with pytest.raises(InputError, match="give `dtype` or `memory_map`"):
        load_dataset(path, World(MPI.COMM_SELF), memory_map=True, dtype="float64")
    np.savez_compressed(tmp_path / "e.npz", X=rows()[0], y=rows()[1])
    with pytest.raises(InputError, match="not compressed; store X plainly"):
        load_dataset(tmp_path / "e.npz", World(MPI.COMM_SELF), memory_map=True)
