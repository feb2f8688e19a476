"""The row layout against the replicated one, and sums that are equal to the bit."""

import hashlib
import itertools

import h5py
import numpy as np
import pytest
import scipy.linalg
from marks import several_but, two_ranks_but
from oracles import N, Sharded, by_rank_0, dense, matrix

from hesscomp.compression import METHODS, compress
from hesscomp.compression.correction import correct
from hesscomp.compression.generalized import generalized_eigen
from hesscomp.compression.streaming import StreamingSketch
from hesscomp.datasets import from_arrays, load_dataset
from hesscomp.errors import InputError, NumericalError, RankFailure
from hesscomp.estimators import trace
from hesscomp.factors import compare, load_factor, save_factor
from hesscomp.operators.matrix import MatrixOperator
from hesscomp.parallel import world as world_module
from hesscomp.parallel.exact import sum_blocks
from hesscomp.parallel.layout import Replicated, RowLayout
from hesscomp.parallel.regrouping import Regrouping
from hesscomp.parallel.resources import available_bytes
from hesscomp.parallel.rows import row_range
from hesscomp.parallel.world import World
from hesscomp.sketching.orthonormalize import (
    cholesky_qr2,
    orthonormalize,
    shifted_cholesky_qr3,
    tsqr,
)
from hesscomp.storage.slabs import slabs_of

pytestmark = pytest.mark.ranks(most=4)


@pytest.fixture
def exact_world():
    return World(reproducible=True)


def dense_of_rows(factor) -> np.ndarray:
    return dense(factor.in_layout(Replicated(factor.n, factor.layout.world)))


# Layouts


@pytest.mark.parametrize("n", [1, 2, 7, 61, N])
def test_operations_of_the_row_layout(world, n):
    rng = np.random.default_rng(0)
    A, B, S = (rng.standard_normal(shape) for shape in ((n, 5), (n, 3), (5, 4)))
    for layout in (RowLayout(n, world), RowLayout(n, World(world.comm, reproducible=True))):
        a, b = layout.local(A), layout.local(B)
        assert a.shape == (layout.rows, 5)
        np.testing.assert_array_equal(layout.whole(a), A)
        np.testing.assert_allclose(layout.inner(a, b), A.T @ B, atol=1e-13)
        np.testing.assert_allclose(layout.squares(a), np.sum(A**2, axis=0), rtol=1e-13)
        assert layout.norm(a) == pytest.approx(np.linalg.norm(A), rel=1e-13)
        np.testing.assert_allclose(layout.whole(layout.combine(a, S)), A @ S, atol=1e-13)
        np.testing.assert_allclose(
            layout.combine(a, S[:, 0]), layout.local(A @ S[:, 0]), atol=1e-13
        )
        square = np.triu(rng.standard_normal((5, 5)))
        copy = a.copy()
        assert layout.combine(copy, square, out=copy) is copy
        np.testing.assert_allclose(copy, layout.local(A @ square), atol=1e-13)
        indices = np.array([n - 1, 0])
        np.testing.assert_array_equal(layout.take(a, indices), A[indices])
        np.testing.assert_array_equal(layout.whole(layout.units(indices)), np.eye(n)[:, indices])
        assert layout.argmax(layout.local(A[:, 0])) == np.argmax(A[:, 0])
        assert layout.argmax(layout.local(np.zeros(n))) == 0
        assert layout.any(world.rank == world.size - 1) and not layout.any(False)


@pytest.mark.parametrize("panel", [1, 4, 64])
def test_operators_in_rows(world, panel):
    A, layout = matrix("polynomial", True), RowLayout(N, world, panel)
    V = np.random.default_rng(3).standard_normal((N, 9))
    ledger = world.ledger
    sharded = Sharded(A, world, False).in_rows(panel)
    words, gathered, passes = ledger.words_reduced, ledger.words_gathered, ledger.passes
    product = sharded @ layout.local(V)
    assert ledger.words_reduced - words == 9 * N + 1
    assert ledger.words_gathered - gathered == 9 * N
    assert ledger.passes - passes == -(-9 // panel)
    np.testing.assert_allclose(layout.whole(product), A @ V, atol=1e-12)
    np.testing.assert_allclose(
        sharded @ layout.local(V[:, 0]), layout.local(A @ V[:, 0]), atol=1e-12
    )
    np.testing.assert_allclose(sharded.to_dense(), A, atol=1e-12)
    whole = MatrixOperator(A, world).in_rows(panel)
    combined = (sharded + 2.0 * whole).shifted(0.5)
    local = layout.local(V)
    np.testing.assert_allclose(combined @ local, layout.local(3 * A @ V + 0.5 * V), atol=1e-12)
    small = V.T @ (3 * A + 0.5 * np.eye(N)) @ V
    np.testing.assert_allclose(combined.project(local, local), small, atol=1e-11)
    np.testing.assert_allclose(combined.replicated() @ V, 3 * A @ V + 0.5 * V, atol=1e-12)
    assert trace(combined, 40).value == pytest.approx(
        trace(combined.replicated(), 40).value, rel=1e-10
    )
    with pytest.raises(InputError, match="does not fit an array of shape"):
        sharded @ np.zeros((N + 1, 2))
    if world.size > 1:
        with pytest.raises(InputError, match="replicated"):
            sharded.to_scipy()


def test_what_is_not_finite_is_noticed_on_all_ranks(world):
    A = matrix("polynomial")
    A[0, 0] = np.nan
    with pytest.raises(NumericalError, match="not finite"):
        Sharded(A, world, True).in_rows() @ RowLayout(N, world).units(np.array([0]))


def test_counts_that_mpi_could_not_hold_are_cut(world, monkeypatch):
    monkeypatch.setattr(world_module, "CHUNK", 3 * N)
    A, layout = matrix("equal"), RowLayout(N, world, panel=10)
    V = np.random.default_rng(3).standard_normal((N, 10))
    product = Sharded(A, world, True).in_layout(layout) @ layout.local(V)
    np.testing.assert_allclose(product, layout.local(A @ V), atol=1e-12)
    np.testing.assert_allclose(Sharded(A, world, True) @ V, A @ V, atol=1e-12)


# Orthonormalisation


@pytest.mark.parametrize("kind", [Replicated, RowLayout])
def test_orthonormalisation_and_where_it_breaks(world, kind):
    n, l = 300, 12
    rng = np.random.default_rng(0)
    U = np.linalg.qr(rng.standard_normal((n, l)))[0]
    V = np.linalg.qr(rng.standard_normal((l, l)))[0]
    layout = kind(n, world)
    methods = {"cholesky": cholesky_qr2, "shifted": shifted_cholesky_qr3, "tsqr": tsqr}
    works = {name: [] for name in methods}
    conditions = [1e0, 1e6, 1e10, 1e15, np.inf]
    for condition in conditions:
        s = np.geomspace(1, 1 / condition, l) if condition < np.inf else np.r_[1.0, np.zeros(l - 1)]
        Y = layout.local((U * s) @ V.T)
        for name, method in methods.items():
            Q = method(Y, layout)
            works[name].append(Q is not None)
            if Q is not None:
                assert np.abs(layout.inner(Q, Q) - np.eye(l)).max() <= 1e-13
                assert layout.norm(Y - layout.combine(Q, layout.inner(Q, Y))) <= 1e-12
        Q = orthonormalize(Y, layout)
        assert np.abs(layout.inner(Q, Q) - np.eye(l)).max() <= 1e-13
        basis = layout.local(U[:, :7])
        Q = orthonormalize(Y, layout, against=basis)
        assert np.abs(layout.inner(Q, Q) - np.eye(l)).max() <= 1e-12
        assert np.abs(layout.inner(basis, Q)).max() <= 1e-12
    assert works["tsqr"] == [True] * 5
    assert works["cholesky"] == [True, True, False, False, False]
    assert works["shifted"][:4] == [True, True, True, False]


def test_tsqr_with_fewer_rows_than_columns_on_a_rank(world):
    layout = RowLayout(9, world)
    Y = layout.local(np.random.default_rng(0).standard_normal((9, 8)))
    for world_like in (layout, RowLayout(9, World(world.comm, reproducible=True))):
        Q = tsqr(Y, world_like)
        assert np.abs(world_like.inner(Q, Q) - np.eye(8)).max() <= 1e-13


# Compression


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("power", [0, 2])
def test_the_same_factor_in_both_layouts(world, method, power):
    psd = METHODS[method].needs_psd
    lossy = 1e-4 if method == "power" and power else 0  # that method loses what is small
    A = Sharded(matrix("exponential", not psd), world, psd)
    request = {"rank": 12, "method": method, "power": power, "seed": 5}
    whole = compress(A, **request, layout="replicated")
    rows = compress(A, **request, layout="rows", panel=5)
    assert (whole.provenance.layout, rows.provenance.layout) == ("replicated", "rows")
    assert rows.provenance.columns == whole.provenance.columns
    assert rows.eigenvectors.shape == (rows.layout.rows, 12)
    np.testing.assert_allclose(rows.eigenvalues, whole.eigenvalues, atol=1e-12 + lossy)
    assert np.abs(dense_of_rows(rows) - dense(whole)).max() <= 1e-11 + lossy
    for name in ("frobenius_error_estimate", "frobenius_norm_estimate", "spectral_error_bound"):
        left, right = getattr(rows.certificate, name), getattr(whole.certificate, name)
        assert left == pytest.approx(right, rel=1e-8, abs=1e-12 + lossy, nan_ok=True)
    overlap = rows.layout.inner(rows.eigenvectors, rows.eigenvectors)
    assert np.abs(overlap - np.eye(12)).max() <= 1e-12


@pytest.mark.parametrize("test_matrix", ["srtt", "sparse-sign"])
def test_other_test_matrices_and_tolerances_in_rows(world, test_matrix):
    A = Sharded(matrix("polynomial", True), world, False)
    request = {"tolerance": 0.2, "method": "eigh", "test_matrix": test_matrix}
    whole, rows = compress(A, **request), compress(A.in_rows(), **request)
    assert rows.layout.name == "rows" and rows.rank == whole.rank
    np.testing.assert_allclose(dense_of_rows(rows), dense(whole), atol=1e-11)
    everything = compress(A, N, layout="rows")
    assert everything.provenance.method == "dense"
    np.testing.assert_allclose(dense_of_rows(everything), matrix("polynomial", True), atol=1e-12)


def test_krylov_restarts_in_rows(world):
    A = Sharded(matrix("polynomial", True), world, False)
    request = {"rank": 8, "method": "krylov", "max_basis": 40, "max_columns": 100, "block": 4}
    whole, rows = compress(A, **request), compress(A, **request, layout="rows")
    np.testing.assert_allclose(rows.eigenvalues, whole.eigenvalues, rtol=1e-10)


def test_corrections_streams_and_generalised_problems_in_rows(world):
    A = Sharded(matrix("polynomial", True), world, False)
    known = compress(A, 8)
    whole, rows = correct(A, known, 6), correct(A, known, 6, layout="rows")
    np.testing.assert_allclose(dense_of_rows(rows), dense(whole), atol=1e-10)
    again = correct(A.in_rows(), rows, 4)
    assert again.layout.name == "rows" and again.rank == 18
    sketches = StreamingSketch(N, 30), StreamingSketch(N, 30)
    for sketch, operator in zip(sketches, (A, A.in_rows()), strict=True):
        sketch.update(operator)
    whole, rows = (sketch.factor(10) for sketch in sketches)
    np.testing.assert_allclose(dense_of_rows(rows), dense(whole), atol=1e-10)
    B = np.linspace(1, 2, N)
    whole, rows = (generalized_eigen(A, B, 8, layout=name) for name in ("replicated", "rows"))
    np.testing.assert_allclose(rows.eigenvalues, whole.eigenvalues, rtol=1e-10)
    np.testing.assert_allclose(
        np.abs(rows.eigenvectors), np.abs(rows.whitened.layout.local(whole.eigenvectors)), atol=1e-9
    )
    if world.size > 1:
        with pytest.raises(InputError, match="diagonal"):
            generalized_eigen(A, np.diag(B), 8, layout="rows")


def test_the_layout_is_chosen_by_memory(world, monkeypatch):
    A = Sharded(matrix("polynomial"), world, True)
    assert compress(A, 5).layout.name == "replicated"
    # One rank without room is enough.
    room = 0 if world.rank == world.size - 1 else 2**40
    monkeypatch.setattr("hesscomp.parallel.resources.available_bytes", lambda: room)
    assert compress(A, 5).layout.name == "rows"
    assert compress(A, 5, layout="replicated").layout.name == "replicated"
    for wrong in ({"layout": "columns"}, {"panel": 0}):
        with pytest.raises(InputError, match=r"layout|panel"):
            compress(A, 5, **wrong)


def test_memory_is_that_of_the_control_groups(monkeypatch):
    """As SLURM nests them: the job's limit counts, not that of the root or of the step."""
    job = "/sys/fs/cgroup/slurm/job_7"
    files = {
        "/proc/meminfo": ["MemAvailable:  9000 kB"],
        "/proc/self/cgroup": ["1:name=x:/other", "0::/slurm/job_7/step_0"],
        **{f"{job}/memory.max": ["5000000"], f"{job}/memory.current": ["2000000"]},
        **{f"{job}/step_0/memory.max": ["max"], f"{job}/step_0/memory.current": ["100"]},
    }
    monkeypatch.setattr("hesscomp.parallel.resources._lines", lambda path: files.get(path, []))
    assert available_bytes() == 3_000_000
    files["/proc/self/cgroup"] = ["0::/"]
    assert available_bytes() == 9000 * 1024


# Factors


def test_algebra_of_a_factor_in_rows(world):
    A = Sharded(matrix("polynomial"), world, True)
    rows = compress(A, 10, method="nystrom", layout="rows")
    layout = rows.layout
    whole = rows.in_layout(Replicated(N, world))
    B = np.random.default_rng(0).standard_normal((N, 3))
    b = layout.local(B)

    def same(left, right):
        np.testing.assert_allclose(left, layout.local(right), atol=1e-11)

    same(rows @ b, whole @ B)
    same(rows @ b[:, 0], whole @ B[:, 0])
    same(rows.solve(b, 0.1), whole.solve(B, 0.1))
    same(rows.preconditioner(0.1) @ b, whole.preconditioner(0.1) @ B)
    same(rows.sqrt(b, 0.1), whole.sqrt(B, 0.1))
    same(rows.inverse_sqrt(b, 0.1), whole.inverse_sqrt(B, 0.1))
    same(rows.sample(4, 0.1), whole.sample(4, 0.1))
    same(rows.diagonal(), whole.diagonal())
    np.testing.assert_allclose(rows.quadratic_form(b), whole.quadratic_form(B), atol=1e-12)
    assert rows.logdet(0.1) == whole.logdet(0.1) and rows.trace() == whole.trace()
    assert rows.inertia() == whole.inertia()
    updated = rows.update(b, np.array([1.0, -2.0, 0.5]))
    expected = dense(whole) + (B * [1.0, -2.0, 0.5]) @ B.T
    np.testing.assert_allclose(dense_of_rows(updated), expected, atol=1e-10)
    np.testing.assert_allclose(dense_of_rows(rows + whole), 2 * dense(whole), atol=1e-11)
    np.testing.assert_allclose(
        dense_of_rows(updated.truncate(5)), dense(whole.update(B, [1.0, -2.0, 0.5]).truncate(5)),
        atol=1e-10,
    )  # fmt: skip
    assert (rows - rows).rank == 0 and compare(rows, whole).frobenius_distance <= 1e-12
    if world.size > 1:
        with pytest.raises(InputError, match="does not fit an array"):
            rows @ np.zeros(N + 1)


def test_slabs_on_disk(world, shared_tmp, monkeypatch):
    path = shared_tmp / "factor.h5"
    A = Sharded(matrix("polynomial"), world, True)
    factor = compress(A, 10, layout="rows")
    save_factor(compress(A, 3, layout="rows"), path)
    save_factor(factor, path, dtype="float64")
    owners = sum(stop > start for start, stop in factor.layout.ranges)
    assert len(slabs_of(path, "eigenvectors")) == owners
    whole, rows = load_factor(path), load_factor(path, world)
    np.testing.assert_array_equal(whole.eigenvectors, factor.layout.whole(factor.eigenvectors))
    np.testing.assert_array_equal(rows.eigenvectors, factor.eigenvectors)
    assert rows.layout.name == "rows" and repr(rows.provenance) == repr(whole.provenance)
    # On another number of ranks, here one, and without hesscomp, from another folder.
    alone = load_factor(path, World.serial())
    np.testing.assert_array_equal(alone.eigenvectors, whole.eigenvectors)
    monkeypatch.chdir("/")
    with h5py.File(path) as file:
        assert file["eigenvectors"].is_virtual
        np.testing.assert_array_equal(file["eigenvectors"][:], whole.eigenvectors)
    world.gather(None)
    if world.rank == 0:
        assert len(list(shared_tmp.iterdir())) == owners + 1  # none of the first factor's
        slab = slabs_of(path, "eigenvectors")[0]
        hidden = slab.with_suffix(".away")
        slab.rename(hidden)
        with pytest.raises(InputError, match=slab.name):
            load_factor(path)
        hidden.write_bytes(hidden.read_bytes()[:-200])
        hidden.rename(slab)
        with pytest.raises(InputError, match=slab.name):
            load_factor(path)
        save_factor(whole, path)  # read by one process alone: of one piece again, its slabs gone
        assert [entry.name for entry in shared_tmp.iterdir()] == ["factor.h5"]
    world.gather(None)
    np.testing.assert_array_equal(load_factor(path, world).eigenvectors, factor.eigenvectors)
    save_factor(compress(A, 5), path)  # replicated: all call, one writes
    assert load_factor(path).rank == 5


def test_slabs_of_other_files_are_not_removed(world, shared_tmp):
    path, copy = shared_tmp / "f.h5", shared_tmp / "copy.h5"
    save_factor(compress(Sharded(matrix("polynomial"), world, True), 4, layout="rows"), path)
    world.gather(None)
    if world.rank == 0:
        copy.write_bytes(path.read_bytes())
        save_factor(load_factor(copy), copy)
        assert load_factor(path).rank == load_factor(copy).rank == 4
    world.gather(None)


def test_a_save_that_not_all_ranks_call_ends(world, shared_tmp, monkeypatch):
    if world.size == 1:
        return
    monkeypatch.setattr("hesscomp.factors.hdf5.PATIENCE", 0.5)
    factor = compress(Sharded(matrix("polynomial"), World(world.comm), True), 4)
    if world.rank == 0:
        with pytest.raises(InputError, match="not all ranks call save_factor"):
            save_factor(factor, shared_tmp / "f.h5")


@pytest.mark.parametrize("name", ["../x.0badcafe.0.slab", "/etc/x.0badcafe.0.slab", "other.h5"])
def test_a_factor_file_cannot_point_elsewhere(world, shared_tmp, name):
    path = shared_tmp / "factor.h5"
    save_factor(compress(Sharded(matrix("polynomial"), world, True), 4, layout="rows"), path)
    world.gather(None)
    if world.rank == 0:
        with h5py.File(path, "r+") as file:
            del file["eigenvectors"]
            layout = h5py.VirtualLayout((N, 4), "f8")
            layout[:] = h5py.VirtualSource(name, "eigenvectors", (N, 4))
            file.create_virtual_dataset("eigenvectors", layout)
        with pytest.raises(InputError, match="not a slab beside it"):
            load_factor(path)


def test_a_failing_rank_leaves_the_earlier_file(world, shared_tmp, monkeypatch):
    path = shared_tmp / "factor.h5"
    A = Sharded(matrix("polynomial"), world, True)
    first = compress(A, 4, layout="rows")
    save_factor(first, path)
    holder = max(rank for rank, (start, stop) in enumerate(first.layout.ranges) if stop > start)
    if world.rank == holder:

        def full(*_, **__):
            raise OSError(28, "No space left on device", "slab")

        monkeypatch.setattr("hesscomp.storage.slabs.write_slab", full)
    with pytest.raises((InputError, RankFailure), match="No space left"):
        save_factor(compress(A, 6, layout="rows"), path)
    world.gather(None)
    assert load_factor(path).rank == 4
    assert len(list(shared_tmp.iterdir())) == 1 + len(slabs_of(path, "eigenvectors"))


# Reproducible mode


def test_exact_sums_do_not_depend_on_order(world):
    rng = np.random.default_rng(1)
    blocks = rng.standard_normal((60, 5, 3)) * 10.0 ** rng.integers(-12, 12, (60, 5, 1))
    blocks[:, :, 2] = 0.0
    start, stop = row_range(60, world.rank, world.size)
    total = sum_blocks(blocks[start:stop], 60, world)
    backwards = sum_blocks(blocks[::-1], 60, World.serial())
    np.testing.assert_array_equal(total, backwards)
    np.testing.assert_allclose(total, blocks.sum(axis=0), atol=1e-14 * np.abs(blocks).max())
    for extreme in (1e300, 1e-300, 5e-324):
        np.testing.assert_allclose(
            sum_blocks(np.full((1, 2, 1), extreme), 1, World.serial()),
            extreme,
            rtol=1e-3,
            atol=1e-290,
        )
    blocks[3, 2, 1] = np.inf
    total = sum_blocks(blocks[start:stop], 60, world)
    assert np.isnan(total[:, 1]).all() and np.isfinite(total[:, [0, 2]]).all()


def exact_alone() -> World:
    return World(World.serial().comm, reproducible=True)


# Of the factors below, as one process alone computes them: equal on any number of ranks.
def digest(*arrays) -> str:
    joined = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    return hashlib.sha256(joined).hexdigest()[:16]


EXACT_CASES = ("dense", "float32"), ("sparse", "float64")  # of rows and their precision


@pytest.mark.parametrize(
    ("storage", "dtype"),
    several_but(
        EXACT_CASES,
        two_ranks_but(EXACT_CASES, itertools.product(["dense", "sparse"], ["float32", "float64"])),
    ),
)
def test_reproducible_factors(world, exact_world, storage, dtype):
    import scipy.sparse

    from hesscomp.curvature.hessian import HessianOperator
    from hesscomp.problems.logistic import LogisticRegression

    rng = np.random.default_rng(7)
    X = rng.standard_normal((613, 40)) * (rng.random((613, 40)) < 0.4) * np.geomspace(1, 1e-3, 40)
    y = np.where(rng.random(613) < 0.5, -1.0, 1.0)

    def everything(world):
        start, stop = row_range(613, world.rank, world.size)
        part = X[start:stop]
        part = scipy.sparse.csr_array(part) if storage == "sparse" else part.astype(dtype)
        problem = LogisticRegression(from_arrays(part, y[start:stop], world), world, dtype=dtype)
        x = np.linspace(-1, 1, 40)
        objective, gradient = problem.objective_and_gradient(x)
        margins, along = problem.margins(x), problem.margins(gradient)
        H = HessianOperator(problem, x)
        found = [digest(np.float64(objective), gradient, H.to_dense(), H @ np.eye(40)[:, :7])]
        found.append(digest(problem.losses_along(margins, along, np.array([0.5, 1.0]))))
        for layout in ("replicated", "rows"):
            for method in METHODS:
                factor = compress(H, 6, method=method, layout=layout, oversample=3)
                assert factor.provenance.reproducible
                U = factor.layout.whole(factor.eigenvectors)
                found.append(digest(factor.eigenvalues, U))
        return found, H

    together, H = everything(exact_world)
    assert together == by_rank_0(world, lambda: everything(exact_alone())[0])
    A = H.to_dense()
    exact = np.linalg.eigvalsh(A)[::-1][:6]
    np.testing.assert_allclose(compress(H, 6).eigenvalues, exact, rtol=0.05)
    margins_sum = scipy.special.expit(X @ np.linspace(-1, 1, 40))
    expected = X.T @ ((margins_sum * (1 - margins_sum))[:, None] * X) / 613
    np.testing.assert_allclose(A, expected, atol=1e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize(
    "solver", several_but(["pcg"], two_ranks_but(["pcg"], ["direct", "pcg", "auto"]))
)
def test_reproducible_newton(world, exact_world, solver):
    from hesscomp.optimizers.newton import NewtonOptions, newton
    from hesscomp.problems.logistic import LogisticRegression

    def run(world):
        data = load_dataset("adult", world)
        problem = LogisticRegression(data, world, ridge=1e-3)
        return digest(newton(problem, options=NewtonOptions(solver=solver, rank=20)).x)

    assert run(exact_world) == by_rank_0(world, run, exact_alone())


def test_shards_that_cut_blocks_are_refused(world, exact_world):
    from hesscomp.problems.logistic import LogisticRegression

    X, y = np.ones((600, 2)), np.tile([1.0, -1.0], 300)
    cuts = np.linspace(0, 600, world.size + 1).astype(int)
    cuts[1:-1] += 3
    rows = slice(cuts[world.rank], cuts[world.rank + 1])
    data = from_arrays(X[rows], y[rows], exact_world)
    if world.size > 1:
        with pytest.raises(InputError, match="whole blocks of 10 rows"):
            LogisticRegression(data, exact_world)
    else:
        LogisticRegression(data, exact_world)


def test_scipy_agrees_on_the_oracle():
    A = matrix("polynomial", True)
    np.testing.assert_allclose(scipy.linalg.norm(A), np.linalg.norm(1.0 / np.arange(1, N + 1)))


@pytest.mark.ranks
@pytest.mark.parametrize("format", ["hbs", "hodlr"])
def test_products_of_hierarchical_factors_by_rows(world, format):
    rng = np.random.default_rng(0)
    n, x = 301, rng.random(301)
    A = np.exp(-np.abs(x[:, None] - x) / 0.1)
    factor = compress(
        MatrixOperator(A, world), 10, format=format, ordering=x, leaf_size=16, layout="rows"
    )
    layout, F, V = factor.layout, factor.to_dense(), rng.standard_normal((n, 3))
    assert layout.rows < n or world.size == 1
    found = factor @ layout.local(V)
    np.testing.assert_allclose(found, layout.local(F @ V), atol=1e-12)
    alike = factor.in_layout(Replicated(n, world)) @ V
    np.testing.assert_array_equal(found, layout.local(alike))
    X = np.linalg.solve(F + np.eye(n), V)
    np.testing.assert_allclose(factor.solve(layout.local(V), 1.0), layout.local(X), atol=1e-11)


@pytest.mark.ranks
def test_rows_go_to_the_parts_of_an_ordering_and_back(world):
    n, rng = 137, np.random.default_rng(1)
    layout, order, V = RowLayout(n, world), rng.permutation(n), rng.standard_normal((n, 2))
    cuts = np.linspace(5, n, world.size + 1).astype(int)
    parts = [(int(cuts[rank]), int(cuts[rank + 1])) for rank in range(world.size)]
    parts[0] = (5, 5)  # none, and some rows belong to no part
    rows, mine = Regrouping(layout, order, parts), order[slice(*parts[world.rank])]
    there = rows.there(layout.local(V))
    np.testing.assert_array_equal(there, V[mine])
    whole = Regrouping(
        layout, order, [row_range(n, rank, world.size) for rank in range(world.size)]
    )
    np.testing.assert_array_equal(whole.back(whole.there(layout.local(V))), layout.local(V))
