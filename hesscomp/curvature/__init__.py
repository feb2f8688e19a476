"""Curvature operators and the block product engines under them."""
