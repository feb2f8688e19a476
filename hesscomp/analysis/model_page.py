"""A linear model as one page of HTML, as `report` makes one of a factor."""

from typing import TYPE_CHECKING

import hesscomp
from hesscomp.analysis.html import ABSENT, TEMPLATES
from hesscomp.analysis.linear import draw_coefficients, draw_distances, leading
from hesscomp.analysis.report import Chart, Table
from hesscomp.analysis.style import height_for
from hesscomp.analysis.svg import inline_svg

if TYPE_CHECKING:  # whose import loads MPI, pages need not
    from hesscomp.linear import LinearModel


def model_page(model: "LinearModel", source: str = "") -> str:
    """Return one self-contained HTML page about a model; `source` is its file, if it has one."""
    (_, *head), *rows = model.cells(shown=len(model.names))
    title = f"{model.family.capitalize()} model of {model.label_name or 'the labels'}"
    return TEMPLATES.get_template("model.html").render(
        title=title + (f" on {model.dataset}" if model.dataset else ""),
        source=source,
        model=model,
        facts={
            "rows": model.rows,
            "coefficients": len(model.names),
            "deviance": model.deviance,
            "AIC": model.aic,
            "converged": model.converged,
        },
        coefficients=Table("pairs", ["name", *head], rows, range(1, len(head) + 1)),
        charts=_charts(model),
        encoding=Table("facts-table", ("column", "levels", "reference"), _levels(model)),
        provenance=_provenance(model),
        version=hesscomp.__version__,
    )


def _charts(model: "LinearModel") -> list[Chart]:
    height, shown = height_for(leading(model)), "The leading coefficients"
    intervals = " with their 95% intervals" if model.has_errors else ""
    texts = {draw_coefficients: f"{shown}{intervals}."}
    if model.has_errors:
        texts[draw_distances] = f"{shown} in standard errors; the dashed lines are at 95%."
    return [
        Chart(inline_svg(draw, model, text, height=height), text) for draw, text in texts.items()
    ]


def _levels(model: "LinearModel") -> list[tuple]:
    columns = () if model.encoding is None else model.encoding.columns
    return [
        (each.name, ", ".join(each.levels), each.reference or ABSENT)
        for each in columns
        if each.levels is not None
    ]


def _provenance(model: "LinearModel") -> Table:
    rows = {
        "data": model.dataset,
        "data fingerprint": model.fingerprint,
        "label": model.label_name,
        "classes": ", ".join(model.classes),
        "total weight of the rows": model.total,
        "ridge": model.ridge,
        "intercept": model.intercept,
        "offsets": model.has_offsets,
        "fitted to standardised columns": model.standardized,
        "standard errors": model.covariance_kind,
        "gradient norm": model.gradient_norm,
    }
    return Table("facts-table", (), list(rows.items()))
