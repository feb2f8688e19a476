"""TensorFlow, imported once and quietly: every other module takes `tf` from here."""

import ctypes
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import wraps

import numpy as np

from hesscomp.datasets.dataset import ALIGNMENT
from hesscomp.errors import InputError
from hesscomp.parallel import threads_of_environment

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT = 2**31 - 1  # bytes: what an int of mallopt holds
_kept = 0  # what `keep_freed_memory` was asked for
LARGEST_MAPPED = 2**25  # bytes: the highest M_MMAP_THRESHOLD before glibc 2.35


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

    tf.get_logger().setLevel("CRITICAL")  # what fails is raised; pages of graphs help nobody

ZERO = tf.UnconnectedGradients.ZERO


def _limit_threads(threads: int) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def _heed_environment() -> None:
    """Take the threads of OMP_NUM_THREADS where the user has set none, and none runs yet."""
    threads = threads_of_environment()
    if threads and not tf.config.threading.get_intra_op_parallelism_threads():
        with suppress(RuntimeError):  # where it runs already
            _limit_threads(threads)


_heed_environment()


def _softsign_bend(operation, delta):
    """Return the gradient of SoftsignGrad, slope / (1 + |x|)^2, which TensorFlow 2.21 lacks."""
    slope, x = operation.inputs
    scale = 1 / (1 + tf.abs(x))
    return [delta * scale**2, -2 * delta * slope * tf.sign(x) * scale**3]


with suppress(KeyError):  # where TensorFlow has one
    tf.RegisterGradient("SoftsignGrad")(_softsign_bend)


@contextmanager
def _before_running(what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            f"TensorFlow is already running; {what} before the first operation"
        ) from error


def set_threads(threads: int) -> None:
    """Let TensorFlow use `threads` threads; call before its first operation.

    One operation runs at a time (the work here is a chain of large products); its inner loops
    use all the threads. Raises InputError if TensorFlow runs already, with another number.
    """
    with _before_running(f"set its threads ({threads})"):
        _limit_threads(threads)
    with _quiet_stderr():
        tf.constant(0.0)


def threads_here() -> int:
    """Return how many threads an operation of TensorFlow runs on in this process."""
    return tf.config.threading.get_intra_op_parallelism_threads() or len(os.sched_getaffinity(0))


def own_device(devices: list, place: int):
    """Return the device of the rank that is number `place` on its node; None where there is none.

    Devices are dealt out in turn, so that no two ranks share one while another is idle. Where the
    launcher shows each rank one device (``srun --gpus-per-task=1``), that is its own.
    """
    return devices[place % len(devices)] if devices else None


def use_own_gpu(place: int) -> str | None:
    """Compute on this rank's GPU and see no other; its memory is taken as it is needed.

    Returns the GPU's name, None where there is none. Call before TensorFlow's first operation:
    after it, InputError is raised.
    """
    own = own_device(tf.config.list_physical_devices("GPU"), place)
    if own is None:
        return None
    with _before_running(f"choose a GPU ({own.name})"):
        tf.config.set_visible_devices(own, "GPU")
        tf.config.experimental.set_memory_growth(own, True)
    return own.name


def keep_freed_memory(most: float) -> None:
    """Let the C library keep up to `most` bytes that tensors leave free, for the next tensors.

    By default it gives large arrays back to the system at once, and every tensor of megabytes is
    mapped, cleared and faulted in again: a tenth of a network's block product. The largest `most`
    so far holds, for the whole process, up to `KEPT`; where the library is not glibc, nothing
    happens.
    """
    global _kept
    _kept = max(_kept, int(min(most, KEPT)))
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, _kept)
        if not mallopt(M_MMAP_THRESHOLD, _kept):
            mallopt(M_MMAP_THRESHOLD, min(_kept, LARGEST_MAPPED))


@contextmanager
def computing_in(dtype: str, objects=()) -> Iterator[None]:
    """Let Keras make constants of this type while TensorFlow traces, where it is not told one.

    Real tensors that some objects hold as attributes (`OrthogonalRegularizer`) are cast meanwhile.
    """
    floatx = keras.config.floatx()
    held = [
        (owner, name, value)
        for owner in objects
        for name, value in getattr(owner, "__dict__", {}).items()
        if tf.is_tensor(value) and value.dtype.is_floating
    ]
    keras.config.set_floatx(dtype)
    try:
        for owner, name, value in held:
            setattr(owner, name, tf.cast(value, dtype))
        yield
    finally:
        keras.config.set_floatx(floatx)
        for owner, name, value in held:
            setattr(owner, name, value)


# What TensorFlow says where an operation is given two precisions.
_TWO_PRECISIONS = re.compile(
    r"\b(float32|float|half|bfloat16)\b.*\b(float64|double)\b|"
    r"\b(float64|double)\b.*\b(float32|float|half|bfloat16)\b",
    re.DOTALL,
)


@contextmanager
def one_precision(what: str) -> Iterator[None]:
    """Raise InputError in place of TensorFlow's error where a user's function mixes precisions."""
    try:
        yield
    except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
        if not _TWO_PRECISIONS.search(str(error)):
            raise
        raise InputError(
            f"{what} computes with constants of a fixed precision, such as tf.constant([1.0, 5.0]),"
            " but hesscomp computes in float32 and in float64; cast them to the type of what it is "
            "given, as in tf.cast(weights, output.dtype)"
        ) from error


def share(array: np.ndarray) -> tf.Tensor:
    """Return a tensor that shares the array's memory if aligned for it, else a copy (as on a GPU).

    The array must not be changed afterwards.
    """
    here = not tf.config.get_visible_devices("GPU")
    aligned = here and array.flags.c_contiguous and array.flags.writeable and array.size > 0
    if aligned and array.ctypes.data % ALIGNMENT == 0 and array.dtype.kind == "f":
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.convert_to_tensor(array)


def value_and_gradient(function, x, seed=None):
    """Return ``function(x)``, and the gradient by x of its sum, or of its product with `seed`.

    x may be a list of tensors; the gradient is zero where the value does not depend on it.
    """
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return value, tape.gradient(value, x, seed, unconnected_gradients=ZERO)


_fusing = ContextVar("fusing", default=False)


@contextmanager
def fusing(worth: bool) -> Iterator[None]:
    """Whether what TensorFlow traces meanwhile is `fused`: XLA takes 0.1 s a function and shape."""
    token = _fusing.set(worth)
    try:
        yield
    finally:
        _fusing.reset(token)


def fused(function):
    """Return element-wise arithmetic that XLA compiles to one pass, where `fusing` says so."""
    compiled = tf.function(function, jit_compile=True, autograph=False)

    @wraps(function)
    def call(*arguments):
        return (compiled if _fusing.get() else function)(*arguments)

    return call


def view(tensor: tf.Tensor) -> np.ndarray:
    """Return a read-only array that shares a tensor's memory, or a copy from a GPU."""
    return tensor.numpy() if "GPU" in tensor.device else np.asarray(memoryview(tensor))
