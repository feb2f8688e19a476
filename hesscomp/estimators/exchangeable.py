"""Standard errors of exchangeable estimators, by the jackknife."""

import numpy as np

from hesscomp.estimators.results import Estimate, standard_error

# Pairs of left-out columns whose directions agree to this are treated as if they agreed no better.
SMALLEST_DETERMINANT = 1e-10


def of_exchangeable(estimates: np.ndarray, method: str, columns: int) -> Estimate:
    """Return the mean of leave-one-out estimates, with the jackknife's standard error.

    The spread of the leave-one-out estimates themselves, which Epperly, Tropp and Webber (2024)
    take, ignores that they share all but one of their vectors: we have seen it three times too
    small (exponential decay, XNysTrace), and its authors warn of that. The jackknife compares the
    whole estimator with itself without vector i and needs no further products. Its variance is
    not too small on average (Efron and Stein 1981; for matrix computations Epperly and Tropp 2024,
    "Efficient error and variance estimation for randomized matrix computations"), but speaks of
    an estimator of one vector less: we have seen it up to twice too large where the spectrum
    decays slowly, and up to nine times where one vector less matters.

    Parameters
    ----------
    estimates : (l, l) array
        Entry (j, j): estimate j. Entry (i, j): the same, made without vector i.
    """
    l = len(estimates)
    replicates = np.sum(without_diagonal(estimates), axis=1) / (l - 1)
    error = np.sqrt((l - 1) / l * np.sum((replicates - replicates.mean()) ** 2))
    spread = float(standard_error(np.diagonal(estimates)))
    return Estimate(float(np.trace(estimates)) / l, float(error), method, columns, l, spread)


def without_diagonal(matrix: np.ndarray) -> np.ndarray:
    """Return the matrix with zeros on its diagonal."""
    return matrix - np.diag(np.diagonal(matrix))


def pair_overlaps(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return inner products of pairs of unit vectors, and the pairs' Gram determinants.

    On the diagonal stand 0 and 1: a vector paired with none.
    """
    overlaps = without_diagonal(gram)
    return overlaps, np.maximum(1 - overlaps**2, SMALLEST_DETERMINANT)


def pair_trace(core: np.ndarray, overlaps: np.ndarray, determinant: np.ndarray) -> np.ndarray:
    """Return tr(K_II^-1 core_II) for all pairs I = {i, j}, K being their Gram matrix."""
    own = np.diagonal(core)
    others = without_diagonal(np.tile(own[:, None], len(own)))
    return (others + own - 2 * overlaps * core) / determinant
