"""Symmetric operators: the one door to a block product, sums, shifts and multiples."""
