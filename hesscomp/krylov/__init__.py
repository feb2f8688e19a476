"""Krylov methods: conjugate gradients, Lanczos."""
