"""`hesscomp plot`: pictures of factors and runs."""

import argparse

from hesscomp.runs.files import check_picture_name, check_writable
from hesscomp.runs.report import read_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="F.h5|R.json", help="a factor or trajectory file, or a newton report"
    )
    parser.add_argument("--out", required=True, metavar="P.png", help="png, pdf or svg")


def run(options: argparse.Namespace) -> int:
    check_picture_name(options.out)
    check_writable(options.out)
    from hesscomp.analysis.plots import plot_convergence, plot_spectrum, plot_trajectory
    from hesscomp.factors import is_trajectory, load_factor, load_trajectory

    if options.file.endswith(".json"):
        report = read_json(options.file)
        plot_convergence(report["history"], options.out, report.get("data", options.file))
    elif is_trajectory(options.file):
        plot_trajectory(load_trajectory(options.file), options.out)
    else:
        plot_spectrum(load_factor(options.file), options.out)
    print(f"wrote {options.out}")
    return 0
