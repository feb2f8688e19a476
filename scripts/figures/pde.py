"""Draw what networks that solve differential equations reach, for docs/measured.md.

    OMP_NUM_THREADS=1 python scripts/figures/pde.py

Two minutes on one core. Seconds are the processor's, TensorFlow's tracing included, its start not.
"""

import time
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

import hesscomp as hc
from hesscomp.analysis.style import BLUE, GREY, INK, RED, make_figure, save_figure, set_title

OUT = Path(__file__).resolve().parents[2] / "docs" / "figures"
PUBLISHED = {  # seconds and relative error in L2, on an RTX 6000: the best runs of tuned settings
    "ENGD, 2-64-1": ((59, 1e-5), (94, 1e-6)),
    "KFAC, 2-64-64-48-48-1": ((101, 1e-5),),
    "SPRING, 5-D": ((90, 1e-4),),
}


def main() -> None:
    figure, (left, middle, right) = make_figure(3, title="Error, meshes that move, and energies")
    errors(left)
    breakpoints(middle)
    energies(right)
    save_figure(figure, OUT / "pde-errors.png")
    figure, panels = make_figure(3, title="A solution, its error, and a Gauss-Newton matrix")
    maps(figure, panels[:2])
    spectrum(panels[2])
    save_figure(figure, OUT / "pde-maps.png")


def errors(axes: Axes) -> None:
    hc.equation("poisson-1d")  # starts TensorFlow
    for name, color, goal in (
        ("poisson-2d", BLUE, 5e-7), ("poisson-2d-deep", RED, 1e-6), ("poisson-5d", INK, 1e-4),
    ):  # fmt: skip
        begun, curve = time.process_time(), []
        problem = hc.equation(name)

        def note(row, x, problem=problem, curve=curve, goal=goal):
            nonlocal begun
            now = time.process_time()
            curve.append((now - begun, problem.solution(x).relative_error))
            begun += time.process_time() - now
            return curve[-1][1] < goal

        train(problem, note)
        axes.loglog(*np.array(curve).T, color=color, lw=2, label=f"{name}, one core")
    for (name, points), marker in zip(PUBLISHED.items(), "osv", strict=True):
        axes.loglog(*np.array(points).T, marker, color=GREY, label=name)
    axes.set_xlabel("seconds")
    set_title(axes, "Relative error in L₂")
    axes.legend(frameon=False, fontsize=7)


def train(problem, note=None):
    """Train with nothing evaluated but what a callback evaluates."""
    from hesscomp.optimizers.loop import Stopping
    from hesscomp.optimizers.loop import train as minimise

    return minimise(
        problem, hc.NaturalGradient(), stopping=Stopping(max_steps=150),
        callbacks=() if note is None else (note,),
    )  # fmt: skip


def singular(x):
    return 2 / 9 * x ** (-4 / 3)  # of u = x^(2/3) - x


def breakpoints(axes: Axes) -> None:
    steps = range(0, 13)
    meshes = [hc.moving_mesh(singular, 24, max_steps=step).breakpoints for step in steps]
    axes.plot(np.array(meshes), steps, color=BLUE, lw=0.8)
    axes.set(xlabel="x", ylabel="Newton step")
    axes.set_xscale("symlog", linthresh=1e-3)
    set_title(axes, "Breakpoints of a ReLU network")


def energies(axes: Axes) -> None:
    sizes = np.array([8, 16, 32, 64, 128, 256])
    meshes = [hc.moving_mesh(singular, size) for size in sizes]
    for place, name, color, slope in ((0, "uniform", GREY, -1 / 6), (-1, "moved", BLUE, -1)):
        found = np.array([np.sqrt(1 + 6 * mesh.energies[place]) for mesh in meshes])
        axes.loglog(sizes, found, "o-", color=color, label=name)
        axes.loglog(sizes, found[0] * (sizes / sizes[0]) ** slope, ":", color=color)
    axes.set_xlabel("elements; dotted: N^(−1/6) and 1/N")
    set_title(axes, "Relative error in the energy norm")
    axes.legend(frameon=False)


def maps(figure, panels: list[Axes]) -> None:
    problem = hc.equation("l-shape")
    found = problem.picture(train(problem).best)
    for axes, name in zip(panels, ("u", "error"), strict=True):
        axes.grid(False)
        axes.set_aspect("equal")
        image = axes.pcolormesh(*found["axes"], found[name].T, shading="nearest")
        figure.colorbar(image, ax=axes, shrink=0.8)
        set_title(axes, f"l-shape: {name}")


def spectrum(axes: Axes) -> None:
    problem, dampings = hc.equation("poisson-2d"), []
    best = train(problem, lambda row, x: dampings.append(row.get("damping"))).best
    for x, name, color in ((problem.initial, "at the start", GREY), (best, "at the end", BLUE)):
        w = np.linalg.eigvalsh(hc.ggn(problem, at=x).to_dense())[::-1]
        axes.semilogy(np.maximum(w, 1e-20), color=color, lw=2, label=name)
    axes.axhline(dampings[-1], color=RED, ls=":", label="damping at the end")
    axes.set_xlabel("index")
    set_title(axes, "Spectrum of poisson-2d")
    axes.legend(frameon=False)


if __name__ == "__main__":
    main()
