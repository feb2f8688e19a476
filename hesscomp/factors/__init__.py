"""Factors: what a compression leaves in your hands."""

from hesscomp.factors.certificate import Certificate
from hesscomp.factors.comparison import Comparison, compare
from hesscomp.factors.hdf5 import load_factor, load_parameters, save_factor
from hesscomp.factors.lowrank import Inertia, LogDet, LowRank
from hesscomp.factors.provenance import Provenance
from hesscomp.factors.trajectory import (
    Trajectory,
    is_trajectory,
    load_trajectory,
    trajectory_writer,
)

__all__ = [
    "Certificate",
    "Comparison",
    "Inertia",
    "LogDet",
    "LowRank",
    "Provenance",
    "Trajectory",
    "compare",
    "is_trajectory",
    "load_factor",
    "load_parameters",
    "load_trajectory",
    "save_factor",
    "trajectory_writer",
]
