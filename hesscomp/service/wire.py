"""What goes over the wires: frames between the front and rank 0, bodies of HTTP, arrays."""

import asyncio
import io
import socket
import struct
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import numpy as np

from hesscomp.errors import InputError

HEAD = struct.Struct(">IQ")  # bytes of a frame's header, of its arrays
MOST_HEADER = 2**22
MOST_PAYLOAD = 2**36
LARGE = 2**20  # bytes of an array, with which a thread is worth while

Result = TypeVar("Result")

Value = None | bool | int | float | str | list[int | float | str]


class JobBody(msgspec.Struct, forbid_unknown_fields=True):
    """What a client says of a job; its point may be that of an earlier job, by `point_of`."""

    kind: str
    options: dict[str, Value] = {}
    point: str | None = None
    key: str | None = None
    point_of: str | None = None


class Job(msgspec.Struct, kw_only=True):
    """A job: what was asked, and how far it is. `history` has the last rows of an optimizer's."""

    id: str
    kind: str
    options: dict[str, Value] = {}
    point: str | None = None
    key: str | None = None
    client: str = ""
    state: str = "queued"
    created: float = 0.0
    started: float | None = None
    ended: float | None = None
    attempts: int = 0  # that ended with a rank's death
    done: int = 0  # product columns
    total: int | None = None
    error: str = ""
    warnings: list[str] = []
    files: list[str] = []
    history: list[dict[str, Any]] = []

    def brief(self) -> "Job":
        """Return the job with the last row of its history alone: as it is written, listed, told."""
        return msgspec.structs.replace(self, history=self.history[-1:])


def pack(header: dict[str, Any], arrays: tuple[np.ndarray, ...] = ()) -> list[bytes | memoryview]:
    """Return a frame in pieces: lengths, header, and the bytes of the arrays."""
    arrays = tuple(np.ascontiguousarray(array) for array in arrays)
    shapes = [(list(array.shape), array.dtype.str) for array in arrays]
    packed = msgspec.msgpack.encode({**header, "arrays": shapes})
    size = sum(array.nbytes for array in arrays)
    pieces: list[bytes | memoryview] = [HEAD.pack(len(packed), size) + packed]
    return pieces + [array.reshape(-1).view(np.uint8).data for array in arrays if array.size]


def lengths(head: bytes | bytearray) -> tuple[int, int]:
    """Return the lengths of header and payload, from the first `HEAD.size` bytes of a frame."""
    header, payload = HEAD.unpack(head)
    if header > MOST_HEADER or payload > MOST_PAYLOAD:
        raise InputError("a frame between front and ranks is damaged")
    return header, payload


def unpack(header: bytes, payload: bytes | bytearray) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return a frame's header and arrays."""
    known = msgspec.msgpack.decode(header, type=dict[str, Any])
    arrays, at = [], 0
    for shape, kind in known.pop("arrays"):
        dtype = np.dtype(kind)
        count = int(np.prod(shape, dtype=np.int64))
        arrays.append(np.frombuffer(payload, dtype, count, at).reshape(shape))
        at += count * dtype.itemsize
    return known, arrays


def receive(stream: socket.socket) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return the next frame of a blocking socket; EOFError where the other side has ended."""
    header, payload = lengths(_exactly(stream, HEAD.size))
    return unpack(bytes(_exactly(stream, header)), _exactly(stream, payload))


def _exactly(stream: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = stream.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return data


def numbers_of(array: np.ndarray, rows: int, what: str) -> np.ndarray:
    """Return the numbers of an array, as float64: (rows,) or (rows, k).

    Raises
    ------
    InputError
        For another shape, type or number that is not finite.
    """
    if array.dtype.kind not in "fiu":
        raise InputError(f"{what}: holds {array.dtype}, not real numbers")
    if array.ndim not in (1, 2) or array.shape[0] != rows or 0 in array.shape:
        raise InputError(f"{what}: has shape {array.shape}; send ({rows},) or ({rows}, k)")
    array = np.ascontiguousarray(array, np.float64)
    if not np.isfinite(array).all():
        raise InputError(f"{what}: holds numbers that are not finite")
    return array


async def off_loop(size: int, function: Callable[..., Result], *given) -> Result:
    """Call a function of an array of `size` bytes: in a thread where it is large.

    A large one would keep others waiting, and a small one is done sooner than a thread begins.
    """
    return function(*given) if size <= LARGE else await asyncio.to_thread(function, *given)


def npy_of(array: np.ndarray) -> bytes:
    """Return an array as the bytes of a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
