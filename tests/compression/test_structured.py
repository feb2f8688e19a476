"""A base plus low rank: of what the base leaves, and beside a prior in its metric."""

import numpy as np
import pytest
import scipy.sparse
from oracles import Sharded, matrix, random_hodlr
from scipy.sparse.linalg import LinearOperator

from hesscomp.compression import compress, update_factor
from hesscomp.compression.hodlr import compress_hodlr
from hesscomp.compression.structured import compress_beside, compress_with_prior
from hesscomp.errors import InputError
from hesscomp.estimators import diagonal_factor
from hesscomp.factors import (
    UNKNOWN,
    Diagonal,
    Inertia,
    LowRank,
    Sparse,
    Tree,
    save_factor,
    structured,
)
from hesscomp.operators.matrix import MatrixOperator

pytestmark = pytest.mark.ranks

N = 60


def placed(A, world, layout):
    operator = Sharded(A, world, False)
    return operator.in_rows(7) if layout == "rows" else operator


@pytest.mark.parametrize("layout", ["replicated", "rows"])
def test_what_a_base_leaves(world, layout):
    """A matrix of HODLR form and one of rank 3, which the HODLR factor does not have."""
    rng = np.random.default_rng(0)
    exact = random_hodlr(N, 8, 2, rng, shift=10.0)
    U = np.linalg.qr(rng.standard_normal((N, 3)))[0]
    A = exact.to_dense() + (U * np.array([5.0, -4.0, 3.0])) @ U.T
    operator = placed(A, world, layout)
    factor = compress_beside(operator, exact, rank=3)
    assert factor.kind == "hodlr+low-rank" and factor.layout.name == layout
    np.testing.assert_allclose(factor.to_dense(), A, atol=1e-11)
    np.testing.assert_allclose(
        factor.certificate.frobenius_norm_estimate, np.linalg.norm(A), rtol=0.2
    )
    assert factor.certificate.relative_error < 1e-6
    about = factor.provenance
    assert about.columns < N and about.method.startswith("hodlr and ")


def test_a_structured_factor_is_updated_and_cut(world):
    """What is dropped of the joined low rank adds to the certificate's error."""
    rng = np.random.default_rng(1)
    exact = random_hodlr(N, 8, 2, rng, shift=10.0)
    U = np.linalg.qr(rng.standard_normal((N, 5)))[0]
    first = exact.to_dense() + (U[:, :3] * [5.0, -4.0, 3.0]) @ U[:, :3].T
    later = first + (U[:, 2:] * [1.0, -2.0, 6.0]) @ U[:, 2:].T
    factor = compress_beside(Sharded(first, world, False), exact, rank=3)
    operator = Sharded(later, world, False)
    updated = update_factor(operator, factor, 3, seed=1)
    assert updated.kind == "hodlr+low-rank" and len(updated.weights) == 6
    np.testing.assert_allclose(updated.to_dense(), later, atol=1e-10)
    cut = update_factor(operator, factor, 3, max_rank=4, seed=1)
    np.testing.assert_allclose(np.sort(cut.weights), [-4.0, 4.0, 5.0, 6.0], atol=1e-8)
    error = np.linalg.norm(cut.to_dense() - later)
    np.testing.assert_allclose(error, 2.0, atol=1e-8)
    np.testing.assert_allclose(cut.certificate.frobenius_error_estimate, error, rtol=1e-6)


def test_updates_by_kind(world):
    A = np.diag(np.linspace(5.0, 9.0, N)) + 20 * matrix("low rank", n=N)
    operator = Sharded(A, world, False)
    for known, kind in (
        (Diagonal(np.diag(A).copy(), certificate=UNKNOWN), "diagonal+low-rank"),
        (compress(operator, 3), "low-rank"),
    ):
        before = np.linalg.norm(known.to_dense() - A)
        updated = update_factor(operator, known, 8, seed=1)
        assert updated.kind == kind and np.linalg.norm(updated.to_dense() - A) < before
    refit = update_factor(operator, known, by="refit")
    assert refit.rank == 3
    fine = update_factor(operator, known, tolerance=1e-3, by="refit")
    assert fine.certificate.converged and np.linalg.norm(
        fine.to_dense() - A
    ) < 1e-3 * np.linalg.norm(A)
    with pytest.raises(InputError, match="`tolerance` goes with `by` refit"):
        update_factor(operator, known, tolerance=1e-3)
    with pytest.raises(InputError, match="no compression makes a diagonal factor again"):
        update_factor(operator, Diagonal(np.ones(N), certificate=UNKNOWN), by="refit")
    with pytest.raises(InputError, match="`by` must be one of"):
        update_factor(operator, known, by="magic")
    with pytest.raises(InputError, match="n = 3 does not fit"):
        update_factor(operator, Diagonal(np.ones(3), certificate=UNKNOWN))
    hodlr = compress_hodlr(operator, Tree.halves(N, 8), rank=2)
    with pytest.raises(InputError, match="`max_rank` goes with `by` difference"):
        update_factor(operator, hodlr, max_rank=3)


def test_a_diagonal_base(world):
    A = np.diag(np.linspace(5.0, 9.0, N)) + 20 * matrix("low rank", n=N)
    operator = Sharded(A, world, True)
    rough = compress_beside(operator, diagonal_factor(operator, N), rank=10)
    assert np.linalg.norm(A - rough.to_dense()) < np.linalg.norm(A - np.diag(np.diag(A)))


@pytest.mark.parametrize("layout", ["replicated", "rows"])
@pytest.mark.parametrize("kind", ["diagonal", "hodlr"])
def test_beside_a_prior(world, layout, kind):
    """Exact to rounding with the rank of the data; the truncation is optimal in its metric."""
    data = 30 * matrix("low rank", n=N)
    prior = np.diag(np.linspace(1.0, 30.0, N)) + (kind == "hodlr") * np.exp(
        -np.abs(np.subtract.outer(np.arange(N), np.arange(N))) / 10
    )
    if kind == "diagonal":
        S = Diagonal(np.diag(prior), certificate=UNKNOWN)
    else:
        S = compress_hodlr(MatrixOperator(prior), Tree.halves(N, 8), rank=3)
    operator = placed(data, world, layout)
    factor = compress_with_prior(operator, S, rank=5)
    np.testing.assert_allclose(factor.to_dense(), prior + data, atol=1e-9)
    b = np.random.default_rng(0).standard_normal((N, 2))
    x = factor.layout.whole(factor.solve(factor.layout.local(b), 0.0))
    np.testing.assert_allclose(x, np.linalg.solve(prior + data, b), rtol=1e-8, atol=1e-10)
    cut = compress_with_prior(operator, S, rank=3)
    L = np.linalg.cholesky(prior)
    white = np.linalg.solve(L, np.linalg.solve(L, cut.to_dense() - prior - data).T)
    w = np.linalg.eigvalsh(np.linalg.solve(L, np.linalg.solve(L, data).T))[::-1]
    np.testing.assert_allclose(np.linalg.norm(white, 2), w[3], rtol=1e-3)
    error = np.linalg.norm(cut.to_dense() - prior - data)
    np.testing.assert_allclose(cut.certificate.frobenius_error_estimate, error, rtol=0.5)


@pytest.mark.parametrize("layout", ["replicated", "rows"])
def test_beside_a_sparse_prior(world, layout, tmp_path):
    """A stencil as SciPy has it: exact with the rank of the data, saved, solved in O(n)."""
    n, rng = 150, np.random.default_rng(0)
    root = scipy.sparse.diags([-np.ones(n - 1), 2.1 * np.ones(n), -np.ones(n - 1)], [-1, 0, 1])
    prior, J = (root @ root).tocsr(), rng.standard_normal((4, n))
    A = prior.toarray() + J.T @ J
    factor = compress_with_prior(placed(J.T @ J, world, layout), prior, rank=4, oversample=2)
    assert factor.kind == "sparse+low-rank" and factor.provenance.columns == 3 * 6 + 8
    np.testing.assert_allclose(factor.to_dense(), A, atol=1e-9)
    b = rng.standard_normal((n, 2))
    x = factor.layout.whole(factor.solve(factor.layout.local(b), 0.1))
    np.testing.assert_allclose(x, np.linalg.solve(A + 0.1 * np.eye(n), b), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(factor.logdet(0.1), np.linalg.slogdet(A + 0.1 * np.eye(n)))
    w = np.linalg.eigvalsh(A)
    assert factor.inertia(-2.0).negative == np.count_nonzero(w < 2.0)
    low = compress_with_prior(placed(J.T @ J, world, layout), prior, rank=2, oversample=4)
    M = np.linalg.eigvals(np.linalg.solve(prior.toarray(), J.T @ J)).real
    np.testing.assert_allclose(low.weights, np.sort(M)[::-1][:2], rtol=1e-6)
    with pytest.raises(InputError, match="not symmetric"):
        Sparse.of(scipy.sparse.csr_array(np.triu(np.ones((3, 3)))))
    with pytest.raises(InputError, match="not positive definite"):
        compress_with_prior(placed(J.T @ J, world, layout), -prior, rank=2)


class Solvable(LinearOperator):
    """A user's own: products and solves with a dense matrix, one vector at a time."""

    def __init__(self, A, **more):
        super().__init__(np.float64, A.shape)
        self.A = A
        vars(self).update(more)

    def _matvec(self, v):
        return self.A @ v.reshape(-1)

    def solve(self, b):
        assert b.ndim == 1
        return np.linalg.solve(self.A, b)


class Shiftable(Solvable):
    """One that offers the rest too."""

    def solve(self, b, shift=0.0):
        return np.linalg.solve(self.A + shift * np.eye(len(b)), b)

    def diagonal(self):
        return np.diag(self.A)

    def logdet(self, shift):
        return np.linalg.slogdet(self.A + shift * np.eye(len(self.A)))

    def inertia(self, shift):
        w = np.linalg.eigvalsh(self.A) + shift
        return Inertia(int(sum(w < 0)), int(sum(w == 0)), int(sum(w > 0)), 0.0)


def known_prior():
    rng = np.random.default_rng(0)
    J, apart = rng.standard_normal((4, N)), np.subtract.outer(np.arange(N), np.arange(N))
    return 5 * np.eye(N) + np.exp(-np.abs(apart) / 10), J.T @ J


@pytest.mark.parametrize("layout", ["replicated", "rows"])
def test_beside_a_known_operator(world, layout):
    """Exact with the rank of the data, by products and solves alone; the rest is refused."""
    S, data = known_prior()
    operator = placed(data, world, layout)
    factor = compress_with_prior(operator, Solvable(S), rank=4)
    np.testing.assert_allclose(factor.to_dense(), S + data, atol=1e-9)
    b = np.random.default_rng(1).standard_normal((N, 2))
    for solved in (factor.solve, lambda B, shift: factor.preconditioner(shift) @ B):
        x = factor.layout.whole(solved(factor.layout.local(b), 0.0))
        np.testing.assert_allclose(x, np.linalg.solve(S + data, b), rtol=1e-8, atol=1e-10)
    assert factor.psd and factor.certificate.relative_error < 1e-9
    np.testing.assert_allclose(factor.norm(), np.linalg.norm(S + data, 2), rtol=1e-8)
    for refused, message in (
        (lambda: factor.solve(factor.layout.local(b), 0.1), "takes no `shift`, and 0.1"),
        (lambda: factor.logdet(0.0), "a Solvable, has no `logdet`"),
        (factor.inertia, "has no `inertia`"),
        (factor.diagonal, "has no `diagonal`"),
        (factor.trace, "has no `diagonal`"),
        (lambda: save_factor(factor, "never.h5"), "cannot be stored"),
        (factor.contents, "an object in memory"),
    ):
        with pytest.raises(InputError, match=message):
            refused()
    beside = compress_beside(placed(S + data, world, layout), Solvable(S), rank=4)
    np.testing.assert_allclose(beside.to_dense(), S + data, atol=1e-9)


def test_a_known_operator_that_offers_more(world):
    S, data = known_prior()
    w, V = np.linalg.eigh(data)
    factor = structured(Shiftable(S), V[:, -4:], -w[-4:])  # indefinite
    A = S - data
    for shift in (0.0, 0.3):
        b = np.ones(N)
        np.testing.assert_allclose(
            factor.solve(b, shift), np.linalg.solve(A + shift * np.eye(N), b), rtol=1e-8
        )
        np.testing.assert_allclose(factor.logdet(shift), np.linalg.slogdet(A + shift * np.eye(N)))
        assert factor.inertia(shift).negative == np.sum(np.linalg.eigvalsh(A) < -shift)
    np.testing.assert_allclose(factor.diagonal(), np.diag(A))
    np.testing.assert_allclose(factor.trace(), np.trace(A))
    M = factor.preconditioner(1.0).to_dense()
    assert np.linalg.eigvalsh(M).min() > 0 and not factor.psd


def test_bad_known_operators(world):
    S, data = known_prior()
    for bad, message in (
        (object(), "has a square `shape`, products"),
        (LinearOperator((N, N), matvec=lambda v: v), "has a square `shape`, products"),
        (Solvable(np.triu(S)), "not symmetric"),
        (Solvable(-S), "not positive definite"),
        (Solvable(S, solve=lambda b: b), "does not undo its products"),
        (Solvable(S, solve=lambda b: b[:2]), "a solution of the known operator must be"),
    ):
        with pytest.raises(InputError, match=message):
            compress_with_prior(Sharded(data, world, True), bad, rank=2)


def test_bad_bases(world):
    operator = Sharded(np.eye(6), world, True)
    low = LowRank(np.ones(1), np.eye(6)[:, :1], certificate=UNKNOWN)
    with pytest.raises(InputError, match="the base of a structured factor is diagonal, hodlr"):
        compress_beside(operator, low, rank=1)
    with pytest.raises(InputError, match="n = 5 does not fit"):
        compress_beside(operator, Diagonal(np.ones(5), certificate=UNKNOWN), rank=1)
    with pytest.raises(InputError, match="a prior of n = 5 does not fit"):
        compress_with_prior(operator, Diagonal(np.ones(5), certificate=UNKNOWN), rank=1)
    with pytest.raises(InputError, match="not positive definite"):
        compress_with_prior(operator, Diagonal(-np.ones(6), certificate=UNKNOWN), rank=1)
