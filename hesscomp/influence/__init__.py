"""Sensitivity of a minimum to its data: implicit derivatives, row statistics, Laplace variances."""
