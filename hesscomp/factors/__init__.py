"""Factors: what a compression leaves in your hands."""

from hesscomp.factors.certificate import UNKNOWN, Certificate
from hesscomp.factors.comparison import Comparison, compare
from hesscomp.factors.diagonal import Diagonal
from hesscomp.factors.factor import Factor, Inertia, LogDet
from hesscomp.factors.hbs import Hbs
from hesscomp.factors.hdf5 import load_factor, load_parameters, save_factor
from hesscomp.factors.hodlr import Hodlr
from hesscomp.factors.kinds import KINDS, from_contents
from hesscomp.factors.known import Known
from hesscomp.factors.kronecker import Kronecker
from hesscomp.factors.lowrank import LowRank
from hesscomp.factors.provenance import Provenance
from hesscomp.factors.sparse import Sparse
from hesscomp.factors.structured import Structured, structured
from hesscomp.factors.trajectory import (
    Trajectory,
    is_trajectory,
    load_trajectory,
    trajectory_writer,
)
from hesscomp.factors.tree import Tree

__all__ = [
    "KINDS",
    "UNKNOWN",
    "Certificate",
    "Comparison",
    "Diagonal",
    "Factor",
    "Hbs",
    "Hodlr",
    "Inertia",
    "Known",
    "Kronecker",
    "LogDet",
    "LowRank",
    "Provenance",
    "Sparse",
    "Structured",
    "Trajectory",
    "Tree",
    "compare",
    "from_contents",
    "is_trajectory",
    "load_factor",
    "load_parameters",
    "load_trajectory",
    "save_factor",
    "structured",
    "trajectory_writer",
]
