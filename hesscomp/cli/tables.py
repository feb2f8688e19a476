"""Tables for people."""

import math

from hesscomp.factors import LowRank


def factor_table(factor: LowRank, leading: int = 10) -> str:
    """What a factor is, how good it is and where it comes from."""
    certificate, source = factor.certificate, factor.provenance
    values = "  ".join(f"{value:.4g}" for value in factor.eigenvalues[:leading])
    more = f"  ... {factor.eigenvalues[-1]:.4g}" if factor.rank > leading else ""
    error = (
        f"||H - F||_F ~ {certificate.frobenius_error_estimate:.3e}, "
        f"{certificate.relative_error:.2e} of ||H||_F ~ {certificate.frobenius_norm_estimate:.4g}"
    )
    bound = certificate.spectral_error_bound
    rows = [
        ("kind", "low-rank"),
        ("n", f"{factor.n}"),
        ("rank", f"{factor.rank}"),
        ("eigenvalues", values + more),
        ("error", f"{error} ({certificate.estimator})"),
        ("spectral bound", "not asked" if math.isnan(bound) else f"||H - F||_2 <= {bound:.3e}"),
        ("converged", "yes" if certificate.converged else "no"),
        ("point", "in the file" if factor.parameters is not None else "not in the file"),
        ("blocks", ", ".join(name for name, _, _ in factor.blocks) or "none"),
    ]
    rows += [(name.replace("_", " "), _text(value)) for name, value in vars(source).items()]
    return _aligned(rows)


def data_table(summary, shown: int = 16) -> str:
    """What a data set is and what each rank would hold."""
    rows = [
        ("data", summary.name),
        ("rows", f"{summary.rows} training, {summary.test_rows} test"),
        ("columns", f"{summary.features}"),
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


def _balance(summary, shown: int = 20) -> str:
    if not summary.classes:
        return "-"
    signs = (" (-1)", " (+1)") if summary.targets == "signs" else ("",) * len(summary.classes)
    counts = list(zip(summary.classes, signs, summary.counts, strict=True))
    text = ", ".join(f"{c}{s}: {k} ({k / summary.rows:.1%})" for c, s, k in counts[:shown])
    return text if len(counts) <= shown else f"{text}, ... {len(counts)} classes"


def _aligned(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _text(value) -> str:
    if value == -1 or (isinstance(value, float) and math.isnan(value)) or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
