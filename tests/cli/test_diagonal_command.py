"""A second kind of factor through the doors: made, shown, drawn, solved with, or refused."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

import hesscomp.curvature.tensorflow  # noqa: F401  (conftest then sets its threads)
from hesscomp.cli.main import main
from hesscomp.factors import load_factor
from hesscomp.parallel.world import World
from hesscomp.workflows import DiagonalRequest, diagonal, make_curvature


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The diagonal factor of a small logistic regression, and its matrix."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 12)) * 0.8 ** np.arange(12)
    np.savez("d.npz", X=X, y=np.where(X[:, 0] > 0, 1, -1))
    request = DiagonalRequest(
        data="d.npz", columns=12, dtype="float64", ridge=0.1, out="d.h5", json="d.json"
    )
    said = []
    result = diagonal(request, World.serial(), said.append)
    assert "wrote factor: d.h5" in said
    return result.factor, make_curvature(request, World.serial()).operator.to_dense()


def test_it_is_exact_where_the_columns_reach_n(made):
    factor, H = made
    np.testing.assert_allclose(factor.entries, np.diag(H), rtol=1e-12)
    off = np.linalg.norm(H - np.diag(np.diag(H)))
    report = json.loads(Path("d.json").read_text())
    assert report["kind"] == "diagonal" and "eigenvalues" not in report
    np.testing.assert_allclose(report["certificate"]["frobenius_error_estimate"], off, rtol=1e-12)
    assert report["provenance"]["columns"] == 12
    with h5py.File("d.h5") as file:  # a laptop without hesscomp
        assert file.attrs["kind"] == "diagonal" and "rank" not in file.attrs
        np.testing.assert_array_equal(file["entries"][:], factor.entries)
        assert file["parameters"].shape == (12,)


def test_an_estimate_is_probed(made, capsys):
    assert main(["diagonal", "--data", "d.npz", "--columns", "6", "--out", "e.h5"]) == 0
    assert "xdiag" in capsys.readouterr().out
    factor = load_factor("e.h5")
    assert factor.certificate.estimator == "probes" and factor.provenance.columns == 14
    assert main(["diagonal", "--data", "d.npz", "--columns", "3", "--out", "e.h5"]) == 2
    assert "--columns must be at least 4, not 3" in capsys.readouterr().err


def test_a_file_is_shown_drawn_and_solved_with(made, capsys):
    factor, _ = made
    assert main(["inspect", "d.h5"]) == 0
    table = capsys.readouterr().out
    assert "kind                 diagonal" in table and "negative entries     0 of 12" in table
    assert "reached              the diagonal, with relative error" in table
    assert main(["report", "d.h5", "--out", "d.html"]) == 0
    page = Path("d.html").read_text()
    assert "holds no eigenpairs" in page and "holds no eigenvectors" in page
    for picture in ("d.png", "d.svg"):
        assert main(["plot", "d.h5", "--out", picture]) == 0
    np.save("g.npy", np.ones(12))
    assert main(["solve", "d.h5", "--rhs", "g.npy", "--shift", "0.1", "--out", "s.npy"]) == 0
    np.testing.assert_allclose(np.load("s.npy"), 1 / (factor.entries + 0.1), rtol=1e-14)
    assert main(["repack", "d.h5", "--out", "r.h5", "--compress"]) == 0
    np.testing.assert_array_equal(load_factor("r.h5").entries, factor.entries)
    assert main(["merge", "d.h5", "r.h5", "--out", "t.h5"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    "arguments, lacking",
    [
        (["compare", "d.h5", "d.h5"], "no eigenvalues"),
        (["spectrum", "--data", "d.npz", "--factor", "d.h5", "--out", "p.png"], "no eigenvalues"),
        (["solve", "d.h5", "--rhs", "g.npy", "--shift", "1", "--tail", "zero", "--out", "s.npy"],
         "no tail"),
    ],
)  # fmt: skip
def test_what_the_kind_lacks_is_named_in_one_line(made, arguments, lacking, capsys):
    np.save("g.npy", np.ones(12))
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"hesscomp: error: a diagonal factor has {lacking}")
    assert error.count("\n") == 1
