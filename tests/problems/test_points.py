"""Points: rules against integrals, draws against the domain; the same on any number of ranks."""

import numpy as np
import pytest

from hesscomp.errors import InputError
from hesscomp.problems.points import Box, Given, Triangles, as_points

L_SHAPE = Triangles(
    [[0, 0], [1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1]],
    [[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5], [0, 5, 6], [0, 6, 7]],
)
BOX = Box([0, -1, 2], [1, 1, 5])


def test_a_rule_on_triangles_is_exact_up_to_its_degree():
    for degree in range(1, 6):
        X, w = L_SHAPE.gauss(degree).rows(0, None)
        for power in range(degree + 1):
            # over the L of three unit squares, by x alone
            exact = (1 + 2 * (-1) ** power) / (power + 1)
            np.testing.assert_allclose(w @ X[:, 0] ** power, exact, atol=1e-12)


def test_a_rule_on_a_box_is_exact_up_to_its_degree():
    X, w = BOX.gauss([1, 2, 1], 3).rows(0, None)
    found = w @ (X[:, 0] ** 5 * X[:, 1] ** 4 * X[:, 2])
    np.testing.assert_allclose(found, 1 / 6 * 2 / 5 * 21 / 2)
    X, w = BOX.boundary_grid(4).rows(0, None)
    np.testing.assert_allclose(w.sum(), 2 * (2 * 3 + 1 * 3 + 1 * 2))
    assert Box([0], [1]).boundary_grid(1).rows(0, 2)[0].ravel().tolist() == [0, 1]


@pytest.mark.parametrize(
    "points",
    [BOX.random(500, seed=3), BOX.boundary_random(500, 3), L_SHAPE.random(500, 3)],
    ids=["box", "boundary", "triangles"],
)
def test_draws_lie_in_the_domain_and_do_not_depend_on_the_parts(points):
    X, w = points.rows(0, 500)
    parts = [points.rows(*ends)[0] for ends in ((0, 130), (130, 130), (130, 500))]
    assert np.array_equal(np.concatenate(parts), X)
    assert np.array_equal(points.rows(0, 500, step=4)[0], X)
    if points.dimension == 2:
        assert not ((X[:, 0] > 0) & (X[:, 1] < 0)).any() and abs(X).max() <= 1
        np.testing.assert_allclose([w.sum(), w @ X[:, 0]], [3, -0.5], atol=0.1)
    else:
        assert np.array_equal(np.clip(X, BOX.low, BOX.high), X)
        assert np.isclose(w.sum(), 6 if points.edges.shape[1] == 3 else 22)


def test_redrawn_points_depend_on_the_step():
    points = BOX.random(20, seed=1, redrawn=True)
    first, second = (points.rows(0, 20, step)[0] for step in (0, 1))
    assert not np.isclose(first, second).any()
    assert np.array_equal(points.rows(5, 9, step=1)[0], second[5:9])


def test_what_is_no_set_of_points_is_refused():
    for make, words in (
        (lambda: Given([[np.nan]]), "finite"),
        (lambda: Given([[0.0]], [1.0, 1.0]), "weights"),
        (lambda: Given([[0.0]], [-1.0]), "negative"),
        (lambda: as_points(BOX), "domain"),
        (lambda: Box([0, 1], [1, 1]), "below"),
        (lambda: BOX.random(0), "one point"),
        (lambda: BOX.gauss(2, 0), "Gauss"),
        (lambda: L_SHAPE.gauss(6), "degrees"),
        (lambda: Triangles([[0, 0], [1, 1], [2, 2]], [[0, 1, 2]]), "area"),
    ):
        with pytest.raises(InputError, match=words):
            make()
