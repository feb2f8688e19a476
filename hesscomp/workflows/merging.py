"""Join the factors of several runs in one trajectory file."""

from dataclasses import dataclass
from pathlib import Path

from hesscomp.errors import InputError
from hesscomp.factors import load_factor, trajectory_writer
from hesscomp.options import Options, option
from hesscomp.storage.files import check_writable, find_files


@dataclass(frozen=True, kw_only=True)
class MergeRequest(Options):
    """Which factors to join, and where to write them."""

    files: tuple[str, ...] = option(flag="files", metavar="F.h5", help="factor files, or a pattern")
    out: str = option(metavar="T.h5", help="write the trajectory here")


@dataclass(frozen=True)
class MergeResult:
    """A trajectory file of `points` factors of order `n`."""

    points: int
    n: int


def merge(request: MergeRequest) -> MergeResult:
    """Write one trajectory file from factor files of the same order.

    Holds one factor in memory at a time.

    Raises
    ------
    InputError
        For a file that is not a factor, and for factors of different orders.
    """
    check_writable(request.out)
    files, n = find_files(list(request.files), "merge"), None
    with trajectory_writer(request.out) as add:
        for file in files:
            factor = load_factor(file)
            if n not in (None, factor.n):
                raise InputError(f"{file}: has n = {factor.n}, but {files[0]} has n = {n}")
            n = factor.n
            add(Path(file).stem, factor)
    assert n is not None  # `find_files` gives one at least
    return MergeResult(len(files), n)
