"""What a door does: a frozen request and a world in, a frozen result out."""

import importlib

_HOME = {
    "subject": ("ProblemRequest", "Subject", "make_problem"),
    "curvature": ("Curvature", "CurvatureRequest", "make_curvature", "make_operator", "make_point"),
    "compression": ("CompressRequest", "CompressResult", "compress"),
}
_MODULES = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULES)


def __getattr__(name: str):
    """Load a workflow when it is asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
