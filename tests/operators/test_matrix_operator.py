"""Operators of matrices against the matrices."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

from hesscomp.errors import InputError
from hesscomp.operators.matrix import as_operator


@pytest.mark.parametrize(
    "form", [np.asarray, scipy.sparse.csr_array, scipy.sparse.linalg.aslinearoperator]
)
def test_every_form_of_a_matrix_multiplies_as_the_matrix(form):
    A = np.random.default_rng(0).standard_normal((12, 12))
    A, V = A + A.T, np.random.default_rng(1).standard_normal((12, 3))
    operator = as_operator(form(A))
    np.testing.assert_allclose(operator @ V, A @ V, atol=1e-13)
    np.testing.assert_allclose(operator @ V[:, 0], A @ V[:, 0], atol=1e-13)
    np.testing.assert_allclose(V.T @ operator, V.T @ A, atol=1e-13)
    np.testing.assert_allclose(V[:, 0] @ operator.T, V[:, 0] @ A, atol=1e-13)
    np.testing.assert_allclose(operator.to_dense(), A, atol=1e-13)


def test_complex_arrays_are_refused():
    with pytest.raises(InputError, match="takes real arrays"):
        as_operator(np.eye(3)) @ np.ones(3, complex)
