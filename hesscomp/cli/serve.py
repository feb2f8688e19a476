"""`hesscomp serve`: keep ranks with a problem, and answer many clients."""

from dataclasses import dataclass

from hesscomp.cli.arguments import request_from
from hesscomp.cli.rank import served_options
from hesscomp.parallel import import_mpi_unstarted
from hesscomp.service.options import ServiceOptions

USAGE = "hesscomp serve FOLDER [options of the service] -- [options of the problem]"
EPILOG = (
    "The problem's options are those of compress, such as --problem mnist-mlp or --data train.csv, "
    "with --threads, --reproducible and --comm-timeout for the ranks. SIGTERM, SIGUSR1 and "
    "hesscomp drain end the service at the present product; jobs that wait or ran are taken up "
    "by its next start (exit status 75)."
)


@dataclass(frozen=True, kw_only=True)
class ServeCommand(ServiceOptions):
    """A service, and the words that name its problem."""

    command: tuple[str, ...] = ()


def run_serve(request: ServeCommand) -> int:
    import_mpi_unstarted()  # the front is no rank
    from hesscomp.service.requests import ServedProblem
    from hesscomp.service.server import serve

    options = served_options(list(request.command))

    def say(text: str) -> None:
        print(text, flush=True)

    served = request_from(options, ServedProblem)
    return serve(request, served, request.command, say)
