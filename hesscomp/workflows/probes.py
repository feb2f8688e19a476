"""What `doctor` has done in processes of their own, because it may fail, crash or hang there.

Imports at the top load nothing but the standard library. Each probe returns what JSON can hold.
"""

import importlib
import json
import sys
from importlib.metadata import version

from hesscomp.parallel import import_mpi_unstarted

MARK = "hesscomp probe: "  # before the result, which is not alone on the standard output
ROWS, FEATURES, RANK = 240, 24, 6


def mpi() -> dict:
    """Return which MPI library mpi4py has; MPI is not started, as it may not on a login node."""
    import_mpi_unstarted()
    library = importlib.import_module("mpi4py.MPI")
    name, numbers = library.get_vendor()
    return {"name": name, "version": ".".join(map(str, numbers)), "mpi4py": version("mpi4py")}


def tensorflow() -> dict:
    """Return TensorFlow's version and devices, after a first operation."""
    tf = importlib.import_module("tensorflow")
    total = float(tf.reduce_sum(tf.ones([4, 4]) @ tf.ones([4, 4])))
    if total != 64:
        raise ArithmeticError(f"a product of two matrices of ones sums to {total}, not 64")
    return {
        "version": tf.__version__,
        "keras": importlib.import_module("keras").__version__,
        "gpus": len(tf.config.list_physical_devices("GPU")),
        "built_for_gpus": tf.test.is_built_with_cuda(),
    }


def hdf5() -> dict:
    """Return the versions of HDF5 and h5py, and whether HDF5 was built for MPI."""
    h5py = importlib.import_module("h5py")
    return {
        "version": h5py.version.hdf5_version,
        "h5py": h5py.__version__,
        "parallel": bool(h5py.get_config().mpi),
    }


def selftest() -> dict | None:
    """Compress a small matrix whose data are shared by the ranks; return the result on rank 0.

    The matrix is X^T X, each rank holding rows of X: all that ranks need but TensorFlow.
    """
    import numpy as np

    from hesscomp.compression import compress
    from hesscomp.operators.operator import Operator
    from hesscomp.parallel.world import World

    class Gram(Operator):
        def block_product(self, V):
            return self.world.sum(X.T @ (X @ V))

    world = World()
    scales = 2.0 ** -np.arange(FEATURES)
    whole = np.random.default_rng(0).standard_normal((ROWS, FEATURES)) * scales
    X = whole[world.rank :: world.size]
    factor = compress(Gram(FEATURES, world, psd=True), RANK)
    found = {"ranks": world.size, "eigenvalues": factor.eigenvalues.tolist()}
    return found if world.rank == 0 else None


PROBES = {each.__name__: each for each in (mpi, tensorflow, hdf5, selftest)}


def main(name: str) -> None:
    """Run a probe in this process; print what it returns, or the error in one line."""
    try:
        found: dict = {"found": PROBES[name]()}
    except Exception as error:  # whatever it is, the doctor is told of it
        found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    if found.get("found", "") is not None:
        sys.stdout.write(f"\n{MARK}{json.dumps(found)}\n")
        sys.stdout.flush()
    sys.exit("error" in found)
