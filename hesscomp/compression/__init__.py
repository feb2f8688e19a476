"""From an operator to a certified factor."""

from hesscomp.compression.compress import METHODS, CompressionOptions, FactorOptions
from hesscomp.compression.correction import correct
from hesscomp.compression.formats import FORMATS, FormatOptions, Selection, compress
from hesscomp.compression.generalized import GeneralizedEigen, generalized_eigen
from hesscomp.compression.options import SketchOptions
from hesscomp.compression.recompression import correct_hierarchical, update_hierarchical
from hesscomp.compression.streaming import StreamingSketch

__all__ = [
    "FORMATS",
    "METHODS",
    "CompressionOptions",
    "FactorOptions",
    "FormatOptions",
    "GeneralizedEigen",
    "Selection",
    "SketchOptions",
    "StreamingSketch",
    "compress",
    "correct",
    "correct_hierarchical",
    "generalized_eigen",
    "update_hierarchical",
]
