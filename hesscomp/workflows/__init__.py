"""What a door does: a frozen request and a world in, a frozen result out (docs/workflows.md)."""

import importlib

_HOME = {
    "compression": ("CompressRequest", "compress"),
    "correction": ("UpdateRequest", "UpdateResult", "update"),
    "curvature": ("Curvature", "CurvatureRequest", "make_curvature", "make_operator", "make_point"),
    "density": ("SpectrumRequest", "SpectrumResult", "spectrum"),
    "diagonals": ("DiagonalRequest", "diagonal"),
    "figures": ("FigureRequest", "FigureResult", "figure"),
    "jobs": ("JobRequest", "JobResult", "job"),
    "logistic": ("NewtonFit", "NewtonRequest", "newton"),
    "merging": ("MergeRequest", "MergeResult", "merge"),
    "output": ("FactorResult",),
    "planning": ("PlanRequest", "measured_plan", "plan"),
    "progress": ("Columns",),
    "subject": ("ProblemRequest", "Subject", "make_problem"),
    "training": ("TrainRequest", "Training", "train"),
    "trajectories": ("TrajectoryPoint", "TrajectoryResult", "trajectory"),
}
_MODULES = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULES)


def __getattr__(name: str):
    """Load a workflow when it is requested."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
