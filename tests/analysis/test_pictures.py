"""Pictures: every result is drawn and returned as a figure; names stay whole."""

import json
from dataclasses import replace
from importlib import import_module
from inspect import isfunction

import numpy as np
import pytest
from matplotlib.figure import Figure

import hesscomp as hc
from hesscomp.analysis.plots import file_figure, run_figure
from hesscomp.analysis.style import make_figure, save_figure, scale_by_powers, shorten
from hesscomp.api.plotting import FIGURES
from hesscomp.compression import generalized_eigen
from hesscomp.errors import InputError
from hesscomp.estimators import spectral_norm, spectral_quadrature
from hesscomp.factors import (
    Certificate,
    Diagonal,
    LowRank,
    Provenance,
    Trajectory,
    compare,
    save_factor,
)
from hesscomp.optimizers.loop import TrainResult
from hesscomp.optimizers.newton import NewtonIteration, NewtonResult
from hesscomp.runs.history import History

LONG = "block2/multi_head_attention/query_projection/kernel"
NASTY = "$x_{ <b>"
BLOCKS = ((LONG, (5, 4), 0), (NASTY, (10,), 20))


def make_factor(scale: float = 1.0) -> LowRank:
    """A factor of n = 30 with signs, two blocks, and a name that is no mathematics."""
    rng = np.random.default_rng(1)
    w = scale * np.exp(-np.arange(6.0)) * [1, -1, 1, 1, -1, 1]
    return LowRank(
        w, np.linalg.qr(rng.standard_normal((30, 6)))[0], certificate=Certificate(0.1, 2.0),
        provenance=Provenance(problem=NASTY, ridge=1e-3), blocks=BLOCKS,
    )  # fmt: skip


def diagonal() -> Diagonal:
    certificate = Certificate(float("nan"), float("nan"))
    return Diagonal(entries=np.linspace(-1, 2, 30), certificate=certificate, blocks=BLOCKS)


def newton_result() -> NewtonResult:
    rows = [
        NewtonIteration(i, 1 + 0.1**i, 0.1**i, 1.0, 3 * i, 0, np.nan, 4 * i, 0, 0.1 * i)
        for i in range(3)
    ]
    end = np.zeros(2), 1.0, 1e-3, 2, True, "reached", "pcg", ""
    return NewtonResult(*end, history=tuple(rows))


def rows(**more) -> list[dict[str, float]]:
    names = ("step", "passes", "columns", "seconds")
    return [
        dict.fromkeys(names, float(i)) | {"objective": 2.0 - i, "gradient_norm": 0.1**i} | more
        for i in range(3)
    ]


def train_result() -> TrainResult:
    x = np.zeros(2)
    history = History(rows(full_objective=1.5, test_loss=1.0, test_accuracy=0.5))
    return TrainResult(x, x, 1.0, 1.0, 0.1, 2, "stopped", "max_steps is 2", history)


MATRIX = np.diag(np.linspace(-1.0, 3.0, 30)) + 0.01


def linear_model(**options):
    X = np.column_stack([np.arange(40) % 3, np.arange(40) % 7])
    return hc.fit_linear((X, np.arange(40) % 2), **options)


def titles(figure: Figure) -> list[str]:
    made = [axes.get_title(loc="left") for axes in figure.axes]
    return [title.split(",")[0] for title in made if title]  # colour bars have none


RESULTS = {
    "factor": (make_factor, ["Leading eigenvalues", "Compression error",
                             "Energy of the eigenvectors by block"]),
    "diagonal": (diagonal, ["Entries of the diagonal", "Mean magnitude by block"]),
    "trajectory": (lambda: Trajectory((NASTY, "b"), (make_factor(), make_factor(2.0))),
                   ["Leading eigenvalues", "All eigenvalues kept"]),
    "trajectory of sizes": (lambda: Trajectory(("a", "b"), (diagonal(), make_factor())),
                            ["Size and error", "Memory"]),
    "comparison": (lambda: compare(make_factor(), make_factor(2.0)),
                   ["Leading eigenvalues", "Principal angles of the leading 6 eigenvectors"]),
    "newton": (newton_result, ["By iteration", "By cost"]),
    "training": (train_result, ["Objective", "Accuracy on test rows"]),
    "number": (lambda: hc.trace(MATRIX, columns=6), []),
    "exact number": (lambda: hc.trace(make_factor()), []),
    "entries": (lambda: hc.diagonal(MATRIX, columns=6), ["Entries", "Errors"]),
    "norm": (lambda: spectral_norm(hc.MatrixOperator(MATRIX)), []),
    "quadrature": (lambda: spectral_quadrature(hc.MatrixOperator(MATRIX)), []),
    "pairs": (lambda: generalized_eigen(MATRIX, np.ones(30), rank=3),
              ["Leading eigenvalues", "Compression error"]),
    "model": (linear_model, ["Coefficients with 95% intervals", "How far from 0"]),
    "model without errors": (lambda: linear_model(covariance="none"), ["Coefficients"]),
    "predictions": (lambda: linear_model().predict(np.ones((3, 2))), []),
    "mesh": (lambda: hc.moving_mesh(np.ones_like, 4), ["Solution", "Energy"]),
}  # fmt: skip
OTHERS = {
    "Dataset",
    "Figure",
    "Jacobian",
    "None",
    "Operator",
    "PointProblem",
    "float",
    "np.ndarray",
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", RESULTS)
def test_plot_knows_every_result(kind, tmp_path):
    make, panels = RESULTS[kind]
    figure = hc.plot(make(), tmp_path / "p.svg", title="My own title")
    assert figure.get_suptitle() == "My own title"
    assert isinstance(figure, Figure) and titles(figure) == panels
    assert (tmp_path / "p.svg").stat().st_size > 0


def test_plot_knows_what_every_public_function_returns():
    functions = [each for name in hc.__all__ if isfunction(each := getattr(hc, name))]
    told = {each.__annotations__["return"] for each in functions}
    names = {name for each in told for name in getattr(each, "__name__", str(each)).split(" | ")}
    known = {path.rpartition(".")[2] for path in FIGURES} | {"LowRank", "Kronecker"}  # factors
    assert len(functions) > 20 and names - OTHERS <= known
    for path, figure in FIGURES.items():
        for place in (path, f"analysis.{figure}"):
            module, _, name = place.rpartition(".")
            assert hasattr(import_module(f"hesscomp.{module}"), name)


def test_a_notebook_shows_a_figure_and_other_things_are_refused(tmp_path):
    image, size = hc.plot(compare(make_factor(), make_factor()), names=(NASTY, "g"))._repr_png_()
    assert image.startswith(b"\x89PNG") and size["width"] == 800
    with pytest.raises(InputError, match=r"plot takes what compress, .* not ndarray"):
        hc.plot(np.eye(2))
    with pytest.raises(InputError, match="has no option `titel`; did you mean `title`"):
        hc.plot(make_factor(), titel="t")
    with pytest.raises(InputError, match="pictures end in"):
        hc.plot(make_factor(), tmp_path / "p.xyz")


def test_a_density_ends_at_the_extreme_ritz_values_and_marks_eigenvalues():
    w = np.concatenate([np.linspace(-0.5, 0.5, 40), [4.0, 6.0]])
    figure = hc.plot(hc.density(np.diag(w)), eigenvalues=hc.compress(np.diag(w), rank=2))
    (axes,) = figure.axes
    assert axes.get_xlim() == pytest.approx((-0.5, 6.0))
    curve, marks = axes.lines[0], axes.lines[-1]
    assert curve.get_xdata().min() == -0.5 and curve.get_xdata().max() == 6.0
    np.testing.assert_allclose(marks.get_xdata(), [6.0, 4.0])


def test_files_and_folders_are_drawn_as_results_are(tmp_path):
    save_factor(make_factor(), tmp_path / "f.h5")
    assert titles(hc.plot(tmp_path / "f.h5")) == RESULTS["factor"][1]
    hc.save(linear_model(), tmp_path / "m.h5")
    assert titles(hc.plot(tmp_path / "m.h5")) == RESULTS["model"][1]
    history = [row | {"full_objective": None} for row in rows()]  # of a version without test rows
    run = {"problem": "p", "optimizer": "sgd (learning_rate 0.1)", "history": history}
    (tmp_path / "history.json").write_text(json.dumps(run))
    figure = file_figure(tmp_path, by="seconds")
    assert titles(figure) == ["Objective", "Gradient norm"]
    assert figure.axes[0].get_xlabel() == "seconds" and figure.get_suptitle() == "p: sgd"
    with pytest.raises(InputError, match=r"none\.h5"):
        hc.plot(str(tmp_path / "none.h5"))


def test_a_run_has_two_panels():
    whole = run_figure(rows(full_objective=np.nan))
    assert [len(axes.lines) for axes in whole.axes] == [1, 1]
    batches = run_figure(rows(full_objective=1.9, test_loss=1.0))
    left, right = batches.axes
    assert [line.get_label() for line in left.lines] == [
        "of a batch", "of all rows", "of test rows (the loss alone)",
    ]  # fmt: skip
    assert right.get_title(loc="left") == "Gradient norm of a batch"
    with pytest.raises(InputError, match="by step, passes, columns, seconds, not by hours"):
        run_figure(rows(), by="hours")


def test_names_stay_whole_where_there_is_room():
    figure = hc.plot(make_factor())
    energy = next(axes for axes in figure.axes if "Energy" in axes.get_title(loc="left"))
    assert [label.get_text() for label in energy.get_yticklabels()] == [LONG, NASTY]
    assert len(shorten(100 * "a" + "z")) == 61 and shorten(100 * "a" + "z").endswith("z")
    many = replace(make_factor(), blocks=tuple((f"{i}/{LONG}", (1,), i) for i in range(30)))
    assert hc.plot(many).get_size_inches()[1] > figure.get_size_inches()[1]


def test_labels_of_logarithmic_axes_are_plain(tmp_path):
    for ends, shown in (((1e-5, 1.0), "10⁻⁵"), ((0.2, 3.0), "1")):
        figure, (axes,) = make_figure(1)
        axes.plot([0, 1], ends)
        scale_by_powers(axes.yaxis)
        save_figure(figure, tmp_path / "p.png")
        assert shown in [label.get_text() for label in axes.get_yticklabels()]
    figure, (axes,) = make_figure(1)
    axes.plot([0, 1], [-10, 100])
    scale_by_powers(axes.yaxis, linthresh=1.0)
    figure.draw_without_rendering()
    assert {"−10¹", "0", "10²"} <= {label.get_text() for label in axes.get_yticklabels()}
