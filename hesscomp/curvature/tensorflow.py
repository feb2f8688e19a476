"""TensorFlow, imported once and quietly: every other module takes `tf` from here."""

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from hesscomp.errors import InputError
from hesscomp.runs.memory import ALIGNMENT

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT = 2**30


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hold back what C++ writes to the standard error; show it only if the block raises."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


with _quiet_stderr():
    import tensorflow as tf  # isort: skip (before Keras, which would bring it in loudly)
    import keras

    tf.get_logger().setLevel("ERROR")  # a compiled function for each k is not "retracing"


def set_threads(threads: int) -> None:
    """Let TensorFlow use `threads` threads; call before its first operation.

    One operation runs at a time (the work here is a chain of large products); its inner loops
    use all the threads.

    Raises
    ------
    InputError
        If TensorFlow has already run an operation with another number of threads.
    """
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError as error:
        raise InputError(
            f"TensorFlow is already running; set its threads ({threads}) before the first operation"
        ) from error
    with _quiet_stderr():
        tf.constant(0.0)


def keep_freed_memory() -> None:
    """Let the C library keep up to `KEPT` bytes that tensors leave free, for the next tensors.

    By default it gives large arrays back to the system at once, and every tensor of megabytes is
    mapped, cleared and faulted in anew: a tenth of a network's block product. Where the library is
    not glibc, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_MMAP_THRESHOLD, KEPT)


def share(array: np.ndarray) -> tf.Tensor:
    """A tensor over the array's own memory where its alignment allows, else over a copy.

    The array must not be changed afterwards.
    """
    aligned = array.flags.c_contiguous and array.flags.writeable and array.size > 0
    if aligned and array.ctypes.data % ALIGNMENT == 0 and array.dtype.kind == "f":
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.convert_to_tensor(array)


def view(tensor: tf.Tensor) -> np.ndarray:
    """A tensor's own memory as an array that cannot be written to: for large ones, no copy."""
    return np.asarray(memoryview(tensor))


__all__ = ["keep_freed_memory", "keras", "set_threads", "share", "tf", "view"]
