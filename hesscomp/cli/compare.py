"""`hesscomp compare`: how far two factors are apart."""

import argparse
from dataclasses import asdict

import numpy as np

from hesscomp.cli.tables import comparison_table
from hesscomp.errors import InputError
from hesscomp.factors import compare, load_factor
from hesscomp.runs.report import write_json
from hesscomp.storage.files import check_outputs, check_picture_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="F.h5", help="a factor file")
    parser.add_argument("second", metavar="G.h5", help="another, of the same order")
    parser.add_argument(
        "--leading", type=int, default=10, metavar="K", help="how many eigenvalues to show"
    )
    parser.add_argument(
        "--subspace",
        type=int,
        metavar="K",
        help="leading eigenvectors of each that span what the angles compare; default all in both",
    )
    parser.add_argument("--json", metavar="R.json", help="all the numbers")
    parser.add_argument("--plot", metavar="P.png", help="png, pdf or svg")


def check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before any work."""
    if options.plot is not None:
        check_picture_name(options.plot)
    if options.leading < 1:
        raise InputError(f"--leading must be at least 1, not {options.leading}")


def run(options: argparse.Namespace) -> int:
    check(options)
    check_outputs(options.json, options.plot)
    names = (options.first, options.second)
    F, G = map(load_factor, names)
    if F.n != G.n:
        raise InputError(
            f"{names[0]} has n = {F.n}, but {names[1]} has n = {G.n}; compare factors of one order"
        )
    comparison = compare(F, G, options.subspace)
    print(comparison_table(names, F, G, comparison, options.leading))
    if options.json is not None:
        found = asdict(comparison)
        angles = found.pop("angles")
        report = {
            "command": "compare",
            "files": names,
            "n": F.n,
            "ranks": (F.rank, G.rank),
            "eigenvalues": (F.eigenvalues, G.eigenvalues),
            "angles_degrees": np.degrees(angles),
            **found,
        }
        write_json(options.json, report)
        print(f"wrote {options.json}")
    if options.plot is not None:
        from hesscomp.analysis.plots import plot_comparison

        plot_comparison(names, F, G, comparison, options.plot)
        print(f"wrote {options.plot}")
    return 0
