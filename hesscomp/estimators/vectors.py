"""Random vectors with E[omega omega^T] = I, and the checks that all estimators share."""

import numpy as np

from hesscomp.errors import InputError
from hesscomp.parallel import random


def signs(n: int, count: int, seed: int, stream: int = random.ESTIMATOR) -> np.ndarray:
    """Return an (n, count) array of independent signs (Rademacher): no noise from H's diagonal."""
    return np.where(random.uniform(seed, stream, (0, n), (0, count)) < 0.5, -1.0, 1.0)


def sphere(n: int, count: int, seed: int, stream: int = random.ESTIMATOR) -> np.ndarray:
    """Return (n, count) array of independent vectors, uniform on the sphere of radius sqrt(n)."""
    normal = random.standard_normal(seed, stream, (0, n), (0, count))
    return normal * (np.sqrt(n) / np.linalg.norm(normal, axis=0))


def check_counts(seed: int, **counts: tuple[int, int]) -> None:
    """Raise InputError unless seed >= 0 and every ``name=(value, least)`` has value >= least."""
    for name, (value, least) in {**counts, "seed": (seed, 0)}.items():
        if value < least:
            raise InputError(f"{name} must be at least {least}, not {value}")
