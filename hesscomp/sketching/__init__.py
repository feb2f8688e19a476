"""Test matrices and orthonormalisation."""
