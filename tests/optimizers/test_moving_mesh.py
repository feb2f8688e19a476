"""Moving meshes against closed forms, and their derivatives against differences."""

import numpy as np
import pytest

from hesscomp.errors import InputError
from hesscomp.optimizers.moving_mesh import _Reduced, _Rule, moving_mesh


def singular(x):
    return 2 / 9 * x ** (-4 / 3)  # of u = x^(2/3) - x, whose energy is -1/6


def error(energy):
    return np.sqrt(1 + 6 * energy)


def test_the_rate_is_that_of_the_best_meshes_and_not_of_uniform_ones():
    sizes = [16, 64, 256]
    meshes = [moving_mesh(singular, size) for size in sizes]
    uniform, moved = ([error(mesh.energies[i]) for mesh in meshes] for i in (0, -1))
    assert uniform[1] == pytest.approx(0.502, abs=5e-4) and moved[1] < 0.046
    rates = [np.log(errors[-1] / errors[0]) / np.log(16) for errors in (uniform, moved)]
    np.testing.assert_allclose(rates, [-1 / 6, -1], atol=0.06)
    assert all(mesh.converged for mesh in meshes)
    x = meshes[2].breakpoints
    np.testing.assert_allclose(meshes[2].values, x ** (2 / 3) - x, atol=1e-6)


def test_derivatives_are_those_of_the_reduced_energy():
    b, rule = np.array([0, 0.1, 0.35, 0.5, 0.9, 1.0]), _Rule(8)
    gradient, band = _Reduced(singular, b, rule).derivatives()
    H = np.diag(band[1]) + np.diag(band[0, 1:], 1) + np.diag(band[0, 1:], -1)

    def at(i, step):
        return _Reduced(singular, b + step * np.eye(6)[i], rule)

    h = 1e-5
    for i in range(1, 5):
        slope = (at(i, h).energy - at(i, -h).energy) / (2 * h)
        assert gradient[i - 1] == pytest.approx(slope, rel=1e-6, abs=1e-7)
        bend = (at(i, h).derivatives()[0] - at(i, -h).derivatives()[0]) / (2 * h)
        np.testing.assert_allclose(H[i - 1], bend, rtol=1e-5, atol=1e-6)


def test_breakpoints_must_rise():
    for arguments in ({"elements": 1}, {"elements": 3, "start": [0, 0.5, 0.4, 1]}):
        with pytest.raises(InputError, match="rise"):
            moving_mesh(singular, **arguments)
