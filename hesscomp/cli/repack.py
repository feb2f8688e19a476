"""`hesscomp repack`: gather a factor that is stored in several files into one."""

from dataclasses import dataclass

from hesscomp.factors import load_factor, save_factor
from hesscomp.options import Options, option
from hesscomp.storage.files import check_writable


@dataclass(frozen=True, kw_only=True)
class RepackRequest(Options):
    """Which factor to gather, and how to write it."""

    file: str = option(flag="file", metavar="F.h5", help="a factor file")
    out: str | None = option(None, metavar="G.h5", help="the new file; default: F.h5 itself")
    dtype: str = option(
        "float64", choices=("float64", "float32"), help="precision of the eigenvectors in the file"
    )
    compress: bool = option(False, help="compress the eigenvectors without loss")


REQUEST = RepackRequest


def run(request: RepackRequest) -> int:
    out = request.out or request.file
    check_writable(out)
    factor = load_factor(request.file)
    save_factor(factor, out, dtype=request.dtype, compress=request.compress)
    print(f"wrote {out}: n = {factor.n}, {factor.extent}, in one file")
    return 0
