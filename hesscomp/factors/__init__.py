"""Factors: what a compression leaves in your hands."""

from hesscomp.factors.certificate import Certificate
from hesscomp.factors.comparison import Comparison, compare
from hesscomp.factors.hdf5 import load_factor, load_parameters, save_factor
from hesscomp.factors.lowrank import Inertia, LogDet, LowRank
from hesscomp.factors.provenance import Provenance

__all__ = [
    "Certificate",
    "Comparison",
    "Inertia",
    "LogDet",
    "LowRank",
    "Provenance",
    "compare",
    "load_factor",
    "load_parameters",
    "save_factor",
]
