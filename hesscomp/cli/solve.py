"""`hesscomp solve`: solve with a factor."""

from dataclasses import dataclass

import numpy as np

from hesscomp.errors import InputError
from hesscomp.factors import load_factor
from hesscomp.factors.lowrank import tail_number
from hesscomp.factors.point import load_vector
from hesscomp.options import Options, option
from hesscomp.storage.files import check_writable
from hesscomp.storage.npy import save_npy


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


REQUEST = SolveRequest


def run(request: SolveRequest) -> int:
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
