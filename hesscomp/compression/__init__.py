"""From an operator to a certified factor."""

from hesscomp.compression.compress import (
    METHODS,
    CompressionOptions,
    FactorOptions,
    compress,
)
from hesscomp.compression.correction import correct
from hesscomp.compression.generalized import GeneralizedEigen, generalized_eigen
from hesscomp.compression.options import SketchOptions
from hesscomp.compression.streaming import StreamingSketch

__all__ = [
    "METHODS",
    "CompressionOptions",
    "FactorOptions",
    "GeneralizedEigen",
    "SketchOptions",
    "StreamingSketch",
    "compress",
    "correct",
    "generalized_eigen",
]
