"""The commands about files, and the list of problems: they load neither MPI nor TensorFlow."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hesscomp.cli.tables import (
    comparison_table,
    equation_table,
    factor_table,
    problem_table,
    trajectory_table,
)
from hesscomp.errors import InputError
from hesscomp.factors import compare, is_trajectory, load_factor, load_trajectory, save_factor
from hesscomp.factors.lowrank import tail_number
from hesscomp.factors.point import load_vector
from hesscomp.options import Options, option
from hesscomp.problems.catalogue import EQUATIONS, NAMED_PROBLEMS
from hesscomp.runs.report import write_json
from hesscomp.storage.files import check_outputs, check_picture_name, check_writable
from hesscomp.storage.hdf5 import is_linear_model
from hesscomp.storage.npy import save_npy
from hesscomp.workflows.merging import MergeRequest, merge

PICTURE = "the picture: png, pdf or svg"


@dataclass(frozen=True)
class ProblemsRequest(Options):
    """No options: the list is short."""


def run_problems(request: ProblemsRequest) -> int:
    print(problem_table(NAMED_PROBLEMS))
    print()
    print(equation_table(EQUATIONS))
    return 0


@dataclass(frozen=True, kw_only=True)
class InspectRequest(Options):
    """Which file to show."""

    file: str = option(
        flag="file", metavar="F.h5", help="the file of a factor, a trajectory or a linear model"
    )
    leading: int = option(10, low=1, metavar="K", help="number of eigenvalues to show")


def run_inspect(request: InspectRequest) -> int:
    if is_linear_model(request.file):
        from hesscomp.linear import load_model  # here: it loads MPI, which factors do not need

        print(load_model(request.file).summary())
    elif is_trajectory(request.file):
        print(trajectory_table(load_trajectory(request.file), request.leading))
    else:
        print(factor_table(load_factor(request.file), request.leading))
    return 0


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
    plot: str | None = option(None, metavar="P.png", help=PICTURE)

    def _check(self) -> None:
        super()._check()
        if self.plot is not None:
            check_picture_name(self.plot)


def run_compare(request: CompareRequest) -> int:
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
            "angles_degrees": np.degrees(angles),
            **found,
        }
        write_json(request.json, report)
        print(f"wrote {request.json}")
    if request.plot is not None:
        from hesscomp.analysis.plots import comparison_figure
        from hesscomp.analysis.style import save_figure

        save_figure(comparison_figure(comparison, names), request.plot)
        print(f"wrote {request.plot}")
    return 0


@dataclass(frozen=True, kw_only=True)
class ReportRequest(Options):
    """Which factor to describe, and where to write the page."""

    file: str = option(flag="file", metavar="F.h5", help="a file of a factor or a linear model")
    out: str = option(metavar="R.html", help="the page, one file")

    def _check(self) -> None:
        super()._check()
        if Path(self.out).suffix.lower() not in (".html", ".htm"):
            raise InputError(f"{self.out}: a page's name ends in .html; rename it")
        if self.file.endswith(".json") or Path(self.file).is_dir():
            raise InputError(
                f"{self.file}: a page is about a factor or a model; hesscomp plot draws a run"
            )


def run_report(request: ReportRequest) -> int:
    check_writable(request.out)
    from hesscomp.analysis.report import page, write_page

    source = Path(request.file).name
    if is_linear_model(request.file):
        from hesscomp.analysis.model_page import model_page  # these two load MPI
        from hesscomp.linear import load_model

        write_page(model_page(load_model(request.file), source), request.out)
    else:
        write_page(page(load_factor(request.file), source), request.out)
    print(f"wrote {request.out}")
    return 0


def run_merge(request: MergeRequest) -> int:
    made = merge(request)
    print(f"wrote trajectory: {request.out}: {made.points} points, n = {made.n}")
    return 0


@dataclass(frozen=True, kw_only=True)
class RepackRequest(Options):
    """Which factor to gather, and how to write it."""

    file: str = option(flag="file", metavar="F.h5", help="a factor file")
    out: str | None = option(None, metavar="G.h5", help="the new file; default: F.h5 itself")
    dtype: str = option(
        "float64", choices=("float64", "float32"), help="precision of the eigenvectors in the file"
    )
    compress: bool = option(False, help="compress the eigenvectors without loss")


def run_repack(request: RepackRequest) -> int:
    out = request.out or request.file
    check_writable(out)
    factor = load_factor(request.file)
    save_factor(factor, out, dtype=request.dtype, compress=request.compress)
    print(f"wrote {out}: n = {factor.n}, {factor.extent}, in one file")
    return 0


@dataclass(frozen=True, kw_only=True)
class PlotRequest(Options):
    """What to draw, and where to write it."""

    file: str = option(
        flag="file",
        metavar="F.h5|R.json|RUN",
        help="the file of a factor, a trajectory or a linear model, newton's --json file, or the "
        "folder of a train run",
    )
    out: str = option(metavar="P.png", help=PICTURE)
    by: str | None = option(
        None,
        choices=("step", "passes", "columns", "seconds"),
        help="what a train run is drawn against; default: step",
    )

    def _check(self) -> None:
        super()._check()
        check_picture_name(self.out)
        if self.by is not None and not Path(self.file).is_dir():
            raise InputError(f"{self.file}: `by` goes with the folder of a train run; leave it out")


def run_plot(request: PlotRequest) -> int:
    check_writable(request.out)
    from hesscomp.analysis.plots import file_figure
    from hesscomp.analysis.style import save_figure

    options = {} if request.by is None else {"by": request.by}
    save_figure(file_figure(request.file, **options), request.out)
    print(f"wrote {request.out}")
    return 0


@dataclass(frozen=True, kw_only=True)
class SolveRequest(Options):
    """Which factor to solve with, which right-hand sides, and where to write the solution."""

    file: str = option(flag="file", metavar="F.h5", help="a factor file")
    rhs: str = option(metavar="G.npy", help="right-hand sides, of shape (n,) or (n, j)")
    shift: float = option(metavar="S", help="number added to the diagonal, such as the ridge")
    tail: float | str | None = option(
        None, parse=str, metavar="last|zero|FLOAT",
        help="value of the eigenvalues that the factor does not have; default: last (its last)",
    )  # fmt: skip
    out: str = option(metavar="D.npy", help="write the solution here")

    def _check(self) -> None:
        super()._check()
        if self.tail not in (None, "last", "zero"):
            tail_number(self.tail)


def run_solve(request: SolveRequest) -> int:
    check_writable(request.out)
    factor = load_factor(request.file)
    rhs = load_vector(request.rhs)
    if rhs.ndim not in (1, 2) or rhs.shape[0] != factor.n:
        raise InputError(
            f"{request.rhs}: has shape {rhs.shape}, but {request.file} has n = {factor.n}"
        )
    options, said = {}, ""
    if factor.has_tail or request.tail is not None:
        tail = "last" if request.tail is None else request.tail
        options, said = {"tail": tail}, f", tail {factor.tail_value(tail):.3g}"
    solution = factor.solve(rhs, request.shift, **options)
    save_npy(request.out, solution)
    print(
        f"solved with {factor.extent} of n = {factor.n}, shift {request.shift:g}{said}; "
        f"||D|| = {np.linalg.norm(solution):.6g}; wrote {request.out}"
    )
    return 0
