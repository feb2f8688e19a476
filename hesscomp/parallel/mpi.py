"""MPI; where its library is missing, one line says what to do."""

from hesscomp.errors import MissingLibraryError, reason
from hesscomp.parallel import INSTALL_MPI

try:
    from mpi4py import MPI as MPI
except (ImportError, RuntimeError) as error:  # mpi4py's own text lists every name that it tried
    why = reason(str(error).partition("\n")[0])
    told = f"MPI cannot be loaded ({why}); {INSTALL_MPI}; `hesscomp doctor` tells more"
    raise MissingLibraryError(told) from None
