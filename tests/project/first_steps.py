"""What a user writes first: run by a test, and checked by mypy and pyright against the wheel."""

from pathlib import Path

import numpy as np

import hesscomp as hc


def main(folder: Path) -> float:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 5))
    labels = np.where(X.sum(axis=1) + rng.standard_normal(60) > 0, 1, -1)

    world = hc.World()
    data = hc.load_data("adult", world)
    problem = hc.LogisticRegression(data, world, ridge=1e-3)
    H = hc.hessian(problem)
    factor = hc.compress(H, rank=5)
    values: np.ndarray = factor.eigenvalues
    error = factor.certificate.frobenius_error_estimate
    trace = hc.trace(H, columns=16)
    print(H.shape, values[:3], error, trace.value, hc.norm(H))

    fit = hc.newton((X, labels), ridge=1e-2, max_iterations=20)
    print(fit.converged, fit.objective, fit.x)

    found = hc.train(problem, hc.AdamW("cosine:0.1,steps=5,warmup=2"), max_steps=5)
    print(found.best_objective, factor.summary())

    hc.save(factor, folder / "factor.h5")
    again = hc.load(folder / "factor.h5")
    hc.report(factor, folder / "report.html")
    matrix = hc.MatrixOperator(X.T @ X, psd=True)
    start: hc.Operator = hc.hessian(problem, at=np.zeros(data.features))
    print(again, (matrix @ np.ones(5)).sum(), hc.logdet(matrix, shift=1.0).value, start.shape)
    return float(trace.value)
