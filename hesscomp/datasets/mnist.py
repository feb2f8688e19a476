"""MNIST: 28 x 28 grey images of handwritten digits (LeCun, Cortes and Burges).

Two data sets, which are never taken for one another: "mnist" is the four IDX files in the folder
mnist/ of HESSCOMP_DATA, packed (.gz) or not, 60,000 training and 10,000 test images;
"mnist-sample" is packaged, the first 5,000 and the first 1,000 of them. "mnist-download" is "mnist"
out of the file that Keras downloads and keeps.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from hesscomp.datasets.dataset import Dataset, aligned_empty, from_arrays
from hesscomp.datasets.files import load_file
from hesscomp.datasets.known_files import downloaded_file, packaged_file
from hesscomp.datasets.targets import CLASSES, INPUT
from hesscomp.errors import InputError
from hesscomp.parallel.rows import row_range
from hesscomp.parallel.world import World

FOLDER = "HESSCOMP_DATA"
IMAGES = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
LABELS = ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte")
SHAPE = (60_000, 10_000, 784)  # training rows, test rows, pixels
SAMPLE_SHAPE = (5_000, 1_000, 784)
KERAS_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
KERAS_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"


def load_mnist(world: World, targets: str | None = None, dtype: str | None = None) -> Dataset:
    """Load all of MNIST, pixels value/255; see `load_dataset` for the arguments. Collective.

    Every rank unpacks the files up to its own last row, and keeps its own rows: 188 MB over all
    ranks in float32.

    Raises
    ------
    InputError
        If HESSCOMP_DATA names no folder with mnist/ and its four files, or they hold something
        else.
    """
    with world.phase("looking for MNIST"):
        folder = os.environ.get(FOLDER)
        if not folder:
            raise InputError(
                f"mnist: set {FOLDER} to the folder that holds mnist/{IMAGES[0]}.gz and the "
                "three other files of MNIST, or take mnist-sample, which is packaged, or "
                "mnist-download"
            )
        files = [_find(Path(folder) / "mnist", name) for name in (*IMAGES, *LABELS)]
    return _load("mnist", files, SHAPE, world, targets, dtype)


def load_mnist_sample(
    world: World, targets: str | None = None, dtype: str | None = None
) -> Dataset:
    """Load the packaged sample of MNIST as `load_mnist`; its SHA-256 is checked. Collective."""
    with world.phase("checking the packaged MNIST sample"):
        files = [packaged_file("mnist", f"{name}.gz") for name in (*IMAGES, *LABELS)]
    return _load("mnist-sample", files, SAMPLE_SHAPE, world, targets, dtype)


def load_mnist_download(
    world: World, targets: str | None = None, dtype: str | None = None
) -> Dataset:
    """Load all of MNIST, equal to `load_mnist`'s, from Keras' download. Collective.

    ``datasets/mnist.npz`` in KERAS_HOME (by default ``~/.keras``), checked by SHA-256. Where it is
    missing, the first rank on each node fetches it (11 MB) and the others wait. Every rank unpacks
    it (55 MB) and keeps its own rows.

    Raises
    ------
    InputError
        Where it is missing and there is no network, or it is another file.
    """
    path = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "datasets" / "mnist.npz"
    first = world.place_here() == 0
    with world.phase("downloading MNIST"):
        if first:
            instead = f"put MNIST's files where {FOLDER} says (docs/data.md), or take mnist-sample"
            downloaded_file(KERAS_URL, KERAS_SHA256, path, instead)
    with world.phase(f"reading {path}"), np.load(path, allow_pickle=False) as arrays:
        train, test = (
            _own_rows(arrays[f"x_{part}"], arrays[f"y_{part}"], world, targets, dtype)
            for part in ("train", "test")
        )
    return from_arrays(*train, world, "mnist", test, targets or CLASSES)


def _own_rows(images, labels, world: World, targets, dtype) -> tuple[np.ndarray, Any]:
    rows = slice(*row_range(len(images), world.rank, world.size))
    pixels = images[rows].reshape(rows.stop - rows.start, -1)
    X = np.divide(pixels, 255, out=aligned_empty(pixels.shape, dtype or "float32"))
    return X, None if targets == INPUT else labels[rows]


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.exists():
            return path
    raise InputError(f"{folder / name}.gz: no such file; put MNIST there, or take mnist-sample")


def _load(name: str, files: list[Path], shape, world: World, targets, dtype) -> Dataset:
    train, test, *_ = files
    dataset = load_file(
        train, world, format="idx", test=test, targets=targets, dtype=dtype, name=name
    )
    assert dataset.test is not None  # it was named
    found = (dataset.rows, dataset.test.total, dataset.features)
    if found != shape:
        raise InputError(
            f"{train.parent}: holds {found[0]} and {found[1]} images of {found[2]} pixels, but "
            f"{name} has {shape[0]} and {shape[1]} of {shape[2]}; name the files instead"
        )
    return dataset
