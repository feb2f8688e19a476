"""`hesscomp plot`: pictures of factors and runs."""

import argparse
from pathlib import Path

from hesscomp.runs.report import read_json
from hesscomp.storage.files import check_picture_name, check_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="F.h5|R.json|RUN",
        help="a factor or trajectory file, a newton report, or the folder of a train run",
    )
    parser.add_argument("--out", required=True, metavar="P.png", help="png, pdf or svg")


def check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before any work."""
    check_picture_name(options.out)


def run(options: argparse.Namespace) -> int:
    check(options)
    check_writable(options.out)
    from hesscomp.analysis.plots import (
        CONVERGENCE,
        RUN,
        plot_convergence,
        plot_run,
        plot_spectrum,
        plot_trajectory,
    )
    from hesscomp.factors import is_trajectory, load_factor, load_trajectory

    if Path(options.file).is_dir():
        report = read_json(Path(options.file) / "history.json", RUN)
        title = f"{report.get('problem')}: {report.get('optimizer')}"
        plot_run(report["history"], options.out, title)
    elif options.file.endswith(".json"):
        report = read_json(options.file, CONVERGENCE)
        plot_convergence(report["history"], options.out, str(report.get("data", options.file)))
    elif is_trajectory(options.file):
        plot_trajectory(load_trajectory(options.file), options.out)
    else:
        plot_spectrum(load_factor(options.file), options.out)
    print(f"wrote {options.out}")
    return 0
