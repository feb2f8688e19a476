"""How far a network is from a known solution, and what a picture of it shows."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hesscomp.curvature.digest import array_digest
from hesscomp.errors import InputError

LINE, PLANE = 200, 60  # points of a picture along each axis


@dataclass(frozen=True)
class Distance:
    """How far a network is from a known solution.

    Attributes
    ----------
    points : int
    relative_error : float
        Of the values there, in the Euclidean norm: in L2 where the points are uniform.
    """

    points: int
    relative_error: float

    def columns(self) -> dict[str, float]:
        """Return the numbers by their names in a history."""
        return {"relative_error": self.relative_error}

    def __str__(self) -> str:
        return f"relative L2 error {self.relative_error:.3g} at {self.points} other points"


class Solution:
    """A known solution at points that no training sees; call it with parameters. Collective.

    Rank 0 computes the network's values there, by its forward pass alone.

    Parameters
    ----------
    problem : PointProblem
    exact : callable
        The solution at points (B, d), a tensor: (B,).
    X : (m, d) array
    free_scale : bool
        Whether a multiple of u is a solution too: then the nearest one counts.

    Attributes
    ----------
    fingerprint : str
    columns : tuple of str
        The names of what is found, in a history.
    """

    columns = ("relative_error",)

    def __init__(self, problem, exact: Callable, X: np.ndarray, free_scale: bool = False):
        self.problem, self.X, self.free_scale, self._exact = problem, X, free_scale, exact
        self.u = self.exact(X)
        if self.u.shape != (len(X),) or not np.isfinite(self.u).all():
            raise InputError(
                f"the solution at {len(X)} points has the shape {self.u.shape} or is not finite; "
                "it must give one number for each"
            )
        self.fingerprint = array_digest(np.column_stack([X, self.u]))

    def __call__(self, x: np.ndarray) -> Distance:
        error = self.problem.world.on_root(self._error, x)
        return Distance(len(self.X), float(error[0]))

    def _error(self, x: np.ndarray) -> np.ndarray:
        u = self.problem.output(x, self.X)[:, 0]
        error = np.linalg.norm(self.scaled(u, self.u) - self.u) / np.linalg.norm(self.u)
        return np.array([error])

    def exact(self, X: np.ndarray) -> np.ndarray:
        """Return the solution at points: (B,)."""
        from hesscomp.curvature.tensorflow import tf  # here: trainings without a solution need none

        return np.asarray(self._exact(tf.constant(X)))

    def scaled(self, u: np.ndarray, exact: np.ndarray) -> np.ndarray:
        """Return values of the network, times what brings them nearest where the scale is free."""
        return u * (u @ exact) / (u @ u) if self.free_scale else u


@dataclass(frozen=True)
class Window:
    """The part of a line or a plane that a picture shows: origin + t @ directions.

    Attributes
    ----------
    low, high : (k,) array
        Of t, with k of 1 or 2.
    directions : (k, d) array
        Orthonormal.
    origin : (d,) array
    inside : callable, optional
        Which points (B, d) belong to the domain: (B,) of bool; all by default.
    names : tuple of str
        Of the axes; none by default.
    """

    low: np.ndarray
    high: np.ndarray
    directions: np.ndarray
    origin: np.ndarray
    inside: Callable | None = None
    names: tuple[str, ...] = ()

    @classmethod
    def around(cls, points: np.ndarray, inside: Callable | None = None) -> "Window":
        """Return what points span, in their first two coordinates; the others are in the middle."""
        low, high = points.min(axis=0), points.max(axis=0)
        k = min(points.shape[1], 2)
        origin = (low + high) / 2
        origin[:k] = 0
        return cls(low[:k], high[:k], np.eye(points.shape[1])[:k], origin, inside)

    @property
    def shape(self) -> tuple[int, ...]:
        return (LINE,) if len(self.low) == 1 else (PLANE, PLANE)

    def grid(self) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Return the coordinates along each axis, the grid's points, and which are inside."""
        axes = [
            low + (high - low) * (np.arange(size) + 0.5) / size
            for low, high, size in zip(self.low, self.high, self.shape, strict=True)
        ]
        t = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
        X = self.origin + t @ self.directions
        inside = np.ones(len(X), bool) if self.inside is None else self.inside(X)
        return axes, X, inside

    def seen(self, X: np.ndarray) -> np.ndarray:
        """Return points as the picture has them."""
        return (X - self.origin) @ self.directions.T
