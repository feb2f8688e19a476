"""Pictures of how well linear models predict: calibration, ROC, and paths of ridges."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hesscomp.analysis.style import BLUE, GREY, RED, add_legend, make_figure, set_title
from hesscomp.errors import InputError

if TYPE_CHECKING:  # what finds it loads MPI and TensorFlow, pictures need not
    from hesscomp.linear import LinearModel
    from hesscomp.optimizers.ridge_path import RidgePath

BINS = 10  # of predicted probabilities, each with as many rows
SHOWN = 12  # coefficients of a path in colour: those that become largest


def calibration(probability: np.ndarray, happened: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean prediction and the share that happened, of rows in bins of equal size."""
    order = np.argsort(probability, kind="stable")
    bins = [each for each in np.array_split(order, BINS) if len(each)]
    return (
        np.array([probability[each].mean() for each in bins]),
        np.array([happened[each].mean() for each in bins]),
    )


def roc(probability: np.ndarray, happened: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the false and the true positive rate at each threshold, and the area under them.

    Rows of equal probability cross a threshold together.
    """
    order = np.argsort(-probability, kind="stable")
    ends = np.append(np.diff(probability[order]) != 0, True)
    hits, misses = (np.cumsum(each)[ends] for each in (happened[order], ~happened[order]))
    true, false = np.append(0, hits / hits[-1]), np.append(0, misses / misses[-1])
    return false, true, float(np.trapezoid(true, false))


def prediction_figure(
    probability: np.ndarray, happened: np.ndarray, title: str = "", what: str = "the second class"
) -> Figure:
    """Draw how well probabilities predict: their calibration, and the ROC curve with its area."""
    figure, (left, right) = make_figure(2, title=title)
    left.plot(*calibration(probability, happened), "o-", color=BLUE, label="rows, in tenths")
    left.set(xlabel=f"predicted probability of {what}", ylabel="share that it was")
    set_title(left, "Calibration")
    false, true, area = roc(probability, happened)
    right.plot(false, true, color=BLUE, label=f"area {area:.4f}")
    right.set(xlabel="false positive rate", ylabel="true positive rate")
    set_title(right, "ROC")
    for axes in (left, right):
        axes.plot([0, 1], [0, 1], "--", color=GREY, lw=1)
        add_legend(axes)
    return figure


def model_calibration(model: "LinearModel", X, y, offsets=None, title: str = "") -> Figure:
    """Draw calibration and ROC of a model's predictions of rows; y says which happened."""
    if model.family != "logistic":
        raise InputError(
            f"`data` goes with a model of logistic regression; this is {model.family}. Leave it out"
        )
    y = np.asarray(y)
    happened = _happened(y, model.classes)
    probability = model.predict(X, offsets).mean
    if happened.shape != probability.shape or happened.all() or not happened.any():
        raise InputError(
            f"y must say of each of {len(probability)} rows whether it is of the class "
            f"{model.classes[-1]!r}, and hold both; it has shape {y.shape}"
        )
    title = title or f"{model.dataset}: {len(y):,} rows"
    return prediction_figure(probability, happened, title, repr(model.classes[-1]))


def _happened(y: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """Return which labels are the last class: by its name, of numbers by value or else sign."""
    if y.dtype.kind in "USO":
        return y.astype(str) == classes[-1]
    try:
        numbers = np.array(classes, float)
    except ValueError:  # the classes are words
        return y > 0
    return y == numbers[-1] if np.isin(y, numbers).all() else y > 0


def path_figure(path: "RidgePath", title: str = "") -> Figure:
    """Draw the coefficients by the ridge, and the loss of cross-validation with its errors."""
    figure, (left, right) = make_figure(2, title=title or f"{path.problem}: a path of ridges")
    coefficients = path.coefficients[:, : path.penalized]
    largest = np.argsort(-np.abs(coefficients).max(axis=0), kind="stable")
    for rank, j in enumerate(largest[::-1]):
        shown = rank >= len(largest) - SHOWN
        left.plot(path.ridges, coefficients[:, j], color=BLUE if shown else GREY, lw=1 + shown)
    left.set_ylabel("coefficients")
    set_title(left, "Coefficients")
    right.errorbar(path.ridges, path.losses, path.errors, fmt="o-", color=BLUE, capsize=3)
    _mark(right, path.ridges[path.best], RED, "lowest loss")
    _mark(right, path.ridges[path.simplest], GREY, "within a standard error")
    right.set_ylabel("loss of rows left out")
    set_title(right, f"Cross-validation, {len(path.held_out)} folds")
    add_legend(right)
    for axes in (left, right):
        axes.set(xscale="log", xlabel="ridge")
    return figure


def _mark(axes: Axes, ridge: float, color: str, label: str) -> None:
    axes.axvline(ridge, color=color, lw=1, ls="--", label=label)
