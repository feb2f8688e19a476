"""`hesscomp report`: write a page about a factor."""

from dataclasses import dataclass
from pathlib import Path

from hesscomp.errors import InputError
from hesscomp.options import Options, option
from hesscomp.storage.files import check_writable


@dataclass(frozen=True, kw_only=True)
class ReportRequest(Options):
    """Which factor to describe, and where to write the page."""

    file: str = option(flag="file", metavar="F.h5", help="a factor file")
    out: str = option(metavar="R.html", help="the page, one file")

    def _check(self) -> None:
        super()._check()
        if Path(self.out).suffix.lower() not in (".html", ".htm"):
            raise InputError(f"{self.out}: a page's name ends in .html; rename it")


REQUEST = ReportRequest


def run(request: ReportRequest) -> int:
    check_writable(request.out)
    from hesscomp.analysis.report import write_page
    from hesscomp.factors import load_factor

    write_page(load_factor(request.file), request.out, Path(request.file).name)
    print(f"wrote {request.out}")
    return 0
