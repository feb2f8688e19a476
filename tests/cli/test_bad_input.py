"""Bad input as tables of cases, each with its one line; and a short run of the fuzzer.

What the fuzzer (`make fuzz`) has found stands here. Tables of a reader's own rules are with its
tests: `test_datasets`, `test_images`, `test_factors`, `test_network_commands`, `test_jobs`.
"""

import bz2
import io
import json
import lzma
import re
import zipfile
import zlib
from argparse import Namespace
from dataclasses import fields

import h5py
import numpy as np
import pytest
from fuzz import Worker
from fuzzing.readers import READERS
from hypothesis import given
from hypothesis import strategies as st

from hesscomp.cli.main import main
from hesscomp.datasets import load_dataset
from hesscomp.errors import HesscompError, InputError
from hesscomp.factors import (
    Certificate,
    LowRank,
    load_factor,
    load_trajectory,
    save_factor,
    trajectory_writer,
)
from hesscomp.factors.point import is_keras_file, load_point
from hesscomp.optimizers.catalogue import OPTIMIZERS, make_optimizer
from hesscomp.options import parse_bytes
from hesscomp.parallel.world import World
from hesscomp.runs.checkpoint import NAME, Checkpoint, load_checkpoint, save_checkpoint
from hesscomp.runs.history import History
from hesscomp.runs.report import read_json
from hesscomp.storage.archives import open_xz
from hesscomp.storage.hdf5 import CheckedFile


def refused(read, path) -> str:
    """The one line with which a reader refuses a file, and in which it names it."""
    with pytest.raises(InputError) as caught:
        read(path)
    line = str(caught.value)
    assert line.isprintable() and path.name in line and len(line) < 2000
    return line


def read_data(path):
    return load_dataset(path, World.serial())


def attribute(name, value, place="/"):
    return lambda file: file[place].attrs.__setitem__(name, value)


def replaced(name, **how):
    def change(file):
        del file[name]
        file.create_dataset(name, **how)

    return change


# HDF5: factors, trajectories, checkpoints, points


def small_factor() -> LowRank:
    blocks = (("a", (2, 3), 0), ("b", (6,), 6))
    return LowRank(np.ones(2), np.eye(12, 2), certificate=Certificate(0.1, 4.0), blocks=blocks)


def sequence(file) -> None:
    """An attribute of as many bytes as you like, on which the HDF5 library may crash."""
    del file["provenance"].attrs["dtype"]
    value = np.empty(1, object)
    value[0] = np.arange(3, dtype="u1")
    file["provenance"].attrs.create("dtype", value, dtype=h5py.vlen_dtype("u1"))


def damage_heap(path) -> None:
    """Make an object in the heap of texts one of size zero: the HDF5 library never returns."""
    data = bytearray(path.read_bytes())
    at = data.rindex(b"GCOL") + 16
    while data[at : at + 2] != b"\0\0":  # the free space, which comes last, has the number 0
        at += 16 + -(-int.from_bytes(data[at + 8 : at + 16], "little") // 8) * 8
    data[at + 8 : at + 16] = bytes(8)
    path.write_bytes(data)


OVERLAP = np.array([(b"a", b"-2,-3", 0, 6)], [("name", "S4"), ("shape", "S8"), ("offset", "i8"),
                                               ("size", "i8")])  # fmt: skip
FACTORS = {
    "chunk": (
        replaced("eigenvalues", shape=(2,), maxshape=(None,), chunks=(2**28,), dtype="f8"),
        "/eigenvalues claims 2147483648 bytes",
    ),
    "blocks": (replaced("blocks", data=np.ones(3)), "cannot be read as a factor file"),
    "negative": (replaced("blocks", data=OVERLAP), "/blocks: a does not follow"),
    "texts": (attribute("problem", ["a", "b"], "provenance"), "where it needs a str"),
    "number": (attribute("problem", 3, "provenance"), "holds '3' where it needs a str"),
    "text": (attribute("ridge", "lots", "provenance"), "holds 'lots' where it needs a float"),
    "empty": (attribute("rows", h5py.Empty("i8"), "provenance"), "cannot be read"),
    "format": (attribute("format", np.array(["a", "b"], "S1")), "factor file"),
    "kind": (attribute("kind", np.arange(3)), "factor file"),
    "long": (attribute("format", "x" * 9999), "its format attribute is 'xxx"),
    "sequence": (sequence, "an attribute is a sequence of variable length"),
    "utf8": (attribute("method", np.bytes_(b"\xff"), "provenance"), "cannot be read"),
    "external": (replaced("eigenvalues", shape=(2,), dtype="f8", external="/etc/passwd"),
                 "not a data set stored in this file"),
}  # fmt: skip


@pytest.mark.parametrize("case", FACTORS)
def test_bad_factors(case, tmp_path):
    change, words = FACTORS[case]
    save_factor(small_factor(), tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5", "r+") as file:
        change(file)
    assert words in refused(load_factor, tmp_path / "f.h5")


def test_sequences_are_refused_wherever_they_are(tmp_path):
    """For readers that are not ours."""

    def read(path):
        with CheckedFile(path) as file:
            file.check_all()

    save_factor(small_factor(), tmp_path / "f.h5")
    read(tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5", "r+") as file:
        sequence(file)
    assert "an attribute is a sequence of variable length" in refused(read, tmp_path / "f.h5")


def test_data_that_are_sequences_are_refused(tmp_path):
    save_factor(small_factor(), tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5", "r+") as file:
        del file["eigenvalues"]
        file.create_dataset("eigenvalues", (2,), h5py.vlen_dtype("f8"))
    said = refused(load_factor, tmp_path / "f.h5")
    assert "/eigenvalues holds sequences of variable length" in said


def test_texts_of_a_file_are_one_line(tmp_path):
    save_factor(small_factor(), tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5", "r+") as file:
        file["provenance"].attrs["problem"] = "a\nb\x1b[31m"
    assert load_factor(tmp_path / "f.h5").provenance.problem == "a b\\x1b[31m"


def write_trajectory(path):
    with trajectory_writer(path) as add:
        add("first", small_factor())


def write_checkpoint(path):
    history = History([{"step": 0.0}], [(0, "begun")])
    arrays = {"x": np.ones(3), "best": np.arange(3.0)}
    saved = Checkpoint(1, arrays, {"damping": 0.5}, {}, {"optimizer": "sgd"}, history)
    save_checkpoint(saved, path.parent, World.serial())


HEAPS = {
    "f.h5": (lambda path: save_factor(small_factor(), path), load_factor),
    "t.h5": (write_trajectory, load_trajectory),
    NAME: (write_checkpoint, load_checkpoint),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HEAPS)
def test_a_damaged_heap_of_texts_is_refused(name, tmp_path):
    write, read = HEAPS[name]
    write(tmp_path / name)
    assert read(tmp_path / name) is not None
    damage_heap(tmp_path / name)
    assert "its global heap is damaged" in refused(read, tmp_path / name)


# What is written into the parts of a virtual data set: bytes after the number of parts, and what.
# A part is two names, here 10 bytes, and two selections of version 1: kind, version, 8 bytes, axes.
PARTS = {
    "endless": (0, b"\xff" * 8),
    "too many": (0, b"\2"),
    "kind": (18, b"\x09"),
    "version": (22, b"\x09"),
    "axes": (34, b"\xff\xff"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", PARTS)
def test_damaged_parts_of_a_virtual_data_set_are_refused(case, tmp_path):
    path, (place, value) = tmp_path / "v.h5", PARTS[case]
    layout = h5py.VirtualLayout((4, 2), "f8")
    layout[:] = h5py.VirtualSource("rows", "part", (6, 2))[:4]
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("X", layout)
        file["y"] = np.ones(4)
    assert "not a data set stored in this file" in refused(read_data, path)
    data = bytearray(path.read_bytes())
    at = data.index(b"rows\0part\0") - 8
    assert data[at + 18 : at + 26] == b"\2\0\0\0\1\0\0\0" and data[at + 34] == 2
    data[at + place : at + place + len(value)] = value
    path.write_bytes(data)
    assert "damaged" in refused(read_data, path)


def many_names(file) -> None:
    """One data set by many names."""
    file["state/0"] = np.zeros(1000)
    for i in range(1, 100):
        file[f"state/{i}"] = file["state/0"]


CHECKPOINTS = {
    "format": (attribute("format", "other"), "'other', not 'hesscomp-checkpoint'"),
    "formats": (attribute("format", np.array([b"a", b"b"])), " checkpoint"),
    "step": (attribute("step", "many"), "attribute step is missing or not a count"),
    "events": (attribute("events", "[1, 2]", "history"), "cannot be read as a checkpoint"),
    "deep": (attribute("events", "[" * 9999, "history"), "cannot be read as a checkpoint"),
    "type": (replaced("arrays/x", data=np.array([b"a"])), "/arrays/x has type"),
    "huge": (replaced("arrays/x", shape=(2**40,), dtype="f8"), "/arrays/x claims"),
    "unstored": (replaced("history/step", shape=(10**5,), dtype="f8"), "/history/step claims"),
    "names": (many_names, "its data claim"),
    "lengths": (replaced("history/step", data=np.ones((2, 2))), "cannot be read as a checkpoint"),
    "link": (lambda file: file["state"].__setitem__("a", h5py.SoftLink("/")), "link to elsewhere"),
    "group": (lambda file: file.__delitem__("values"), "/values is missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_bad_checkpoints(case, tmp_path):
    change, words = CHECKPOINTS[case]
    write_checkpoint(tmp_path / NAME)
    with h5py.File(tmp_path / NAME, "r+") as file:
        change(file)
    assert words in refused(load_checkpoint, tmp_path / NAME)


def test_a_chunk_shorter_than_its_checksum_is_refused(tmp_path):
    """The HDF5 library would crash: the size of a chunk, in its B-tree, is made zero."""
    path = tmp_path / NAME
    write_checkpoint(path)
    values = np.arange(40, dtype="f4")
    with h5py.File(path, "r+") as file:
        file["state"].create_dataset("a", data=values, chunks=(40,), fletcher32=True)
    data = bytearray(path.read_bytes())
    key = (164).to_bytes(4, "little") + bytes(4 + 8)  # size, filters skipped, offset
    assert data.count(key) == 1
    data[data.index(key) : data.index(key) + 4] = bytes(4)
    path.write_bytes(data)
    assert "/state/a has chunks without their checksum" in refused(load_checkpoint, path)


CHECKPOINT_POINTS = {
    "version": (attribute("format_version", 9), "its format version is 9, this hesscomp reads up"),
    "formats": (attribute("format", np.array([b"a", b"b"])), "cannot be read as a point"),
    "group": (lambda file: file.__delitem__("arrays"), "/arrays is missing"),
    "missing": (lambda file: file["arrays"].clear(), "/arrays/x is missing"),
    "whole": (replaced("arrays/best", data=np.arange(3)), "/arrays/best has type int64"),
    "text": (replaced("arrays/best", data=np.array([b"a"])), "/arrays/best has type"),
    "nan": (replaced("arrays/best", data=np.full(3, np.nan)), "/arrays/best holds numbers that"),
    "huge": (replaced("arrays/best", shape=(2**40,), dtype="f8"), "/arrays/best claims"),
    "shape": (replaced("arrays/best", data=np.ones((3, 1))), "the problem has 3 parameters"),
    "number": (replaced("arrays/best", data=1.0), "the problem has 3 parameters"),
}


@pytest.mark.parametrize("case", CHECKPOINT_POINTS)
def test_bad_points_in_checkpoints(case, tmp_path):
    change, words = CHECKPOINT_POINTS[case]
    write_checkpoint(tmp_path / NAME)
    np.testing.assert_array_equal(load_point(tmp_path / NAME, 3), np.arange(3.0))
    assert not is_keras_file(tmp_path / NAME)
    with h5py.File(tmp_path / NAME, "r+") as file:
        change(file)
    assert words in refused(lambda path: load_point(path, 3), tmp_path / NAME)


def header(text: str, data=b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


POINTS = {
    "empty": (b"", "cannot be read as a NumPy .npy file"),
    "text": (b"hello", "cannot be read as a NumPy .npy file"),
    "brackets": (header("{'descr': '<f8', 'shape': ((("), "cannot be read as a NumPy .npy file"),
    "length": (b"\x93NUMPY\2\0\xff\xff\xff\x7f{", "has a damaged header"),
    "cut": (header("{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }"), "is cut short"),
    "huge": (header("{'descr': '<f8', 'fortran_order': False, 'shape': (10**14,), }"), "cannot"),
    "bytes": (header("{'descr': '|S0', 'fortran_order': False, 'shape': (9999999999999,), }"),
              "entries of no bytes"),
    "pickle": (header("{'descr': '|O', 'fortran_order': False, 'shape': (3,), }", bytes(24)),
               "holds Python objects"),
    "zip": (b"PK\x03\x04" + bytes(50), "cannot be read as a NumPy .npy file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(200), "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", POINTS)
def test_bad_points(case, tmp_path):
    content, words = POINTS[case]
    (tmp_path / "p.npy").write_bytes(content)
    assert words in refused(lambda path: load_point(path, 3), tmp_path / "p.npy")


def test_what_kind_of_file_is_asked_of_a_damaged_one(tmp_path):
    (tmp_path / "p.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(200))
    assert "cannot be read" in refused(is_keras_file, tmp_path / "p.h5")


# Data


def odd_archive(method=zipfile.ZIP_STORED, name="X.npy") -> bytes:
    stream, array = io.BytesIO(), io.BytesIO()
    np.save(array, np.ones((3, 2)))
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr(name, array.getvalue())
        archive.writestr("y.npy", array.getvalue())
    return stream.getvalue()


def hungry(packed: bytes) -> bytes:
    """An .xz file whose first block claims a dictionary of 4 GiB (The .xz File Format, 3.1, 5.3.1).

    After 12 bytes of the stream's head: size of the block's head in words less one, flags, the
    filter's number, the size of its properties, the dictionary's size, padding, CRC32.
    """
    size = 4 * (packed[12] + 1)
    head = bytearray(packed[12 : 12 + size - 4])
    assert head[1:4] == b"\0\x21\1"
    head[4] = 40
    return packed[:12] + head + zlib.crc32(head).to_bytes(4, "little") + packed[12 + size :]


TABLE = lzma.compress(b"a,b\n" + b"1,2\n" * 100)
DATA = {
    "hungry.csv.xz": (hungry(TABLE), "unpacking takes over 256 MiB; do it first (xz -d)"),
    "second.csv.xz": (TABLE + bytes(8) + hungry(TABLE), "unpacking takes over 256 MiB"),
    "trailing.csv.xz": (TABLE + b"rubbish", "is damaged or cut short"),
    "none.csv.xz": (b"", "is damaged or cut short (it ends before"),
    "lzma.npz": (odd_archive(zipfile.ZIP_LZMA), "y.npy is packed otherwise than by deflate"),
    "control.npz": (odd_archive(name="a\x1b[31m\n"), "has no array 'X'; it has a\\x1b[31m"),
    "wide.csv": (b"a" + b",a" * 10**6 + b"\n" + b"1\n" * 10**5, "has 1 columns, the header 10"),
    "bomb.svm.bz2": (bz2.compress(b"1 1:2\n" * 10**6), "unpacks to over 1100 times its length"),
    "names.csv": (b"a," * 99 + b"a\n1\n", "has 1 columns, the header 100"),
    "header.csv": (b"a" * 2**24 + b",b\n", "has a line of over 16777216 bytes at its head"),
}  # fmt: skip


@pytest.mark.parametrize("name", DATA)
def test_bad_data(name, tmp_path):
    content, words = DATA[name]
    (tmp_path / name).write_bytes(content)
    assert words in refused(read_data, tmp_path / name)


def test_streams_of_xz_in_a_row(tmp_path):
    """Read as `lzma` does, also by several ranks, and forth and back."""
    rows = [f"{i},{i * i},{i % 2}\n".encode() for i in range(50_000)]
    text = b"a,b,y\n" + b"".join(rows)
    parts = [text[:7], text[7:200_000], text[200_000:]]
    packed = bytes(4).join(lzma.compress(part, preset=0) for part in parts) + bytes(2**17)
    (tmp_path / "d.csv.xz").write_bytes(packed)
    with open_xz(tmp_path / "d.csv.xz") as stream:
        assert stream.read() == text and stream.read(1) == b""
        for place in (300_000, 5, 199_999, 7):
            assert stream.seek(place) == place
            assert stream.read(9) == text[place : place + 9]
    train = load_dataset(tmp_path / "d.csv.xz", World.serial()).train
    np.testing.assert_array_equal(train.X[:, 1], np.arange(50_000.0) ** 2)


# Reports


REPORTS = {
    "empty": ("", "cannot be read as a JSON report"),
    "text": ("hello", "cannot be read as a JSON report"),
    "deep": ("[" * 10**5, "cannot be read as a JSON report"),
    "digits": ('{"history": [' + "9" * 5000 + "]}", "cannot be read as a JSON report"),
    "latin": ('{"history": "\xe9"}'.encode("latin-1"), "cannot be read as a JSON report"),
    "list": ("[]", "it has no history"),
    "null": ('{"history": null}', "it has no history"),
    "none": ('{"history": []}', "it has no history"),
    "row": ('{"history": [3]}', "its history cannot be read"),
    "rows": ('{"history": [{"a": 1}, null]}', "its history cannot be read"),
    "name": ('{"history": [{"b": 1}]}', "its history cannot be read ('a'); each row needs"),
    "words": ('{"history": [{"a": "x"}]}', "its history cannot be read"),
    "large": (json.dumps({"history": [{"a": 10**400}]}), "its history cannot be read"),
}


@pytest.mark.parametrize("case", REPORTS)
def test_bad_reports(case, tmp_path):
    content, words = REPORTS[case]
    content = content.encode() if isinstance(content, str) else content
    (tmp_path / "r.json").write_bytes(content)
    assert words in refused(lambda path: read_json(path, ["a"]), tmp_path / "r.json")


def test_numbers_that_json_lacks_are_nan(tmp_path):
    (tmp_path / "r.json").write_text('{"history": [{"a": null}, {"a": Infinity}, {"a": "1e400"}]}')
    rows = read_json(tmp_path / "r.json", ["a"])["history"]
    assert all(np.isnan(row["a"]) for row in rows) and len(rows) == 3


# Configuration


WORDS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["-1", "0", "nan", "inf", "1e400", "2G", "1_0", "9" * 400, "²", "--", "{}"]),
)


@given(WORDS)
def test_sizes_are_finite_or_refused(text):
    try:
        assert 0 < parse_bytes(text) < np.inf
    except InputError as error:
        assert "is not a number of bytes" in str(error) and str(error).isprintable()


NO_OPTION = ["", "=", "=1", "absent=1"]
NO_VALUE = ["NAME", "NAME=", "NAME==1", "NAME=many", "NAME=nan", "NAME=inf", "NAME=-1",
            "NAME=1e400", "NAME=" + "9" * 400, "NAME=\n"]  # fmt: skip


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_settings_of_optimizers(optimizer, capsys):
    """None of these is right for any option."""
    command = ["train", "--data", "none.csv", "--optimizer", optimizer]
    names = [part.name for part in fields(OPTIMIZERS[optimizer])]
    bad = [wrong.replace("NAME", name) for name in names for wrong in NO_VALUE] + NO_OPTION
    for setting in bad:
        with pytest.raises(InputError) as refusal:
            make_optimizer(optimizer, [setting])
        assert str(refusal.value).isprintable() and len(str(refusal.value).splitlines()) == 1
    for setting in (*NO_OPTION, *(wrong.replace("NAME", names[0]) for wrong in NO_VALUE)):
        assert one_line(capsys, [*command, "--set", setting])
    assert "--set" in one_line(capsys, [*command, "--set"])


def one_line(capsys, words) -> str:
    """The line with which a command is refused."""
    try:
        status = main(words)
    except SystemExit as usage:
        status = usage.code
    lines = capsys.readouterr().err.splitlines()
    assert status == 2 and len(lines) == 1 and lines[0].isprintable(), (words, status, lines)
    known = re.match(r"hesscomp( [a-z]+)?: error: ", lines[0])
    assert known and "no such file" not in lines[0], words
    return lines[0]


NO_NUMBER, HUGE = ("", "many", "nan"), "9" * 400
COUNTS = (*NO_NUMBER, "1.5", "inf", "-1", HUGE)
VALUES = {
    "plan": {
        "--n --rows --ranks --rank --panel --block": (*COUNTS, "0", "1e16"),
        "--oversample --power": (*COUNTS, "1e16"),
        "--memory --memory-limit": (*COUNTS[:3], "inf", "-1", "0", HUGE, "2X", "G"),
        "--row-bytes --row-seconds --latency": (*NO_NUMBER, "inf", "-1", "1e400"),
        "--rate --bandwidth": (*NO_NUMBER, "inf", "-1", "0", "1e400", "1e-300"),
        "--tol --tolerance": ("1e-3",),
    },
    "train": {
        "--gradient-batch --curvature-batch --acceptance-batch": (
            *NO_NUMBER, "inf", "-1", "0", "1e400",
        ),
        "--max-steps --seed": COUNTS,
        "--save-every --threads": (*COUNTS, "0"),
        "--max-passes --max-seconds --comm-timeout": (*NO_NUMBER, "-1", "0"),
        "--tol": (*NO_NUMBER, "-1"),
        "--target": NO_NUMBER,
        "--run": ("",),
    },
    "compress": {
        "--rank --panel --block --max-columns --max-basis --threads": (*COUNTS, "0"),
        "--oversample --power --seed": COUNTS,
        "--residual-tolerance --comm-timeout": (*NO_NUMBER, "-1", "0"),
        "--sample": ("", "many"),
        "--run": ("",),
    },
}  # fmt: skip
NEEDED = {
    "plan": ("--n", "1000", "--rows", "1000", "--ranks", "4"),
    "train": ("--data", "none.csv", "--optimizer", "sgd"),
    "compress": ("--data", "none.csv", "--rank", "2", "--out", "f.h5"),
}


@pytest.mark.parametrize("command", VALUES)
def test_values_of_options(command, capsys):
    """Refused before the data are looked for."""
    for options, values in VALUES[command].items():
        for option in options.split():
            for value in values:
                one_line(capsys, [command, *NEEDED[command], f"{option}={value}"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sample=nan"], "--sample must be above 0 and at most 1, not nan"),
        (["--sample=-0.5"], "--sample must be above 0 and at most 1, not -0.5"),
        (["--sample=1e-9"], "is empty; take more"),
        (["--blocks="], "needs the name of at least one parameter block"),
        (["--blocks", "a,coefficients"], "no parameter block is called a; they are coefficients"),
        (["--memory-limit", "1G"], "--memory-limit does not go with logistic regression"),
        (["--memory-limit", "0"], "--memory-limit: 0: is not a number of bytes"),
        (["--ridge", "nan"], "--ridge must be at least 0, not nan"),
        (["--seed", "-1"], "--seed must be at least 0 and at most 4294967295, not -1"),
    ],
)
def test_options_that_need_the_data(words, message, capsys, tmp_path):
    rows = "".join(f"{i % 7},{i % 5},{i % 2}\n" for i in range(60))
    (tmp_path / "d.csv").write_text(f"a,b,label\n{rows}")
    data = ["--data", str(tmp_path / "d.csv"), "--rank", "1", "--out", str(tmp_path / "f.h5")]
    assert message in one_line(capsys, ["compress", *data, *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tolerance", "1e-2"], "--tolerance: give it before the --"),
        (["--rank=3"], "--rank=3: give it before the --"),
        (["--power"], "--power: give it before the --"),
        (["--memory-limit", "1G"], "--memory-limit: give it before the --"),
        (["--sample"], "argument --sample: expected one argument"),
        (["--sample", "2"], "--sample must be above 0 and at most 1"),
        (["--sample", "1"], "no such file"),
    ],
)
def test_what_a_plan_hands_on(words, message, capsys):
    command = ["plan", "--data", "none.csv", "--ranks", "4", "--", *words]
    try:
        assert main(command) == 2
    except SystemExit as usage:
        assert usage.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_plan_too_long_to_go_through(capsys):
    words = ["plan", "--n", "1e12", "--rows", "1", "--ranks", "4", "--rank", "1e11"]
    assert "are more than can be planned; take a larger panel" in one_line(capsys, words)


OPTIONS = ("--nodes", "--time", "--mem", "--name", "--partition", "--array", "--stage", "--")


@given(st.lists(st.one_of(st.sampled_from([*OPTIONS, "compress", "--at"]), WORDS), max_size=6))
def test_any_job_is_written_or_refused(words):
    """Never a traceback: a script, one line, or argparse's usage."""
    words = [word for word in words if not "--out".startswith(word[:3]) and "sub" not in word]
    try:
        assert main(["job", *words]) in (0, 2)
    except SystemExit as usage:
        assert usage.code in (0, 2)


@given(st.text())
def test_errors_are_one_printable_line(text):
    assert str(HesscompError(text)).isprintable()


# The fuzzer


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [name for name in READERS if name not in ("keras", "weights")])
def test_a_short_run_of_the_fuzzer_finds_nothing(name, tmp_path):
    """Of the readers that need no TensorFlow."""
    options = Namespace(
        readers=[name], worker=tmp_path, out=tmp_path / "out",
        inputs=25, seconds=None, seed=0, blind=True, replay=[],
    )  # fmt: skip
    assert Worker(options).run() == 0
    assert not [text.read_text() for text in tmp_path.glob("out/*/*.txt")]
