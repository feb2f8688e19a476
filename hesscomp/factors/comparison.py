"""How far two factors of the same order are apart, computed in their joint range."""

from dataclasses import dataclass

import numpy as np

from hesscomp.errors import InputError
from hesscomp.factors.basis import complete
from hesscomp.factors.factor import Factor


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds.

    Attributes
    ----------
    eigenvalues : pair of arrays
        Those of F and of G, all of them.
    eigenvalue_differences : (p,) array
        w_i(F) - w_i(G) of the leading p = min(rank F, rank G), in the order of the factors.
    relative_differences : (p,) array
        The same over the larger magnitude of the two; 0 where both are 0.
    angles : (a,) array
        Principal angles between the leading subspaces in radians, largest first.
    spectral_distance, frobenius_distance : float
        ||F - G||_2 and ||F - G||_F.
    relative_spectral, relative_frobenius : float
        The same over the larger norm of the two; 0 for two zero factors.
    provenance : dict
        The fields in which the two differ, with both values.
    """

    eigenvalues: tuple[np.ndarray, np.ndarray]
    eigenvalue_differences: np.ndarray
    relative_differences: np.ndarray
    angles: np.ndarray
    spectral_distance: float
    frobenius_distance: float
    relative_spectral: float
    relative_frobenius: float
    provenance: dict[str, tuple]


def compare(F: Factor, G: Factor, subspace: int | None = None) -> Comparison:
    """Compare two factors: eigenvalues, subspaces, distances and provenance.

    Parameters
    ----------
    F, G : Factor
        Of the same order n, with eigenpairs; else InputError.
    subspace : int, optional
        Eigenvectors of each that span the subspaces; by default as many as both have.

    Notes
    -----
    About 16 n l (k + l) operations for ranks k and l, two (n, k + l) arrays and an eigenproblem of
    order k + l at most. Distances are exact to eps (||F|| + ||G||), angles to rounding, small and
    large ones (Bjorck and Golub 1973, Knyazev and Argentati 2002).
    """
    if F.n != G.n:
        raise InputError(f"factors of n = {F.n} and n = {G.n} do not compare")
    values_f, values_g = F.eigenvalues, G.eigenvalues
    p = min(len(values_f), len(values_g))
    if subspace is not None and not 1 <= subspace <= p:
        raise InputError(
            f"subspace must be between 1 and {p}, what both factors hold, not {subspace}"
        )
    G = G.in_layout(F.layout)
    joint = np.hstack([F.eigenvectors, complete(F.eigenvectors, G.eigenvectors, F.layout)])
    ours = np.eye(joint.shape[1], F.rank)
    theirs = F.layout.inner(joint, G.eigenvectors)
    difference = (ours * values_f) @ ours.T - (theirs * values_g) @ theirs.T
    spectral, frobenius = _norms(np.linalg.eigvalsh(difference))
    spectral_scale, frobenius_scale = np.maximum(_norms(values_f), _norms(values_g))
    f, g = values_f[:p], values_g[:p]
    a = p if subspace is None else subspace
    return Comparison(
        eigenvalues=(values_f, values_g),
        eigenvalue_differences=f - g,
        relative_differences=_relative(f - g, np.maximum(np.abs(f), np.abs(g))),
        angles=_angles(theirs[:a, :a], theirs[a:, :a]),
        spectral_distance=spectral,
        frobenius_distance=frobenius,
        relative_spectral=float(_relative(spectral, spectral_scale)),
        relative_frobenius=float(_relative(frobenius, frobenius_scale)),
        provenance=F.provenance.differences(G.provenance),
    )


def _angles(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Return the principal angles, largest first, between orthonormal [inside; outside] and [I; 0].

    They come from cosines and sines both: SciPy's subspace_angles (1.17) loses small ones.
    """
    cosines = np.linalg.svd(inside, compute_uv=False)[::-1]
    sines = np.linalg.svd(np.vstack([0 * inside, outside]), compute_uv=False)
    return np.arctan2(sines, cosines)


def _norms(eigenvalues: np.ndarray) -> tuple[float, float]:
    """Return the spectral and Frobenius norm of the matrix with these eigenvalues."""
    return float(np.abs(eigenvalues).max(initial=0.0)), float(np.linalg.norm(eigenvalues))


def _relative(difference, size):
    """Return difference / size, 0 where both are."""
    return np.divide(difference, np.where(size == 0, 1.0, size))
