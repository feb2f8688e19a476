"""Arrays in memory that other libraries can take over without a copy."""

import numpy as np

ALIGNMENT = 64  # bytes; what TensorFlow asks of memory that it did not allocate


def aligned_empty(shape: tuple[int, ...], dtype) -> np.ndarray:
    """Return ``numpy.empty`` that begins on a multiple of `ALIGNMENT` bytes."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)
