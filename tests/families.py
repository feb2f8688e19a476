"""The public families of test matrices, with exact spectra.

Tropp, Yurtsever, Udell and Cevher (2017), "Fixed-rank approximation of a positive-semidefinite
matrix from streaming data": n = 1000 and an effective rank of R = 10.
"""

from functools import cache

import numpy as np
import scipy.fft
import scipy.sparse.linalg

from hesscomp.operators.matrix import MatrixOperator

N, R = 1000, 10
NOISE = {"LowRankLowNoise": 1e-4, "LowRankMedNoise": 1e-2, "LowRankHiNoise": 1e-1}
POLYNOMIAL = {"PolyDecay 0.5": 0.5, "PolyDecay 1": 1.0, "PolyDecay 2": 2.0}
EXPONENTIAL = {"ExpDecay 0.01": 0.01, "ExpDecay 0.1": 0.1, "ExpDecay 0.25": 0.25, "ExpDecay 1": 1.0}
FAMILIES = (*NOISE, *POLYNOMIAL, *EXPONENTIAL)


@cache
def spectrum(family: str, n: int = N) -> np.ndarray:
    """Eigenvalues (n,) of a family, largest first: R ones, then noise or decay."""
    after = np.maximum(np.arange(1, n + 1) - R, 0.0)
    if family in POLYNOMIAL:
        return (1 + after) ** -POLYNOMIAL[family]
    if family in EXPONENTIAL:
        return 10.0 ** (-EXPONENTIAL[family] * after)
    G = np.random.default_rng(1).standard_normal((n, n))
    A = NOISE[family] / n * (G @ G.T)
    A[range(R), range(R)] += 1.0
    return np.linalg.eigvalsh(A)[::-1].copy()


def eigenvalues(family: str, signed: bool = False, n: int = N) -> np.ndarray:
    """The spectrum of a family, with random signs on request; still by decreasing magnitude."""
    w = spectrum(family, n)
    return w * np.random.default_rng(2).choice([-1.0, 1.0], n) if signed else w


def tail(w: np.ndarray, k: int) -> float:
    """Frobenius error of the best approximation of rank k."""
    return float(np.linalg.norm(np.sort(np.abs(w))[: max(len(w) - k, 0)]))


class Conjugated(MatrixOperator):
    """T^T diag(w) T for a fast orthogonal T, the cosine transform after random signs.

    Eigenvalues are `w` exactly and errors are measured in the basis where H is diagonal.
    """

    def __init__(self, w: np.ndarray, world=None):
        self.w = w
        self.signs = np.random.default_rng(3).choice([-1.0, 1.0], (len(w), 1))
        linear = scipy.sparse.linalg.LinearOperator(
            (len(w), len(w)), matvec=self._product, matmat=self._product, dtype=np.float64
        )
        super().__init__(linear, world, psd=bool(np.all(w >= 0)))

    def transform(self, V: np.ndarray) -> np.ndarray:
        """T V."""
        return scipy.fft.dct(self.signs * V, axis=0, norm="ortho")

    def _product(self, V):
        V = V.reshape(len(self.w), -1)
        return self.signs * scipy.fft.idct(
            self.w[:, None] * self.transform(V), axis=0, norm="ortho"
        )

    def remainder(self, factor) -> np.ndarray:
        """T (H - F) T^T, an (n, n) array."""
        C = self.transform(factor.eigenvectors)
        rest = (C * -factor.eigenvalues) @ C.T
        rest[range(self.n), range(self.n)] += self.w
        return rest

    def error(self, factor) -> float:
        """||H - F||_F of a factor or an uncut approximation."""
        return float(np.linalg.norm(self.remainder(factor)))

    def outside(self, Q: np.ndarray) -> np.ndarray:
        """T (I - Q Q^T) H T^T for an orthonormal (n, l) Q."""
        C = self.transform(Q)
        rest = -C @ (C.T * self.w)
        rest[range(self.n), range(self.n)] += self.w
        return rest


def family(name: str, signed: bool = False, world=None) -> Conjugated:
    """The operator of a family, of order `N`."""
    return Conjugated(eigenvalues(name, signed), world)
