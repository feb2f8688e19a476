"""Engines for block products with a network's derivatives."""
