"""Pictures of factors and runs, drawn without a display."""

import os

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hesscomp.errors import InputError
from hesscomp.factors import Comparison, LowRank
from hesscomp.factors.spectrum import dropped_squares
from hesscomp.runs.files import atomic_path, check_picture_name

BLUE, RED, GREY, GREEN = "#1f5fa8", "#c0392b", "#7f8c8d", "#2e7d32"


def plot_spectrum(factor: LowRank, path: str | os.PathLike) -> None:
    """Eigenvalues of a factor, and what each rank would leave: the certified error.

    Left: |w| against its index on a logarithmic axis, negative ones marked. Right: the relative
    Frobenius error of the leading k eigenpairs, from the certificate and the eigenvalues dropped.
    """
    figure, (left, right) = _figure(2)
    magnitude = np.abs(factor.eigenvalues)
    index = np.arange(1, factor.rank + 1)
    shown = magnitude > 0
    positive, negative = shown & (factor.eigenvalues > 0), shown & (factor.eigenvalues < 0)
    left.plot(index[positive], magnitude[positive], "o", ms=4, color=BLUE, label="positive")
    if negative.any():
        left.plot(index[negative], magnitude[negative], "v", ms=5, color=RED, label="negative")
    certificate, source = factor.certificate, factor.provenance
    if source.ridge > 0:
        left.axhline(source.ridge, color=GREY, lw=1, ls="--")
        left.annotate(
            f"ridge {source.ridge:g}", (0.98, source.ridge), xycoords=("axes fraction", "data"),
            xytext=(0, 3), textcoords="offset points", ha="right", fontsize=9, color=GREY,
        )  # fmt: skip
    if shown.any():
        left.set_yscale("log")
    left.set_xlabel("index")
    left.set_ylabel("|eigenvalue|")
    left.set_title("Leading eigenvalues")
    if negative.any():
        left.legend(frameon=False)

    tails = dropped_squares(factor.eigenvalues)
    norm = certificate.frobenius_norm_estimate
    if norm > 0:
        errors = np.sqrt(certificate.frobenius_error_estimate**2 + tails) / norm
        ranks = np.arange(factor.rank + 1)
        right.plot(ranks[errors > 0], errors[errors > 0], "-", color=BLUE, lw=2)
        if errors[-1] > 0:
            right.plot(ranks[-1], errors[-1], "o", ms=6, color=BLUE)
            right.annotate(
                f"{errors[-1]:.1e}", (ranks[-1], errors[-1]), xytext=(-10, -3),
                textcoords="offset points", ha="right", fontsize=10, color=BLUE,
            )  # fmt: skip
            right.set_yscale("log")
    right.set_xlabel("eigenpairs kept")
    right.set_ylabel(r"$\|H - F\|_F \; / \; \|H\|_F$, estimated")
    right.set_title("Compression error")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    name = " ".join(part for part in (source.dataset, source.problem) if part) or "factor"
    figure.suptitle(f"Hessian of {name}: n = {factor.n}, rank {factor.rank} ({source.method})")
    _save(figure, path)


def plot_comparison(
    names: tuple[str, str],
    F: LowRank,
    G: LowRank,
    comparison: Comparison,
    path: str | os.PathLike,
) -> None:
    """Eigenvalues of two factors, and the principal angles between their leading subspaces.

    Left: |w| against its index on a logarithmic axis, negative ones hollow. Right: the angles in
    degrees, smallest first; those of 0 are not drawn.
    """
    figure, (left, right) = _figure(2)
    for name, factor, size, color in zip(names, (F, G), (9, 4), (BLUE, RED), strict=True):
        w = factor.eigenvalues
        index = np.arange(1, factor.rank + 1)
        left.plot(index[w > 0], w[w > 0], "o", ms=size, color=color, label=name)
        left.plot(index[w < 0], -w[w < 0], "o", ms=size, color=color, mfc="white")
    if np.any(F.eigenvalues) or np.any(G.eigenvalues):
        left.set_yscale("log")
    left.set_xlabel("index")
    left.set_ylabel("|eigenvalue|, hollow where negative")
    left.set_title("Leading eigenvalues")
    left.legend(frameon=False)
    degrees = np.degrees(comparison.angles[::-1])
    index = np.arange(1, len(degrees) + 1)
    if np.any(degrees > 0):
        right.semilogy(index[degrees > 0], degrees[degrees > 0], "o-", ms=4, color=BLUE)
        right.axhline(90, color=GREY, lw=1, ls="--")
    right.set_xlabel("index")
    right.set_ylabel("degrees")
    right.set_title(f"Principal angles of the leading {len(degrees)} eigenvectors")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    distance = comparison.relative_frobenius
    figure.suptitle(rf"$\|F - G\|_F$ is {distance:.2e} of the larger norm: n = {F.n}")
    _save(figure, path)


def plot_convergence(history: list[dict], path: str | os.PathLike, title: str) -> None:
    """Gradient norm and distance to the last objective, against iterations and data passes.

    `history` holds the rows of a Newton report.
    """
    try:
        iteration, passes, norm, objective, cg = (
            np.array([float(row[key]) for row in history])
            for key in ("iteration", "passes", "gradient_norm", "objective", "cg_iterations")
        )
        if not len(iteration):
            raise ValueError("it is empty")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the history cannot be drawn: {error}") from error
    gap = objective - objective.min()
    figure, (left, right) = _figure(2)
    left.semilogy(iteration, norm, "o-", color=BLUE, label=r"$\|g\|_2$")
    shown = gap > 0
    left.semilogy(
        iteration[shown], gap[shown], "s--", color=RED, ms=5, label="objective above its best"
    )
    left.set_xlabel("Newton iteration")
    left.set_title("By iteration")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(frameon=False)
    right.semilogy(passes, norm, "o-", color=BLUE)
    for x, y, count in zip(passes[1:], norm[1:], cg[1:], strict=True):
        if count:
            right.annotate(
                f"{count:.0f} CG", (x, y), xytext=(5, 5), textcoords="offset points", fontsize=9,
                color=GREY,
            )  # fmt: skip
    right.set_xlabel("passes over the data")
    right.set_ylabel(r"$\|g\|_2$")
    right.set_title("By cost")
    figure.suptitle(title)
    _save(figure, path)


def _figure(panels: int):
    figure = Figure(figsize=(5.5 * panels, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels)
    for ax in axes:
        ax.grid(True, which="major", color="#dddddd", lw=0.7)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, path: str | os.PathLike) -> None:
    check_picture_name(path)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=160)
