"""Pictures of factors, trajectories, comparisons and runs, drawn without a display.

The functions named ``..._figure`` return a Matplotlib figure; `style.save_figure` writes one.
"""

import os
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hesscomp.analysis.energy import block_energy, layer_energy
from hesscomp.analysis.reached import small_residual
from hesscomp.analysis.solutions import NAMES, solution_panels
from hesscomp.analysis.style import (
    BLUE,
    GREY,
    INK,
    RED,
    SHADE,
    SOFT,
    add_legend,
    count_along,
    height_for,
    label_names,
    make_figure,
    scale_by_powers,
    set_title,
    small_text,
)
from hesscomp.errors import InputError
from hesscomp.factors import (
    Comparison,
    Factor,
    Provenance,
    Trajectory,
    is_trajectory,
    load_factor,
    load_trajectory,
)
from hesscomp.options import refuse_unknown
from hesscomp.runs.report import PICTURE_FILE, read_json, read_picture
from hesscomp.storage.hdf5 import is_linear_model

if TYPE_CHECKING:  # which load MPI, pictures need not
    from hesscomp.compression import GeneralizedEigen
    from hesscomp.optimizers.loop import TrainResult
    from hesscomp.optimizers.newton import NewtonResult

ERROR = "estimated ‖H − F‖ / ‖H‖, Frobenius"


def factor_figure(factor: Factor, title: str = "") -> Figure:
    """Draw a factor's eigenvalues, what each rank would leave, and where the eigenvectors live.

    Left: |w| against its index on a logarithmic axis, negative ones marked. Then the relative
    Frobenius error of the leading k eigenpairs, from the certificate and the eigenvalues dropped.
    Where the file names several parameter blocks, also the energy of each eigenvector in them.

    Of a factor without eigenpairs: the entries of its diagonal by magnitude, and where there are
    several blocks, their mean magnitude in each.
    """
    panels: dict[str, Callable[[Axes, Factor], None]]
    by_block: dict[str, Callable[[Axes, Factor], None]] = {}
    if factor.has_eigenpairs:
        panels = {"Leading eigenvalues": draw_magnitudes, "Compression error": draw_error}
        if factor.rank:
            by_block = {"Energy of the eigenvectors by block": draw_energy}
    else:
        panels = {"Entries of the diagonal": draw_diagonal}
        by_block = {"Mean magnitude by block": draw_block_means}
    several = bool(by_block) and len(factor.blocks) > 1
    source = factor.provenance
    kind = source.operator.replace("Operator", "") or "Hessian"
    made_by = f" ({source.method})" if source.method else ""
    told = f"{kind} of {_name(source) or 'factor'}: n = {factor.n:,}, {factor.extent}{made_by}"
    below = height_for(factor.blocks) if several else 0.0
    figure, made = make_figure(len(panels), title=title or told, below=below)
    if several:
        panels |= by_block
    for axes, (name, draw) in zip(made, panels.items(), strict=True):
        draw(axes, factor)
        set_title(axes, name)
    return figure


def generalized_figure(result: "GeneralizedEigen", title: str = "") -> Figure:
    """Draw the eigenvalues of H u = w B u and the error, which is one in the metric of B^-1."""
    return factor_figure(result.whitened, title)


def _name(source: Provenance) -> str:
    dataset = "" if source.dataset == "arrays" else source.dataset  # a name that says nothing
    return " ".join(part for part in (dataset, source.problem) if part)


def best_figure(factor: Factor, errors: dict[str, np.ndarray], title: str) -> Figure:
    """Draw a factor's eigenvalues, its error beside the best one's, and where its vectors live.

    `errors` holds relative Frobenius errors of the leading k eigenpairs: "exact" and "best" for
    k = 0, 1, ..., "certificate" for k = 1, 2, ...
    """
    below = height_for(list(layer_energy(factor, 1)))
    figure, (left, right, low) = make_figure(2, title=title, below=below)
    draw_magnitudes(left, factor)
    set_title(left, "Leading eigenvalues")
    exact, best, estimate = errors["exact"], errors["best"], errors["certificate"]
    right.plot(range(len(best)), best, "-", color=GREY, lw=4, label="best possible")
    right.plot(range(len(exact)), exact, "-", color=BLUE, lw=1.5, label="this factor")
    right.plot(
        range(1, len(estimate) + 1), estimate, "--", color=RED, lw=1.5, label="its certificate"
    )
    scale_by_powers(right.yaxis)
    right.set(xlabel="eigenpairs kept", ylabel="‖H − F‖ / ‖H‖, Frobenius")
    set_title(right, "Compression error")
    add_legend(right)
    draw_layer_energy(low, factor)
    set_title(low, "Energy of the eigenvectors by layer")
    return figure


BINS = 24  # of the eigenvalues' axis in a trajectory's heat map


def trajectory_figure(trajectory: Trajectory, leading: int = 20, title: str = "") -> Figure:
    """Draw a trajectory's factors from point to point: their eigenvalues.

    Left: the `leading` largest and the same number of smallest eigenvalues of each factor, as
    curves by their order; negative ones in another colour, signs as they are. Right: a heat
    map of how many of all eigenvalues kept lie where. The title has the factors'
    estimated relative errors: what they left out is in neither picture.

    Where a factor has no eigenpairs, the left shows the size of trace, norm and estimated error,
    and the right how many numbers the factors hold for each parameter.
    """
    factors = trajectory.factors
    source = factors[-1].provenance if factors else Provenance()
    points = f"{len(factors)} point{'' if len(factors) == 1 else 's'}"
    told = f"{_name(source) or 'trajectory'}: {points}"
    errors = [factor.certificate.relative_error for factor in factors]
    if errors:
        ends = sorted({f"{error:.2g}" for error in (min(errors), max(errors))}, key=float)
        told += f", relative error {' to '.join(ends)}"
    figure, (left, right) = make_figure(2, height=4.6, title=title or told)
    if all(factor.has_eigenpairs for factor in factors):
        _draw_spectra(left, right, factors, leading)
    else:
        _draw_sizes(left, right, factors)
    for axes in (left, right):
        axes.set_xlim(-0.5, len(factors) - 0.5)
        label_names(axes.xaxis, list(trajectory.labels), rotation=45, ha="right")
    return figure


def _draw_spectra(left: Axes, right: Axes, factors: Sequence[Factor], leading: int) -> None:
    place = np.arange(len(factors))
    for sign, color in ((1, BLUE), (-1, RED)):
        curves = np.full((len(place), leading), np.nan)
        for row, factor in zip(curves, factors, strict=True):
            w = np.sort(sign * factor.eigenvalues[sign * factor.eigenvalues > 0])[::-1][:leading]
            row[: len(w)] = sign * w
        left.plot(place, curves, ".-", ms=4, lw=1, color=color)
    set_title(left, f"Leading eigenvalues, at most {leading} of each sign")
    w = np.concatenate([np.empty(0), *(factor.eigenvalues for factor in factors)])
    sizes = np.abs(w[w != 0])
    for axes in (left, right):
        if len(sizes) and np.all(w > 0):
            scale_by_powers(axes.yaxis)
        elif len(sizes):
            least = max(float(sizes.min()), 1e-4 * float(sizes.max()))
            scale_by_powers(axes.yaxis, linthresh=least)
    left.set_ylabel("eigenvalue")
    if len(w):
        _draw_counts(right, [factor.eigenvalues for factor in factors])
    set_title(right, "All eigenvalues kept")


def _draw_sizes(left: Axes, right: Axes, factors: Sequence[Factor]) -> None:
    known = [factor.certificate for factor in factors]
    lines = {
        "|trace|": (BLUE, [abs(factor.trace()) for factor in factors]),
        "‖F‖, Frobenius": (GREY, [each.frobenius_norm_estimate for each in known]),
        "estimated error ‖H − F‖": (RED, [each.frobenius_error_estimate for each in known]),
    }
    for label, (color, values) in lines.items():
        left.plot(values, ".-", ms=6, lw=1, color=color, label=label)
    scale_by_powers(left.yaxis)
    add_legend(left)
    set_title(left, "Size and error")
    stored = [
        sum(getattr(factor, name).size for name in factor.arrays.keys() - factor.integers)
        for factor in factors
    ]
    right.plot([numbers / factor.n for numbers, factor in zip(stored, factors, strict=True)], ".-")
    right.set_ylim(bottom=0)
    right.set_ylabel("numbers a parameter")
    set_title(right, "Memory")


def _draw_counts(axes: Axes, spectra: list[np.ndarray]) -> None:
    """Draw how many eigenvalues of each point are in each of `BINS` parts of the vertical axis."""
    scale = axes.yaxis.get_transform()
    placed = [scale.transform(w) for w in spectra]
    joint = np.concatenate(placed)
    low, high = float(joint.min()), float(joint.max())
    margin = 0.5 * ((high - low) / BINS or 1.0)
    edges = np.linspace(low - margin, high + margin, BINS + 1)
    counts = np.array([np.histogram(each, edges)[0] for each in placed], dtype=float).T
    image = axes.pcolormesh(
        np.arange(len(spectra) + 1) - 0.5, scale.inverted().transform(edges),
        np.ma.masked_equal(counts, 0), cmap=SHADE, vmin=0, rasterized=True,
    )  # fmt: skip
    bar = _add_bar(axes, image, "eigenvalues")
    count_along(bar.ax.yaxis)


def draw_diagonal(axes: Axes, factor: Factor) -> None:
    """|d| of the diagonal's entries, largest first, on a logarithmic axis."""
    d = factor.diagonal()
    _draw_by_magnitude(axes, d[np.argsort(-np.abs(d), kind="stable")], "diagonal entry")


def draw_block_means(axes: Axes, factor: Factor) -> None:
    """The mean of |d| over each parameter block, on a logarithmic axis."""
    d = np.abs(factor.diagonal())
    spans = [slice(offset, offset + int(np.prod(shape))) for _, shape, offset in factor.blocks]
    means = np.array([d[span].mean() if d[span].size else 0.0 for span in spans])
    axes.plot(means, range(len(means)), "o", ms=6, color=BLUE)  # a bar has no root on a log axis
    label_names(axes.yaxis, [name for name, *_ in factor.blocks])
    axes.set_ylim(len(means) - 0.5, -0.5)
    if means.any():
        scale_by_powers(axes.xaxis)
    axes.set_xlabel("mean |diagonal entry|")


def draw_eigenvalues(axes: Axes, factor: Factor) -> None:
    """Eigenvalues against their index, on a linear axis: signs as they are."""
    axes.axhline(0, color=GREY, lw=0.8)
    for mask, style in _signs(factor.eigenvalues):
        axes.vlines(_index(factor)[mask], 0, factor.eigenvalues[mask], color=style["color"], lw=1)
        axes.plot(_index(factor)[mask], factor.eigenvalues[mask], **style)
    _label_index(axes, "eigenvalue", factor.eigenvalues)


def draw_magnitudes(axes: Axes, factor: Factor) -> None:
    """|w| against its index on a logarithmic axis; the ridge as a line where there is one."""
    _draw_by_magnitude(axes, factor.eigenvalues, "eigenvalue")
    ridge = factor.provenance.ridge
    if ridge > 0:
        axes.axhline(ridge, color=GREY, lw=1, ls="--")
        axes.annotate(
            f"ridge {ridge:g}", (0.02, ridge), xycoords=("axes fraction", "data"),
            xytext=(0, 3), textcoords="offset points", ha="left", fontsize=9, color=GREY,
        )  # fmt: skip


def _draw_by_magnitude(axes: Axes, values: np.ndarray, quantity: str) -> None:
    place = np.arange(1, len(values) + 1)
    for mask, style in _signs(values):
        axes.plot(place[mask], np.abs(values[mask]), **style)
    if values.any():
        scale_by_powers(axes.yaxis)
    _label_index(axes, f"|{quantity}|", values)


def draw_error(axes: Axes, factor: Factor) -> None:
    """Estimated relative Frobenius error of the leading k eigenpairs against k."""
    certificate = factor.certificate
    norm = certificate.frobenius_norm_estimate
    if norm > 0:
        errors = certificate.by_rank(factor.eigenvalues).frobenius / norm
        ranks = np.arange(factor.rank + 1)
        axes.plot(ranks[errors > 0], errors[errors > 0], "-", color=BLUE, lw=2)
        if errors[-1] > 0:
            axes.plot(ranks[-1], errors[-1], "o", ms=6, color=BLUE)
            axes.text(
                0.98, 0.95, f"rank {ranks[-1]}: {errors[-1]:.1e}", transform=axes.transAxes,
                ha="right", va="top", color=BLUE,
            )  # fmt: skip
            scale_by_powers(axes.yaxis)
    axes.set(xlabel="eigenpairs kept", ylabel=ERROR)
    count_along(axes.xaxis)


def draw_residuals(axes: Axes, factor: Factor) -> None:
    """Residual norms ‖H u − w u‖ against the index, beside |w|; for factors that have them."""
    norms, small = factor.certificate.residual_norms, factor.certificate.eigenvalue_converged
    assert norms is not None
    index, shown = _index(factor), norms > 0
    done, label = np.ones(factor.rank, bool), "residual norm"
    if small is not None:
        done, label = small, f"residual at most {small_residual(factor):.1e} |w₁|"
    axes.plot(index, np.abs(factor.eigenvalues), "-", color=GREY, lw=1, label="|eigenvalue|")
    kinds = [(done, "o", BLUE, label), (~done, "o", RED, "residual larger than asked")]
    for kind, marker, color, label in kinds:
        if (kind & shown).any():
            axes.plot(
                index[kind & shown], norms[kind & shown], marker, ms=4, color=color, label=label
            )
    if shown.any():
        scale_by_powers(axes.yaxis)
    axes.set(xlabel="index", ylabel="‖H u − w u‖")
    count_along(axes.xaxis)
    add_legend(axes)


def draw_energy(axes: Axes, factor: Factor, leading: int = 50) -> None:
    """Heat map of `block_energy`: parameter blocks by leading eigenvectors."""
    _draw_shares(axes, [name for name, *_ in factor.blocks], block_energy(factor, leading))


def draw_layer_energy(axes: Axes, factor: Factor, leading: int = 50) -> None:
    """Heat map of `layer_energy`: layers by leading eigenvectors."""
    shares = layer_energy(factor, leading)
    _draw_shares(axes, list(shares), np.array(list(shares.values())))


def _draw_shares(axes: Axes, names: list[str], energy: np.ndarray) -> None:
    image = axes.imshow(
        energy, cmap=SHADE, vmin=0, vmax=energy.max(), aspect="auto", interpolation="nearest",
        extent=(0.5, energy.shape[1] + 0.5, len(energy) - 0.5, -0.5),
    )  # fmt: skip
    label_names(axes.yaxis, names)
    axes.set_xlabel("index")
    count_along(axes.xaxis)
    axes.grid(False)
    _add_bar(axes, image, "share of ‖u‖²")


def _add_bar(axes: Axes, image, label: str):
    bar = axes.figure.colorbar(image, ax=axes)
    bar.set_label(label, color=INK, fontsize=axes.xaxis.label.get_fontsize())
    bar.ax.tick_params(labelsize=small_text(axes), colors=SOFT)
    assert bar.solids is not None
    bar.solids.set_rasterized(True)  # else 256 translucent shapes whose seams show
    bar.outline.set_visible(False)
    return bar


def comparison_figure(
    comparison: Comparison, names: Sequence[str] = ("F", "G"), title: str = ""
) -> Figure:
    """Draw the eigenvalues of two factors, and the angles between their leading subspaces.

    Left: |w| against its index on a logarithmic axis, negative ones hollow. Right: the principal
    angles in degrees, smallest first; those of 0 are not drawn.
    """
    distance = f"‖F − G‖ is {comparison.relative_frobenius:.3g} of the larger norm (Frobenius)"
    figure, (left, right) = make_figure(2, title=title or distance)
    for name, w, size, color in zip(
        names, comparison.eigenvalues, (9, 4), (BLUE, RED), strict=True
    ):
        index = np.arange(1, len(w) + 1)
        left.plot(index[w > 0], w[w > 0], "o", ms=size, color=color, label=name)
        left.plot(index[w < 0], -w[w < 0], "o", ms=size, color=color, mfc="white")
    if any(np.any(w) for w in comparison.eigenvalues):
        scale_by_powers(left.yaxis)
    left.set(xlabel="index", ylabel="|eigenvalue|, hollow where negative")
    set_title(left, "Leading eigenvalues")
    add_legend(left)
    degrees = np.degrees(comparison.angles[::-1])
    index = np.arange(1, len(degrees) + 1)
    if np.any(degrees > 0):
        right.plot(index[degrees > 0], degrees[degrees > 0], "o-", ms=4, color=BLUE)
        right.axhline(90, color=GREY, lw=1, ls="--")
        scale_by_powers(right.yaxis)
    right.set(xlabel="index", ylabel="degrees")
    set_title(right, f"Principal angles of the leading {len(degrees)} eigenvectors")
    for axes in (left, right):
        count_along(axes.xaxis)
    return figure


CONVERGENCE = ("iteration", "passes", "gradient_norm", "objective", "cg_iterations")


def convergence_figure(history: Sequence[dict], title: str = "") -> Figure:
    """Draw the gradient norm and the distance to the best objective of Newton's method.

    Left: both by iteration. Right: the gradient norm by passes over the data, with the CG
    iterations of each step. `history` holds the rows of a Newton report.
    """
    iteration, passes, norm, objective, cg = (_column(history, name) for name in CONVERGENCE)
    gap = objective - objective.min()
    figure, (left, right) = make_figure(2, title=title)
    left.plot(iteration, norm, "o-", color=BLUE, label="gradient norm ‖g‖₂")
    shown = gap > 0
    left.plot(
        iteration[shown], gap[shown], "s--", color=RED, ms=5, label="objective above its best"
    )
    left.set_xlabel("Newton iteration")
    set_title(left, "By iteration")
    count_along(left.xaxis)
    add_legend(left)
    right.plot(passes, norm, "o-", color=BLUE)
    for x, y, count in zip(passes[1:], norm[1:], cg[1:], strict=True):
        if count:
            right.annotate(
                f"{count:.0f} CG", (x, y), xytext=(5, 5), textcoords="offset points", fontsize=9,
                color=GREY,
            )  # fmt: skip
    right.set(xlabel="passes over the data", ylabel="gradient norm ‖g‖₂")
    set_title(right, "By cost")
    for axes in (left, right):
        if np.any(norm > 0):
            scale_by_powers(axes.yaxis)
    return figure


def newton_figure(result: "NewtonResult", title: str = "") -> Figure:
    """Draw how Newton's method went: `convergence_figure` of its history."""
    told = f"Newton, {result.solver}: {result.reason}"
    return convergence_figure([row.as_dict() for row in result.history], title or told)


COSTS = {
    "step": "step",
    "passes": "passes over the data",
    "columns": "product columns",
    "seconds": "seconds",
}
RUN = (*COSTS, "objective", "full_objective")
RUN_MAY_HAVE = ("gradient_norm", "test_loss", "test_accuracy", "relative_error")
FEW = 30  # points of a curve that are marked
DECADE = 10.0  # a ratio of the largest to the smallest from which an axis is logarithmic


def run_figure(history: Sequence[dict], title: str = "", by: str = "step") -> Figure:
    """Draw a run: its objective with the test loss beside it, and how well it does.

    Left: the objective, over all rows where gradients are of batches (those in grey), and the loss
    on test rows where there are any. Right: the accuracy on test rows of a classifier; the error
    where the solution is known; of other runs the gradient norm.

    Parameters
    ----------
    history : sequence of dict
        The rows that `hesscomp.optimizers.loop.train` wrote.
    by : str
        What the horizontal axes have: "step", "passes", "columns" or "seconds".
    """
    if by not in COSTS:
        raise InputError(f"a run is drawn by {', '.join(COSTS)}, not by {by}")
    cost = _column(history, by)
    objective, whole = _column(history, "objective"), _column(history, "full_objective")
    loss, accuracy = _column(history, "test_loss"), _column(history, "test_accuracy")
    known = np.isfinite(whole)
    batches = not np.array_equal(objective[known], whole[known])
    figure, (left, right) = make_figure(2, title=title)
    if batches:
        left.plot(cost, objective, color=GREY, lw=0.8, label="of a batch")
    _draw_line(left, cost, whole if batches else objective, BLUE, "of all rows")
    _draw_line(left, cost, loss, RED, "of test rows (the loss alone)")
    _scale_by_range(left, np.concatenate([objective, loss]))
    set_title(left, "Objective")
    if len(left.lines) > 1:
        add_legend(left)
    if np.isfinite(_column(history, "relative_error")).any():
        convergence_panel(right, history, by)
    elif np.isfinite(accuracy).any():
        _draw_line(right, cost, 100 * accuracy, RED)
        right.set_ylabel("percent of test rows")
        set_title(right, f"Accuracy on test rows, at best {np.nanmax(accuracy):.1%}")
    else:
        norm = _column(history, "gradient_norm")
        if batches:
            right.plot(cost, norm, color=GREY, lw=0.8)
        else:
            _draw_line(right, cost, norm, BLUE)
        _scale_by_range(right, norm)
        set_title(right, "Gradient norm" + (" of a batch" if batches else ""))
    for axes in (left, right):
        axes.set_xlabel(COSTS[by])
    return figure


def train_figure(result: "TrainResult", title: str = "", by: str = "step") -> Figure:
    """Draw a training: `run_figure` of its history."""
    told = f"Training, {result.status}: {result.reason}"
    return run_figure(result.history.rows, title or told, by)


def solution_figure(
    history: Sequence[dict], picture: dict, title: str = "", by: str = "step"
) -> Figure:
    """Draw the solution that a run found, its error where it is known, points, and convergence.

    Parameters
    ----------
    history, by
        As in `run_figure`.
    picture : dict
        What `Problem.picture` gave.
    """
    figure, last = solution_panels(picture, title)
    convergence_panel(last, history, by)
    return figure


def convergence_panel(axes: Axes, history: Sequence[dict], by: str) -> None:
    """Draw the error of a known solution, or else the objective and the gradient norm."""
    if by not in COSTS:
        raise InputError(f"a run is drawn by {', '.join(COSTS)}, not by {by}")
    cost, error = _column(history, by), _column(history, "relative_error")
    if np.isfinite(error).any():
        _draw_line(axes, cost, error, BLUE)
        _scale_by_range(axes, error)
        set_title(axes, f"Relative error in L₂, at best {np.nanmin(error):.1e}")
    else:
        norm = _column(history, "gradient_norm")
        _draw_line(axes, cost, norm, BLUE)
        _scale_by_range(axes, norm)
        set_title(axes, "Gradient norm")
    axes.set_xlabel(COSTS[by])


def _draw_line(axes: Axes, x: np.ndarray, y: np.ndarray, color: str, label: str = "") -> None:
    """Draw a curve through its known points, which are marked where they are few."""
    known = np.isfinite(y)
    if known.any():
        marker = "o" if known.sum() <= FEW else ""
        axes.plot(x[known], y[known], color=color, lw=2, marker=marker, ms=4, label=label)


def _scale_by_range(axes: Axes, values: np.ndarray) -> None:
    """Make the vertical axis logarithmic where positive values span a decade."""
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() >= DECADE * values.min():
        scale_by_powers(axes.yaxis)


def file_figure(path: str | os.PathLike, **options) -> Figure:
    """Draw a file of a factor, trajectory or linear model, Newton's JSON file, or a run's folder.

    Raises
    ------
    InputError
        For a file that is missing or none of these.
    """
    path = Path(path)
    history = path / "history.json" if path.is_dir() else path
    if history.name == "history.json":
        report = read_json(history, RUN, RUN_MAY_HAVE)
        method = str(report.get("optimizer")).partition(" (")[0]  # its options fill two lines
        options.setdefault("title", f"{report.get('problem')}: {method}")
        solved = history.with_name(PICTURE_FILE)
        if solved.exists():
            options["picture"] = read_picture(solved, NAMES, "names")
            return drawn(solution_figure, report["history"], options)
        return drawn(run_figure, report["history"], options)
    if path.suffix == ".json":
        report = read_json(path, CONVERGENCE)
        options.setdefault("title", str(report.get("data", path)))
        return drawn(convergence_figure, report["history"], options)
    if is_linear_model(path):
        from hesscomp.analysis.linear import model_figure
        from hesscomp.linear import load_model  # here: it loads MPI, which factors do not need

        return drawn(model_figure, load_model(path), options)
    if is_trajectory(path):
        return drawn(trajectory_figure, load_trajectory(path), options)
    return drawn(factor_figure, load_factor(path), options)


def drawn(draw: Callable[..., Figure], result: Any, options: dict[str, Any]) -> Figure:
    """Return what a function draws of a result; InputError for options that it does not take."""
    refuse_unknown(options, list(signature(draw).parameters)[1:], "the picture of this result")
    return draw(result, **options)


def _column(history: Sequence[dict], name: str) -> np.ndarray:
    return np.array([row.get(name, np.nan) for row in history], dtype=np.float64)


def _index(factor: Factor) -> np.ndarray:
    return np.arange(1, factor.rank + 1)


def _signs(eigenvalues: np.ndarray):
    """Which eigenvalues are positive and which negative, and how to draw them."""
    for mask, marker, color, label in (
        (eigenvalues > 0, "o", BLUE, "positive"),
        (eigenvalues < 0, "v", RED, "negative"),
    ):
        if mask.any():
            yield mask, {"ls": "", "marker": marker, "ms": 4, "color": color, "label": label}


def _label_index(axes: Axes, quantity: str, eigenvalues: np.ndarray) -> None:
    axes.set(xlabel="index", ylabel=quantity)
    count_along(axes.xaxis)
    if (eigenvalues < 0).any():
        add_legend(axes)
