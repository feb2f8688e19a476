"""The MPI world: ranks, reductions, agreement on errors, row ranges, random blocks, threads."""

import os

TIMEOUT = 1800.0  # seconds that a rank waits for others: one that compiles or reads is waited for

INSTALL_MPI = "install MPI with: pip install 'mpich>=5', or load your cluster's MPI module"


def import_mpi_unstarted() -> None:
    """Let MPI, where it is not imported yet, be imported without being started.

    For commands that compute nothing: on a login node MPI may not start.
    """
    import mpi4py

    mpi4py.rc.initialize = False


def threads_of_environment() -> int | None:
    """Return the threads that OMP_NUM_THREADS asks for; None where it names no number."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdigit() and int(text) > 0 else None
