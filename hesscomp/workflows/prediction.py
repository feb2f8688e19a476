"""Predict rows of a file by a fitted linear model."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hesscomp.datasets.files import load_rows
from hesscomp.datasets.targets import SIGNS, number_or_text, with_targets
from hesscomp.errors import InputError
from hesscomp.linear import LinearModel, Predictions, load_model
from hesscomp.options import Options, option, option_of
from hesscomp.parallel.world import World
from hesscomp.storage.files import atomic_path, check_picture_name
from hesscomp.workflows.progress import Progress, check_outputs, silent, write
from hesscomp.workflows.subject import SourceRequest


@dataclass(frozen=True, kw_only=True)
class PredictRequest(Options):
    """Which model, which rows, and where the predictions go."""

    model: str = option(flag="model", metavar="M.h5", help="the file that `newton` wrote")
    data: str = option(
        metavar="FILE",
        help="the rows: CSV with the columns of the training data in any order, or another format "
        "with as many columns; labels are ignored but for `plot`",
    )  # fmt: skip
    out: str = option(metavar="P.csv", help="write a line for each row to this file")
    offset: str | None = option_of(SourceRequest, "offset")
    level: float = option(
        0.95, above=0, below=1, group="output", former="--confidence", metavar="L",
        help="confidence level of the intervals",
    )  # fmt: skip
    unknown: str = option(
        "refuse", choices=("refuse", "blank"),
        help="what becomes of CSV rows with a text that the training data do not have, or with a "
        "missing value where these have none: refuse the file, naming the first one; or leave the "
        "predictions of these rows blank, and say how many they are",
    )  # fmt: skip
    plot: str | None = option(
        None, group="output", metavar="C.png",
        help="draw calibration and ROC curve of a logistic model on these rows, which need their "
        "labels: in CSV in the column of that name in the training data",
    )  # fmt: skip

    def _check(self) -> None:
        super()._check()
        if self.plot is not None:
            check_picture_name(self.plot)
        if self.plot is not None and self.unknown == "blank":
            raise InputError("`plot` goes with `unknown` refuse: it is of all rows")


@dataclass(frozen=True)
class Predicted:
    """All rows' predictions, in the file's order, and where they are of classes the likeliest.

    Of rows with values that the training data do not have, where they are left blank, the
    predictions are NaN and the class is empty.
    """

    predictions: Predictions
    classes: np.ndarray | None = None


def predict(request: PredictRequest, world: World, progress: Progress = silent) -> Predicted:
    """Predict each row's mean, or the probability of each class; write CSV. Collective.

    Each rank reads and predicts its own rows; rank 0 writes them all. Encoding is that of the
    training data, by the names of the columns. Where the model has a covariance, the columns `low`
    and `high` are the intervals of `LinearModel.predict`; of several classes `low of NAME` and
    `high of NAME` of each class follow all probabilities.

    Raises
    ------
    InputError
        For a file that is no model, rows that lack a column, and values that the training data do
        not have: a text, or a missing value.
    """
    check_outputs(world, request.out, request.plot)
    with world.phase(f"reading {request.model}"):
        model = load_model(request.model)
    drawn = request.plot is not None
    if drawn and model.family != "logistic":
        raise InputError(
            f"`plot` goes with a model of logistic regression; {request.model} is {model.family}"
        )
    blank = request.unknown == "blank"
    if blank and model.encoding is None:
        raise InputError(
            f"`unknown` goes with models of CSV files; {request.model} has no names of columns"
        )
    label = model.label_name if drawn and model.encoding is not None else None
    shard = load_rows(
        request.data, world, model.encoding, model.features, request.offset, model.index_base,
        labelled=drawn, label=label or None, blank=blank,
    )  # fmt: skip
    if drawn:  # checked before anything is written
        known = tuple(number_or_text(name) for name in model.classes)
        y = with_targets(shard, SIGNS, world, request.data, known)[0].y
        happened = np.concatenate(world.gather(y > 0))
        if happened.all() or not happened.any():
            raise InputError(f"{request.data}: has rows of one class alone; `plot` needs both")
    with world.phase("predicting"):
        here = model.predict(shard.X, shard.offsets, request.level)
    gathered = zip(*world.gather((here.mean, here.low, here.high)), strict=True)
    found = Predictions(*map(np.concatenate, gathered))
    classes = None
    if model.classes:
        classes = model.likeliest(found.mean)
    if found.blank.any():
        progress(
            f"{found.blank.sum()} of {len(found.blank)} rows have values that the training data "
            "do not have; their predictions are blank"
        )
    predicted = Predicted(found, classes)
    if not model.has_covariance:
        progress("the model has no covariance: there are no intervals")

    def save(path) -> None:
        with (
            atomic_path(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as stream,
        ):
            _write(stream, model, predicted)

    write(world, progress, f"{len(found.mean)} predictions", request.out, save)

    def draw(path) -> None:
        from hesscomp.analysis.calibration import prediction_figure
        from hesscomp.analysis.style import save_figure

        title = f"{Path(request.data).name}: {len(happened):,} rows"
        save_figure(prediction_figure(found.mean, happened, title, repr(model.classes[-1])), path)

    write(world, progress, "calibration and ROC curve", request.plot, draw)
    return predicted


def _write(stream, model: LinearModel, predicted: Predicted) -> None:
    found, lines = predicted.predictions, csv.writer(stream, lineterminator="\n")
    shown = model.classes if model.several else model.classes[-1:]
    titles = [f"probability of {name}" for name in shown] or ["mean"]
    ends = ["low", "high"]
    if model.several:
        ends = [f"{end} of {name}" for name in shown for end in ends]
    ends = ends if model.has_covariance else []
    label = [] if predicted.classes is None else [model.label_name or "class"]
    lines.writerow([*label, *titles, *ends])
    columns = list(found.mean.reshape(len(found.mean), -1).T)
    if ends:
        columns.extend(np.stack([found.low, found.high], -1).reshape(len(found.mean), -1).T)
    texts = [["" if np.isnan(value) else f"{value:.17g}" for value in column] for column in columns]
    if predicted.classes is not None:
        texts.insert(0, list(predicted.classes))
    lines.writerows(zip(*texts, strict=True))
