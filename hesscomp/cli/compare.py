"""`hesscomp compare`: measure the distance between two factors."""

from dataclasses import asdict, dataclass

import numpy as np

from hesscomp.cli.tables import comparison_table
from hesscomp.errors import InputError
from hesscomp.factors import compare, load_factor
from hesscomp.options import Options, option
from hesscomp.runs.report import write_json
from hesscomp.storage.files import check_outputs, check_picture_name


@dataclass(frozen=True, kw_only=True)
class CompareRequest(Options):
    """Which factors to compare, and where to write the numbers."""

    first: str = option(flag="first", metavar="F.h5", help="a factor file")
    second: str = option(
        flag="second", metavar="G.h5", help="another factor file, of the same order"
    )
    leading: int = option(10, low=1, metavar="K", help="number of eigenvalues to show")
    subspace: int | None = option(
        None, metavar="K",
        help="compare the spans of the K leading eigenvectors; default: as many as both have",
    )  # fmt: skip
    json: str | None = option(None, metavar="R.json", help="write all numbers to this file")
    plot: str | None = option(None, metavar="P.png", help="the picture: png, pdf or svg")

    def _check(self) -> None:
        super()._check()
        if self.plot is not None:
            check_picture_name(self.plot)


REQUEST = CompareRequest


def run(request: CompareRequest) -> int:
    check_outputs(request.json, request.plot)
    names = (request.first, request.second)
    F, G = map(load_factor, names)
    if F.n != G.n:
        raise InputError(
            f"{names[0]} has n = {F.n}, but {names[1]} has n = {G.n}; compare factors of one order"
        )
    comparison = compare(F, G, request.subspace)
    print(comparison_table(names, F, G, comparison, request.leading))
    if request.json is not None:
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
        write_json(request.json, report)
        print(f"wrote {request.json}")
    if request.plot is not None:
        from hesscomp.analysis.plots import plot_comparison

        plot_comparison(names, F, G, comparison, request.plot)
        print(f"wrote {request.plot}")
    return 0
