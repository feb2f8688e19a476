"""From an operator to a certified factor."""

from hesscomp.compression.compress import METHODS, check_request, compress
from hesscomp.compression.options import SketchOptions

__all__ = ["METHODS", "SketchOptions", "check_request", "compress"]
