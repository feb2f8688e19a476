"""What commands that make a factor leave behind: a table, the factor file, a report."""

import argparse
from dataclasses import asdict

from hesscomp.cli.session import Session
from hesscomp.cli.tables import factor_table
from hesscomp.factors import Factor, save_factor
from hesscomp.runs.report import write_json


def add_factor_outputs(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument("--out", required=True, metavar="F.h5", help="the factor file")
    output.add_argument("--report", metavar="R.json", help="certificate, provenance and costs")


def write_factor(factor: Factor, path, session: Session) -> None:
    """Write a factor file, and say so."""
    save_factor(factor, path)
    beside = " and the ranks' rows beside it" if factor.layout.name == "rows" else ""
    session.say(f"wrote factor: {path}{beside}")


def deliver_factor(factor: Factor, options, session: Session, startup: float) -> None:
    """Show a factor, write it and its report; the time under the command's name is the solve."""
    session.say(factor_table(factor))
    write_factor(factor, options.out, session)
    ledger = session.world.ledger.as_dict()
    report = {
        "command": options.command,
        "rank": factor.rank,
        "eigenvalues": factor.eigenvalues.tolist(),
        "certificate": {
            name: value
            for name, value in asdict(factor.certificate).items()
            if isinstance(value, float | bool | str)
        },
        "provenance": asdict(factor.provenance),
        "ranks": session.world.size,
        "threads_per_rank": session.threads,
        "seconds": {
            "startup": startup,
            "compile": ledger["seconds"]["compile"],
            "solve": ledger["seconds"][options.command],
        },
        "ledger": ledger,
    }
    session.write("report", options.report, lambda path: write_json(path, report))
