"""The door: data sets by name, or from files."""

import os
from collections.abc import Sequence
from dataclasses import fields

from hesscomp.datasets.adult import load_adult
from hesscomp.datasets.curves import load_curves
from hesscomp.datasets.dataset import Dataset
from hesscomp.datasets.files import load_file
from hesscomp.datasets.mnist import load_mnist, load_mnist_download, load_mnist_sample
from hesscomp.datasets.reading import Reading
from hesscomp.datasets.targets import check_targets
from hesscomp.errors import InputError
from hesscomp.parallel.world import World

NAMED = {
    "adult": load_adult,
    "mnist": load_mnist,
    "mnist-download": load_mnist_download,
    "mnist-sample": load_mnist_sample,
    "curves": load_curves,
}


def load_dataset(
    source: str | os.PathLike, world: World, *, format: str | None = None,
    label: str | None = None, test: str | os.PathLike | None = None, targets: str | None = None,
    dtype: str | None = None, weights: str | None = None, offset: str | None = None,
    missing: str = "refuse", categories: str | Sequence[str] = (), reference: bool = False,
    ignore: str | Sequence[str] = (), memory_map: bool = False,
) -> Dataset:  # fmt: skip
    """Load a data set by name or from a file. Collective; each rank keeps its own rows only.

    Parameters
    ----------
    source : str or path
        A name: "adult" and "mnist-sample" are packaged, "mnist" is found through HESSCOMP_DATA,
        "mnist-download" fetches it, "curves" is made. Or a file of labelled rows: LIBSVM text, CSV
        with a header, HDF5 with /X and /y, NPZ with X and y, NPY, or IDX. Text may be compressed
        (.gz, .bz2, .xz), IDX too (.gz); every rank then reads through all of it.
    format : {"libsvm", "csv", "hdf5", "npz", "npy", "idx"}, optional
        By default what the file's ending says.
    label : str, optional
        The label column of a CSV file (default: the last), the data set of an HDF5 or NPZ file
        (default: y), a .npy file of labels beside a .npy file (default: its last column), or the
        IDX file of labels (default: the one beside it, named alike).
    test : path, optional
        Test rows, in a file with the same columns. (Beside .npy and IDX files, `label` is not of
        the test file: it has the labels that it has by default.)
    targets : {"signs", "classes", "values", "input"}, optional
        What becomes of the labels, as in `from_arrays`. Default: "classes" for IDX and MNIST,
        "input" for "curves", else "signs".
    dtype : {"float32", "float64"}, optional
        Of X. Default: float32 for pixels and for what is stored so, else float64.
    weights, offset : str, optional
        The column of a CSV file, or the data set of an HDF5 or NPZ file, with how much each row
        counts, or with what a generalised linear model adds to its linear predictor.
    missing : {"refuse", "drop", "level"}
        What becomes of missing values in CSV (empty, NA, N/A, NaN, ?, null): an error that names
        the first, or the row is left out, or they are a level of their own: a feature
        NAME=(missing) of 0 and 1, beside which a missing number counts as 0.
    categories : str or sequence of str
        Columns of a CSV file whose numbers are codes, to be taken as texts.
    reference : bool
        Whether the first level of each text column has no feature, as a model with an intercept
        wants it.
    ignore : str or sequence of str
        Columns of a CSV file that are no features, such as identifiers.
    memory_map : bool
        Leave the rows of an HDF5, NPZ or NPY file where they are, and read those that a step takes
        when it takes them: for data larger than memory. X must be dense, float32 or float64, and
        neither compressed nor in chunks. Labels are held in memory.

    Raises
    ------
    InputError
        On all ranks, naming file, row and remedy: a missing or damaged file, a row of another
        length, a label that `targets` does not allow, NaN or infinity.

    Notes
    -----
    Rows go to ranks as `row_range` says. Sparse rows stay sparse unless `prefer_dense`.

    A column of a CSV file that holds texts becomes a feature NAME=TEXT of 0 and 1 for each of its
    texts (at most 1,000) in sorted order, the same on any number of ranks; `Dataset.encoding`
    keeps them. A column half of whose values are numbers is refused at the first text. Test rows
    are encoded by the names of the training data's columns.
    """
    name = str(source)
    if targets is not None:
        check_targets(targets, name)
    if dtype not in (None, "float32", "float64"):
        raise InputError(f"{name}: dtype must be float32 or float64, not {dtype}")
    codes, ignored = (
        (names,) if isinstance(names, str) else tuple(names) for names in (categories, ignore)
    )
    reading = Reading(
        label, weights, offset, missing, codes, reference, ignored, memory_map=memory_map
    )
    if name not in NAMED:
        return load_file(
            source, world, format=format, reading=reading, test=test, targets=targets, dtype=dtype
        )
    asked = {"format": format, "test": test} | {
        field.name: getattr(reading, field.name) != field.default
        for field in fields(Reading)
        if field.name != "reference"  # which is the problem's
    }
    if given := ", ".join(f"`{each}`" for each, value in asked.items() if value):
        raise InputError(f"the {name} data take no {given}; leave it out, or name a file")
    return NAMED[name](world, targets, dtype)
