"""The packaged Adult data: who earns more than 50,000 dollars a year.

The encoding is fixed, so that results can be compared: numeric columns standardised by the
training set's mean and standard deviation (divided by m), categorical ones one-hot over the
training set's categories in sorted order ("?" being one like any other), and a final column of
ones: 109 features in the file's column order.
"""

import lzma
from itertools import repeat

import numpy as np

from hesscomp.datasets.dataset import Dataset, Shard, aligned_empty
from hesscomp.datasets.fingerprint import fingerprint
from hesscomp.datasets.known_files import packaged_file
from hesscomp.datasets.targets import SIGNS, with_targets
from hesscomp.parallel.rows import row_range
from hesscomp.parallel.world import World

COLUMNS = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation",
    "relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week",
    "native-country",
)  # fmt: skip
NUMERIC = {"age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week"}


def load_adult(world: World, targets: str | None = None, dtype: str | None = None) -> Dataset:
    """Load the packaged data, 32,561 training and 16,281 test rows of 109 features. Collective.

    Every rank reads the small raw files, which fixes means and categories, and encodes its own
    rows.
    """
    targets = targets or SIGNS
    with world.phase("reading the packaged Adult data"):
        tables = _columns("adult.data.xz"), _columns("adult.test.xz")
        encoders = [_Encoder(*column) for column in zip(COLUMNS, tables[0], strict=False)]
        shards = [_encode(table, encoders, world, dtype or "float64") for table in tables]
    names = (*(name for encoder in encoders for name in encoder.names), "ones")
    train, classes = with_targets(shards[0], targets, world, "adult")
    test, _ = with_targets(shards[1], targets, world, "adult (test)", classes)
    hashed = fingerprint(train, world)
    return Dataset("adult", train, test, len(names), names, targets, classes, hashed)


def _columns(name: str) -> list[list[str]]:
    """Return the file's columns, label last."""
    lines = lzma.decompress(packaged_file("adult", name).read_bytes()).decode().splitlines()
    # One flat list: a list for each row would keep the garbage collector busy.
    cells = ", ".join(line for line in lines if line.count(",") == len(COLUMNS)).split(", ")
    return [cells[at :: len(COLUMNS) + 1] for at in range(len(COLUMNS) + 1)]


class _Encoder:
    """Turns one raw column into one or several features, as the training column says."""

    def __init__(self, name: str, column: list[str]):
        self.numeric = name in NUMERIC
        if self.numeric:
            values = _numbers(column)
            self.mean, self.deviation = values.mean(), values.std()
            self.names = [name]
        else:
            self.categories = {value: i for i, value in enumerate(sorted(set(column)))}
            self.names = [f"{name}={value}" for value in self.categories]

    def encode(self, column: list[str], out: np.ndarray) -> None:
        if self.numeric:
            out[:, 0] = (_numbers(column) - self.mean) / self.deviation
            return
        out[:] = 0.0
        codes = np.array(list(map(self.categories.get, column, repeat(-1))), dtype=np.int64)
        known = np.flatnonzero(codes >= 0)
        out[known, codes[known]] = 1.0


def _numbers(column: list[str]) -> np.ndarray:
    return np.fromiter(map(float, column), np.float64, len(column))


def _encode(table, encoders: list[_Encoder], world: World, dtype: str) -> Shard:
    total = len(table[-1])
    start, stop = row_range(total, world.rank, world.size)
    X = aligned_empty((stop - start, sum(len(e.names) for e in encoders) + 1), dtype)
    offset = 0
    for encoder, column in zip(encoders, table, strict=False):
        width = len(encoder.names)
        encoder.encode(column[start:stop], X[:, offset : offset + width])
        offset += width
    X[:, offset] = 1.0
    labels = np.array([label.rstrip(".") for label in table[-1][start:stop]], dtype="U5")
    return Shard(X, labels, start, total)
