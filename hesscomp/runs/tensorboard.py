"""Scalars for TensorBoard, written without TensorFlow.

An event file is a sequence of records, each a protocol buffer (tensorflow/core/util/event.proto)
between its length and checksums (TFRecord: masked CRC-32C).
"""

import math
import os
import struct
import time
from pathlib import Path

POLYNOMIAL = 0x82F63B78  # of CRC-32C, reversed
MASK = 0xA282EAD8


class ScalarWriter:
    """Writes scalars to a new event file in a folder.

    Parameters
    ----------
    folder : path
        Made if it is missing.
    """

    def __init__(self, folder: str | os.PathLike):
        Path(folder).mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 10**9}.hesscomp.{os.getpid()}"
        self._stream = open(Path(folder) / name, "ab")  # noqa: SIM115 (closed by `close`)
        self._record(_event(0, _bytes(3, b"brain.Event:2")))

    def write(self, step: int, values: dict[str, float]) -> None:
        """One value for each name at a step; on disk when this returns."""
        summary = b"".join(
            _bytes(1, _bytes(1, name.encode()) + b"\x15" + _float(value))
            for name, value in values.items()
        )
        self._record(_event(step, _bytes(5, summary)))
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()

    def _record(self, data: bytes) -> None:
        length = struct.pack("<Q", len(data))
        self._stream.write(length + _checksum(length) + data + _checksum(data))


def _float(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", math.copysign(math.inf, value))


def _event(step: int, content: bytes) -> bytes:
    return b"\x09" + struct.pack("<d", time.time()) + b"\x10" + _varint(step) + content


def _bytes(field: int, content: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


TABLE = _table()


def _checksum(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + MASK) & 0xFFFFFFFF)
