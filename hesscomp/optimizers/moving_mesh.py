"""Shallow ReLU networks in one dimension: finite elements whose breakpoints move.

A network of one hidden layer of ReLU units is a piecewise linear function, and its units' zeros are
its breakpoints. For the Ritz energy of -u'' = f its output weights solve a linear system, here for
the slopes of the elements. What is left is a function of the breakpoints alone, and Newton's method
minimises it: its Hessian is tridiagonal, since a breakpoint touches two elements. (The diagonal of
that Hessian alone stalls.)
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg

from hesscomp.errors import InputError

GRADING = 3  # power by which the first and the last element's quadrature is graded to the ends
SHARE = 0.9  # of an element's length that a step may take from it
SUFFICIENT, HALVINGS = 1e-4, 40  # of the line search
FLAT = 1e-14  # relative gain of a step below which there is no more to be had


@dataclass(frozen=True)
class MovedMesh:
    """A piecewise linear solution and how it was found.

    Attributes
    ----------
    breakpoints, values : (N + 1,) arrays
        The ends of the elements, those of the domain among them, and u there.
    energies : tuple of float
        The integral of 1/2 |u'|^2 - f u: on the first mesh and after each step.
    converged : bool
        Whether a step gained nothing any more.
    """

    breakpoints: np.ndarray
    values: np.ndarray
    energies: tuple[float, ...] = field(repr=False)
    converged: bool

    @property
    def energy(self) -> float:
        return self.energies[-1]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return u at some points."""
        return np.interp(x, self.breakpoints, self.values)

    def relu(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the network, b and c (N,) each: u(x) = sum of c_i relu(x - b_i)."""
        slopes = np.diff(self.values) / np.diff(self.breakpoints)
        return self.breakpoints[:-1], np.diff(slopes, prepend=0.0)


def moving_mesh(
    load: Callable, elements: int, *, ends: tuple[float, float] = (0.0, 1.0),
    start: np.ndarray | None = None, order: int = 8, max_steps: int = 200,
) -> MovedMesh:  # fmt: skip
    """Solve -u'' = f on an interval, u = 0 at its ends, by linear elements that move.

    Parameters
    ----------
    load : callable
        f, of arrays of points within the interval. It may be singular at the ends, also where it
        has no integral but f times the distance to the end has one.
    elements : int
        N, of which the N - 1 inner breakpoints move.
    ends : tuple of float
    start : (N + 1,) array, optional
        The first breakpoints; uniform by default.
    order : int
        Points of Gauss' rule on each element. On the first and the last one its coordinate from the
        end is t^3, which takes powers such as x^(-4/3) times x without loss.
    max_steps : int

    Returns
    -------
    MovedMesh
        Of a local minimum of the energy over breakpoints.

    Raises
    ------
    InputError
        For fewer than two elements, breakpoints that do not rise from end to end, and loads that
        give numbers that are not finite.

    Notes
    -----
    A step costs N `order` values of f and O(N) operations; a step never takes more than 0.9 of an
    element's length. With s the slopes left and right of a breakpoint and g that of the solution
    there, the derivative of the reduced energy by it is (s_l - s_r) ((s_l + s_r) / 2 - g).

    Examples
    --------
    u = x^(2/3) - x: the relative energy error of 64 equal elements is 0.50.

    >>> mesh = moving_mesh(lambda x: 2 / 9 * x ** (-4 / 3), 64)
    >>> exact = -1 / 6
    >>> [round(float(np.sqrt(1 - energy / exact)), 3) for energy in (mesh.energies[0], mesh.energy)]
    [0.502, 0.045]
    >>> b, c = mesh.relu()
    >>> u = np.maximum(0.3 - b, 0) @ c
    >>> bool(abs(u - mesh(0.3)) < 1e-12 and abs(u - (0.3 ** (2 / 3) - 0.3)) < 1e-3)
    True
    """
    b = np.linspace(*ends, elements + 1) if start is None else np.array(start, np.float64)
    rises = b.shape == (elements + 1,) and (np.diff(b) > 0).all()
    if elements < 2 or not rises or (b[0], b[-1]) != tuple(ends):
        raise InputError(
            f"a moving mesh has at least two elements whose {elements + 1} breakpoints rise from "
            f"{ends[0]:g} to {ends[1]:g}"
        )
    rule = _Rule(order)
    here = _Reduced(load, b, rule)
    energies, converged = [here.energy], False
    while len(energies) <= max_steps and not converged:
        following = _moved(here, load, rule)
        converged = following is None or here.energy - following.energy < FLAT * abs(here.energy)
        if following is not None:
            here = following
            energies.append(here.energy)
    values = np.concatenate([[0.0], np.cumsum(here.h * here.slopes)])
    return MovedMesh(here.b, values, tuple(energies), converged)


class _Rule:
    """Gauss' rule on (0, 1), and the one that is graded to 0."""

    def __init__(self, order: int):
        nodes, weights = np.polynomial.legendre.leggauss(order)
        self.nodes, self.weights = (nodes + 1) / 2, weights / 2
        self.graded = self.nodes**GRADING
        self.graded_weights = GRADING * self.nodes ** (GRADING - 1) * self.weights

    def of(self, elements: int) -> tuple[np.ndarray, np.ndarray]:
        """Return each element's nodes and weights: (elements, order)."""
        T, W = (np.tile(part, (elements, 1)) for part in (self.nodes, self.weights))
        T[0], W[0] = self.graded, self.graded_weights
        T[-1], W[-1] = 1 - self.graded, self.graded_weights
        return T, W


class _Reduced:
    """The energy of the best slopes for breakpoints b, and its derivatives by the inner ones."""

    def __init__(self, load: Callable, b: np.ndarray, rule: _Rule):
        self.load, self.b, self.h = load, b, np.diff(b)
        T, W = rule.of(len(self.h))
        F = load(b[:-1, None] + self.h[:, None] * T) * W * self.h[:, None]
        # Integrals of f against the hat functions' falling and rising halves.
        self.falling, rising = (F * (1 - T)).sum(axis=1), (F * T).sum(axis=1)
        drops = rising[:-1] + self.falling[1:]  # of the slope at each inner breakpoint
        slopes = -np.concatenate([[0.0], np.cumsum(drops)])
        self.slopes = slopes - self.h @ slopes / (b[-1] - b[0])
        self.energy = float(-self.h @ self.slopes**2 / 2)
        if not np.isfinite(self.energy):
            raise InputError("the load gives numbers that are not finite; is it too singular?")

    def derivatives(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradient, and the Hessian's upper band, (2, N - 1)."""
        left, right, h = self.slopes[:-1], self.slopes[1:], self.h
        exact = right + self.falling[1:]  # the solution's slopes at the breakpoints
        kink, off = left - right, (left + right) / 2 - exact
        by_left, by_right = (exact - left) / h[:-1], (right - exact) / h[1:]
        bend = (by_left + by_right) / 2 + self.load(self.b[1:-1])
        band = np.zeros((2, len(kink)))
        band[1] = (by_left - by_right) * off + kink * bend
        band[0, 1:] = (exact[1:] - right[:-1]) / h[1:-1] * (kink[:-1] / 2 - off[:-1])
        return kink * off, band


def _moved(here: _Reduced, load: Callable, rule: _Rule) -> _Reduced | None:
    """Return the next mesh, by a Newton step that keeps the order; None where none is lower."""
    gradient, band = here.derivatives()
    step = np.concatenate([[0.0], -_solve(band, gradient), [0.0]])
    length = min(1.0, SHARE / max(float((-np.diff(step) / here.h).max()), SHARE))
    slope = float(gradient @ step[1:-1])
    for _ in range(HALVINGS):
        there = _Reduced(load, here.b + length * step, rule)
        if there.energy <= here.energy + SUFFICIENT * length * slope:
            return there
        length /= 2
    return None


def _solve(band: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Solve with a tridiagonal matrix, its diagonal raised until it is positive definite."""
    raised, scale = 0.0, np.maximum(np.abs(band[1]), np.finfo(float).tiny)
    while True:
        try:
            return scipy.linalg.solveh_banded(
                np.stack([band[0], band[1] + raised * scale]), gradient
            )
        except np.linalg.LinAlgError:
            raised = max(2 * raised, 1e-3)
