"""`hesscomp solve`: solve with a factor."""

import argparse

import numpy as np

from hesscomp.errors import InputError
from hesscomp.factors import load_factor
from hesscomp.factors.lowrank import tail_number
from hesscomp.factors.point import load_vector
from hesscomp.storage.files import atomic_path, check_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="F.h5", help="a factor file")
    parser.add_argument(
        "--rhs", required=True, metavar="G.npy", help="(n,) or (n, j) right-hand sides"
    )
    parser.add_argument(
        "--shift", required=True, type=float, metavar="S", help="added to the diagonal: the ridge"
    )
    parser.add_argument(
        "--tail",
        default="last",
        metavar="last|zero|FLOAT",
        help="the value taken for the unresolved spectrum",
    )
    parser.add_argument("--out", required=True, metavar="D.npy", help="the solution")


def check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before any work."""
    if not np.isfinite(options.shift):
        raise InputError(f"--shift must be finite, not {options.shift}")
    if options.tail not in ("last", "zero"):
        tail_number(options.tail)


def run(options: argparse.Namespace) -> int:
    check(options)
    check_writable(options.out)
    factor = load_factor(options.file)
    rhs = load_vector(options.rhs)
    if rhs.ndim not in (1, 2) or rhs.shape[0] != factor.n:
        raise InputError(
            f"{options.rhs}: has shape {rhs.shape}, but {options.file} has n = {factor.n}"
        )
    solution = factor.solve(rhs, options.shift, options.tail)
    with atomic_path(options.out) as temporary, open(temporary, "wb") as stream:
        np.save(stream, solution)
    tail = factor.tail_value(options.tail)
    print(
        f"solved with rank {factor.rank} of n = {factor.n}, shift {options.shift:g}, "
        f"tail {tail:.3g}; ||D|| = {np.linalg.norm(solution):.6g}; wrote {options.out}"
    )
    return 0
