"""Checks of global heaps, which the HDF5 library (1.14.6) reads without checking them itself.

A heap holds texts of variable length and the parts of virtual data sets. An object of size zero in
it makes the library loop for ever; parts of a virtual data set that claim too many entries or axes
make it write beyond its memory. See "The HDF5 File Format Specification", version 3.0, III.E
(global heap), VII.A (virtual data sets) and VIII (selections).
"""

import struct
from collections.abc import Iterator

SIGNATURE = b"GCOL"
HEAD = struct.Struct("<8sQ")  # of a heap: signature and version, length
OBJECT = struct.Struct("<H6xQ")  # the head of an object in a heap: index, length
PARTS = struct.Struct("<BQ")  # the head of a virtual data set's parts: version, number
CHECKSUM = 4
SELECTION = struct.Struct("<II")  # the head of a selection: kind, version
NONE, POINTS, BLOCKS, ALL = range(4)
REGULAR = 1  # flag of blocks: start, stride, count and size by axis
MOST_AXES = 32


def is_sound(heap: bytes) -> bool:
    """Return whether a heap is a chain of objects from its start to its end, safe to read."""
    try:
        return all(map(_is_safe, _objects(heap)))
    except (struct.error, ValueError):
        return False


def _objects(heap: bytes) -> Iterator[bytes]:
    at = HEAD.size
    while at + OBJECT.size <= len(heap):
        index, length = OBJECT.unpack_from(heap, at)
        whole = length if index == 0 else OBJECT.size + -(-length // 8) * 8  # 0: free space
        if not OBJECT.size <= whole <= len(heap) - at:
            raise ValueError("an object does not fit")
        if index:
            yield heap[at + OBJECT.size :][:length]
        at += whole


def _is_safe(data: bytes) -> bool:
    """Return whether an object is safe to read as the parts of a virtual data set."""
    version, number = PARTS.unpack_from(data.ljust(PARTS.size, b"\1"))
    if version != 0 or len(data) < PARTS.size:
        return True  # the library refuses it itself
    at = PARTS.size
    for _ in range(number):
        for _ in ("file", "data set"):
            at = data.index(b"\0", at) + 1
        for _ in ("source", "virtual"):
            at = _after_selection(data, at)
    return at + CHECKSUM <= len(data)


def _after_selection(data: bytes, at: int) -> int:
    """Return where the selection ends that begins at `at`; raise ValueError if it is none."""
    kind, version = SELECTION.unpack_from(data, at)
    at += SELECTION.size
    if kind in (NONE, ALL):
        return at + 8
    flags, size = 0, 4
    if version == 1:
        at += 8
    elif (kind, version) == (BLOCKS, 2):
        flags, size, at = data[at], 8, at + 5
    elif (kind, version) == (BLOCKS, 3):
        flags, size, at = data[at], data[at + 1], at + 2
    elif (kind, version) == (POINTS, 2):
        size, at = data[at], at + 1
    else:
        raise ValueError("an unknown selection")
    (axes,) = struct.unpack_from("<I", data, at)
    if not 1 <= axes <= MOST_AXES or size not in (2, 4, 8):
        raise ValueError("more axes than there can be")
    at += 4
    if flags & REGULAR:
        return at + 4 * axes * size
    number = int.from_bytes(data[at : at + size], "little")
    return at + size + number * axes * size * (2 if kind == BLOCKS else 1)
