"""`hesscomp plot`: draw factors and runs."""

from dataclasses import dataclass
from pathlib import Path

from hesscomp.options import Options, option
from hesscomp.runs.report import read_json
from hesscomp.storage.files import check_picture_name, check_writable


@dataclass(frozen=True, kw_only=True)
class PlotRequest(Options):
    """What to draw, and where to write it."""

    file: str = option(
        flag="file",
        metavar="F.h5|R.json|RUN",
        help="a factor or trajectory file, newton's --json file, or the folder of a train run",
    )
    out: str = option(metavar="P.png", help="the picture: png, pdf or svg")

    def _check(self) -> None:
        super()._check()
        check_picture_name(self.out)


REQUEST = PlotRequest


def run(request: PlotRequest) -> int:
    check_writable(request.out)
    from hesscomp.analysis.plots import (
        CONVERGENCE,
        RUN,
        plot_convergence,
        plot_factor,
        plot_run,
        plot_trajectory,
    )
    from hesscomp.factors import is_trajectory, load_factor, load_trajectory

    if Path(request.file).is_dir():
        report = read_json(Path(request.file) / "history.json", RUN)
        title = f"{report.get('problem')}: {report.get('optimizer')}"
        plot_run(report["history"], request.out, title)
    elif request.file.endswith(".json"):
        report = read_json(request.file, CONVERGENCE)
        plot_convergence(report["history"], request.out, str(report.get("data", request.file)))
    elif is_trajectory(request.file):
        plot_trajectory(load_trajectory(request.file), request.out)
    else:
        plot_factor(load_factor(request.file), request.out)
    print(f"wrote {request.out}")
    return 0
