"""Workflows called from Python: requests, results, progress; and the page that shows them."""

import itertools
import json
import re
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from hesscomp import workflows
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.curvature.tensorflow import tf
from hesscomp.errors import InputError, Interrupted
from hesscomp.factors import load_factor, load_trajectory
from hesscomp.options import described, schema
from hesscomp.parallel.layout import Replicated
from hesscomp.parallel.world import World
from hesscomp.problems.function import FunctionProblem
from hesscomp.workflows import (
    Columns,
    CompressRequest,
    JobRequest,
    MergeRequest,
    NewtonRequest,
    PlanRequest,
    SpectrumRequest,
    TrainRequest,
    UpdateRequest,
)
from hesscomp.workflows.subject import Subject, with_dtype

PAGE = Path(__file__).resolve().parents[2] / "docs" / "workflows.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def rows(tmp_path):
    """A small data set for logistic regression."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 12)) * 0.8 ** np.arange(12)
    y = np.where(X[:, 0] + 0.3 * rng.standard_normal(60) > 0, 1, -1)
    np.savez(tmp_path / "d.npz", X=X, y=y)
    return str(tmp_path / "d.npz")


@pytest.fixture
def alone():
    return World.serial()


def test_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in BLOCKS:
        exec(block, names)  # the page's own examples
    said = capsys.readouterr().out
    assert "`rank` must be at least 1, not 0" in said and "product columns" in said
    assert not list(tmp_path.iterdir())


def test_the_page_names_every_workflow():
    text = PAGE.read_text()
    for name in workflows.__all__:
        assert callable(getattr(workflows, name))
        if name[0].islower() and name != "make_operator":
            assert f"| `{name}` |" in text
    with pytest.raises(AttributeError, match="no attribute magic"):
        workflows.magic  # noqa: B018 (it raises)


def test_a_request_is_checked_when_it_is_made():
    with pytest.raises(InputError, match="`rank` and `tolerance`: give one of them"):
        CompressRequest(data="d", rank=3, tolerance=0.1)
    with pytest.raises(InputError, match="`method` must be one of auto, krylov"):
        CompressRequest(data="d", method="magic")
    with pytest.raises(InputError, match="`tolerance` must be above 0 and below 1, not 2"):
        CompressRequest(data="d", tolerance=2)
    with pytest.raises(InputError, match="`seed` must be at least 0"):
        replace(CompressRequest(data="d"), seed=-1)
    with pytest.raises(InputError, match="`max_rank` does not go with a `rank`"):
        CompressRequest(data="d", rank=3, max_rank=4)
    with pytest.raises(InputError, match="`rank` must be a whole number"):
        CompressRequest(data="d", rank=2.5)
    with pytest.raises(InputError, match="`at` must be a tuple, not 'zero'"):
        CompressRequest(data="d", at="zero")
    with pytest.raises(InputError, match="`seed` must be a whole number, not '1'"):
        CompressRequest(data="d", seed="1")
    for name, value in {"seed": None, "oversample": True, "at": (3,)}.items():
        with pytest.raises(InputError, match=f"`{name}` must be a"):
            CompressRequest(data="d", **{name: value})
    request = CompressRequest(data=PAGE)
    assert request.rank == 40  # of the command, too
    with pytest.raises(FrozenInstanceError):
        request.rank = 3


def test_a_schema_says_what_is_allowed():
    of = schema(NewtonRequest)
    assert json.loads(json.dumps(of)) == of and of["required"] == ["data"]
    assert of["properties"]["oversample"]["minimum"] == 0
    assert of["properties"]["solver"]["enum"] == ["auto", "pcg", "lowrank", "direct"]
    assert of["properties"]["max_iterations"] | {"description": ""} == {
        "type": "integer", "minimum": 0, "default": 100, "description": "",
    }  # fmt: skip
    assert schema(CompressRequest)["properties"]["at"]["type"] == "array"


# What these mean differs by request.
OWN = {
    *("at", "bandwidth", "data", "dtype", "max_rank", "memory_limit", "method", "out", "rank"),
    *("json", "ridge", "save_point", "tolerance"),
    *("factor", "max_iterations", "model", "operator", "plot", "tail", "ordering"),
}


def test_every_option_stands_once():
    """The same name is the same option, with one default, range and help, in all requests."""
    said: dict[str, set] = {}
    for name in workflows.__all__:
        if name.endswith("Request"):
            for each in described(getattr(workflows, name)):
                said.setdefault(each.name, set()).add(each)
    assert {name for name, options in said.items() if len(options) > 1} == OWN


def test_compress_tells_and_writes(rows, alone, tmp_path, capfd):
    events, out, report = [], tmp_path / "f.h5", tmp_path / "r.json"
    request = CompressRequest(data=rows, rank=3, out=str(out), json=str(report))
    made = workflows.compress(request, alone, events.append)
    assert made.converged and made.factor.rank == 3
    assert any(isinstance(event, Columns) and event.finished for event in events)
    assert f"wrote factor: {out}" in events and made.factor in events
    np.testing.assert_array_equal(load_factor(out).eigenvalues, made.factor.eigenvalues)
    told = json.loads(report.read_text())
    assert told["command"] == "compress" and told["ledger"]["columns"] == made.ledger["columns"]
    assert {"startup", "compile", "solve"} == told["seconds"].keys()
    assert capfd.readouterr() == ("", "")
    again = workflows.compress(replace(request, out=None, json=None), alone)
    np.testing.assert_array_equal(again.factor.eigenvalues, made.factor.eigenvalues)


@pytest.mark.ranks
def test_ranks_work_together(world, shared_tmp):
    """One file, and on all ranks the numbers that one rank has."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 8)) * 0.7 ** np.arange(8)
    if world.rank == 0:
        np.savez(shared_tmp / "d.npz", X=X, y=np.sign(X[:, 0]))
    world.gather(None)
    data, out = str(shared_tmp / "d.npz"), shared_tmp / "f.h5"
    request = CompressRequest(data=data, rank=3, dtype="float64", layout="rows", out=str(out))
    events = []
    made = workflows.compress(request, world, events.append)
    alone = workflows.compress(replace(request, out=None), World.serial())
    for factor in (made.factor, load_factor(out)):
        np.testing.assert_allclose(factor.eigenvalues, alone.factor.eigenvalues, rtol=1e-10)
    assert any("wrote factor" in str(event) for event in events)
    points = replace(request, at=("zero", str(out)), out=str(shared_tmp / "t.h5"))
    assert len(workflows.trajectory(points, world).points) == 2
    with pytest.raises(InputError, match="cannot be written"):
        workflows.compress(replace(request, out=str(shared_tmp / "no" / "f.h5")), world)


def test_a_tolerance_that_is_not_met(rows, alone):
    request = CompressRequest(data=rows, tolerance=1e-3, max_rank=2)
    made = workflows.compress(request, alone)
    assert not made.converged and made.factor.rank == 2


def test_several_points_are_a_trajectory(rows, alone, tmp_path):
    for number in range(3):
        np.save(tmp_path / f"x{number}.npy", np.full(12, 0.1 * number))
    request = CompressRequest(data=rows, rank=3, at=(str(tmp_path / "x?.npy"),))
    with pytest.raises(InputError, match="`at` names several points"):
        workflows.compress(request, alone)
    with pytest.raises(InputError, match="name one with `out`"):
        workflows.trajectory(request, alone)
    events, out = [], tmp_path / "t.h5"
    made = workflows.trajectory(replace(request, out=str(out)), alone, events.append)
    assert [point.point for point in made.points] == ["x0.npy", "x1.npy", "x2.npy"]
    told = [event for event in events if isinstance(event, workflows.TrajectoryPoint)]
    assert not made.missed and list(map(id, told)) == list(map(id, made.points))
    for kept, point in zip(load_trajectory(out).factors, made.points, strict=True):
        np.testing.assert_array_equal(kept.eigenvalues, point.eigenvalues)


@pytest.mark.parametrize("kind", [workflows.CurvatureRequest, CompressRequest])
def test_an_operator_is_at_the_point_of_its_request(rows, alone, tmp_path, kind):
    x = np.linspace(-1, 1, 12)
    np.save(tmp_path / "x.npy", x)
    at = str(tmp_path / "x.npy")
    request = kind(data=rows, at=(at,) if kind is CompressRequest else at)
    np.testing.assert_array_equal(workflows.make_curvature(request, alone).x, x)
    assert not workflows.make_curvature(kind(data=rows), alone).x.any()


def test_merge(rows, alone, tmp_path):
    files = [str(tmp_path / f"{name}.h5") for name in "ab"]
    for rank, file in enumerate(files, 2):
        workflows.compress(CompressRequest(data=rows, rank=rank, out=file), alone)
    made = workflows.merge(MergeRequest(files=tuple(files), out=str(tmp_path / "t.h5")))
    assert (made.points, made.n) == (2, 12)
    assert load_trajectory(tmp_path / "t.h5").labels == ("a", "b")


def test_update_adds_what_a_factor_misses(rows, alone, tmp_path):
    first = str(tmp_path / "f.h5")
    workflows.compress(CompressRequest(data=rows, rank=3, ridge=0.5, out=first), alone)
    made = workflows.update(UpdateRequest(file=first, data=rows, rank=4), alone)
    assert made.before.rank == 3 and made.factor.rank == 7
    assert made.factor.provenance.ridge == 0.5  # the file's
    with h5py.File(first, "r+") as file:
        del file["parameters"]
    with pytest.raises(InputError, match="give one, `at` zero"):
        workflows.update(UpdateRequest(file=first, data=rows), alone)


def walks(world, folder) -> tuple[str, np.ndarray]:
    """Write data of smooth rows, 64 columns, and three points; return their file and the rows."""
    X = np.cumsum(np.random.default_rng(0).standard_normal((150, 64)), axis=1) / 8
    if world.rank == 0:
        np.savez(folder / "d.npz", X=X, y=np.sign(X[:, 40]))
        for number in range(3):
            np.save(folder / f"x{number}.npy", np.full(64, 0.05 * number))
    world.gather(None)
    return str(folder / "d.npz"), X


@pytest.mark.ranks
def test_hierarchical_factors_follow_the_point(world, shared_tmp):
    """By updates and along trajectories; the certificate tells the true error."""
    shared_rows, X = walks(world, shared_tmp)

    def error(factor):
        p = 1 / (1 + np.exp(-(X @ factor.parameters)))
        H = (X.T * (p * (1 - p))) @ X / len(X)
        return np.linalg.norm(factor.in_layout(Replicated(64, world)).to_dense() - H)

    for format, kinds in (("hbs", "hbs hbs+low-rank"), ("hodlr", "hodlr hodlr+low-rank")):
        request = CompressRequest(
            data=shared_rows, dtype="float64", factor_format=format, leaf_size=8, rank=2,
            at=(str(shared_tmp / "x?.npy"),), out=str(shared_tmp / "t.h5"),
        )  # fmt: skip
        made = workflows.trajectory(request, world)
        kept = load_trajectory(request.out).factors
        assert [factor.kind for factor in kept] == [format] * 3 and len(made.points) == 3
        assert "started from" in kept[2].provenance.method and kept[2].tree == kept[0].tree
        for factor in kept:
            told = factor.certificate.frobenius_error_estimate
            assert 0 < 0.3 * told <= error(factor) <= 3 * told
        first = str(shared_tmp / "f.h5")
        one = replace(request, at=(str(shared_tmp / "x0.npy"),), out=first)
        workflows.compress(one, world)
        for by, kind in zip(("refit", "difference"), kinds.split(), strict=True):
            asked = UpdateRequest(
                file=first, data=shared_rows, dtype="float64", at=str(shared_tmp / "x2.npy"),
                by=by, out=str(shared_tmp / "g.h5"),
            )  # fmt: skip
            factor = workflows.update(asked, world).factor
            assert factor.kind == kind and "update of f.h5" in factor.provenance.method
            told = factor.certificate.frobenius_error_estimate
            assert 0 < 0.3 * told <= error(load_factor(asked.out)) <= 3 * told


@pytest.mark.ranks
@pytest.mark.parametrize("by", ["refit", "difference"])
@pytest.mark.parametrize("format", ["hbs", "hodlr"])
def test_a_hierarchical_update_that_is_stopped_goes_on(world, shared_tmp, format, by):
    """After any of its products: the same request makes the bits of a whole run."""
    shared_rows, _ = walks(world, shared_tmp)
    world, first = World(world.comm, reproducible=True), str(shared_tmp / "f.h5")
    about = {"data": shared_rows, "dtype": "float64"}
    workflows.compress(
        CompressRequest(
            factor_format=format, leaf_size=8, rank=2, at=(str(shared_tmp / "x0.npy"),),
            out=first, **about,
        ),
        world,
    )  # fmt: skip
    request = UpdateRequest(
        file=first, at=str(shared_tmp / "x2.npy"), by=by, run=str(shared_tmp / "run"),
        out=str(shared_tmp / "g.h5"), **about,
    )  # fmt: skip
    whole = workflows.update(replace(request, run=None, out=None), world).factor
    for stop in itertools.count(1):
        calls = itertools.count()  # the first one is before the first product
        world.stop_asked = lambda stop=stop, calls=calls: 15 * (next(calls) >= stop)
        before = world.ledger.replayed
        try:
            again = workflows.update(request, world).factor
            break
        except Interrupted:
            world.gather(None)
            assert len(list((shared_tmp / "run").glob("product-*.h5"))) == stop
            assert not Path(request.out).exists()
    assert stop > 1 and world.ledger.replayed > before and again.kind == whole.kind
    assert load_factor(request.out).kind == whole.kind
    for name, array in again.contents().items():
        np.testing.assert_array_equal(array, whole.contents()[name])
    assert again.certificate == whole.certificate
    world.gather(None)
    assert not (shared_tmp / "run").exists()


def test_spectrum_is_that_of_the_dense_matrix(rows, alone):
    made = workflows.spectrum(SpectrumRequest(data=rows, probes=4, steps=12, shift=0.1), alone)
    assert made.quadrature.exact
    X = np.load(rows)["X"]
    w = np.linalg.eigvalsh(X.T @ X / (4 * len(X)))  # at zero
    assert made.estimates["trace"].value == pytest.approx(w.sum(), rel=1e-5)
    assert made.extremes == pytest.approx((w[0], w[-1]), rel=1e-3, abs=1e-6)
    assert made.estimates["logdet"].value == pytest.approx(np.log(w + 0.1).sum(), rel=1e-4)
    with pytest.raises(InputError, match=r"`shift` -1: .* not positive definite"):
        workflows.spectrum(SpectrumRequest(data=rows, shift=-1.0), alone)


def test_newton_and_train_find_the_same_optimum(rows, alone, tmp_path):
    events = []
    request = NewtonRequest(data=rows, ridge=0.1, solver="direct", dtype="float64")
    fit = workflows.newton(request, alone, events.append)
    steps = [event["iteration"] for event in events if isinstance(event, dict)]
    assert fit.result.converged and steps == list(range(fit.result.iterations + 1))
    assert fit in events and fit.factor is None and fit.test is None
    request = TrainRequest(
        data=rows, ridge=0.1, dtype="float64", optimizer="newton-cg",
        settings=("preconditioner=none",), gradient_tolerance=1e-8,
    )  # fmt: skip
    training = workflows.train(request, alone, events.append)
    assert training.succeeded
    assert training.result.best_objective == pytest.approx(fit.result.objective, abs=1e-12)
    short = workflows.train(replace(request, max_steps=1), alone)
    assert not short.succeeded and short.result.steps == 1


def test_a_run_that_is_stopped_goes_on(rows, alone, tmp_path):
    request = CompressRequest(data=rows, rank=3, method="eigh", run=str(tmp_path / "run"))
    whole = workflows.compress(replace(request, run=None), alone)
    stopped = World.serial()
    asked = iter([0, 15])
    stopped.stop_asked = lambda: next(asked, 15)
    with pytest.raises(Interrupted):
        workflows.compress(request, stopped)
    assert list((tmp_path / "run").glob("product-*.h5"))
    again = workflows.compress(request, World.serial())
    assert again.ledger["replayed"] > 0
    np.testing.assert_array_equal(again.factor.eigenvectors, whole.factor.eigenvectors)


def test_hierarchical_compressions(rows, alone, tmp_path):
    """By a name or a file of an ordering; auto shows its table; a stopped run goes on."""
    order = tmp_path / "order.npy"
    np.save(order, np.arange(12)[::-1])
    events = []
    request = CompressRequest(
        data=rows, dtype="float64", factor_format="hbs", leaf_size=2, ordering=str(order),
        out=str(tmp_path / "f.h5"),
    )  # fmt: skip
    made = workflows.compress(request, alone, events.append)
    assert made.converged and made.factor.certificate.relative_error <= 1e-2
    np.testing.assert_array_equal(made.factor.tree.permutation, np.arange(12)[::-1])
    assert load_factor(tmp_path / "f.h5").kind == "hbs"
    chosen = workflows.compress(
        replace(request, factor_format="auto", tolerance=0.3), alone, events.append
    )
    assert chosen.converged and any("taken" in str(event) for event in events)
    with pytest.raises(InputError, match="no such file"):
        workflows.compress(replace(request, ordering="missing.npy"), alone)
    request = replace(request, run=str(tmp_path / "run"), out=None)
    stopped = World.serial()
    asked = iter([0, 15])
    stopped.stop_asked = lambda: next(asked, 15)
    with pytest.raises(Interrupted):
        workflows.compress(request, stopped)
    again = workflows.compress(request, World.serial())
    assert again.ledger["replayed"] > 0
    np.testing.assert_array_equal(again.factor.leaf_blocks, made.factor.leaf_blocks)


def test_plans(rows, alone):
    made = workflows.plan(PlanRequest(n=10**8, rows=10**6, ranks=4096, rank=200, memory=2.0**35))
    assert made.layout == "rows" and made.fits
    with pytest.raises(InputError, match="give `n` and `rows`"):
        workflows.plan(PlanRequest(ranks=4))
    with pytest.raises(InputError, match="`psd` goes with `n`"):
        PlanRequest(ranks=4, psd=True)
    events = []
    here = workflows.measured_plan(
        PlanRequest(ranks=4, rank=3), CompressRequest(data=rows), alone, events.append
    )
    assert here.request.n == 12 and here.method in ("nystrom", "dense")
    assert any(str(event).startswith("measured here; ranks: 1") for event in events)


def test_a_job_is_a_script_and_how_to_submit_it(tmp_path):
    command = ("compress", "--data", "adult", "--out", "f-%a.h5")
    request = JobRequest(command=command, nodes=2, array=("a", "b"), out=str(tmp_path / "j.sbatch"))
    made = workflows.job(request)
    assert Path(request.out).read_text() == made.script
    assert made.submission == ("sbatch", "--array=0-1", "--", request.out, "a", "b")
    assert workflows.job(replace(request, array=(), out=None)).submission is None
    with pytest.raises(InputError, match="leave out `nodes`"):
        replace(request, parallel=False)


def test_a_subject_in_float64_has_the_bits_of_one_made_so(alone):
    """And the given one stays in float32."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((30, 4)), rng.standard_normal(30)

    def loss_sum(x, X, y):
        return tf.reduce_sum(tf.sin(tf.linalg.matvec(X, x) - y) ** 2)

    def made(dtype):
        return FunctionProblem(loss_sum, np.ones(4) / 3, rows, world=alone, dtype=dtype)

    def product(problem):
        return HessianOperator(problem, problem.initial) @ np.ones(4)

    given = Subject(made("float32"), None)
    before, wanted = product(given.problem), product(made("float64"))
    np.testing.assert_array_equal(product(with_dtype(given, "float64").problem), wanted)
    np.testing.assert_array_equal(product(given.problem), before)
    assert given.problem.dtype == "float32" and not np.array_equal(before, wanted)
    assert with_dtype(given, "float32") is given
