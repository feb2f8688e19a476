"""A factor from a file, given to a command that has an operator of its own."""

from hesscomp.cli.curvature import Curvature
from hesscomp.cli.session import Session
from hesscomp.errors import InputError
from hesscomp.factors import Factor, load_factor


def load_known(path: str, session: Session) -> Factor:
    """The factor in a file, on all ranks."""
    with session.world.phase(f"reading the factor {path}"):
        return load_factor(path)


def check_fit(factor: Factor, curvature: Curvature, path: str) -> None:
    """Refuse a factor whose order or parameter blocks are not those of the operator."""
    problem, n = curvature.problem, curvature.operator.n
    where = f"{problem.name} on {problem.dataset_name}"
    if factor.n != n:
        raise InputError(f"{path}: has n = {factor.n}, but {where} has {n} parameters")
    wanted = curvature.describe(factor).blocks
    if factor.blocks not in ((), wanted):
        found, needed = next(
            pair for pair in zip(factor.blocks, wanted, strict=False) if pair[0] != pair[1]
        )
        raise InputError(
            f"{path}: has the parameter block {found[0]} of shape {found[1]} where {where} has "
            f"{needed[0]} of shape {needed[1]}; take a factor of the same model"
        )
