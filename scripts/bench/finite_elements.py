"""Finite elements by scikit-fem, beside which the networks of pde.py stand."""

import sys
import time

import numpy as np

try:
    import skfem
except ImportError:
    sys.exit("the finite elements need scikit-fem: pip install -e '.[bench]'")
from scipy.spatial import cKDTree
from skfem.models.poisson import laplace, mass

from hesscomp.problems import committor as surface

NEAR = 8  # elements whose centres are near a point: one of them holds it, on regular meshes
ELEMENTS = {1: skfem.ElementTriP1, 2: skfem.ElementTriP2}


def poisson(order: int, cells: int, load):
    """Solve -lap u = f on the unit square, u = 0 on its edge, on `cells`^2 squares cut in two.

    Returns the coefficients, the basis, how many are unknown, and the processor's seconds.
    """
    begun = time.process_time()
    axis = np.linspace(0, 1, cells + 1)
    basis = skfem.Basis(skfem.MeshTri.init_tensor(axis, axis), ELEMENTS[order]())

    def loaded(v, w):
        return load(np.moveaxis(w.x, 0, -1).reshape(-1, 2)).reshape(w.x.shape[1:]) * v

    edge, right = basis.get_dofs().flatten(), skfem.LinearForm(loaded).assemble(basis)
    u = skfem.solve(*skfem.condense(laplace.assemble(basis), right, D=edge))
    return u, basis, basis.N - len(edge), time.process_time() - begun


def projection(order: int, cells: int, f):
    """Find what is nearest to f, in L2, among the elements on `cells`^2 squares; as `poisson`."""
    begun = time.process_time()
    axis = np.linspace(0, 1, cells + 1)
    basis = skfem.Basis(skfem.MeshTri.init_tensor(axis, axis), ELEMENTS[order](), intorder=12)

    def given(v, w):
        return f(np.moveaxis(w.x, 0, -1).reshape(-1, 2)).reshape(w.x.shape[1:]) * v

    u = skfem.solve(mass.assemble(basis), skfem.LinearForm(given).assemble(basis))
    return u, basis, basis.N, time.process_time() - begun


def energy(u: np.ndarray, basis) -> float:
    """Return 1/2 |grad u|^2 - f u of a solution."""
    return -float(u @ (laplace.assemble(basis) @ u)) / 2


def values(u: np.ndarray, basis, X: np.ndarray) -> np.ndarray:
    """Return u at points; scikit-fem's own search would compare each with thousands of elements."""
    x, mapping = X.T[:, :, None], basis.mapping
    centres = basis.mesh.p[:, basis.mesh.t].mean(1).T
    near = cKDTree(centres).query(X, NEAR)[1].T
    places = [mapping.invF(x, tind=cells)[:, :, 0] for cells in near]
    inside = np.array([np.minimum(place.min(0), 1 - place.sum(0)) for place in places])
    assert (inside.max(0) > -1e-9).all()
    cells = near[inside.argmax(0), np.arange(len(X))]
    place = mapping.invF(x, tind=cells)
    shapes = (basis.elem.gbasis(mapping, place, k, tind=cells)[0].value for k in range(basis.Nbfun))
    dofs = basis.element_dofs[:, cells]
    return sum(
        np.ravel(shape) * u[own] for shape, own in zip(shapes, dofs, strict=True)
    )  # fmt: skip


def least_squares(elements: int, load):
    """Minimise |u' - q|^2 + |q' + f|^2 over piecewise linear u and q on (0, 1), u = 0 at its ends.

    Returns as `poisson`.
    """
    begun = time.process_time()
    mesh = skfem.MeshLine(np.linspace(0, 1, elements + 1))
    basis = skfem.Basis(mesh, skfem.ElementLineP1(), intorder=6)

    @skfem.BilinearForm
    def mixed(u, v, w):  # -(u', v)
        return -u.grad[0] * v

    @skfem.LinearForm
    def loaded(v, w):
        return -load(w.x[0]) * v.grad[0]

    K, M, C = laplace.assemble(basis), mass.assemble(basis), mixed.assemble(basis)
    A = skfem.bmat([[K, C.T], [C, K + M]], "csr")
    right = np.concatenate([np.zeros(basis.N), loaded.assemble(basis)])
    ends = basis.get_dofs().flatten()
    u = skfem.solve(*skfem.condense(A, right, D=ends))[: basis.N]
    return u, basis, 2 * basis.N - len(ends), time.process_time() - begun


def least_energy(elements: int, g):
    """Minimise 1/2 |u'|^2 - f u for f = -g'' over piecewise linear u on (0, 1), u = 0 at its ends.

    The right side, the integral of g' v', is exact. Returns the energy, unknowns and seconds.
    """
    begun = time.process_time()
    x = np.linspace(0, 1, elements + 1)
    K = laplace.assemble(skfem.Basis(skfem.MeshLine(x), skfem.ElementLineP1()))
    slopes = np.diff(g(x)) / np.diff(x)
    right = np.insert(-np.diff(slopes), [0, elements - 1], 0.0)
    u = skfem.solve(*skfem.condense(K, right, D=np.array([0, elements])))
    return -float(right @ u) / 2, elements - 1, time.process_time() - begun


def committor_rate(h: float) -> tuple[float, int]:
    """Return kT times the least mean of |grad q|^2 on Mueller and Brown's surface, and unknowns.

    By P1 on triangles that are fitted to both disks.
    """
    axes = [np.arange(low, high, h) for low, high in ((-1.7, 1.3), (-0.5, 2.2))]
    mesh = skfem.MeshTri.init_tensor(*axes)
    p = mesh.p.T.copy()
    for end in surface.ENDS:
        radius = np.linalg.norm(p - end, axis=1)
        near = abs(radius - surface.RADIUS) < h / 2
        p[near] = end + (p[near] - end) * (surface.RADIUS / radius[near])[:, None]
    V = surface.surface(p)[0]
    mesh = skfem.MeshTri(np.ascontiguousarray(p.T), mesh.t)
    basis = skfem.Basis(mesh.restrict(np.flatnonzero(V[mesh.t].min(0) < 80)), skfem.ElementTriP1())

    def weighted(u, v, w):
        density = np.exp(-surface.surface(np.moveaxis(w.x, 0, -1))[0] / surface.KT)
        return density * (u.grad[0] * v.grad[0] + u.grad[1] * v.grad[1])

    K, X = skfem.BilinearForm(weighted).assemble(basis), basis.doflocs.T
    inner = [
        np.flatnonzero(np.linalg.norm(X - end, axis=1) < surface.RADIUS * (1 + 1e-9))
        for end in surface.ENDS
    ]
    q = np.zeros(basis.N)
    q[inner[1]] = 1
    fixed = np.concatenate(inner)
    q = skfem.solve(*skfem.condense(K, np.zeros(basis.N), x=q, D=fixed))
    return surface.KT * float(q @ (K @ q)) / surface.partition(surface.KT), basis.N - len(fixed)
