"""A factor as one page of HTML that needs nothing else: for a browser, a phone, or paper."""

import os
from collections.abc import Callable
from importlib import resources
from string import Template

import numpy as np

import hesscomp
from hesscomp.analysis.claims import claims
from hesscomp.analysis.energy import block_energy
from hesscomp.analysis.html import (
    ABSENT,
    Html,
    chart,
    details,
    element,
    join,
    markup,
    number,
    path_name,
    percent,
    table,
)
from hesscomp.analysis.plots import (
    LABELS,
    draw_diagonal,
    draw_eigenvalues,
    draw_energy,
    draw_error,
    draw_magnitudes,
    draw_residuals,
)
from hesscomp.analysis.svg import inline_svg
from hesscomp.factors import Factor
from hesscomp.storage.files import atomic_path

SHOWN_PAIRS = 20  # rows of the table of eigenvalues before the reader must ask for more
SMALL = "small residual"  # the column of the table of eigenvalues
SHOWN_VECTORS = 10  # columns of the table of energies


def write_page(factor: Factor, path: str | os.PathLike, source: str) -> None:
    """Write `page` whole or not at all.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(page(factor, source), encoding="utf-8")


def page(factor: Factor, source: str) -> str:
    """One self-contained HTML page about a factor.

    Parameters
    ----------
    factor : Factor
    source : str
        Name of the file that it came from.

    Returns
    -------
    str
        Without scripts and without anything to load; all text of the file is escaped. The same
        factor gives the same page.
    """
    template = resources.files("hesscomp.analysis").joinpath("report.html").read_text("utf-8")
    return Template(template).substitute(
        title=markup(_title(factor)),
        subtitle=join([f"n = {factor.n}, {factor.extent}, from", element("code", source)], " "),
        facts=_facts(factor),
        certificate=_certificate(factor),
        spectrum=_spectrum(factor),
        energy=_energy(factor),
        provenance=_provenance(factor),
        cost=_cost(factor),
        footer=markup(f"Made by hesscomp {hesscomp.__version__}."),
    )


def _title(factor: Factor) -> str:
    source = factor.provenance
    name = source.operator.removesuffix("Operator") or "Operator"
    of = f" of {source.problem}" if source.problem else ""
    return f"{name}{of}" + (f" on {source.dataset}" if source.dataset else "")


def _facts(factor: Factor) -> Html:
    error = factor.certificate.relative_error
    error = {"relative error": percent(error) if not error < 1e-3 else number(error)}
    facts = {"parameters n": factor.n}
    if factor.has_eigenpairs:
        w, done = factor.eigenvalues, factor.certificate.eigenvalue_converged
        facts |= {
            "rank": factor.rank,
            **error,
            "largest eigenvalue": float(w[0]) if factor.rank else ABSENT,
            "negative": int((w < 0).sum()),
            "pairs of small residual": ABSENT
            if done is None
            else f"{int(done.sum())} of {factor.rank}",
        }
    else:
        facts |= {"kind": factor.kind, **error, **factor.summary(leading=1)}
    pairs = ([element("dt", name), element("dd", value)] for name, value in facts.items())
    return element("dl", join(element("div", join(pair, "")) for pair in pairs), "facts")


def _certificate(factor: Factor) -> Html:
    rows = (
        (claim.statement, claim.value, _tag(claim.standing), claim.meaning)
        for claim in claims(factor)
    )
    drawn = [(draw_error, "Estimated error of keeping only the leading eigenpairs.")]
    if factor.certificate.residual_norms is not None:
        drawn.append((draw_residuals, "Residual of each eigenpair, below its eigenvalue."))
    stated = table(("statement", "value", "standing", "meaning"), rows, "claims")
    drawable = factor.has_eigenpairs and factor.rank
    return join([stated, _charts(factor, *drawn)]) if drawable else stated


def _tag(standing: str) -> Html:
    return element("span", standing, f"tag {standing.replace(' ', '-')}")


def _spectrum(factor: Factor) -> Html:
    if not factor.has_eigenpairs:
        text = f"A {factor.kind} factor holds no eigenpairs. Its diagonal by magnitude:"
        chart = _charts(factor, (draw_diagonal, "Entries of the diagonal, logarithmic scale."))
        return join([element("p", text), chart])
    if not factor.rank:
        return element("p", "The factor has rank 0: there are no eigenvalues.")
    negative = int((factor.eigenvalues < 0).sum())
    signs = (
        f"{negative} of {factor.rank} eigenvalues are negative (triangles)."
        if negative
        else "No eigenvalue kept is negative."
    )
    ridge = factor.provenance.ridge
    line = f" The dashed line is the ridge, {ridge:g}." if ridge > 0 else ""
    return join(
        [
            _charts(
                factor,
                (draw_eigenvalues, f"Eigenvalues, linear scale. {signs}"),
                (draw_magnitudes, f"Magnitudes, logarithmic scale.{line}"),
            ),
            _eigenvalue_table(factor),
        ]
    )


def _eigenvalue_table(factor: Factor) -> Html:
    norms, done = factor.certificate.residual_norms, factor.certificate.eigenvalue_converged
    top = block_energy(factor) if len(factor.blocks) > 1 else None
    head = ["index", "eigenvalue", "of the largest"]
    if norms is not None:
        head += ["residual", "residual / |w|"]
    if done is not None:
        head.append(SMALL)
    if top is not None:
        head += ["most energy in", "share"]

    def row(j: int) -> list:
        w = float(factor.eigenvalues[j])
        value = element("span", w, "negative") if w < 0 else number(w)
        cells = [j + 1, value, percent(abs(w / factor.eigenvalues[0])) if w else percent(0.0)]
        if norms is not None:
            cells += [number(float(norms[j])), number(float(norms[j] / abs(w))) if w else ABSENT]
        if done is not None:
            cells.append(element("span", bool(done[j]), "yes" if done[j] else "no"))
        if top is not None:
            block = int(np.argmax(top[:, j]))
            cells += [path_name(factor.blocks[block][0]), percent(float(top[block, j]))]
        return cells

    aligned = [i for i, name in enumerate(head) if name not in (SMALL, "most energy in")]

    def rows(first: int, last: int) -> Html:
        return table(head, map(row, range(first, last)), "pairs", numbers=aligned)

    if factor.rank <= SHOWN_PAIRS:
        return rows(0, factor.rank)
    rest = f"The other {factor.rank - SHOWN_PAIRS} eigenvalues"
    return join([rows(0, SHOWN_PAIRS), details(rest, rows(SHOWN_PAIRS, factor.rank))])


def _energy(factor: Factor) -> Html:
    blocks = factor.blocks
    if not factor.has_eigenpairs:
        return element("p", f"A {factor.kind} factor holds no eigenvectors.")
    if not blocks or not factor.rank:
        missing = "names no parameter blocks" if not blocks else "holds no eigenvectors"
        return element("p", f"The file {missing}.")
    if len(blocks) == 1:
        return element(
            "p", f"There is one parameter block, {blocks[0][0]}: all eigenvectors live in it."
        )
    energy = block_energy(factor)
    weights = np.abs(factor.eigenvalues)
    mean = energy @ weights / weights.sum() if weights.any() else energy.mean(axis=1)
    shown = min(factor.rank, SHOWN_VECTORS)
    rows = (
        (
            path_name(name),
            "\u00a0×\u00a0".join(map(str, shape)) or "scalar",
            percent(int(np.prod(shape)) / factor.n),
            _shaded(mean[b]),
            *(_shaded(energy[b, j]) for j in range(shown)),
        )
        for b, (name, shape, _) in enumerate(blocks)
    )
    head = ["block", "shape", "of n", "mean", *(Html(f"u<sub>{j + 1}</sub>") for j in range(shown))]
    caption = "Sum of squares of each eigenvector over each block; columns sum to one."
    return join(
        [
            _charts(
                factor,
                (draw_energy, caption),
                height=max(2.0, 0.8 + 0.2 * min(len(blocks), LABELS)),
            ),
            table(head, rows, "blocks", numbers=range(2, len(head))),
            element(
                "p",
                "The mean is over all eigenvectors of the file, weighted by |w|. A block whose "
                "share is above its share of n is curved more than most.",
                "soft",
            ),
        ]
    )


def _shaded(share: float) -> Html:
    return Html(f'<span class="shade" style="--share:{share:.3f}">{percent(float(share))}</span>')


def _provenance(factor: Factor) -> Html:
    source = factor.provenance
    rows = {
        "problem": source.problem,
        "operator": source.operator,
        "data": source.dataset,
        "data fingerprint": element("code", source.data_fingerprint or ABSENT),
        "rows": _count(source.rows),
        "ridge": source.ridge,
        "point": "in the file" if factor.parameters is not None else "not in the file",
        "method": source.method,
        "oversampling": _count(source.oversample),
        "power steps": _count(source.power),
        "seed": _count(source.seed),
        "precision of products": source.dtype,
        "layout": source.layout,
        "ranks (MPI)": _count(source.ranks),
        "bitwise reproducible": source.reproducible,
    }
    return table((), rows.items(), "facts-table")


def _cost(factor: Factor) -> Html:
    source = factor.provenance
    assembled = f" ({source.columns / factor.n:.1%} of the n that assembling H takes)"
    rows = {
        "product columns": join(
            [_count(source.columns), assembled if source.columns >= 0 and factor.n else ""], ""
        ),
        "passes over the data": _count(source.passes),
        "words reduced": _count(source.words_reduced),
        "seconds": source.seconds,
    }
    return table((), rows.items(), "facts-table")


def _count(value: int) -> Html | str:
    return number(value) if value >= 0 else ABSENT


def _charts(factor: Factor, *charts: tuple[Callable, str], height: float = 3.0) -> Html:
    made = (chart(inline_svg(draw, factor, text, height), text) for draw, text in charts)
    return element("div", join(made), "charts" if len(charts) > 1 else "charts one")
