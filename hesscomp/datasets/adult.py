"""The packaged Adult data: who earns more than 50,000 dollars a year.

The encoding is fixed, so that results can be compared: numeric columns standardised by the
training set's mean and standard deviation (divided by m), categorical ones one-hot over the
training set's categories in sorted order ("?" being one like any other), and a final column of
ones: 109 features in the file's column order.
"""

import hashlib
import importlib.resources
import lzma
from itertools import repeat

import numpy as np

from hesscomp.datasets.dataset import Dataset, Shard
from hesscomp.datasets.fingerprint import fingerprint
from hesscomp.errors import InputError
from hesscomp.parallel.rows import row_range
from hesscomp.parallel.world import World
from hesscomp.runs.memory import aligned_empty

COLUMNS = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation",
    "relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week",
    "native-country",
)  # fmt: skip
NUMERIC = {"age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week"}
CLASSES = ("<=50K", ">50K")


def load_adult(world: World) -> Dataset:
    """The packaged data, 32,561 training and 16,281 test rows of 109 features. Collective.

    Every rank reads the small raw files, which fixes means and categories, and encodes its own
    rows.
    """
    with world.phase("reading the packaged Adult data"):
        train, test = _columns("adult.data.xz"), _columns("adult.test.xz")
        encoders = [_Encoder(name, column) for name, column in zip(COLUMNS, train, strict=False)]
        shards = [_encode(table, encoders, world) for table in (train, test)]
    names = (*(name for encoder in encoders for name in encoder.names), "ones")
    return Dataset("adult", *shards, len(names), names, CLASSES, fingerprint(shards[0], world))


def _columns(name: str) -> list[list[str]]:
    """The file's columns, label last."""
    folder = importlib.resources.files("hesscomp.datasets") / "adult"
    packed = (folder / name).read_bytes()
    sums = dict(line.split()[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    if hashlib.sha256(packed).hexdigest() != sums[name]:
        raise InputError(f"{name}: the packaged file is damaged; install hesscomp again")
    lines = lzma.decompress(packed).decode().splitlines()
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


def _encode(table, encoders: list[_Encoder], world: World) -> Shard:
    total = len(table[-1])
    start, stop = row_range(total, world.rank, world.size)
    X = aligned_empty((stop - start, sum(len(e.names) for e in encoders) + 1), np.float64)
    offset = 0
    for encoder, column in zip(encoders, table, strict=False):
        width = len(encoder.names)
        encoder.encode(column[start:stop], X[:, offset : offset + width])
        offset += width
    X[:, offset] = 1.0
    positive = [label.rstrip(".") == CLASSES[1] for label in table[-1][start:stop]]
    y = np.where(np.array(positive, dtype=bool), 1.0, -1.0)
    return Shard(X, y, start, total)
