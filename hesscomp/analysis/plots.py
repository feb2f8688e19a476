"""Pictures of factors and runs, drawn without a display."""

import os
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hesscomp.analysis.energy import block_energy, layer_energy
from hesscomp.analysis.reached import small_residual
from hesscomp.factors import Comparison, Factor, Provenance, Trajectory
from hesscomp.storage.files import atomic_path, check_picture_name

BLUE, RED, GREY, LINE = "#1f5fa8", "#c0392b", "#7f8c8d", "#dddddd"
SHADE = LinearSegmentedColormap.from_list("shade", [to_rgba(BLUE, 0.0), to_rgba(BLUE, 1.0)])
LABELS = 40  # most names on an axis that can still be read


def plot_factor(factor: Factor, path: str | os.PathLike) -> None:
    """Draw a factor's eigenvalues, what each rank would leave, and where the eigenvectors live.

    Left: |w| against its index on a logarithmic axis, negative ones marked. Then the relative
    Frobenius error of the leading k eigenpairs, from the certificate and the eigenvalues dropped.
    Where the file names several parameter blocks, also the energy of each eigenvector in them.

    Of a factor without eigenpairs: the entries of its diagonal by magnitude, and where there are
    several blocks, their mean magnitude in each.
    """
    several = len(factor.blocks) > 1
    panels: dict[str, Callable[[Axes, Factor], None]]
    if factor.has_eigenpairs:
        panels = {"Leading eigenvalues": draw_magnitudes, "Compression error": draw_error}
        if several and factor.rank > 0:
            panels["Energy of the eigenvectors by block"] = draw_energy
    else:
        panels = {"Entries of the diagonal": draw_diagonal}
        if several:
            panels["Mean magnitude by block"] = draw_block_means
    figure, row = make_figure(len(panels))
    for axes, (title, draw) in zip(row, panels.items(), strict=True):
        draw(axes, factor)
        axes.set_title(title)
    source = factor.provenance
    kind = source.operator.replace("Operator", "") or "Hessian"
    of = f"{kind} of {_name(source) or 'factor'}"
    save_figure(figure, path, f"{of}: n = {factor.n}, {factor.extent} ({source.method})")


def _name(source: Provenance) -> str:
    return " ".join(part for part in (source.dataset, source.problem) if part)


def plot_against_best(
    factor: Factor, errors: dict[str, np.ndarray], path: str | os.PathLike, title: str
) -> None:
    """A factor's eigenvalues, its error beside the best one's by rank, and where its vectors live.

    `errors` holds relative Frobenius errors of the leading k eigenpairs: "exact" and "best" for
    k = 0, 1, ..., "certificate" for k = 1, 2, ...
    """
    figure, (left, middle, right) = make_figure(3)
    draw_magnitudes(left, factor)
    left.set_title("Leading eigenvalues")
    exact, best, estimate = errors["exact"], errors["best"], errors["certificate"]
    middle.plot(range(len(best)), best, "-", color=GREY, lw=4, label="best possible")
    middle.plot(range(len(exact)), exact, "-", color=BLUE, lw=1.5, label="this factor")
    middle.plot(
        range(1, len(estimate) + 1), estimate, "--", color=RED, lw=1.5, label="its certificate"
    )
    middle.set(yscale="log", xlabel="eigenpairs kept", ylabel="‖H − F‖ / ‖H‖, Frobenius")
    middle.set_title("Compression error")
    middle.legend(frameon=False)
    draw_layer_energy(right, factor)
    right.set_title("Energy of the eigenvectors by layer")
    save_figure(figure, path, title)


def plot_trajectory(trajectory: Trajectory, path: str | os.PathLike, leading: int = 20) -> None:
    """The eigenvalues of a trajectory's factors from point to point, and the factors' errors.

    Left: the `leading` largest and the same number of smallest eigenvalues of each factor, as
    curves by their order; negative ones in another colour, signs as they are. Right: the estimated
    relative Frobenius error of each factor.
    """
    figure, (left, right) = make_figure(2)
    place = np.arange(len(trajectory.factors))
    for sign, color in ((1, BLUE), (-1, RED)):
        curves = np.full((len(place), leading), np.nan)
        for row, factor in zip(curves, trajectory.factors, strict=True):
            w = np.sort(sign * factor.eigenvalues[sign * factor.eigenvalues > 0])[::-1][:leading]
            row[: len(w)] = sign * w
        left.plot(place, curves, ".-", ms=4, lw=1, color=color)
    w = np.concatenate([factor.eigenvalues for factor in trajectory.factors])
    if np.all(w > 0):
        left.set_yscale("log")
    elif w.any():
        left.set_yscale("symlog", linthresh=float(np.abs(w[w != 0]).min()))
    left.set(ylabel="eigenvalue", title=f"Eigenvalues, at most {leading} of each sign")
    errors = np.array([factor.certificate.relative_error for factor in trajectory.factors])
    right.plot(place, errors, "o-", ms=4, color=BLUE)
    if np.all(errors > 0):
        right.set_yscale("log")
    right.set(ylabel="estimated ‖H − F‖ / ‖H‖, Frobenius", title="Compression error")
    every = -(-len(place) // LABELS)
    for axes in (left, right):
        axes.set_xticks(place[::every], trajectory.labels[::every], rotation=45, ha="right")
        for label in axes.get_xticklabels():
            label.set_parse_math(False)
    source = trajectory.factors[-1].provenance if trajectory.factors else Provenance()
    save_figure(figure, path, f"{_name(source) or 'trajectory'}: {len(place)} points")


def draw_diagonal(axes: Axes, factor: Factor) -> None:
    """|d| of the diagonal's entries, largest first, on a logarithmic axis."""
    d = factor.diagonal()
    _draw_by_magnitude(axes, d[np.argsort(-np.abs(d), kind="stable")], "diagonal entry")


def draw_block_means(axes: Axes, factor: Factor) -> None:
    """The mean of |d| over each parameter block, as bars."""
    d = np.abs(factor.diagonal())
    spans = [slice(offset, offset + int(np.prod(shape))) for _, shape, offset in factor.blocks]
    means = np.array([d[span].mean() if d[span].size else 0.0 for span in spans])
    axes.barh(range(len(means)), means, color=BLUE)
    _label_blocks(axes, [name for name, *_ in factor.blocks])
    if means.any():
        axes.set_xscale("log")
    axes.invert_yaxis()
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
        axes.set_yscale("log")
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
            axes.set_yscale("log")
    axes.set(xlabel="eigenpairs kept", ylabel="estimated ‖H − F‖ / ‖H‖, Frobenius")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


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
        axes.set_yscale("log")
    axes.set(xlabel="index", ylabel="‖H u − w u‖")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)


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
    _label_blocks(axes, names)
    axes.set_xlabel("index")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(False)
    bar = axes.figure.colorbar(image, ax=axes, label="share of ‖u‖²")
    assert bar.solids is not None
    bar.solids.set_rasterized(True)  # else 256 translucent shapes whose seams show
    bar.outline.set_visible(False)


def _label_blocks(axes: Axes, names: list[str]) -> None:
    """Names of parameter blocks on the vertical axis: shortened, and not more than fit."""
    names = [name if len(name) <= 24 else f"{name[:10]}…{name[-13:]}" for name in names]
    every = -(-len(names) // LABELS)
    axes.set_yticks(range(0, len(names), every), names[::every])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)


def plot_comparison(
    names: tuple[str, str], F: Factor, G: Factor, comparison: Comparison, path: str | os.PathLike
) -> None:
    """Eigenvalues of two factors, and the principal angles between their leading subspaces.

    Left: |w| against its index on a logarithmic axis, negative ones hollow. Right: the angles in
    degrees, smallest first; those of 0 are not drawn.
    """
    figure, (left, right) = make_figure(2)
    for name, factor, size, color in zip(names, (F, G), (9, 4), (BLUE, RED), strict=True):
        w = factor.eigenvalues
        index = _index(factor)
        left.plot(index[w > 0], w[w > 0], "o", ms=size, color=color, label=name)
        left.plot(index[w < 0], -w[w < 0], "o", ms=size, color=color, mfc="white")
    if np.any(F.eigenvalues) or np.any(G.eigenvalues):
        left.set_yscale("log")
    left.set(xlabel="index", ylabel="|eigenvalue|, hollow where negative")
    left.set_title("Leading eigenvalues")
    left.legend(frameon=False)
    degrees = np.degrees(comparison.angles[::-1])
    index = np.arange(1, len(degrees) + 1)
    if np.any(degrees > 0):
        right.semilogy(index[degrees > 0], degrees[degrees > 0], "o-", ms=4, color=BLUE)
        right.axhline(90, color=GREY, lw=1, ls="--")
    right.set(xlabel="index", ylabel="degrees")
    right.set_title(f"Principal angles of the leading {len(degrees)} eigenvectors")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    distance = f"{comparison.relative_frobenius:.2e} of the larger norm"
    save_figure(figure, path, rf"$\|F - G\|_F$ is {distance}: n = {F.n}", parse_math=True)


CONVERGENCE = ("iteration", "passes", "gradient_norm", "objective", "cg_iterations")


def plot_convergence(history: list[dict], path: str | os.PathLike, title: str) -> None:
    """Gradient norm and distance to the last objective, against iterations and data passes.

    `history` holds the rows of a Newton report.
    """
    iteration, passes, norm, objective, cg = (_column(history, name) for name in CONVERGENCE)
    gap = objective - objective.min()
    figure, (left, right) = make_figure(2)
    left.semilogy(iteration, norm, "o-", color=BLUE, label=r"$\|g\|_2$")
    shown = gap > 0
    left.semilogy(
        iteration[shown], gap[shown], "s--", color=RED, ms=5, label="objective above its best"
    )
    left.set(xlabel="Newton iteration", title="By iteration")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(frameon=False)
    right.semilogy(passes, norm, "o-", color=BLUE)
    for x, y, count in zip(passes[1:], norm[1:], cg[1:], strict=True):
        if count:
            right.annotate(
                f"{count:.0f} CG", (x, y), xytext=(5, 5), textcoords="offset points", fontsize=9,
                color=GREY,
            )  # fmt: skip
    right.set(xlabel="passes over the data", ylabel=r"$\|g\|_2$", title="By cost")
    save_figure(figure, path, title)


COSTS = {
    "step": "step",
    "passes": "passes over the data",
    "columns": "product columns",
    "seconds": "seconds",
}
RUN = (*COSTS, "objective", "full_objective")


def plot_run(history: list[dict], path: str | os.PathLike, title: str) -> None:
    """The objective of a run against its steps, passes, product columns and seconds.

    `history` holds the rows that `hesscomp.optimizers.loop.train` wrote; objectives over all rows
    are marked where gradients are of batches.
    """
    costs = {name: _column(history, name) for name in COSTS}
    objective, whole = _column(history, "objective"), _column(history, "full_objective")
    known = np.isfinite(whole)
    batches = not np.array_equal(objective[known], whole[known])
    figure, axes = make_figure(len(costs))
    for axis, (name, label) in zip(axes, COSTS.items(), strict=True):
        style = {"color": GREY, "lw": 0.8} if batches else {"color": BLUE, "lw": 2}
        axis.plot(costs[name], objective, **style, label="of a batch" if batches else None)
        if batches:
            axis.plot(costs[name][known], whole[known], "-", color=BLUE, lw=2, label="of all rows")
        if objective.min() > 0:
            axis.set_yscale("log")
        axis.set_xlabel(label)
    axes[0].set_ylabel("objective")
    if batches:
        axes[0].legend(frameon=False)
    save_figure(figure, path, title)


def _column(history: list[dict], name: str) -> np.ndarray:
    return np.array([row[name] for row in history], dtype=np.float64)


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
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if (eigenvalues < 0).any():
        axes.legend(frameon=False)


def make_figure(panels: int, width: float = 5.5, height: float = 4.2):
    """Return a figure of so many panels side by side, each of `width` by `height` inches."""
    figure = Figure(figsize=(width * panels, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for ax in axes:
        ax.grid(True, which="major", color=LINE, lw=0.7)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(
    figure: Figure, path: str | os.PathLike, title: str = "", parse_math: bool = False
) -> None:
    """Write a figure under a title, whole or not at all, in the format of the name's ending."""
    check_picture_name(path)
    if title:
        figure.suptitle(title, parse_math=parse_math)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=160)
