"""Tables for readers."""

import math
from collections.abc import Sequence

import numpy as np

from hesscomp.analysis.reached import bound_reached, pairs_reached, request_reached
from hesscomp.factors import Comparison, Factor, Trajectory
from hesscomp.influence.result import Sensitivity

OBJECTIVE_WIDTH = 17  # of -1.2345678901e-05


def objective_text(objective: float) -> str:
    """Return an objective as a column of a run's log, `OBJECTIVE_WIDTH` characters wide.

    It has ten decimals; below 1e-4 and from 1e5 on in absolute value it has an exponent, so that a
    small objective keeps its digits and a large one its column.
    """
    fixed = objective == 0 or 1e-4 <= abs(objective) < 1e5
    return f"{objective:{OBJECTIVE_WIDTH}.10{'f' if fixed else 'e'}}"


def factor_table(factor: Factor, leading: int = 10) -> str:
    """Return what a factor is, how good it is and where it comes from."""
    certificate, source = factor.certificate, factor.provenance
    error = (
        f"||H - F||_F ~ {certificate.frobenius_error_estimate:.3e}, "
        f"{certificate.relative_error:.2e} of ||H||_F ~ {certificate.frobenius_norm_estimate:.4g}"
    )
    known = np.isfinite(certificate.frobenius_error_estimate)
    rows = [
        ("kind", factor.kind),
        ("n", f"{factor.n}"),
        *factor.details(leading).items(),
        ("error", f"{error} ({certificate.estimator})" if known else "not measured"),
        ("spectral bound", bound_reached(factor)),
        ("reached", request_reached(factor)),
        *([("eigenpairs", pairs_reached(factor))] if factor.has_eigenpairs else []),
        ("point", "in the file" if factor.parameters is not None else "not in the file"),
        ("blocks", ", ".join(name for name, _, _ in factor.blocks) or "none"),
    ]
    rows += [(name.replace("_", " "), _text(value)) for name, value in vars(source).items()]
    return _aligned(rows)


def trajectory_table(trajectory: Trajectory, leading: int = 10) -> str:
    """Return a line for each factor of a trajectory."""
    rows = [("point", "holds", "error", "columns", "eigenvalues")]
    for label, factor in zip(trajectory.labels, trajectory.factors, strict=True):
        w = factor.eigenvalues[:leading] if factor.has_eigenpairs else ()
        values = "  ".join(f"{value:.4g}" for value in w) or "-"
        error = f"{factor.certificate.relative_error:.2e}"
        error += "" if factor.certificate.converged else " (more than asked)"
        rows.append((label, factor.extent, error, _text(factor.provenance.columns), values))
    return _aligned(rows)


def comparison_table(
    names: tuple[str, str], F: Factor, G: Factor, comparison: Comparison, leading: int = 10
) -> str:
    """Return two factors side by side: their distance, and how their provenances differ."""
    spectral = f"{comparison.spectral_distance:.3e}, {comparison.relative_spectral:.2e}"
    frobenius = f"{comparison.frobenius_distance:.3e}, {comparison.relative_frobenius:.2e}"
    degrees = np.degrees(comparison.angles)
    angles = "none"
    if len(degrees):
        angles = (
            f"{len(degrees)}: largest {degrees[0]:.4g}, median {np.median(degrees):.4g}, "
            f"smallest {degrees[-1]:.4g} degrees"
        )
    facts = [
        ("F", f"{names[0]}: n = {F.n}, rank {F.rank}"),
        ("G", f"{names[1]}: n = {G.n}, rank {G.rank}"),
        ("reached by F", f"{request_reached(F)}; eigenpairs: {pairs_reached(F)}"),
        ("reached by G", f"{request_reached(G)}; eigenpairs: {pairs_reached(G)}"),
        ("||F - G||_2", f"{spectral} of the larger norm"),
        ("||F - G||_F", f"{frobenius} of the larger norm"),
        ("principal angles", angles),
    ]
    pairs: list[tuple[str, ...]] = [("eigenvalue", "of F", "of G", "difference", "relative")]
    for i in range(min(max(F.rank, G.rank), leading)):
        values = [f"{w[i]:.6g}" if i < len(w) else "-" for w in (F.eigenvalues, G.eigenvalues)]
        differences = comparison.eigenvalue_differences, comparison.relative_differences
        apart = [f"{found[i]:.2e}" if i < len(found) else "-" for found in differences]
        pairs.append((f"{i + 1}", *values, *apart))
    origin = [("provenance", "of F", "of G")]
    origin += [
        (name.replace("_", " "), _text(ours), _text(theirs))
        for name, (ours, theirs) in comparison.provenance.items()
    ]
    if not comparison.provenance:
        origin.append(("the same", "", ""))
    return "\n\n".join(_aligned(rows) for rows in (facts, pairs, origin))


def data_table(summary, shown: int = 16) -> str:
    """Return what a data set is and what each rank would hold."""
    shape = f" ({' x '.join(map(str, summary.shape))})" if len(summary.shape) > 1 else ""
    rows = [
        ("data", summary.name),
        ("rows", f"{summary.rows} training, {summary.test_rows} test"),
        ("columns", f"{summary.features}{shape}"),
        ("targets", summary.targets),
        ("balance", _balance(summary)),
        ("sparsity", f"{summary.density:.2%} nonzero, stored {summary.storage}, {summary.dtype}"),
        ("memory", f"{summary.nbytes / 1e6:.1f} MB over all ranks"),
        ("fingerprint", summary.fingerprint),
    ]
    shards = list(zip(summary.shard_rows, summary.shard_bytes, strict=True))
    for rank, (count, size) in enumerate(shards[:shown]):
        rows.append((f"rank {rank}", f"{count} rows, {size / 1e6:.2f} MB"))
    if len(shards) > shown:
        least, most = min(summary.shard_rows), max(summary.shard_rows)
        rows.append((f"... {len(shards)} ranks", f"{least} to {most} rows each"))
    return _aligned(rows)


def problem_table(problems: dict) -> str:
    """Return what the named problems are made of and how they are trained."""
    rows = [("problem", "data", "network", "loss", "training")]
    for name, problem in problems.items():
        network = "none" if problem.network is None else str(problem.network)
        training = "Newton" if problem.recipe is None else str(problem.recipe)
        rows.append((name, problem.data, network, problem.loss, training))
    return _aligned(rows)


def equation_table(equations: dict) -> str:
    """Return what the named differential equations are and which networks solve them."""
    rows = [("differential equation", "network", "minimised", "")]
    for name, named in equations.items():
        network = str(named.network) + (", random but for the last layer" if named.frozen else "")
        rows.append((name, network, named.minimised, named.about))
    return _aligned(rows)


def spectrum_table(result, shift: float | None) -> str:
    """Return what stochastic Lanczos quadrature says about a spectrum."""
    quadrature = result.quadrature
    names = {
        "trace": "trace",
        "frobenius_norm": "Frobenius norm",
        "negative": f"negative (below {-quadrature.rounding:.1e})",
        "logdet": f"log det(H + {shift} I)",
    }
    low, high = result.extremes
    made = "the matrix assembled, exact" if quadrature.exact else "stochastic Lanczos quadrature"
    rows = [
        ("n", f"{quadrature.n}"),
        ("density", f"{quadrature.columns} product columns ({made})"),
        ("eigenvalues" if quadrature.exact else "Ritz values", f"{low:.6g} to {high:.6g}"),
    ]
    rows += [(names[name], _estimate(estimate)) for name, estimate in result.estimates.items()]
    return _aligned(rows)


def sensitivity_table(result: Sensitivity, columns: int = 3) -> str:
    """Return what a sensitivity rests on, and its most influential rows."""
    statistics, laplace = result.statistics, result.laplace
    stationary = "" if result.stationary else ": NOT a stationary point"
    solves = f"{len(result.residuals)} in {result.iterations.sum()} CG iterations"
    rows: list[tuple[str, ...]] = [
        ("problem", f"{result.problem} on {result.dataset}: {result.rows} rows, n = {result.n}"),
        ("objective", f"{result.objective:.10g}"),
        (
            "gradient norm",
            f"{result.gradient_norm:.3e}, the share of {result.gradient_rows:.3g} rows{stationary}",
        ),
        ("matrix", f"{result.operator} + {result.shift:g} I; {result.factor}"),
        (
            "solves",
            f"{solves}, largest residual {result.residuals.max():.1e} (asked {result.tolerance:g}"
            f"{'' if result.converged else ', NOT reached'})",
        ),
    ]
    for name, value, slope in zip(result.targets, result.values, result.by_ridge, strict=True):
        shown = "" if math.isnan(value) else f"{value:.8g}, "
        rows.append((name, f"{shown}by the ridge {slope:+.4g}"))
    if statistics is not None:
        rows.append(
            (
                "leverages",
                f"sum {statistics.effective_parameters:.6g} effective parameters, largest "
                f"{statistics.leverage.max():.4g}; dispersion {statistics.dispersion:.4g}; "
                f"self-influence by the factor within {result.factor_gap:.1e} of the solves",
            )
        )
    if result.shifts is not None:
        strongest = np.argsort(-np.abs(result.shifts).max(axis=1, initial=0), kind="stable")[:5]
        known = len(result.columns) == len(result.shifts)
        names = result.columns if known else [f"{i}" for i in range(len(result.shifts))]
        shown = "  ".join(f"{names[i]}: {_signed(result.shifts[i])}" for i in strongest)
        rows.append(("strongest columns", f"{shown} (by a number added to the column)"))
    if laplace is not None:
        spread = laplace.parameters
        rows.append(("posterior", f"deviations {spread.min():.3g} to {spread.max():.3g}"))
        if laplace.outputs is not None:
            median = float(np.median(laplace.outputs))
            rows.append(
                (
                    "predictions",
                    f"deviations, median {median:.3g}, {laplace.outputs.max():.3g} most",
                )
            )
    names = result.targets[:columns]
    head = ("row", *(f"influence: {name}" for name in names), "self-influence")
    more = () if statistics is None else ("leverage", "Cook")
    table: list[tuple[str, ...]] = [(*head, *more)]
    for place, row in enumerate(result.chosen):
        moved = [f"{value:+.4e}" for value in result.influence[row, : len(names)]]
        numbers = [*moved, f"{result.self_influence[place]:.4e}"]
        if statistics is not None:
            numbers += [f"{statistics.leverage[row]:.4e}", f"{statistics.cook[row]:.4e}"]
        table.append((f"{row}", *numbers))
    return "\n\n".join(_aligned(each) for each in (rows, table))


def _signed(values: np.ndarray) -> str:
    return ", ".join(f"{value:+.3g}" for value in values)


def _estimate(estimate) -> str:
    """Return a value with its standard error, and what more steps might still change."""
    if not estimate.samples:
        return f"{estimate.value:.6g} (exact)"
    text = f"{estimate.value:.6g} +- {estimate.standard_error:.2g} ({estimate.method})"
    if estimate.truncation_error > estimate.standard_error / 10:
        text += f", and an error of about {estimate.truncation_error:.2g} that more steps remove"
    return text


def _balance(summary, shown: int = 20) -> str:
    if not summary.classes:
        return "-"
    signs = (" (-1)", " (+1)") if summary.targets == "signs" else ("",) * len(summary.classes)
    counts = list(zip(summary.classes, signs, summary.counts, strict=True))
    text = ", ".join(f"{c}{s}: {k} ({k / summary.rows:.1%})" for c, s, k in counts[:shown])
    return text if len(counts) <= shown else f"{text}, ... {len(counts)} classes"


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _text(value) -> str:
    if value == -1 or (isinstance(value, float) and math.isnan(value)) or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
