"""A rank of `hesscomp serve`: its launcher runs ``python -m hesscomp.cli.rank SOCKET ...``.

The words after the socket name the problem, and are those after the `--` of `hesscomp serve`.
"""

import argparse
import logging
import sys

from hesscomp.cli.arguments import add_arguments, request_from
from hesscomp.cli.guard import AGREED, report_death
from hesscomp.cli.main import STARTED, Lines, comm_timeout
from hesscomp.cli.parser import Parser
from hesscomp.parallel.watchdog.rank_watchdog import run_watched
from hesscomp.parallel.watchdog.startup_timeout import startup_timeout


def served_options(words: list[str]) -> argparse.Namespace:
    """Return the options of a service's problem and ranks; where they are bad, exit with 2."""
    from hesscomp.cli.session import ComputingRankOptions
    from hesscomp.service.requests import ServedProblem

    parser = Parser(prog="hesscomp serve FOLDER --", usage="hesscomp serve FOLDER -- [options]")
    written = add_arguments(parser, ServedProblem) | add_arguments(parser, ComputingRankOptions)
    options = parser.parse_args(words)
    options.written, options.renamed = written, []
    return options


def main() -> int:
    """Run this rank; return its exit status."""
    return run_watched(lambda: _run(sys.argv[1], sys.argv[2:]), report_death, AGREED)


def _run(address: str, words: list[str]) -> int:
    with startup_timeout(comm_timeout(words), "MPI's start"):
        from hesscomp.cli.session import run_on_ranks
        from hesscomp.service.loop import RankLoop
        from hesscomp.service.requests import ServedProblem

        options = served_options(words)
    handler = logging.StreamHandler()
    handler.setFormatter(Lines(options.written))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])

    def run(options, session) -> int:
        return RankLoop(address, request_from(options, ServedProblem), session.world).run()

    return run_on_ranks(run, options, STARTED)


if __name__ == "__main__":
    sys.exit(main())
