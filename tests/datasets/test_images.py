"""Images: IDX files, MNIST and CURVES, against plain NumPy, published numbers and quadrature."""

import gzip
import hashlib
import http.server
import io
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad
from shards import block_rows
from test_datasets import on_root, one_line_error

import hesscomp.datasets
from hesscomp.cli.main import main
from hesscomp.datasets import load_dataset
from hesscomp.datasets.curves import draw
from hesscomp.datasets.summary import summarize
from hesscomp.errors import InputError
from hesscomp.parallel.world import World

CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}
COUNT = 301


def idx_bytes(array, shape=None) -> bytes:
    """An IDX file's bytes; its header may claim another shape."""
    array, shape = np.asarray(array), array.shape if shape is None else shape
    header = bytes([0, 0, CODES[array.dtype.str[1:]], len(shape)])
    return (
        header
        + struct.pack(f">{len(shape)}I", *shape)
        + array.astype(f">{array.dtype.str[1:]}").tobytes()
    )


def pictures(count=COUNT, seed=1):
    rng = np.random.default_rng(seed)
    labels = np.append(np.arange(10), rng.integers(0, 10, count - 10)).astype(np.uint8)
    return rng.integers(0, 256, (count, 5, 4)).astype(np.uint8), labels


# IDX

NAMES = {
    "train-images-idx3-ubyte": ("train-labels-idx1-ubyte", bytes),
    "train-images.idx3-ubyte": ("train-labels.idx1-ubyte", bytes),
    "images-idx3-ubyte.gz": ("labels-idx1-ubyte.gz", gzip.compress),
}


@pytest.mark.ranks
@pytest.mark.parametrize("images", NAMES)
def test_idx(world, shared_tmp, images, monkeypatch):
    monkeypatch.setattr("hesscomp.datasets.arrays.CHUNK_BYTES", 1000)  # several slices a shard
    beside, pack = NAMES[images]
    (X, y), (few, their) = pictures(), pictures(47, seed=2)

    def write():
        (shared_tmp / images).write_bytes(pack(idx_bytes(X)))
        (shared_tmp / beside).write_bytes(pack(idx_bytes(y)))
        (shared_tmp / "t.idx").write_bytes(idx_bytes(few.reshape(47, 20)))
        (shared_tmp / f"t{images}").write_bytes(pack(idx_bytes(few)))
        (shared_tmp / f"t{beside}").write_bytes(pack(idx_bytes(their)))

    on_root(world, write)
    path = shared_tmp / images
    data = load_dataset(path, world, test=shared_tmp / f"t{images}")
    rows, test_rows = block_rows(world, COUNT), block_rows(world, 47)
    assert data.train.X.dtype == np.float32 and data.train.y.dtype == np.int64
    np.testing.assert_array_equal(data.train.X, (X / np.float32(255)).reshape(COUNT, 20)[rows])
    np.testing.assert_array_equal(data.train.y, y[rows])
    np.testing.assert_array_equal(data.test.X, (few / np.float32(255)).reshape(47, 20)[test_rows])
    np.testing.assert_array_equal(data.test.y, their[test_rows])
    assert (data.rows, data.test.total, data.features, data.targets) == (COUNT, 47, 20, "classes")
    assert data.classes == tuple("0123456789") and data.train.start == rows.start
    assert data.fingerprint == load_dataset(path, World.serial()).fingerprint
    double = load_dataset(path, world, dtype="float64").train.X
    np.testing.assert_array_equal(double, (X / 255).reshape(COUNT, 20)[rows])
    other = load_dataset(shared_tmp / "t.idx", world, label=str(shared_tmp / f"t{beside}"))
    np.testing.assert_array_equal(other.train.X, data.test.X)


@pytest.mark.ranks
@pytest.mark.parametrize("kind", CODES)
def test_idx_types(world, shared_tmp, kind):
    X = np.random.default_rng(0).uniform(0, 100, (9, 2, 1)).astype(kind)

    def write():
        (shared_tmp / "images-idx3-x").write_bytes(idx_bytes(X))
        (shared_tmp / "labels-idx1-x").write_bytes(idx_bytes(np.arange(9, dtype="i4") % 3))

    on_root(world, write)
    data = load_dataset(shared_tmp / "images-idx3-x", world)
    assert data.train.X.dtype == (np.float32 if kind in ("u1", "f4") else np.float64)
    expected = X / np.float32(255) if kind == "u1" else X
    np.testing.assert_array_equal(data.train.X, expected.reshape(9, 2)[block_rows(world, 9)])
    assert data.classes == ("0", "1", "2")


PLAIN, PACKED = "images-idx3-ubyte", "images-idx3-ubyte.gz"
ONES = np.ones((6, 2, 2), np.uint8)
BAD = {
    "cut": (PLAIN, idx_bytes(ONES)[:-1], "claims 40 bytes in a file of 39"),
    "long": (PLAIN, idx_bytes(ONES) + b"1", "claims 40 bytes in a file of 41"),
    "header": (PLAIN, idx_bytes(ONES)[:9], "is cut short"),
    "nothing": (PLAIN, b"", "is cut short"),
    "text": (PLAIN, b"a,b\n1,2\n", "is not an IDX file"),
    "type": (PLAIN, b"\0\0\x07\x01" + bytes(8), "is not an IDX file"),
    "flat": (PLAIN, b"\0\0\x08\x00" + bytes(8), "is not an IDX file"),
    "deep": (PLAIN, b"\0\0\x08\xff" + b"\xff" * 1020, "is not an IDX file"),
    "forged": (PLAIN, idx_bytes(ONES, (2**32 - 1,) * 3), "claims 79228162458924105385300197391"),
    "forged-gz": (PACKED, gzip.compress(idx_bytes(ONES, (2**20, 28, 28))), "claims 822083600"),
    "bold-gz": (PACKED, gzip.compress(idx_bytes(ONES, (6, 5, 5))), "is cut short"),
    "cut-gz": (PACKED, gzip.compress(idx_bytes(ONES))[:-9], "cannot be read as IDX"),
    "damaged-gz": (PACKED, gzip.compress(idx_bytes(ONES))[:-8] + bytes(8), "cannot be read as IDX"),
    "not-gz": (PACKED, idx_bytes(ONES), "cannot be read as IDX"),
    "long-gz": (PACKED, gzip.compress(idx_bytes(ONES) + b"1"), "continues after its 6 rows"),
    "one": (PLAIN, idx_bytes(ONES[:, 0, 0]), "X has 1 dimensions"),
    "thin": (PLAIN, idx_bytes(ONES[:, :, :0]), "holds no features"),
    "none": (PLAIN, idx_bytes(ONES[:0]), "X has 0 rows but the labels have shape (6,)"),
    "nan": (PLAIN, idx_bytes(np.full((6, 1), np.nan)), "row 1, column 1 holds nan"),
}


@pytest.mark.ranks
@pytest.mark.parametrize("name", BAD)
def test_bad_idx(world, shared_tmp, name):
    file, content, expected = BAD[name]
    labels, path = idx_bytes(np.arange(6, dtype="u1")), shared_tmp / file
    pack = gzip.compress if file == PACKED else bytes
    on_root(
        world, (shared_tmp / file.replace("images-idx3", "labels-idx1")).write_bytes, pack(labels)
    )
    on_root(world, path.write_bytes, content)
    assert expected in one_line_error(path, world)


@pytest.mark.ranks
def test_bad_idx_labels(world, shared_tmp):
    path = shared_tmp / PLAIN
    on_root(world, path.write_bytes, idx_bytes(ONES))
    on_root(world, (shared_tmp / "a.idx").write_bytes, idx_bytes(ONES))
    on_root(world, (shared_tmp / "half.idx").write_bytes, idx_bytes(np.linspace(0, 1, 6)))
    assert "labels-idx1-ubyte, are not beside it; give label" in one_line_error(path, world)
    assert "is not called ...images-idx...; give label" in one_line_error(
        shared_tmp / "a.idx", world
    )
    shaped = one_line_error(path, world, label=str(path))
    assert "labels have shape (6, 2, 2); store one label a row: of one-hot rows y.argmax" in shaped
    half = one_line_error(path, world, label=str(shared_tmp / "half.idx"))
    assert "row 2 has the label 0.2; classes must be all integers or all texts" in half
    with pytest.raises(InputError, match="x: No such file"):
        load_dataset(path, world, label=str(shared_tmp / "x"))


# MNIST


def test_mnist_sample_is_the_beginning_of_mnist():
    data = load_dataset("mnist-sample", World.serial())
    assert (data.name, data.rows, data.test.total, data.features) == (
        "mnist-sample",
        5000,
        1000,
        784,
    )
    # The first labels of MNIST, as everybody's first look at it shows them.
    assert data.train.y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test.y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert data.train.X.min() == 0 and data.train.X.max() == 1
    assert data.classes == tuple("0123456789")


@pytest.mark.ranks
@pytest.mark.parametrize("name", ["mnist-sample", "curves"])
def test_named_images_on_ranks(world, name):
    data, alone = load_dataset(name, world), load_dataset(name, World.serial())
    assert data.fingerprint == alone.fingerprint
    for shard, all_rows in ((data.train, alone.train), (data.test, alone.test)):
        rows = block_rows(world, shard.total)
        assert shard.start == rows.start
        np.testing.assert_array_equal(shard.X, all_rows.X[rows])  # bit by bit
        np.testing.assert_array_equal(shard.y, all_rows.y[rows])
    summary = summarize(data, world)
    counts = np.bincount(alone.train.y) if data.targets == "classes" else ()
    assert summary.counts == tuple(counts) and summary.targets == data.targets
    assert summary.nbytes == alone.train.nbytes


@pytest.mark.ranks
def test_mnist_as_an_autoencoder(world):
    labelled = load_dataset("mnist-sample", world)
    data = load_dataset("mnist-sample", world, targets="input")
    assert data.train.y is data.train.X and data.test.y is data.test.X and data.classes == ()
    assert data.train.nbytes == data.train.X.nbytes
    np.testing.assert_array_equal(data.train.X, labelled.train.X)
    assert data.fingerprint != labelled.fingerprint
    values = load_dataset("mnist-sample", world, targets="values")
    np.testing.assert_array_equal(values.train.y, labelled.train.y)
    assert values.train.y.dtype == np.float64 and values.fingerprint == labelled.fingerprint


def test_all_of_mnist(full_data):
    data, sample = (load_dataset(name, World.serial()) for name in ("mnist", "mnist-sample"))
    assert (data.name, data.rows, data.test.total) == ("mnist", 60000, 10000)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(data.train.y).tolist() == counts
    # The mean and the standard deviation by which everybody normalises MNIST.
    assert round(data.train.X.mean(dtype=float), 4) == 0.1307
    assert round(data.train.X.std(dtype=float), 4) == 0.3081
    for shard, few in ((data.train, sample.train), (data.test, sample.test)):
        np.testing.assert_array_equal(shard.X[: len(few.y)], few.X)
        np.testing.assert_array_equal(shard.y[: len(few.y)], few.y)


@pytest.mark.ranks
def test_mnist_is_found_or_the_remedy_named(world, shared_tmp, monkeypatch):
    monkeypatch.delenv("HESSCOMP_DATA", raising=False)
    assert "set HESSCOMP_DATA" in one_line_error("mnist", world)
    assert "mnist-sample, which is packaged" in one_line_error("mnist", world)
    monkeypatch.setenv("HESSCOMP_DATA", str(shared_tmp))
    missing = one_line_error("mnist", world)
    assert f"{shared_tmp}/mnist/train-images-idx3-ubyte.gz: no such file" in missing
    packaged = Path(hesscomp.datasets.__file__).parent / "mnist"

    def copy():
        (shared_tmp / "mnist").mkdir()
        for file in packaged.glob("*.gz"):
            (shared_tmp / "mnist" / file.stem).write_bytes(gzip.decompress(file.read_bytes()))

    on_root(world, copy)
    assert "holds 5000 and 1000 images of 784 pixels, but mnist has 60000" in one_line_error(
        "mnist", world
    )


class KerasSite(http.server.BaseHTTPRequestHandler):
    """In place of Keras' server: an archive such as Keras', with the sample's images."""

    asked = 0
    archive = b""

    def do_GET(self):
        type(self).asked += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.archive)

    def log_message(self, *_):
        pass


def sample_archive() -> bytes:
    data, out = load_dataset("mnist-sample", World.serial()), io.BytesIO()
    arrays = {}
    for part, shard in (("train", data.train), ("test", data.test)):
        arrays[f"x_{part}"] = np.rint(shard.X * 255).astype(np.uint8).reshape(-1, 28, 28)
        arrays[f"y_{part}"] = shard.y.astype(np.uint8)
    np.savez_compressed(out, **arrays)
    return out.getvalue()


@pytest.mark.ranks
def test_mnist_as_keras_downloads_it(world, shared_tmp, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(shared_tmp / "keras"))
    server = address = sha256 = None
    if world.rank == 0:
        KerasSite.archive = sample_archive()
        server = http.server.HTTPServer(("127.0.0.1", 0), KerasSite)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/mnist.npz"
        sha256 = hashlib.sha256(KerasSite.archive).hexdigest()
    address, sha256 = world.broadcast((address, sha256))
    monkeypatch.setattr("hesscomp.datasets.mnist.KERAS_URL", address)
    assert "sends another file than it used to" in download_error(world)
    monkeypatch.setattr("hesscomp.datasets.mnist.KERAS_SHA256", sha256)
    before, sample = KerasSite.asked, load_dataset("mnist-sample", world)
    for _ in range(2):  # the second time without the server's help
        data = load_dataset("mnist-download", world)
        assert data.name == "mnist" and data.fingerprint == sample.fingerprint
    assert data.classes == sample.classes
    for shard, same in ((data.train, sample.train), (data.test, sample.test)):
        np.testing.assert_array_equal(shard.X, same.X)
        np.testing.assert_array_equal(shard.y, same.y)
    images = load_dataset("mnist-download", world, targets="input", dtype="float64")
    assert images.train.y is images.train.X and images.train.X.dtype == np.float64
    if server:
        assert KerasSite.asked == before + 1  # whatever the number of ranks
        server.shutdown()
        server.server_close()
    file = shared_tmp / "keras" / "datasets" / "mnist.npz"
    assert [other.name for other in file.parent.iterdir()] == [file.name]
    world.gather(None)
    on_root(world, file.write_bytes, b"PK")
    assert f"{file}: is damaged, or another file; remove it" in download_error(world)
    on_root(world, file.unlink)
    offline = download_error(world)
    assert f"{address}: cannot be fetched (" in offline
    assert "put MNIST's files where HESSCOMP_DATA says (docs/data.md), or take mnist-s" in offline


def download_error(world) -> str:
    with pytest.raises(InputError) as caught:
        load_dataset("mnist-download", world)
    assert len(set(world.gather(str(caught.value)))) == 1 and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_damaged_sample_is_refused(monkeypatch, tmp_path):
    (tmp_path / "mnist").mkdir()
    for file in (Path(hesscomp.datasets.__file__).parent / "mnist").iterdir():
        (tmp_path / "mnist" / file.name).write_bytes(file.read_bytes())
    labels = tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(gzip.decompress(labels.read_bytes())[:-1] + b"\1"))
    monkeypatch.setattr("importlib.resources.files", lambda _: tmp_path)
    with pytest.raises(InputError, match=r"t10k-labels.*damaged; install hesscomp again"):
        load_dataset("mnist-sample", World.serial())


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("mnist-sample", {"targets": "signs"}, "row 1 has the label 5"),
        ("mnist-sample", {"targets": "labels"}, "use one of signs, classes, values, input"),
        ("mnist-sample", {"dtype": "float16"}, "dtype must be float32 or float64"),
        ("mnist", {"label": "y"}, "mnist data take no `label`; leave it out"),
        ("adult", {"missing": "drop", "test": "t"}, "adult data take no `test`, `missing`; leave"),
        ("curves", {"targets": "classes"}, "targets must be input"),
        ("adult", {"targets": "values"}, "the label '<=50K'; values must be real numbers"),
    ],
)
def test_bad_options(world, name, options, expected):
    assert expected in one_line_error(name, world, **options)


# CURVES


def pixel_by_quadrature(points, row, column):
    """The documented pixel, before rounding."""
    p0, p1, p2 = points
    centre = np.array([column + 0.5, row + 0.5])

    def ink(t):
        at = p0 + t * (p2 - p0) + 4 * t * (1 - t) * (p1 - (p0 + p2) / 2)  # the chord and a bump
        speed = np.linalg.norm(p2 - p0 + 4 * (1 - 2 * t) * (p1 - (p0 + p2) / 2))
        return np.exp(-np.sum((centre - at) ** 2) / (2 * 0.8**2)) * speed

    integral = quad(ink, 0, 1, points=np.linspace(0, 1, 21), limit=400, epsabs=1e-13)[0]
    return 1 - np.exp(-2 * integral / (np.sqrt(2 * np.pi) * 0.8))


def test_curves_are_the_documented_integral():
    rng = np.random.default_rng(7)
    points = rng.uniform(5, 23, (12, 3, 2))
    points[0] = [[5, 5], [23, 23], [5, 23]]  # the longest
    points[1] = [[5, 5], [23, 23], [5.1, 5]]  # there and back
    points[2] = 9.3  # a single point: no ink
    images = draw(points).reshape(-1, 28, 28)
    assert images[2].max() == 0
    for curve, image in zip(points, images, strict=True):
        strongest = np.argsort(image, axis=None)[-40::8]
        for row, column in zip(*np.unravel_index(strongest, (28, 28)), strict=True):
            expected = pixel_by_quadrature(curve, row, column)
            assert abs(image[row, column] - expected) <= 0.5 / 255 + 1e-9


def test_a_straight_curve_is_a_blurred_line():
    """Across the middle of a line, w is exp(-d^2 / (2 s^2)), d the distance from it."""
    image = draw(np.array([[[4, 11.2], [14, 11.2], [24, 11.2]]])).reshape(28, 28)
    d = np.arange(28) + 0.5 - 11.2
    expected = 1 - np.exp(-2 * np.exp(-(d**2) / (2 * 0.8**2)))
    np.testing.assert_allclose(image[:, 14], expected, atol=0.5 / 255 + 1e-9)


def test_curves_are_many_and_inside():
    data = load_dataset("curves", World.serial(), dtype="float64")
    assert (data.rows, data.test.total, data.features) == (20000, 10000, 784)
    assert data.train.y is data.train.X and data.targets == "input"
    X = np.concatenate([data.train.X, data.test.X])
    levels = np.rint(X * 255).astype(np.uint8)
    np.testing.assert_array_equal(X, levels / 255)
    assert len({row.tobytes() for row in levels}) == 30000
    edge = X.reshape(-1, 28, 28)[:, [0, -1]]
    assert edge.max() <= 0.05 and 0.8 < X.max() <= 1
    single = load_dataset("curves", World.serial())
    np.testing.assert_array_equal(single.train.X, data.train.X.astype(np.float32))


# The command line


def test_data_command(capsys):
    for name, words in {
        "mnist-sample": ("5000 training, 1000 test", "0: 479 (9.6%)", "float32", "classes"),
        "curves": ("20000 training, 10000 test", "targets      input", "balance      -"),
    }.items():
        assert main(["data", name]) == 0
        said = capsys.readouterr().out
        assert f"data         {name}" in said and all(word in said for word in words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data", "mnist"], "mnist: set HESSCOMP_DATA"),
        (
            ["newton", "--data", "mnist-sample"],
            "mnist-sample: row 1 has the label 5; labels must be",
        ),
        (["data", "curves", "--targets", "classes"], "targets must be input"),
    ],
)
def test_command_errors_are_one_line(monkeypatch, capsys, arguments, words):
    monkeypatch.setenv("HESSCOMP_DATA", "")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1
