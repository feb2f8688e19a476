"""Mutations of files: of bytes, and of what stands inside archives, HDF5 files and JSON.

Every mutation is a function of the bytes and of a `random.Random`, so that a seed gives the same
file again.
"""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from contextlib import suppress
from random import Random

import h5py
import numpy as np

from fuzzing.judge import CANARY

Mutation = Callable[[bytes, Random], bytes]

INTEGERS = (0, 1, 2, 7, 8, 16, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1,
            2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1)  # fmt: skip
TOKENS = (
    b"nan", b"-inf", b"1e999", b"1_0", b"0x10", b"#", b",", b";", b"\t", b'"', b"'", b"\r", b"\n",
    b"\0", b"\xff", b"\xef\xbb\xbf", b":", b"1:1", b"0:0", b"2147483647:1", b"qid:3", b"-1", b"+1",
    b"1e-400", b"99999999999999999999999", b"{", b"}", b"[", b"]", b"null", b"NaN", b"1e400",
    b"\xe2\x80\xa8", b"\x1b[31m", b"(", b")", b"'<f8'", b"'|O'", b"'|S0'", b"'<U0'", b"'|V0'",
    b"True", b"False", b"'>i2'", b"'?'", b"(3, 1000000000000)", b"(-1,)", b"()", b"OHDR", b"GCOL",
    b"SNOD", b"TREE", b"HEAP", b"\x93NUMPY", b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06",
)  # fmt: skip


def bytewise(data: bytes, random: Random) -> bytes:
    """One to four small changes of bytes: bits, numbers, tokens, pieces cut, doubled and moved."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(out) + 1)
        end = min(at + random.choice((1, 2, 4, 8, 32, 512)), len(out))
        kind = random.randrange(7)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            size = random.choice((1, 2, 4, 8))
            value = random.choice(INTEGERS) % 256**size
            out[at : at + size] = value.to_bytes(size, random.choice(("little", "big")))
        elif kind == 2:
            out[at : random.choice((at, end))] = random.choice(TOKENS)
        elif kind == 3:
            del out[at:end]
        elif kind == 4:
            out[at:at] = out[at:end] * random.choice((1, 1, 2, 30))
        elif kind == 5 and random.random() < 0.3:
            del out[at:]
        else:
            other = random.randrange(len(out) + 1)
            out[at:end] = out[other : other + end - at]
    return bytes(out)


def lines(data: bytes, random: Random) -> bytes:
    """Change words of a text: swap, drop, repeat, put in tokens; repeat its last line."""
    words = data.replace(b",", b" , ").replace(b":", b" : ").split(b" ")
    for _ in range(random.choice((1, 2, 5))):
        at, other = random.randrange(len(words)), random.randrange(len(words))
        words[at] = random.choice(
            (words[other], random.choice(TOKENS), words[at] * random.choice((3, 300)), b"")
        )
    text = b" ".join(words).replace(b" , ", b",").replace(b" : ", b":")
    last = b"\n" + text.rstrip(b"\n").rpartition(b"\n")[2]
    return text.rstrip(b"\n") + last * random.choice((0,) * 8 + (1, 1000)) + b"\n"


def zipped(inner: Mutation) -> Mutation:
    """Change a member of a zip archive, or the archive: members doubled, dropped, renamed."""

    def mutate(data: bytes, random: Random) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
        at = random.randrange(len(members))
        name, content = members[at]
        kind = random.randrange(10)
        if kind == 0:
            del members[at]
        elif kind == 1:
            members.append((random.choice((name, f"../{name}", f"/tmp/{name}", "")), content))
        elif kind == 2:
            members[at] = (name, random.choice(members)[1])
        else:
            with suppress(ValueError, OSError):  # a member of another kind stays as it is
                members[at] = (name, inner(content, random))
        out = io.BytesIO()
        methods = (zipfile.ZIP_STORED,) * 20 + (zipfile.ZIP_DEFLATED,) * 10 + (zipfile.ZIP_BZIP2,)
        with zipfile.ZipFile(out, "w", random.choice(methods)) as archive:
            for name, content in members:
                archive.writestr(zipfile.ZipInfo(name), content, archive.compression)
        return out.getvalue()

    return mutate


PACKERS = {
    ".gz": (gzip.decompress, lambda data: gzip.compress(data, mtime=0)),
    ".bz2": (bz2.decompress, bz2.compress),
    ".xz": (lzma.decompress, lambda data: lzma.compress(data, preset=0)),
}


def packed(ending: str, inner: Mutation) -> Mutation:
    """Change what is compressed."""
    unpack, pack = PACKERS[ending]
    return lambda data, random: pack(inner(unpack(data), random))


def numpy_header(data: bytes, random: Random) -> bytes:
    """Change the header of a .npy file and nothing else."""
    end = data.index(b"\n") + 1
    return lines(data[:end], random) + data[end:]


ODD_VALUES = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 1e308, 0.5, "", "nan", "é\n", "0",
    "os:system", "__lambda__", "Lambda", [], {}, [[]], [None], {"class_name": "Lambda"},
    {"module": "os", "class_name": "system", "config": {}}, [1, [2, [3]]], "x" * 3000,
)  # fmt: skip


def json_tree(data: bytes, random: Random) -> bytes:
    """Put odd values, or other parts of the tree, in the place of parts of a JSON tree."""
    tree = json.loads(data)
    places = list(_places(tree))
    for _ in range(random.choice((1, 1, 3))):
        holder, key = random.choice(places)
        other, name = random.choice(places)
        kind = random.randrange(4)
        if kind == 0 and isinstance(holder, dict):
            holder.pop(key, None)
        elif kind == 1:
            value = json.dumps(other[name]) if _has(other, name) else "null"
            if len(value) < 10_000:
                holder[key] = json.loads(value)
        elif kind == 2 and _has(holder, key) and isinstance(holder[key], int | float):
            holder[key] = random.choice(INTEGERS)
        else:
            holder[key] = random.choice(ODD_VALUES)
    return json.dumps(tree).encode()


def _has(holder, key) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _places(tree):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(items):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


# HDF5


def hdf5_objects(data: bytes, random: Random) -> bytes:
    """Change objects, attributes or links of an HDF5 file, which stays a sound one."""
    with h5py.File.in_memory(data) as file:
        names = []
        file.visit(names.append)
        for _ in range(random.choice((1, 1, 2, 4))):
            name = random.choice(names)
            if random.random() < 0.5:
                _change_attribute(file, random.choice((name, "/")), random)
            else:
                _change_object(file, name, random)
        file.flush()
        return file.id.get_file_image()


def _change_attribute(file: h5py.File, name: str, random: Random) -> None:
    if name not in file or (
        name != "/" and type(file.get(name, getlink=True)) is not h5py.HardLink
    ):
        return
    attributes = file[name].attrs
    if not len(attributes):
        return
    key = random.choice(sorted(attributes))
    if random.random() < 0.2:
        del attributes[key]
        return
    attributes[key] = random.choice(_attribute_values(attributes[key], random))


def _attribute_values(old, random: Random) -> list:
    number = random.choice(INTEGERS)
    return [
        np.uint64(number), np.int64(number % 2**63), -1, 0, 3.5, np.nan, np.inf, True, "", "é\n",
        "x" * 5000, np.bytes_(b"hesscomp-factor"), np.bytes_(b"\xff\xfe"), np.bytes_(b"a\nb"),
        h5py.Empty("f8"), h5py.Empty("S3"), np.arange(3), np.array([["a", "b"]], "S1"),
        np.zeros((0,)), np.float128(1), np.complex128(1j), np.array([old]) if np.isscalar(old) and
        not isinstance(old, str) else ["a", "b"], np.datetime64("2020").astype("i8"),
        np.void(b"abc"), np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
    ]  # fmt: skip


def _change_object(file: h5py.File, name: str, random: Random) -> None:
    old = file.get(name)
    if old is None:
        return
    shape = old.shape if isinstance(old, h5py.Dataset) else (3,)
    kind = old.dtype if isinstance(old, h5py.Dataset) else np.dtype("f8")
    if random.random() < 0.3:
        shape = random.choice(
            [(), (0,), (1,), (*shape, 1), shape[:-1], (2**20,), (2**40,), (2**31, 4), (7, 0)]
        )
    if random.random() < 0.3:
        kind = random.choice(
            ["f4", "f8", "i1", ">i8", "u8", "?", "S3", "S0x", "c16", "f2", np.dtype("V5"),
             h5py.string_dtype(), h5py.vlen_dtype("i4"), h5py.ref_dtype,
             np.dtype([("a", "i4")]), h5py.enum_dtype({"a": 1}), np.dtype(("f8", (3,)))]
        )  # fmt: skip
        kind = "S1" if kind == "S0x" else kind
    del file[name]
    makers = [
        lambda: file.create_dataset(name, shape, kind),
        lambda: file.create_dataset(name, shape, kind, chunks=True, compression="gzip"),
        lambda: file.create_dataset(name, shape, kind, chunks=True, compression="lzf"),
        lambda: file.create_dataset(name, shape, kind, chunks=True, fletcher32=True, fillvalue=1),
        lambda: file.create_dataset(
            name, shape, kind, chunks=tuple(random.choice((1, max(size, 1))) for size in shape)
        ),
        lambda: file.create_dataset(name, shape, "i4", chunks=True, scaleoffset=3),
        lambda: file.create_dataset(
            name, shape, kind, maxshape=(None,) * len(shape), chunks=(2**14,) * len(shape)
        ),
        lambda: file.create_dataset(
            name, shape, kind, external=[(str(CANARY), 0, h5py.h5f.UNLIMITED)]
        ),
        lambda: file.create_virtual_dataset(name, _virtual(shape, random)),
        lambda: file.create_group(name),
        lambda: file.__setitem__(name, h5py.SoftLink(random.choice(("/", f"/{name}", "/none")))),
        lambda: file.__setitem__(name, h5py.ExternalLink(str(CANARY), "/X")),
        lambda: file.__setitem__(name, file["/"]),
        lambda: [file.__setitem__(f"{name}/{i}", old) for i in range(random.choice((2, 500)))],
        lambda: file.__setitem__(name, np.dtype(kind)),
        lambda: None,
    ]  # fmt: skip
    with suppress(Exception):  # where these do not go together, the object is missing
        random.choice(makers)()


def _virtual(shape, random: Random) -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout(shape, "f8", maxshape=(None, *shape[1:]) if shape else ())
    source = random.choice([".", str(CANARY), f"../{CANARY}", "crafted.h5.0badf00d.0.slab", "%b"])
    if random.random() < 0.5 and shape:  # as long as the source is
        endless = h5py.VirtualSource(source, "X", shape, maxshape=(None, *shape[1:]))
        layout[: h5py.h5s.UNLIMITED] = endless[: h5py.h5s.UNLIMITED]
    else:
        layout[...] = h5py.VirtualSource(source, random.choice(("eigenvectors", "X")), shape)
    return layout
