"""What a door does: a frozen request and a world in, a frozen result out (docs/workflows.md)."""

import importlib

_HOME = {
    "curvature": ("Curvature", "CurvatureRequest", "make_curvature", "make_operator", "make_point"),
    "factors": (
        *("CompressRequest", "DiagonalRequest", "UpdateRequest", "FactorResult", "UpdateResult"),
        *("TrajectoryPoint", "TrajectoryResult", "compress", "diagonal", "trajectory", "update"),
    ),
    "jobs": ("JobRequest", "JobResult", "job"),
    "logistic": ("NewtonFit", "NewtonRequest", "newton"),
    "merging": ("MergeRequest", "MergeResult", "merge"),
    "pictures": (
        *("FigureRequest", "FigureResult", "SpectrumRequest", "SpectrumResult"),
        *("figure", "spectrum"),
    ),
    "planning": ("PlanRequest", "measured_plan", "plan"),
    "prediction": ("PredictRequest", "Predicted", "predict"),
    "progress": ("Columns",),
    "sensitivity": ("SensitivityRequest", "find_sensitivity"),
    "subject": ("ProblemRequest", "Subject", "make_problem"),
    "training": ("TrainRequest", "Training", "train"),
}
_MODULES = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULES)


def __getattr__(name: str):
    """Load a workflow when it is requested."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
