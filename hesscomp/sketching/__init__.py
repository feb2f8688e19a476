"""Test matrices, range finders and orthonormalisation."""
