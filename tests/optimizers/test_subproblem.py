"""Small quadratic models: optimality conditions on many random cases, grids, hard cases."""

import numpy as np
import pytest
import scipy.optimize

from hesscomp.errors import NumericalError
from hesscomp.optimizers.subproblem import cubic, damped, trust_region


def case(rng, m, kind):
    """c, Q, G, radius of one kind, of any magnitude."""
    W = np.linalg.qr(rng.standard_normal((m, m)))[0]
    w = rng.standard_normal(m)
    b = rng.standard_normal(m)
    if kind in ("hard", "nearly hard", "double"):
        w = np.sort(w)
        w[0] = min(w[0], -0.1) - 0.5
        b[0] = 0.0 if kind != "nearly hard" else 10.0 ** -rng.uniform(5, 300)
        if kind == "double" and m > 2:
            w[1], b[1] = w[0], 0.0
    if kind == "definite":
        w = np.abs(w) + 0.01
    if kind == "semidefinite":
        w = np.abs(w) * (np.arange(m) > 0)
        b[0] = 0.0
    if kind == "linear":
        w = np.zeros(m)
    if kind == "no gradient":
        b = np.zeros(m)
    radius = 10.0 ** rng.uniform(-3, 3)
    if kind == "exactly hard":
        W, w = np.eye(m), np.sort(w)
        w[0] = min(w[0], -0.1) - 0.5
        b[0] = 0.0
        radius = 1e3
    Q = (W * w) @ W.T
    Q, c, G = (Q + Q.T) / 2, W @ b, np.eye(m)
    if kind == "metric":
        R = np.geomspace(1, 30, m)[:, None] * np.linalg.qr(rng.standard_normal((m, m)))[0]
        Q, c, G = R.T @ Q @ R, R.T @ c, R.T @ R
        Q = (Q + Q.T) / 2
    return c, Q, G, radius


KINDS = (
    "indefinite", "definite", "semidefinite", "hard", "nearly hard", "double", "exactly hard",
    "linear", "no gradient", "metric",
)  # fmt: skip


def check_optimal(c, Q, G, step, radius_law):
    """The KKT conditions, each relative to the largest term in it, and the reported numbers."""
    a, multiplier = step.coefficients, step.multiplier
    size = np.linalg.norm(Q, 2) + multiplier * np.linalg.norm(G, 2)
    residual = (Q + multiplier * G) @ a + c
    assert np.linalg.norm(residual) <= 1e-10 * (size * np.linalg.norm(a) + np.linalg.norm(c))
    assert multiplier >= 0
    assert np.linalg.eigvalsh(Q + multiplier * G)[0] >= -1e-10 * size
    length = np.sqrt(max(a @ G @ a, 0.0))
    np.testing.assert_allclose(step.length, length, rtol=1e-10, atol=1e-300)
    allowed = radius_law(multiplier)
    assert length <= allowed * (1 + 1e-10)
    assert multiplier * (allowed - length) <= 1e-10 * (size + 1e-300) * allowed
    decrease = -(c @ a + a @ Q @ a / 2)
    terms = abs(c @ a) + abs(a @ Q @ a)
    assert decrease >= -1e-12 * terms
    np.testing.assert_allclose(step.decrease, decrease, atol=1e-10 * terms)


@pytest.mark.parametrize("kind", KINDS)
def test_the_trust_region_is_optimal_on_10000_random_cases(kind):
    rng = np.random.default_rng(KINDS.index(kind))
    hard = 0
    for trial in range(1000):
        m = 2 + trial % 19
        c, Q, G, radius = case(rng, m, kind)
        step = trust_region(c, Q, G, radius)
        check_optimal(c, Q, G, step, lambda _, radius=radius: radius)
        hard += step.hard
    assert hard == 1000 or kind != "exactly hard"


@pytest.mark.parametrize("kind", KINDS)
def test_the_cubic_model_is_optimal(kind):
    rng = np.random.default_rng(KINDS.index(kind))
    for trial in range(200):
        m = 2 + trial % 19
        c, Q, G, weight = case(rng, m, kind)
        step = cubic(c, Q, G, weight)
        check_optimal(c, Q, G, step, lambda multiplier, weight=weight: multiplier / weight)
        np.testing.assert_allclose(step.multiplier, weight * step.length, rtol=1e-9, atol=1e-300)


def test_hard_cases_by_hand():
    step = trust_region(np.array([0.0, 1.0]), np.diag([-2.0, 2.0]), np.eye(2), 1.0)
    assert step.hard and step.multiplier == 2.0
    np.testing.assert_allclose(np.abs(step.coefficients), [np.sqrt(15) / 4, 0.25], rtol=1e-15)
    step = trust_region(np.zeros(2), np.diag([-1.0, 1.0]), np.eye(2), 3.0)
    assert step.hard and step.decrease == 4.5
    tiny = trust_region(np.array([1e-200, 1.0]), np.diag([-2.0, 2.0]), np.eye(2), 1.0)
    assert not tiny.hard
    np.testing.assert_allclose(tiny.coefficients, [-np.sqrt(15) / 4, -0.25], rtol=1e-14)
    nothing = trust_region(np.zeros(2), np.diag([1.0, 0.0]), np.eye(2), 3.0)
    assert nothing.length == 0 and nothing.multiplier == 0
    step = cubic(np.array([0.0, 1.0]), np.diag([-2.0, 2.0]), np.eye(2), 0.5)
    assert step.hard and step.multiplier == 2.0 and step.length == pytest.approx(4.0, rel=1e-15)


def test_against_a_fine_grid_in_two_dimensions():
    rng = np.random.default_rng(3)
    angle, radii = np.linspace(0, 2 * np.pi, 2001), np.linspace(0, 1, 401)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    for kind in KINDS:
        c, Q, G, radius = case(rng, 2, kind)
        root = np.linalg.cholesky(G)
        points = np.linalg.solve(root.T, radius * circle)[:, None] * radii[:, None]
        points = points.reshape(2, -1)
        values = c @ points + np.einsum("ip,ij,jp->p", points, Q, points) / 2
        step = trust_region(c, Q, G, radius)
        scale = np.abs(values).max()
        assert -step.decrease <= values.min() + 1e-12 * scale
        assert -step.decrease >= values.min() - 1e-4 * scale
        value = np.linalg.norm(root.T @ points, axis=0) ** 3 * 0.7 / 3 + values
        step = cubic(c, Q, G, 0.7)
        found = -step.decrease + 0.7 / 3 * step.length**3
        assert found <= value.min() + 1e-12 * scale


@pytest.mark.parametrize("solver", [trust_region, cubic, damped])
def test_dependent_directions_change_nothing(solver):
    """Directions of unlike lengths, some of them combinations of others, span the same steps."""
    rng = np.random.default_rng(5)
    for trial in range(100):
        r = 1 + trial % 6
        A = rng.standard_normal((30, 30))
        H, g = A + A.T, rng.standard_normal(30)
        D = rng.standard_normal((30, r)) * 10.0 ** rng.uniform(-6, 6, r)
        extra = np.hstack([D, D @ rng.standard_normal((r, 2)), np.zeros((30, 1))])
        steps = []
        for directions in (D, extra):
            model = directions.T @ g, directions.T @ H @ directions, directions.T @ directions
            step = solver(*model, 0.5)
            steps.append((directions @ step.coefficients, step))
        (x, few), (y, many) = steps
        if not few.hard:
            np.testing.assert_allclose(y, x, atol=1e-6 * np.linalg.norm(x))
        np.testing.assert_allclose(many.decrease, few.decrease, rtol=1e-6)


def test_damped_steps_descend_and_shorten():
    rng = np.random.default_rng(7)
    for trial in range(300):
        c, Q, G, _ = case(rng, 2 + trial % 19, KINDS[trial % len(KINDS)])
        lengths = []
        for gamma in (1e-6, 1e-2, 0.5, 1.0, 10.0, 1e3):
            step = damped(c, Q, G, gamma)
            size = np.linalg.norm(Q, 2) + step.multiplier * np.linalg.norm(G, 2)
            assert np.linalg.eigvalsh(Q + step.multiplier * G)[0] >= -1e-12 * size
            residual = (Q + step.multiplier * G) @ step.coefficients + c
            bound = size * np.linalg.norm(step.coefficients) + np.linalg.norm(c)
            assert np.linalg.norm(residual) <= 1e-9 * bound
            assert c @ step.coefficients <= 1e-12 * abs(c @ step.coefficients)
            lengths.append(step.length)
        assert lengths[-1] <= lengths[0]


def test_twenty_dimensions_against_scipy():
    rng = np.random.default_rng(11)
    c, Q, G, radius = case(rng, 20, "indefinite")
    step = trust_region(c, Q, G, radius)
    ball = {"type": "ineq", "fun": lambda a: radius**2 - a @ a, "jac": lambda a: -2 * a}
    best = min(
        scipy.optimize.minimize(
            lambda a: c @ a + a @ Q @ a / 2, radius * rng.standard_normal(20) / 5,
            jac=lambda a: c + Q @ a, constraints=ball, method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        ).fun
        for _ in range(5)
    )  # fmt: skip
    assert -step.decrease == pytest.approx(best, rel=1e-8)


def test_nonsense_is_refused():
    good = np.ones(2), np.eye(2), np.eye(2)
    for solver in (trust_region, cubic, damped):
        with pytest.raises(NumericalError, match="positive"):
            solver(*good, 0.0)
        with pytest.raises(NumericalError, match="finite"):
            solver(np.array([1.0, np.nan]), np.eye(2), np.eye(2), 1.0)
        with pytest.raises(NumericalError, match="zero"):
            solver(np.ones(2), np.eye(2), np.zeros((2, 2)), 1.0)
