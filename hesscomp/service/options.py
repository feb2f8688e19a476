"""What a service may be told at its start."""

from dataclasses import dataclass

from hesscomp.errors import InputError
from hesscomp.options import Options, byte_size, option
from hesscomp.runs.slurm import LAUNCHERS

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class ServiceOptions(Options, group="service"):
    """Where a service is, how its ranks start, and who reaches it."""

    folder: str = option(flag="folder", metavar="FOLDER", help="the service's folder; made")
    launcher: str = option("mpiexec", choices=LAUNCHERS, help="program that starts the ranks")
    ranks: int | None = option(
        None, low=1, metavar="P",
        help="number of MPI ranks; default: 1, with srun all tasks of its allocation",
    )  # fmt: skip
    port: int | None = option(
        None, low=0, high=65535, metavar="PORT",
        help="answer TCP too, on this host alone; 0 takes a free port. Browsers here need it",
    )  # fmt: skip
    host: str = option(
        LOOPBACK, metavar="NAME", advanced=True,
        help="the name or address for `port`; another one than 127.0.0.1 needs `certificate`",
    )  # fmt: skip
    certificate: str | None = option(
        None, metavar="C.pem", advanced=True, help="certificate for TLS on `port`"
    )
    key: str | None = option(None, metavar="K.pem", advanced=True, help="its private key")
    no_batching: bool = option(
        False, advanced=True, help="never put products of several requests into one block"
    )
    point_memory: float | None = byte_size(
        metavar="BYTES", advanced=True, help="most memory that points take; default: 1G"
    )

    def _check(self) -> None:
        super()._check()
        if self.host not in (LOOPBACK, "localhost", "::1") and self.certificate is None:
            raise InputError(
                f"`host` {self.host}: others could listen; give a `certificate`, or leave it out "
                "and let clients come by ssh -N -L"
            )
        if (self.key is None) != (self.certificate is None):
            raise InputError("`certificate` and `key` go together; give both")
        if self.certificate is not None and self.port is None:
            raise InputError("`certificate` goes with `port`")
