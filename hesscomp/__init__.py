"""Measure, compress and use the curvature of losses whose data are spread over MPI ranks."""

__version__ = "0.1.0"
