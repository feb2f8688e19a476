"""A factor as one page of HTML that needs nothing else: for a browser, a phone, or paper."""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup

import hesscomp
from hesscomp.analysis.claims import claims
from hesscomp.analysis.energy import block_energy
from hesscomp.analysis.html import ABSENT, TEMPLATES, marked, number, path_name, percent
from hesscomp.analysis.plots import (
    draw_diagonal,
    draw_eigenvalues,
    draw_energy,
    draw_error,
    draw_magnitudes,
    draw_residuals,
)
from hesscomp.analysis.style import height_for
from hesscomp.analysis.svg import inline_svg
from hesscomp.dense import LA, LM, SA
from hesscomp.factors import Factor
from hesscomp.storage.files import atomic_path

SHOWN_PAIRS = 20  # rows of the table of eigenvalues before the reader must ask for more
SMALL = "small residual"  # the column of the table of eigenvalues
SHOWN_VECTORS = 10  # columns of the table of energies
WORDS = {LM: "of largest magnitude", LA: "the largest", SA: "the smallest"}


@dataclass(frozen=True)
class Table:
    """A table of the style sheet's `kind`; its first column names the rows."""

    kind: str
    head: Sequence[str]  # the columns' names; empty for a table without
    rows: Sequence[Sequence]  # of texts, numbers and markup
    numbers: Collection[int] = ()  # columns that are aligned as numbers


@dataclass(frozen=True)
class Chart:
    """A drawing, and the line below it that says what to see."""

    svg: Markup
    caption: str


def write_page(text: str, path: str | os.PathLike) -> None:
    """Write a page whole or not at all; OSError if the file cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def page(factor: Factor, source: str = "") -> str:
    """Return one self-contained HTML page about a factor; `source` is its file, if it has one.

    It has no scripts and loads nothing; all text of the file is escaped. The same factor gives the
    same page.
    """
    made = factor.provenance
    title = made.operator.removesuffix("Operator") or "Operator"
    title += f" of {made.problem}" if made.problem else ""
    return TEMPLATES.get_template("report.html").render(
        title=title + (f" on {made.dataset}" if made.dataset else ""),
        source=source,
        factor=factor,
        facts=_facts(factor),
        claims=_claims(factor),
        error_charts=_error_charts(factor),
        spectrum_charts=_spectrum_charts(factor),
        pairs=_pairs(factor),
        energy=_energy(factor),
        provenance=_provenance(factor),
        cost=_cost(factor),
        version=hesscomp.__version__,
    )


def _facts(factor: Factor) -> dict:
    error = factor.certificate.relative_error
    shown = {"relative error": number(error) if error < 1e-3 else percent(error)}
    facts = {"parameters n": factor.n}
    if not factor.has_eigenpairs:
        return {**facts, "kind": factor.kind, **shown, **factor.details(leading=1)}
    w, done = factor.eigenvalues, factor.certificate.eigenvalue_converged
    small = ABSENT if done is None else f"{int(done.sum())} of {factor.rank}"
    return {
        **facts,
        "rank": factor.rank,
        **shown,
        f"{'leading' if factor.certificate.one_end else 'largest'} eigenvalue": (
            float(w[0]) if factor.rank else ABSENT
        ),
        "negative": int((w < 0).sum()),
        "pairs of small residual": small,
    }


def _claims(factor: Factor) -> Table:
    def tag(standing: str) -> Markup:
        return marked(standing, f"tag {standing.replace(' ', '-')}")

    rows = [
        (each.statement, each.value, tag(each.standing), each.meaning) for each in claims(factor)
    ]
    return Table("claims", ("statement", "value", "standing", "meaning"), rows)


def _error_charts(factor: Factor) -> list[Chart]:
    if not (factor.has_eigenpairs and factor.rank):
        return []
    text = "Estimated error of keeping only the leading eigenpairs."
    charts = [_chart(factor, draw_error, text)]
    if factor.certificate.residual_norms is not None:
        text = "Residual of each eigenpair, below its eigenvalue."
        charts.append(_chart(factor, draw_residuals, text))
    return charts


def _spectrum_charts(factor: Factor) -> list[Chart]:
    if not factor.has_eigenpairs:
        return [_chart(factor, draw_diagonal, "Entries of the diagonal, logarithmic scale.")]
    if not factor.rank:
        return []
    signs = "No eigenvalue kept is negative."
    if negative := int((factor.eigenvalues < 0).sum()):
        signs = f"{negative} of {factor.rank} eigenvalues are negative (triangles)."
    ridge = factor.provenance.ridge
    line = f" The dashed line is the ridge, {ridge:g}." if ridge > 0 else ""
    return [
        _chart(factor, draw_eigenvalues, f"Eigenvalues, linear scale. {signs}"),
        _chart(factor, draw_magnitudes, f"Magnitudes, logarithmic scale.{line}"),
    ]


def _pairs(factor: Factor) -> tuple[Table, Table] | None:
    """The leading eigenvalues, and the others."""
    if not factor.has_eigenpairs:
        return None
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
        value = marked(w, "negative") if w < 0 else w
        cells = [j + 1, value, percent(abs(w) / factor.norm()) if w else percent(0.0)]
        if norms is not None:
            cells += [float(norms[j]), float(norms[j] / abs(w)) if w else ABSENT]
        if done is not None:
            cells.append(marked(bool(done[j]), "yes" if done[j] else "no"))
        if top is not None:
            block = int(np.argmax(top[:, j]))
            cells += [path_name(factor.blocks[block][0]), percent(float(top[block, j]))]
        return cells

    aligned = [i for i, name in enumerate(head) if name not in (SMALL, "most energy in")]
    rows = [row(j) for j in range(factor.rank)]
    leading = Table("pairs", head, rows[:SHOWN_PAIRS], aligned)
    return leading, replace(leading, rows=rows[SHOWN_PAIRS:])


def _energy(factor: Factor) -> tuple[Chart, Table] | None:
    """Where the eigenvectors live, if there are any and more than one place for them."""
    if not (factor.has_eigenpairs and factor.rank) or len(factor.blocks) < 2:
        return None
    caption = "Sum of squares of each eigenvector over each block; columns sum to one."
    energy = block_energy(factor)
    weights = np.abs(factor.eigenvalues)
    mean = energy @ weights / weights.sum() if weights.any() else energy.mean(axis=1)
    shown = min(factor.rank, SHOWN_VECTORS)
    cell = Markup('<span class="shade" style="--share:{:.3f}">{}</span>')
    rows = [
        (
            path_name(name),
            "\u00a0×\u00a0".join(map(str, shape)) or "scalar",
            percent(int(np.prod(shape)) / factor.n),
            *(cell.format(share, percent(float(share))) for share in (mean[b], *energy[b, :shown])),
        )
        for b, (name, shape, _) in enumerate(factor.blocks)
    ]
    vectors = (Markup("u<sub>{}</sub>").format(j + 1) for j in range(shown))
    head = ("block", "shape", "of n", "mean", *vectors)
    svg = inline_svg(draw_energy, factor, caption, 9.0, height_for(factor.blocks))
    return Chart(svg, caption), Table("blocks", head, rows, range(2, len(head)))


def _provenance(factor: Factor) -> Table:
    source = factor.provenance
    rows = {
        "problem": source.problem,
        "operator": source.operator,
        "data": source.dataset,
        "data fingerprint": Markup("<code>{}</code>").format(source.data_fingerprint or ABSENT),
        "rows": _count(source.rows),
        "ridge": source.ridge,
        "point": "in the file" if factor.parameters is not None else "not in the file",
        "method": source.method,
        "eigenvalues": WORDS.get(source.which, ABSENT),
        "oversampling": _count(source.oversample),
        "power steps": _count(source.power),
        "seed": _count(source.seed),
        "precision of products": source.dtype,
        "layout": source.layout,
        "ranks (MPI)": _count(source.ranks),
        "bitwise reproducible": source.reproducible,
    }
    return Table("facts-table", (), list(rows.items()))


def _cost(factor: Factor) -> Table:
    source = factor.provenance
    known = source.columns >= 0 and factor.n
    share = f" ({source.columns / factor.n:.1%} of the n that assembling H takes)" if known else ""
    rows = {
        "product columns": _count(source.columns) + share,
        "passes over the data": _count(source.passes),
        "words reduced": _count(source.words_reduced),
        "seconds": source.seconds,
    }
    return Table("facts-table", (), list(rows.items()))


def _count(value: int) -> Markup | str:
    return number(value) if value >= 0 else ABSENT


def _chart(factor: Factor, draw: Callable, caption: str) -> Chart:
    return Chart(inline_svg(draw, factor, caption), caption)
