"""From an operator to a certified factor."""

from hesscomp.compression.compress import METHODS, CompressionOptions, FactorOptions
from hesscomp.compression.correction import correct
from hesscomp.compression.formats import FORMATS, FormatOptions, Selection, compress
from hesscomp.compression.generalized import GeneralizedEigen, generalized_eigen
from hesscomp.compression.hodlr import HodlrOptions, compress_hodlr
from hesscomp.compression.options import SketchOptions
from hesscomp.compression.recompression import correct_hierarchical, update_hierarchical
from hesscomp.compression.streaming import StreamingSketch
from hesscomp.compression.structured import compress_beside, compress_with_prior
from hesscomp.compression.updating import update_factor

__all__ = [
    "FORMATS",
    "METHODS",
    "CompressionOptions",
    "FactorOptions",
    "FormatOptions",
    "GeneralizedEigen",
    "HodlrOptions",
    "Selection",
    "SketchOptions",
    "StreamingSketch",
    "compress",
    "compress_beside",
    "compress_hodlr",
    "compress_with_prior",
    "correct",
    "correct_hierarchical",
    "generalized_eigen",
    "update_factor",
    "update_hierarchical",
]
