"""From an operator to a certified factor."""

from hesscomp.compression.compress import compress

__all__ = ["compress"]
