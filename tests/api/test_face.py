"""``import hesscomp as hc``: its names, what its functions take, and what they refuse."""

import doctest
import signal
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
from shards import mine

import hesscomp as hc
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.curvature.tensorflow import keras
from hesscomp.datasets import from_arrays
from hesscomp.errors import InputError, Interrupted
from hesscomp.former import MODULES

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((60, 4)).astype(np.float32), np.arange(60) % 3


def model():
    keras.utils.set_random_seed(0)
    stack = [keras.layers.Dense(5, "tanh", name="first"), keras.layers.Dense(3, "softmax")]
    return keras.Sequential([keras.Input((4,)), *stack])


ZERO = np.zeros(4)


def small():
    signs = np.where(Y == 0, 1.0, -1.0)
    return hc.LogisticRegression(from_arrays(X, signs, hc.World()), dtype="float64")


def matrix(n=40):
    A = np.random.default_rng(1).standard_normal((n, n))
    return (A + A.T) / 2


def test_former_names_import_with_a_warning():
    from hesscomp.operators.operator import Operator
    from hesscomp.problems import rows

    for name, now in MODULES.items():
        sys.modules.pop(name, None)
        with pytest.warns(DeprecationWarning, match=f"the module {name} is now {now}"):
            found = import_module(name)
        assert all(hasattr(found, each) for each in vars(import_module(now)) if each[0] != "_")
    assert import_module("hesscomp.curvature.operator").Operator is Operator
    with pytest.warns(DeprecationWarning, match="`Rows` is now `RowSet`"):
        assert rows.Rows is rows.RowSet
    with pytest.raises(ModuleNotFoundError):
        import_module("hesscomp.curvature.nothing")


def test_the_import_loads_neither_tensorflow_nor_mpi():
    code = "import sys, hesscomp as hc; dir(hc); print({'tensorflow', 'mpi4py'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_picture_of_a_file_needs_no_tensorflow(tmp_path):
    hc.save(hc.compress(np.diag([3.0, 2.0, 1.0]), 2), tmp_path / "f.h5")
    code = (
        "import sys, hesscomp as hc; hc.plot('f.h5', 'p.png'); print('tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == "False\n" and (tmp_path / "p.png").stat().st_size > 10_000


def test_a_page_of_a_factor_without_a_file_names_none(tmp_path):
    hc.report(hc.compress(np.diag([3.0, 2.0, 1.0]), 2), tmp_path / "r.html")
    assert ", from <code>" not in (tmp_path / "r.html").read_text()


@pytest.mark.ranks
def test_worlds_that_nobody_names_share_their_communicators(world):
    """MPI has about two thousand: a call in a loop must not use them up."""
    data = hc.load_data("adult")
    net, loss, here = model(), "sparse_categorical_crossentropy", mine(world, X, Y)
    made = [
        hc.LogisticRegression(data),
        hc.LogisticRegression(data),
        hc.KerasProblem(net, loss, here),
    ]
    assert len({id(problem.world._control) for problem in made}) == 1
    assert len({id(problem.world.ledger) for problem in made}) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hc.compress(matrix(), 3, oversmple=2), "oversmple`; did you mean `oversample`"),
        (lambda: hc.compress(matrix(), 3, zzz=2), "compress has no option `zzz`; it has start, "),
        (lambda: hc.newton("adult", max_step=2), "no option `max_step`; did you mean"),
        (lambda: hc.hessian(model(), "mse", (X, Y), ridg=2), "`ridg`; did you mean `ridge`"),
    ],
)  # fmt: skip
def test_a_misspelt_option_is_answered_with_the_nearest(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_every_name_is_there_and_documented():
    assert set(hc.__all__) <= set(dir(hc))
    for name in hc.__all__:
        if name != "__version__":  # examples are run with the tests
            assert doctest.DocTestParser().get_examples(getattr(hc, name).__doc__), name
    with pytest.raises(AttributeError, match="no attribute 'hessain'"):
        hc.hessain  # noqa: B018


@pytest.mark.ranks
@pytest.mark.usefixtures("eager")
def test_matrices_of_a_model_and_of_a_problem_are_the_same(world):
    here = mine(world, X, Y)
    net, loss = model(), "sparse_categorical_crossentropy"
    problem = hc.KerasProblem(net, loss, here, dtype="float64")
    V = np.random.default_rng(2).standard_normal((problem.n, 2))
    exact = HessianOperator(problem, problem.initial) @ V
    np.testing.assert_array_equal(hc.hessian(problem) @ V, exact)
    np.testing.assert_array_equal(hc.hessian(net, loss, here, dtype="float64") @ V, exact)
    net.compile(loss=loss)
    restricted = hc.ggn(net, data=here, blocks="first", dtype="float64")
    assert restricted.n == 25
    draws = hc.fisher(problem, samples=50) @ V
    assert np.linalg.norm(draws - hc.fisher(problem) @ V) < np.linalg.norm(draws)
    J = hc.jacobian(problem)
    assert (J @ V).shape == (len(here[0]), 3, 2)
    assert hc.empirical_fisher(problem).psd
    at_zero = hc.hessian(problem, at=np.zeros(problem.n))
    np.testing.assert_array_equal(at_zero @ V, hc.hessian(problem, at="zero") @ V)


def test_a_factor_knows_where_it_comes_from(tmp_path):
    problem = hc.KerasProblem(model(), "sparse_categorical_crossentropy", (X, Y))
    factor = hc.compress(hc.hessian(problem, blocks="first"), 5)
    assert factor.provenance.problem == problem.name and factor.provenance.rows == 60
    assert [name for name, *_ in factor.blocks] == ["first/kernel", "first/bias"]
    np.testing.assert_array_equal(factor.parameters, problem.initial[:25])
    hc.save(factor, tmp_path / "f.h5")
    np.testing.assert_array_equal(hc.load(tmp_path / "f.h5").eigenvalues, factor.eigenvalues)
    assert repr(factor).startswith("<low-rank factor: n 25, holds rank 5, relative error ")
    assert "<th>relative error</th>" in factor._repr_html_()
    assert repr(hc.hessian(problem)).startswith("<HessianOperator: n 43, precision float32")


@pytest.mark.parametrize(
    "form",
    [np.asarray, scipy.sparse.csr_array, scipy.sparse.linalg.aslinearoperator, hc.MatrixOperator],
)
def test_matrices_as_people_have_them(form):
    A = matrix()
    w = np.linalg.eigvalsh(A)
    factor = hc.compress(form(A), 5, residual_tolerance=1e-9)
    leading = w[np.argsort(-np.abs(w))][:5]
    np.testing.assert_allclose(factor.eigenvalues, leading, rtol=1e-8)
    assert hc.trace(form(A)).value == pytest.approx(np.trace(A))
    assert hc.norm(form(A)) == pytest.approx(np.linalg.norm(A))
    assert hc.norm(form(A), 2) == pytest.approx(np.abs(w).max(), rel=1e-2)
    np.testing.assert_allclose(hc.diagonal(form(A)).values, np.diagonal(A), atol=1e-12)
    shift = 1 - w.min()
    assert hc.logdet(form(A), shift).value == pytest.approx(np.log(w + shift).sum(), rel=0.05)
    assert hc.density(form(A), probes=2, steps=20).points.min() >= w.min() - 1e-8


@pytest.mark.parametrize("bad, words", [
    (np.triu(np.ones((4, 4))), "not symmetric"),
    (scipy.sparse.csr_array(np.triu(np.ones((4, 4)))), "not symmetric"),
    (np.ones((4, 3)), "4 x 3"),
    (1j * np.eye(3), "real numbers"),
    (scipy.sparse.csr_array(1j * np.eye(3)), "complex"),
    (np.full((3, 3), np.nan), "not finite"),
    ("adult", "two-dimensional"),
])  # fmt: skip
def test_what_is_no_symmetric_matrix_is_refused(bad, words):
    with pytest.raises(InputError, match=words):
        hc.compress(bad, 2)


def test_eigenvalues_that_are_not_as_exact_as_asked_are_told(caplog):
    flat = np.diag(np.arange(100.0))
    hc.compress(flat, 3)
    assert "3 of 3 eigenpairs have residuals above 1e-06 of the largest |w|, up to" in caplog.text
    assert "give more `max_columns` (47 were used)" in caplog.text
    factor = hc.compress(flat, 3, residual_tolerance=1e-9)
    assert not factor.certificate.eigenvalue_converged.all()
    assert "3 of 3 eigenpairs have residuals above 1e-09" in caplog.text
    caplog.clear()
    hc.compress(flat, 3, residual_tolerance=0.5)
    assert not caplog.text


def test_results_of_many_numbers_are_short():
    for found in (hc.density(matrix(), probes=2, steps=5), hc.diagonal(matrix())):
        assert len(repr(found)) < 200


@pytest.mark.parametrize("call, words", [
    (lambda: hc.compress(matrix(), 3, residual_tol=1e-3), "did you mean `residual_tolerance`"),
    (lambda: hc.newton("adult", warm=True), "no option `warm`; it has solver, tol"),
    (lambda: hc.newton((X, Y, Y)), "rows' weights go into `weights`"),
    (lambda: hc.newton((np.ma.masked_greater(X, 1), Y)), "X has masked entries; fill"),
    (lambda: hc.save(hc.trace(matrix()), "f.h5"), "save takes what .* gives, not Estimate"),
    (lambda: hc.report(matrix(), "f.html"), "report takes what compress or fit_linear gives"),
])  # fmt: skip
def test_calls_that_cannot_be_meant(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_a_picture_in_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder does not exist; make it.*nix/f.png'$"):
        hc.plot(hc.compress(matrix(), 3), tmp_path / "nix" / "f.png")


def test_exact_numbers_of_factors():
    factor = hc.compress(np.diag([4.0, 2.0, 1.0, 0.0]), 2, residual_tolerance=1e-9)
    assert hc.trace(factor).value == pytest.approx(factor.trace())
    assert hc.logdet(factor, 1.0).value == pytest.approx(factor.logdet(1.0).logabsdet)
    with pytest.raises(InputError, match="larger shift"):
        hc.logdet(factor, -5.0)


def test_scipy_takes_operators_and_preconditioners():
    problem = hc.LogisticRegression(hc.load_data("adult"), dtype="float64")
    H = hc.hessian(problem)
    largest = scipy.sparse.linalg.eigsh(H, k=1, which="LA")[0]
    factor = hc.compress(H, 20, residual_tolerance=1e-9)
    assert factor.eigenvalues[0] == pytest.approx(largest[0], rel=1e-6)
    b, A, M = np.ones(H.n), H.shifted(1e-3), factor.preconditioner(1e-3)
    steps = []
    x, failed = scipy.sparse.linalg.cg(A, b, M=M, rtol=1e-8, callback=steps.append)
    assert not failed and len(steps) < 60
    np.testing.assert_allclose(A @ x, b, atol=1e-6)


def test_an_operator_of_ones_own_writes_one_method():
    class Mine(hc.Operator):
        def block_product(self, V):
            return 0.5 ** np.arange(50.0)[:, None] * V

    operator = Mine(50, hc.World(), psd=True)
    found = hc.compress(operator, 3, residual_tolerance=1e-9).eigenvalues
    assert found == pytest.approx([1, 0.5, 0.25])
    with pytest.warns(DeprecationWarning, match="_block` is now `block_product"):

        class Old(hc.Operator):
            def _block(self, V):
                return V

    np.testing.assert_array_equal(Old(3, hc.World(), psd=True) @ np.ones(3), np.ones(3))

    class Turned(hc.Operator):
        def block_product(self, V):
            return V.T

    class Lopsided(hc.Operator):
        def block_product(self, V):
            return np.triu(np.ones((9, 9))) @ V

    class Unmade(Turned):
        def __init__(self):
            self.A = np.eye(9)

    with pytest.raises(InputError, match=r"Unmade.__init__ must call super\(\).__init__\(n, "):
        hc.trace(Unmade())
    with pytest.raises(InputError, match=r"Lopsided is not symmetric: .* check its block_product"):
        hc.compress(2 * Lopsided(9, hc.World()).shifted(1.0), 3)
    with pytest.raises(InputError, match=r"shape \(9, 2\) returned one of shape \(2, 9\)"):
        Turned(9, hc.World()) @ np.ones((9, 2))


@pytest.mark.ranks
def test_newton_takes_data_by_name_arrays_and_problems(world):
    by_name = hc.newton("adult", ridge=1e-3)
    assert by_name.objective == pytest.approx(0.326523399290756, rel=1e-12)
    data = hc.load_data("adult")
    again = hc.newton(hc.LogisticRegression(data, ridge=1e-3), tolerance=1e-10)
    assert again.converged and again.objective == pytest.approx(by_name.objective, rel=1e-13)
    with pytest.raises(InputError, match="has its own"):
        hc.newton(hc.LogisticRegression(data), ridge=1.0)


@pytest.mark.ranks
def test_classes_that_a_plane_separates_are_told(world, caplog):
    rows = mine(world, X, np.where(X[:, 0] > 0, 1, -1))
    hc.newton(rows, ridge=1e-3)
    assert not caplog.text
    problem = hc.LogisticRegression(from_arrays(*rows, world), ridge=0.0)
    for fit in (
        lambda: hc.newton(rows, ridge=0.0),
        lambda: hc.newton(problem),
        lambda: hc.train(problem, "newton-cg", max_steps=9),
    ):
        caplog.clear()
        fit()
        assert ("without a ridge there is no minimum" in caplog.text) == (world.rank == 0)


@pytest.mark.ranks
def test_training_a_model_in_place(world, capsys):
    here = mine(world, X, Y)
    net, loss = model(), "sparse_categorical_crossentropy"
    found = hc.train(
        net, "hessian-free", loss, here, validation_data=here, max_steps=3, verbose=True
    )
    problem = hc.KerasProblem(net, loss, here)
    assert problem.objective(problem.initial) == pytest.approx(found.best_objective, rel=1e-6)
    shown = capsys.readouterr().err
    if world.rank == 0:
        assert "stopped after 3 steps: max_steps is 3" in shown and "accuracy" in shown
        assert "val_loss" in shown
    else:
        assert not shown
    adam = keras.optimizers.AdamW(keras.optimizers.schedules.InverseTimeDecay(0.1, 10, 1.0))
    assert hc.train(net, adam, loss, here, max_steps=2, gradient=0.5).steps == 2


@pytest.mark.parametrize("optimizer, words", [
    (lambda: "rmsprop", "unknown optimizer rmsprop; use one of"),
    (lambda: keras.optimizers.RMSprop(), "no counterpart"),
    (lambda: keras.optimizers.SGD(clipnorm=1.0), "clipnorm"),
    (lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecayRestarts(0.1, 10)),
     "CosineDecayRestarts has no counterpart here; take CosineDecay"),
    (lambda: hc.Adam(lambda step: 0.1), "not a function; a function could not be resumed"),
    (lambda: 3, "pass a name"),
])  # fmt: skip
def test_optimizers_without_a_counterpart(optimizer, words):
    with pytest.raises(InputError, match=words):
        hc.train(model(), optimizer(), "sparse_categorical_crossentropy", (X, Y), max_steps=1)


def test_early_stopping_of_keras_is_patience():
    def weights(net):
        return np.concatenate([w.reshape(-1) for w in net.get_weights()])

    here, options = (X[::2], Y[::2]), {"max_steps": 30, "verbose": False}
    stop, found, left = keras.callbacks.EarlyStopping, [], []
    for how in (
        {"patience": 2},
        {"callbacks": stop(patience=2, restore_best_weights=True)},
        {"callbacks": stop(patience=2)},
    ):
        net = model()
        result = hc.train(
            net, hc.SGD(0.5), "sparse_categorical_crossentropy", here,
            validation_data=(X[1::2], Y[1::2]), **options, **how,
        )  # fmt: skip
        found.append(result.history.column("test_loss"))
        left.append(weights(net))
    for same in found[1:]:
        np.testing.assert_array_equal(same, found[0])
    assert len(found[0]) < 31
    np.testing.assert_array_equal(left[0], left[1])
    np.testing.assert_allclose(left[2], result.x, rtol=1e-6)
    assert np.abs(left[2] - result.best).max() > 1e-3


@pytest.mark.parametrize("call, words", [
    (lambda net, **data: hc.train(net, "adam", epochs=3, **data), "`epochs`; give `max_p"),
    (lambda net, **data: hc.train(net, "adam", batch_size=3, **data), "give `gradient`"),
    (lambda net, **data: hc.train(net, "adam", nonsense=3, **data), "it has gradient, .* ridge"),
    (lambda net, **data: hc.train(net, "adam", settings={"lr": 1}, **data), "`lr`; it has"),
    (lambda net, **data: hc.train(
        net, callbacks=[keras.callbacks.EarlyStopping(min_delta=1)], **data
    ), "EarlyStopping has min_delta=.*1, .* can only have 0"),
    (lambda net, **data: hc.train(net, callbacks=keras.callbacks.BackupAndRestore("a"), **data),
     "BackupAndRestore is none; .* `folder`"),
    (lambda net, **data: hc.train(net, callbacks=keras.callbacks.ReduceLROnPlateau(), **data),
     "ReduceLROnPlateau is none; make the optimizer with a schedule"),
    (lambda net, **data: hc.train(net, class_weight={0: 2}, **data), "`class_weight`; repeat the"),
    (lambda net, **data: hc.train(net, "adam"), r"train\(model, optimizer, loss, data="),
    (lambda net, **data: hc.hessian(net, data["data"]), r"hessian\(model, loss, data="),
    (lambda net, **data: hc.hessian(net, x=X, y=Y), "no option `x`; give `data="),
    (lambda net, **data: hc.hessian(net, **data, nonsense=1), "it has world, ridge"),
    (lambda net, **data: hc.hessian("m.keras", **data), "m.keras: pass the model itself"),
    (lambda net, **data: hc.hessian(net, data["loss"], "d.npz"), "read it with load_data"),
    (lambda net, **data: hc.compress(net, 2), "of a model or a problem take its matrix first"),
    (lambda net, **data: hc.compress(np.eye(3), k=2), "compress has no option `k`; give `rank`"),
    (lambda net, **data: hc.compress(np.eye(3), 2, nonsense=1), "it has start, "),
    (lambda net, **data: hc.trace(np.eye(3), colums=9), "trace has no .* mean `columns`"),
    (lambda net, **data: hc.diagonal(np.eye(3), metod=""), "diagonal has no .* mean `method`"),
    (lambda net, **data: hc.logdet(np.eye(3), probs=9), "logdet has no .* mean `probes`"),
    (lambda net, **data: hc.norm(np.eye(3), sed=9), "norm of order fro has no .* mean `seed`"),
    (lambda net, **data: hc.norm(np.eye(3), 2, maxsteps=9), "order 2 has no .* mean `max_steps`"),
    (lambda net, **data: hc.density(np.eye(3), step=9), "density has no .* mean `steps`"),
    (lambda net, **data: hc.LogisticRegression(data["data"]), "of a data set, not of tuple; take"),
    (lambda net, **data: hc.SoftmaxRegression("mnist"), "of a data set, not of str; take"),
    (lambda net, **data: hc.ridge_path("adult", [1.0]), "a linear model, not str; make one"),
    (lambda net, **data: hc.sensitivity(net, X[0]), "a problem, not Sequential; make one"),
    (lambda net, **data: hc.sensitivity(small(), ZERO, "f.h5"), "a factor, not str; hessc"),
    (lambda net, **data: hc.sensitivity(small(), ZERO, test="a.npz"), "data set or a pair .* str;"),
])  # fmt: skip
def test_what_people_try_is_answered(call, words):
    with pytest.raises(InputError, match=words):
        call(model(), loss="sparse_categorical_crossentropy", data=(X, Y))


def test_one_callback_stands_for_itself_and_a_generator_gives_several():
    problem, seen = hc.LogisticRegression(hc.load_data("adult")), []

    def see(row, x):
        seen.append(row["step"])

    for callbacks in (see, (each for each in (see,))):
        hc.train(problem, "newton-cg", max_steps=1, callbacks=callbacks)
    assert seen == [0, 1, 0, 1]


def test_ctrl_c_keeps_what_was_reached(tmp_path):
    net, loss, calls = model(), "sparse_categorical_crossentropy", []

    before = signal.getsignal(signal.SIGINT)

    def press(row, x):
        calls.append(row["step"])
        if row["step"] == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        hc.train(
            net, "sgd", loss, (X, Y), max_steps=50, callbacks=(press,), folder=tmp_path / "run"
        )
    assert signal.getsignal(signal.SIGINT) is before
    found = hc.train(net, "sgd", loss, (X, Y), max_steps=6, folder=tmp_path / "run")
    assert found.steps == 6 and calls[-1] == 3
    assert [row["step"] for row in found.history.rows] == list(range(7))
