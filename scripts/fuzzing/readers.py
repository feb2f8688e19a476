"""Every reader of files that hesscomp has, with small valid files, and ways to change them.

TensorFlow is loaded only by the readers of Keras' files.
"""

import gzip
import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import scipy.sparse

from fuzzing.judge import STEM
from fuzzing.mutations import (
    PACKERS,
    Mutation,
    bytewise,
    hdf5_objects,
    json_tree,
    lines,
    numpy_header,
    packed,
    zipped,
)
from hesscomp.analysis.plots import CONVERGENCE, RUN, RUN_MAY_HAVE
from hesscomp.cli.tables import factor_table, trajectory_table
from hesscomp.datasets import load_dataset
from hesscomp.factors import (
    Certificate,
    Diagonal,
    LowRank,
    Provenance,
    is_trajectory,
    load_factor,
    load_trajectory,
    save_factor,
    trajectory_writer,
)
from hesscomp.factors.point import is_keras_file, load_point
from hesscomp.parallel.layout import Replicated
from hesscomp.parallel.world import World
from hesscomp.runs.checkpoint import NAME, ROWS, Checkpoint, load_checkpoint, save_checkpoint
from hesscomp.runs.history import History
from hesscomp.runs.journal import Journal, load_product
from hesscomp.runs.report import read_json, write_json
from hesscomp.storage.slabs import slab_path, virtual_rows, write_slab

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.standard_normal((7, 3)).round(2), np.array([0, 1, 1, 0, 1, 0, 1])
N, RANK = 12, 4
SLAB_RUN = "0badf00d"
PRODUCT = "product-000000.h5"


@dataclass(frozen=True)
class Reader:
    """A reader of one kind of file.

    Attributes
    ----------
    file : str
        The file's name, which begins with `STEM`.
    read : callable
        Reads the file at a path as the commands do.
    seeds : callable
        Valid files, as bytes.
    mutations : tuple of Mutation
        What changes the inside of a file of this kind.
    sound : bool
        Whether they need a sound file: HDF5 ones are made with its library.
    spare : int
        Bytes of memory that reading may take whatever the file's length.
    beside : callable
        Writes what lies beside the file, given its path.
    """

    file: str
    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]
    mutations: tuple[Mutation, ...] = ()
    sound: bool = False
    spare: int = 2**26
    beside: Callable[[Path], object] = lambda path: None


@cache
def world() -> World:
    return World.serial()


def written(*writers: Callable[[Path], object], file: str = STEM) -> list[bytes]:
    """What each writer writes."""
    seeds = []
    for write in writers:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / file
            write(path)
            seeds.append(path.read_bytes())
    return seeds


# Data


def dataset(path: Path):
    return load_dataset(path, world(), targets="signs")


def classes(path: Path):
    return load_dataset(path, world())


def libsvm() -> list[bytes]:
    rows = zip(Y, X, strict=True)
    full = [" ".join([str(y), *(f"{i + 1}:{v}" for i, v in enumerate(x))]) for y, x in rows]
    wide = "+1 qid:1 3:1 70000:2 # note\n-1 1:0.5\n# comment\n\n-1\n"
    return ["\n".join(full).encode(), wide.encode(), b"0 0:1 2:-3e5\r\n1 1:4 0:1e-300\r\n"]


def csv() -> list[bytes]:
    rows = [",".join(map(str, [*x, y])) for x, y in zip(X, Y, strict=True)]
    words = '# note\na;"b c";label\n1;2;yes\n\n3;4e-5;"no"\n'
    return ["\n".join(["a,b,c,label", *rows]).encode(), words.encode(), b"\xef\xbb\xbfa\ty\n1\t1\n"]


def hdf5() -> list[bytes]:
    def dense(path):
        with h5py.File(path, "w") as file:
            file["X"], file["y"] = X, Y

    def packed_texts(path):
        with h5py.File(path, "w") as file:
            file.create_dataset("X", data=X.astype("f4"), chunks=(2, 3), compression="gzip")
            file["y"] = np.where(Y > 0, b"yes", b"no")

    def sparse(path):
        A = scipy.sparse.csr_array(X * (X > 0.5))
        with h5py.File(path, "w", libver="latest") as file:
            file["X/data"], file["X/indices"], file["X/indptr"] = A.data, A.indices, A.indptr
            file["X"].attrs["shape"] = A.shape
            file["y"] = Y

    return written(dense, packed_texts, sparse)


def npz() -> list[bytes]:
    A = scipy.sparse.csr_array(X * (X > 0.5))
    parts = {"data": A.data, "indices": A.indices, "indptr": A.indptr, "shape": A.shape}
    files = []
    for save, arrays in (
        (np.savez, {"X": X, "y": Y}),
        (np.savez_compressed, {"X": np.asfortranarray(X, "f4"), "y": Y > 0}),
        (np.savez, {**parts, "format": b"csr", "y": Y}),
    ):
        stream = io.BytesIO()
        save(stream, **arrays)
        files.append(stream.getvalue())
    return files


def npy_bytes(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def idx_bytes(kind: int, array) -> bytes:
    shape = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, kind, array.ndim]) + shape + array.tobytes()


PIXELS = np.arange(7 * 2 * 3).reshape(7, 2, 3).astype("u1")
IMAGES, LABELS = f"{STEM}-images-idx3-ubyte", f"{STEM}-labels-idx1-ubyte"


def idx() -> list[bytes]:
    return [
        idx_bytes(8, PIXELS),
        idx_bytes(13, X.astype(">f4")),
        idx_bytes(12, Y[:, None].astype(">i4")),
    ]


def labels_beside(path: Path) -> None:
    path.with_name(LABELS).write_bytes(idx_bytes(8, Y.astype("u1")))


def images_beside(path: Path) -> None:
    path.with_name(IMAGES).write_bytes(idx_bytes(8, PIXELS))


# Factors, trajectories, points


def factor(n: int = N, rank: int = RANK) -> LowRank:
    U = np.linalg.qr(np.random.default_rng(1).standard_normal((n, rank)))[0]
    certificate = Certificate(
        0.1, 4.0, 0.5, True, "probes", np.full(rank, 1e-3), np.ones(rank, "?")
    )
    provenance = Provenance(problem="tést", operator="H", ridge=1e-3, seed=0, seconds=0.5)
    blocks = (("kernel", (n // 2, 1), 0), ("bias", (n - n // 2,), n // 2))
    w = np.arange(rank, 0, -1.0)
    return LowRank(
        w, U, certificate=certificate, provenance=provenance, parameters=np.ones(n), blocks=blocks
    )


def factors() -> list[bytes]:
    return written(
        lambda path: save_factor(factor(), path),
        lambda path: save_factor(factor(), path, dtype="float32", compress=True),
        lambda path: save_factor(
            Diagonal(np.ones(N), certificate=Certificate(0.1, 4.0), blocks=factor().blocks), path
        ),
        lambda path: save_factor(
            LowRank(np.ones(0), np.ones((3, 0)), certificate=Certificate(0.0, 1.0)), path
        ),
    )


RANGES = [(0, 5), (5, N)]
EIGENVECTORS = LowRank.row_array()


def name_slabs(path: Path, name: str, ranges: list[tuple[int, int]], width: int) -> None:
    """Let a file's data set be the one that its slabs make together."""
    with h5py.File(path, "r+") as file:
        file.pop(name, None)
        layout = virtual_rows(path, name, SLAB_RUN, ranges, width, "f8")
        file.create_virtual_dataset(name, layout, np.nan)


def write_slabs(master: Path, name: str, values: np.ndarray, ranges: list[tuple[int, int]]) -> None:
    for rank, (start, stop) in enumerate(ranges):
        slab = slab_path(master, SLAB_RUN, rank)
        slab.unlink(missing_ok=True)
        write_slab(slab, name, values[start:stop], start, len(values))


def in_slabs() -> list[bytes]:
    def write(path):
        save_factor(factor(), path)
        name_slabs(path, EIGENVECTORS, RANGES, RANK)

    return written(write, file=f"{STEM}.h5")


def slabs_beside(path: Path) -> None:
    write_slabs(path.with_name(f"{STEM}.h5"), EIGENVECTORS, factor().eigenvectors, RANGES)


def master_beside(path: Path) -> None:
    slabs_beside(path)
    path.with_name(f"{STEM}.h5").write_bytes(in_slabs()[0])


def slab() -> list[bytes]:
    return written(lambda path: write_slab(path, EIGENVECTORS, factor().eigenvectors[:5], 0, N))


def trajectories() -> list[bytes]:
    def write(path):
        with trajectory_writer(path) as add:
            add("first", factor())
            add("second", factor(N, 2))

    return written(write)


def inspect(path: Path) -> str:
    """As `hesscomp inspect`."""
    if is_trajectory(path):
        return trajectory_table(load_trajectory(path), 10)
    return factor_table(load_factor(path), 10)


def rows_of_ranks(path: Path) -> LowRank:
    """As a command that was given a known factor in the row layout."""
    return load_factor(path.with_name(f"{STEM}.h5"), world())


def point(path: Path):
    """As `--at`, of a problem without a network."""
    return is_keras_file(path) or load_point(path, N)


# Runs


def checkpoint(rows=None) -> Checkpoint:
    steps = [{"step": float(i), "objective": 1.0 / (i + 1)} for i in range(3)]
    return Checkpoint(
        3,
        {"x": np.ones(N), "best": np.zeros(N), "gradient": np.ones(N)},
        {"momentum": np.ones(N), "damping": 0.5, "count": 3},
        {"radius": 0.5},
        {"optimizer": "newton-cg", "seconds": 1.5, "passes": 3},
        History(steps, [(2, "recovered")]),
        rows,
    )


def checkpoints() -> list[bytes]:
    return written(
        lambda path: save_checkpoint(checkpoint(), path.parent, World.serial()), file=NAME
    )


ROW_RANGES = [(0, 3), (3, len(X))]


def checkpoints_in_slabs() -> list[bytes]:
    def write(path):
        save_checkpoint(checkpoint(), path.parent, World.serial())
        name_slabs(path, ROWS, ROW_RANGES, X.shape[1])

    return written(write, file=NAME)


def row_slabs_beside(path: Path) -> None:
    write_slabs(path, ROWS, X, ROW_RANGES)


def resumed(path: Path) -> Checkpoint:
    """As a run that goes on, on the first of two ranks."""
    return load_checkpoint(path, ROW_RANGES[0], checkpoint(X[: ROW_RANGES[0][1]]))


def products() -> list[bytes]:
    V = RANDOM.standard_normal((N, 2))

    def write(path):
        journal = Journal(path.parent, {"data": "adult"}, World.serial())
        journal.result("block", (V,), V.shape, Replicated(N, World.serial()), lambda: V)

    return written(write, file=PRODUCT)


def reports() -> list[bytes]:
    names = ("iteration", "passes", "gradient_norm", "objective", "cg_iterations", "step")
    rows = [
        dict.fromkeys((*names, "columns", "seconds", "full_objective"), i + 0.5) for i in (0, 1)
    ]
    report = {"command": "newton", "data": "adult", "history": rows, "problem": "p", "events": []}
    return written(lambda path: write_json(path, report))


def report(path: Path):
    """As `hesscomp plot`, of which only the drawing is left out."""
    run = read_json(path, RUN, RUN_MAY_HAVE)
    return [report["history"] for report in (read_json(path, CONVERGENCE), run)]


# Keras


@cache
def network():
    from hesscomp.curvature.tensorflow import keras

    layers = [keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 2), keras.layers.BatchNormalization()]
    return keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(3)], name="net")


def models() -> list[bytes]:
    from hesscomp.curvature.tensorflow import keras

    start = keras.Input((6, 2))
    outputs = keras.layers.Dense(3, "relu")(keras.layers.LSTM(2)(start))
    graph = keras.Model(start, keras.layers.Add()([outputs, keras.ops.tanh(outputs)]))
    return [
        data for model in (network(), graph) for data in written(model.save, file=f"{STEM}.keras")
    ]


def model(path: Path):
    from hesscomp.problems.models import load_model

    return load_model(path)


def weights(path: Path):
    """As `--at`, of a network."""
    from hesscomp.problems.models import read_weights

    if not is_keras_file(path):
        return load_point(path, network().count_params())
    return read_weights(path, network())


KERAS = {"spare": 2**31}
HDF5 = {"mutations": (hdf5_objects,), "sound": True}

READERS = {
    "libsvm": Reader(f"{STEM}.svm", dataset, libsvm, (lines,)),
    "csv": Reader(f"{STEM}.csv", dataset, csv, (lines,)),
    **{
        f"{kind}{ending}": Reader(
            f"{STEM}.{kind}{ending}",
            dataset,
            lambda ending=ending, seeds=seeds: [PACKERS[ending][1](data) for data in seeds()],
            (packed(ending, lines), packed(ending, bytewise)),
        )
        for kind, ending, seeds in (
            ("csv", ".gz", csv),
            ("svm", ".bz2", libsvm),
            ("csv", ".xz", csv),
        )
    },
    "hdf5": Reader(f"{STEM}.h5", dataset, hdf5, **HDF5),
    "npz": Reader(f"{STEM}.npz", dataset, npz, (zipped(numpy_header), zipped(bytewise))),
    "npy": Reader(f"{STEM}.npy", dataset, lambda: [npy_bytes(np.c_[X, Y])], (numpy_header,)),
    "idx": Reader(IMAGES, classes, idx, beside=labels_beside),
    "idx.gz": Reader(
        f"{IMAGES}.gz",
        classes,
        lambda: [gzip.compress(data, mtime=0) for data in idx()],
        (packed(".gz", bytewise),),
        beside=lambda path: path.with_name(f"{LABELS}.gz").write_bytes(
            gzip.compress(idx_bytes(8, Y.astype("u1")))
        ),
    ),
    "idx-labels": Reader(
        LABELS,
        lambda path: classes(path.with_name(IMAGES)),
        lambda: [idx_bytes(8, Y.astype("u1")), idx_bytes(14, Y.astype(">f8"))],
        beside=images_beside,
    ),
    "factor": Reader(f"{STEM}.h5", inspect, factors, **HDF5),
    "factor-in-slabs": Reader(f"{STEM}.h5", rows_of_ranks, in_slabs, beside=slabs_beside, **HDF5),
    "slab": Reader(
        f"{STEM}.h5.{SLAB_RUN}.0.slab", rows_of_ranks, slab, beside=master_beside, **HDF5
    ),
    "trajectory": Reader(f"{STEM}.h5", inspect, trajectories, **HDF5),
    "checkpoint": Reader(f"{STEM}/{NAME}", load_checkpoint, checkpoints, **HDF5),
    "checkpoint-in-slabs": Reader(
        f"{STEM}/{NAME}", resumed, checkpoints_in_slabs, beside=row_slabs_beside, **HDF5
    ),
    "product": Reader(f"{STEM}/{PRODUCT}", load_product, products, **HDF5),
    "point.npy": Reader(
        f"{STEM}.npy",
        point,
        lambda: [npy_bytes(np.ones(N)), npy_bytes(np.arange(N))],
        (numpy_header,),
    ),
    "point.h5": Reader(f"{STEM}.h5", point, lambda: factors()[:2] + checkpoints(), **HDF5),
    "keras": Reader(
        f"{STEM}.keras",
        model,
        models,
        (zipped(json_tree), zipped(hdf5_objects), zipped(bytewise)),
        sound=True,
        **KERAS,
    ),
    "weights": Reader(
        f"{STEM}.weights.h5",
        weights,
        lambda: written(network().save_weights, file=f"{STEM}.weights.h5"),
        **HDF5,
        **KERAS,
    ),
    "report": Reader(f"{STEM}.json", report, reports, (json_tree, lines)),
}
