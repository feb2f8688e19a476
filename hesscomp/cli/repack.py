"""`hesscomp repack`: one file of a factor whose rows lie in slabs."""

from dataclasses import dataclass

from hesscomp.factors import load_factor, save_factor
from hesscomp.options import Options, option
from hesscomp.storage.files import check_writable


@dataclass(frozen=True, kw_only=True)
class RepackRequest(Options):
    """Which file to make one of, and how."""

    file: str = option(flag="file", metavar="F.h5", help="a factor file")
    out: str | None = option(None, metavar="G.h5", help="the new file; default: F.h5 itself")
    dtype: str = option("float64", choices=("float64", "float32"), help="of the eigenvectors")
    compress: bool = option(False, help="deflate the eigenvectors")


REQUEST = RepackRequest


def run(request: RepackRequest) -> int:
    out = request.out or request.file
    check_writable(out)
    factor = load_factor(request.file)
    save_factor(factor, out, dtype=request.dtype, compress=request.compress)
    print(f"wrote {out}: n = {factor.n}, {factor.extent}, in one file")
    return 0
