"""Pages and pictures of factors and spectra, and factors brought up to date."""

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest

import hesscomp as hc
from hesscomp.analysis.claims import claims
from hesscomp.analysis.energy import block_energy, layer_energy
from hesscomp.analysis.html import number
from hesscomp.analysis.report import page
from hesscomp.cli.main import main
from hesscomp.cli.tables import comparison_table, factor_table, trajectory_table
from hesscomp.factors import (
    Certificate,
    LowRank,
    Provenance,
    Trajectory,
    compare,
    load_factor,
    save_factor,
)

ROOT = Path(__file__).resolve().parents[2]
NASTY = "<script>alert('&\"')</script> $x_{ \u7f51\u7edc"
BLOCKS = (("dense/kernel", (5, 4), 0), (NASTY, (6,), 20), ("empty", (0,), 26), ("scale", (), 26))

KERNEL = np.exp(-np.abs(np.subtract.outer(np.arange(60), np.arange(60))) / 9)


def make_factor(n=27, rank=25, **certificate) -> LowRank:
    """A factor with signs, four blocks, residuals and names that are to be escaped."""
    rng = np.random.default_rng(3)
    U = np.linalg.qr(rng.standard_normal((n, rank)))[0]
    w = np.exp(-0.2 * np.arange(rank)) * np.where(np.arange(rank) % 3 == 1, -1.0, 1.0)
    residuals = 1e-8 * np.exp(0.3 * np.arange(rank))
    known = {
        "frobenius_error_estimate": 0.0123,
        "frobenius_norm_estimate": 2.5,
        "spectral_error_bound": 0.456,
        "estimator": "probes",
        "residual_norms": residuals,
        "eigenvalue_converged": residuals < 1e-6,
    }
    source = Provenance(
        problem=NASTY, operator="HessianOperator", dataset="d", rows=60000, ridge=1e-3,
        method="krylov", rank_requested=rank, columns=180, passes=12, words_reduced=4860,
        seconds=1.5, dtype="float64",
    )  # fmt: skip
    return LowRank(
        w,
        U,
        certificate=Certificate(**known | certificate),
        provenance=source,
        parameters=np.zeros(n),
        blocks=BLOCKS,
    )


class Page(HTMLParser):
    """A page's elements and text; refuses markup that is not balanced."""

    VOID = ("meta", "br", "wbr", "img", "hr")

    def __init__(self, text: str):
        super().__init__()
        self.open, self.elements, self.attributes, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = "".join(self.words)

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def test_block_energy_is_the_share_of_each_block():
    factor = make_factor()
    energy = block_energy(factor)
    squares = factor.eigenvectors**2
    pieces = [squares[:20], squares[20:26], squares[26:26], squares[26:27]]
    np.testing.assert_allclose(energy, [piece.sum(axis=0) for piece in pieces], atol=1e-14)
    np.testing.assert_allclose(energy.sum(axis=0), 1, atol=1e-14)
    np.testing.assert_array_equal(block_energy(factor, 3), energy[:, :3])
    assert block_energy(replace(factor, blocks=())).shape == (0, 25)
    axis = LowRank(
        np.ones(2), np.eye(27)[:, [0, 26]], certificate=factor.certificate, blocks=BLOCKS
    )
    np.testing.assert_array_equal(block_energy(axis), [[1, 0], [0, 0], [0, 0], [0, 1]])
    blocks = [
        (name, *place) for name, (_, *place) in zip(["a/k", "b", "a/b", "c/k"], BLOCKS, strict=True)
    ]
    layers = layer_energy(replace(factor, blocks=tuple(blocks)))
    assert list(layers) == ["a", "b", "c"]
    np.testing.assert_allclose(list(layers.values()), [energy[0] + energy[2], *energy[[1, 3]]])


def test_a_page_holds_all_that_the_file_holds_and_nothing_from_elsewhere():
    factor = make_factor()
    text = page(factor, "f<b>.h5")
    shown = Page(text)
    assert text == page(factor, "f<b>.h5")
    assert not {"script", "link", "iframe", "object", "b", "base"} & set(shown.elements)
    assert not re.search(r"https?:|//[a-z]|@import|file:", text)
    for name, value in shown.attributes:
        assert not name.startswith("on") and name not in ("src", "action", "formaction")
        if name == "href":
            assert value.startswith(("#", "data:image/png;base64,"))
    assert NASTY in shown.text and "f<b>.h5" in shown.text
    assert shown.elements.count("svg") == 5 and "image" in shown.elements
    for words in (
        "0.0123", "0.456", "promised", "estimated", "met", "8 of 25 eigenvalues are negative",
        "16 of 25", "60\u202f000", "4\u202f860", "not in the eigenvalues", "krylov",
        "The other 5 eigenvalues", "666.7% of the n",
    ):  # fmt: skip
        assert words in shown.text, words
    energy = block_energy(factor)
    assert f"{100 * energy[0, 0]:.1f}\u202f%" in shown.text
    for w in factor.eigenvalues:
        assert number(float(w)) in text
    for colors in ("#1f5fa8", "#c0392b", "#010203"):  # the charts take the page's own
        assert f": {colors}" not in text.split("</style>", 1)[1]


def test_all_text_of_a_file_is_escaped():
    factor = make_factor()
    texts = ("problem", "operator", "dataset", "data_fingerprint", "method", "dtype", "layout")
    source = replace(factor.provenance, **dict.fromkeys(texts, NASTY))
    factor = replace(
        factor,
        provenance=source,
        certificate=replace(factor.certificate, estimator=NASTY),
        blocks=((NASTY, (27,), 0),),
    )
    shown = Page(page(factor, NASTY))
    assert "script" not in shown.elements
    assert shown.text.count(NASTY) >= len(texts) + len(("estimator", "block", "file"))


def test_what_a_certificate_lacks_is_named():
    bare = make_factor(
        spectral_error_bound=float("nan"), residual_norms=None, eigenvalue_converged=None,
        frobenius_norm_estimate=float("nan"), estimator="",
    )  # fmt: skip
    standing = {claim.statement.split(",")[0]: claim.standing for claim in claims(bare)}
    assert list(standing.values()).count("missing") == 5
    text = Page(page(bare, "f.h5")).text
    for words in (
        "does not say how it was estimated", "The file does not hold it", "Not asked for",
        "holds no residual norms", "does not mark them",
    ):  # fmt: skip
        assert words in text
    exact = make_factor(estimator="exact")
    assert [claim.standing for claim in claims(exact)][:4] == ["computed"] * 4
    missed = make_factor(converged=False)
    missed = replace(missed, provenance=replace(missed.provenance, tolerance_requested=1e-3))
    assert "not met" in [claim.standing for claim in claims(missed)]


def described(factor: LowRank) -> list[str]:
    """Everything that people read about a factor: the page, `inspect`, `compare`, a trajectory."""
    return [
        Page(page(factor, "f.h5")).text,
        factor_table(factor),
        comparison_table(("f", "g"), factor, factor, compare(factor, factor)),
        trajectory_table(Trajectory(("a",), (factor,))),
    ]


def test_nothing_is_called_converged_without_saying_what():
    """One word had two meanings: "converged yes" beside "0 of 10 converged" for one factor."""
    factor = make_factor()
    none = replace(factor.certificate, eigenvalue_converged=np.zeros(25, bool))
    everything = replace(factor.certificate, eigenvalue_converged=np.ones(25, bool))
    for known in (factor.certificate, none, everything):
        for text in described(replace(factor, certificate=known)):
            assert "converged" not in text
    assert "16 of 25 with ||H u - w u|| <= 9.0e-07 |w_1|, the others up to 1.3e-05" in factor_table(
        factor
    )
    assert "none of 25 counted as accurate: ||H u - w u|| up to 1.3e-05 |w_1|" in factor_table(
        replace(factor, certificate=none)
    )
    assert "all 25 with ||H u - w u|| <= 1.3e-05 |w_1|" in factor_table(
        replace(factor, certificate=everything)
    )
    corrected = replace(factor, provenance=replace(factor.provenance, rank_requested=10))
    assert "; the compression was asked for rank 10" in factor_table(corrected)


def test_a_rank_is_reached_and_nothing_is_said_to_be_accurate():
    """A page said "Request: rank 5, met", in green, beside an error of 92%."""
    factor = make_factor(frobenius_error_estimate=0.92, frobenius_norm_estimate=1.0)
    for text in described(factor)[:3]:
        assert "rank 25, as asked, with relative error 0.92" in text

    def standing(rank: int) -> list[str]:
        asked = replace(factor.provenance, rank_requested=rank)
        made = claims(replace(factor, provenance=asked))
        return [claim.standing for claim in made if claim.statement.startswith("Request")]

    assert [standing(rank) for rank in (25, 26, -1)] == [["reached"], ["not met"], ["missing"]]
    style = page(factor, "f.h5").split("</style>")[0]
    assert ".missing, .reached { color: var(--soft); }" in style  # no colour of success


def test_residuals_name_the_tolerance_that_they_are_measured_by():
    """With the default tolerance a page said "as accurate as asked", though nobody had asked."""
    factor = make_factor(eigenvalue_converged=np.zeros(25, bool))
    some = make_factor().certificate
    for tolerance, origin in ((1e-6, "the default"), (1e-9, "as asked")):
        source = replace(factor.provenance, residual_tolerance=tolerance)
        none = replace(factor, provenance=source)
        words = f"none of 25 with ||H u - w u|| <= {tolerance:.1e} |w_1| ({origin}): up to 1.3e-05"
        assert words in factor_table(none)
        limit = f"the tolerance is 1.00\u202f×\u202f10−{-np.log10(tolerance):.0f} |w₁| ({origin})."
        assert f"No residual is small enough; {limit}" in described(none)[0]
        level = "Residuals of at most 9.00\u202f×\u202f10−7 |w₁|"
        assert f"{level}; {limit}" in described(replace(none, certificate=some))[0]
    assert "No residual is small enough." in described(factor)[0]  # an earlier version's file
    for text in described(factor)[:3]:
        assert "as asked" not in text.replace("rank 25, as asked", "")


def test_a_request_says_what_was_reached():
    asked = {"rank_requested": -1, "tolerance_requested": 1e-2, "tolerance_norm": "frobenius"}
    for converged, words in (
        (True, "relative error 0.00492 at rank 25, 0.01 asked"),
        (False, "tolerance 0.01 NOT reached: relative error 0.00492 at rank 25"),
    ):
        factor = make_factor(converged=converged)
        factor = replace(factor, provenance=replace(factor.provenance, **asked))
        for text in described(factor)[:3]:
            assert words in text
    assert "(more than asked)" in described(factor)[3]
    spectral = replace(factor.provenance, tolerance_norm="spectral")
    assert "spectral bound / |w_1| 0.456" in factor_table(replace(factor, provenance=spectral))


def test_a_spectral_bound_above_the_norm_says_nothing():
    """281 for a norm of 172 was "promised"."""
    useful, empty = (make_factor(spectral_error_bound=b, spectral_failure=1e-8) for b in (0.4, 1.5))
    assert "||H - F||_2 <= 4.000e-01, except with probability 1e-08" in factor_table(useful)
    assert "none of use: 1.5 is above the largest eigenvalue, 1, so" in factor_table(empty)
    standing = [
        next(claim for claim in claims(factor) if "spectral" in claim.statement)
        for factor in (useful, empty)
    ]
    assert [claim.standing for claim in standing] == ["promised", "says nothing"]
    assert "except with probability 1e-08" in standing[0].meaning
    old = make_factor()  # a file that does not say how many probes there were
    assert "except with probability 10^-r for r probes" in factor_table(old)


@pytest.mark.filterwarnings("error")
def test_factors_at_the_edge_make_pages():
    factor = make_factor()
    empty = LowRank(
        np.empty(0),
        np.empty((27, 0)),
        certificate=Certificate(float("nan"), float("nan")),
        blocks=BLOCKS,
    )
    zero = LowRank(np.zeros(2), np.eye(27, 2), certificate=Certificate(0.0, 0.0), blocks=BLOCKS[:1])
    odd = np.full(25, np.nan)
    odd[0], odd[1] = np.inf, 0.0
    for each in (
        empty,
        zero,
        replace(factor, blocks=()),
        replace(factor, blocks=(("all", (27,), 0),)),
        replace(factor, certificate=replace(factor.certificate, residual_norms=odd)),
        make_factor(frobenius_error_estimate=float("inf")),
        replace(factor, eigenvalues=-np.ones(25)),
    ):
        Page(page(each, "f.h5"))
        factor_table(each)
    assert "rank 0" in Page(page(empty, "f.h5")).text
    assert "numbers a parameter" in Page(page(hc.compress(KERNEL, 2, format="hodlr"))).text


def test_the_page_of_a_linear_model(tmp_path, capsys):
    labels, ages = ["yes" if i % 3 else "no" for i in range(40)], np.arange(40) % 7
    lines = [f"{'<b>x' if i % 2 else 'y'},{ages[i]},{labels[i]}" for i in range(40)]
    (tmp_path / "d.csv").write_text("\n".join(["job,age,bought", *lines]))
    model = hc.fit_linear(tmp_path / "d.csv")
    hc.save(model, tmp_path / "m.h5")
    assert main(["report", str(tmp_path / "m.h5"), "--out", str(tmp_path / "m.html")]) == 0
    shown = Page((tmp_path / "m.html").read_text("utf-8"))
    for words in ("Logistic model of bought", "40 rows, 3 coefficients", "job=y", "(intercept)"):
        assert words in shown.text
    assert repr(model).startswith("<logistic model: 3 coefficients, 40 rows, deviance")
    assert "<td>" in model._repr_html_() and "<b>x" not in model._repr_html_()
    hc.report(model, tmp_path / "n.html")
    assert "job=y" in (tmp_path / "n.html").read_text("utf-8")


def test_numbers_are_written_for_people():
    assert [number(x) for x in (0.0, 1.5, -2.25, 12345, 123456.0, 3e-7, -1e-12)] == [
        "0", "1.5", "−2.25", "12\u202f345", "1.23\u202f×\u202f10<sup>5</sup>",
        "3.00\u202f×\u202f10<sup>−7</sup>", "−1.00\u202f×\u202f10<sup>−12</sup>",
    ]  # fmt: skip
    assert [number(x) for x in (float("nan"), float("inf"), -float("inf"))] == ["—", "∞", "−∞"]


@pytest.mark.filterwarnings("ignore:Glyph")
def test_report_command(run_command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    factor = make_factor()
    save_factor(factor, "f.h5")
    check = (
        "import sys; from hesscomp.cli.main import main\n"
        "status = main(['report', 'f.h5', '--out', 'r.html'])\n"
        "heavy = {'tensorflow', 'keras', 'mpi4py'} & sys.modules.keys()\n"
        "sys.exit(f'loads {heavy}' if heavy else status)\n"
    )
    done = run_command([sys.executable, "-c", check], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout) == (0, "wrote r.html\n"), done.stderr
    assert Path("r.html").read_text("utf-8") == page(factor, "f.h5")
    assert main(["plot", "f.h5", "--out", "p.png"]) == 0  # with the energies as a third panel
    Path("bad.h5").write_bytes(b"\x89HDF\r\n\x1a\nnonsense")
    before = sorted(Path().iterdir())
    capsys.readouterr()
    for arguments, words in (
        (["none.h5", "--out", "o.html"], "none.h5"),
        (["bad.h5", "--out", "o.html"], "bad.h5"),
        (["f.h5", "--out", "o.pdf"], ".html"),
        (["f.h5", "--out", "no/o.html"], "folder"),
    ):
        assert main(["report", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("hesscomp: error: ") and error.count("\n") == 1 and words in error
    assert sorted(Path().iterdir()) == before


def test_help(capsys):
    for command in ("report", "spectrum", "update"):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
    assert "--bins" not in capsys.readouterr().out.split("usage: hesscomp update")[1]


# Commands that multiply: all of them in one process for each number of ranks

N, ROWS, FIRST = 300, 500, 400
RUN = """
import json, sys
from hesscomp.cli.main import main
statuses = []
for command in json.loads(sys.argv[1]):
    statuses.append(main(command))
    sys.stdout.flush()
sys.stderr.flush()
from hesscomp.parallel.world import World
if World().rank == 0:
    json.dump(statuses, open("statuses.json", "w"))
"""
SOLVE = ["--dtype", "float64"]
GOOD = {
    "compress": ["--data", "old.npz", "--rank", "20", "--at", "x.npy", "--ridge", "1e-2",
                 "--out", "old.h5"],
    "update": ["old.h5", "--data", "new.npz", "--rank", "8", "--out", "new.h5", "--json",
               "new.json"],
    "update in place": ["new.h5", "--data", "new.npz", "--rank", "8", "--at", "zero", "--out",
                        "new2.h5"],
    "spectrum": ["--data", "new.npz", "--at", "x.npy", "--factor", "old.h5", "--shift", "0.01",
                 "--bins", "200", "--out", "exact.png", "--json", "exact.csv"],
    "spectrum, exact": ["--data", "new.npz", "--at", "x.npy", "--shift", "0.01", "--out",
                        "exact.svg", "--json", "exact.json"],
    "spectrum, sampled": ["--data", "new.npz", "--at", "x.npy", "--probes", "8", "--steps", "30",
                          "--seed", "4", "--shift", "0.01", "--out", "slq.png", "--json",
                          "slq.json"],
    "spectrum, shift": ["--data", "new.npz", "--shift", "-1", "--out", "kept.png"],
}  # fmt: skip
BAD = {
    "update": (["old.h5", "--data", "narrow.npz", "--at", "zero"], "n = 300"),
    "update, point": (["old.h5", "--data", "narrow.npz"], "old.h5"),
    "update, blocks": (["blocks.h5", "--data", "new.npz"], "parameter block kernel"),
    "update, no point": (["bare.h5", "--data", "new.npz"], "--at"),
    "update, ridge": (["bare.h5", "--data", "new.npz", "--at", "zero"], "--ridge"),
    "update, method": (["old.h5", "--data", "new.npz", "--method", "nystrom"], "krylov"),
    "update, rank": (["old.h5", "--data", "new.npz", "--rank", "0"], "rank must be"),
    "update, file": (["none.h5", "--data", "new.npz"], "none.h5"),
    "spectrum": (["--data", "new.npz", "--factor", "narrow.h5"], "n = 3"),
    "spectrum, probes": (["--data", "new.npz", "--probes", "1"], "--probes"),
    "spectrum, bins": (["--data", "new.npz", "--bins", "1"], "--bins"),
    "spectrum, curve": (["--data", "new.npz", "--json", "c.txt"], ".csv"),
    "spectrum, nan": (["--data", "new.npz", "--shift", "nan"], "--shift"),
}


def command_lines() -> list[list[str]]:
    lines = [[name.split()[0].strip(","), *words, *SOLVE] for name, words in GOOD.items()]
    for name, (words, _) in BAD.items():
        command = name.split(",")[0]
        out = "bad.png" if command == "spectrum" else "bad.h5"
        lines.append([command, *words, "--out", out, *SOLVE])
    return lines


def hessian(X, x) -> np.ndarray:
    """Of the mean logistic loss, without the ridge."""
    p = 1 / (1 + np.exp(-X @ x))
    return (X.T * (p * (1 - p))) @ X / len(X)


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.slow), 2])
def worked(request, run_command, mpiexec, tmp_path_factory):
    """The folder in which all commands have run, what they wrote, and the dense Hessians."""
    folder = tmp_path_factory.mktemp(f"ranks{request.param}")
    rng = np.random.default_rng(8)
    X = rng.standard_normal((ROWS, N)) * 0.97 ** np.arange(N)
    x = 0.5 * rng.standard_normal(N)
    y = np.where(X[:, 0] + 0.3 * rng.standard_normal(ROWS) > 0, 1, -1)
    np.savez(folder / "new.npz", X=X, y=y)
    np.savez(folder / "old.npz", X=X[:FIRST], y=y[:FIRST])
    np.savez(folder / "narrow.npz", X=X[:, :5], y=y)
    np.save(folder / "x.npy", x)
    factor = LowRank(np.ones(1), np.eye(N, 1), certificate=Certificate(0.0, 1.0))
    save_factor(factor, folder / "bare.h5")
    blocks = (("kernel", (N - 1,), 0), ("bias", (1,), N - 1))
    save_factor(
        replace(factor, blocks=blocks, parameters=x, provenance=Provenance(ridge=0.0)),
        folder / "blocks.h5",
    )
    save_factor(
        LowRank(np.ones(1), np.eye(3, 1), certificate=Certificate(0.0, 1.0)), folder / "narrow.h5"
    )
    launcher = [] if request.param == 1 else [mpiexec, "-n", str(request.param)]
    done = run_command(
        [*launcher, sys.executable, "-c", RUN, json.dumps(command_lines())],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert (folder / "statuses.json").exists(), done.stdout + done.stderr
    return folder, done, X, x


def test_exit_statuses_and_one_line_for_each_error(worked):
    folder, done, *_ = worked
    statuses = json.loads((folder / "statuses.json").read_text())
    assert statuses == [0] * 6 + [2] * (1 + len(BAD)), done.stdout + done.stderr
    # A slow machine shows progress, too.
    errors = [line for line in done.stderr.splitlines() if "product columns" not in line]
    assert len(errors) == 1 + len(BAD), done.stderr
    for error, words in zip(
        errors, ["--shift", *(words for _, words in BAD.values())], strict=True
    ):
        assert error.startswith("hesscomp: error: ") and words in error
    assert (folder / "kept.png").exists()  # the picture of a spectrum that has no logarithm
    assert not list(folder.glob("*bad.*")) and not list(folder.glob(".*"))


def test_update_against_the_dense_hessian(worked):
    folder, done, X, x = worked
    old, new = load_factor(folder / "old.h5"), load_factor(folder / "new.h5")
    H = hessian(X, x)

    def error(factor, A):
        return np.linalg.norm(A - factor @ np.eye(N))

    def best(factor, A):  # any correction of rank 8 leaves at least this of A
        left = np.abs(np.linalg.eigvalsh(A - factor @ np.eye(N)))
        return np.linalg.norm(np.sort(left)[:-8])

    assert old.rank == 20 and new.rank == 28
    assert np.abs(new.eigenvectors.T @ new.eigenvectors - np.eye(28)).max() <= 1e-12
    np.testing.assert_array_equal(new.parameters, x)  # the file's own point
    assert 1 - 1e-12 <= error(new, H) / best(old, H) < 1.05
    assert 0.5 <= new.certificate.frobenius_error_estimate / error(new, H) <= 2
    assert new.certificate.residual_norms is None
    norm = new.certificate.frobenius_norm_estimate
    assert norm == pytest.approx(np.linalg.norm(H), rel=5e-2)
    source = new.provenance
    assert source.columns < old.provenance.columns and source.rows == ROWS
    assert source.ridge == 1e-2 and source.data_fingerprint != old.provenance.data_fingerprint
    assert (old.provenance.seed, source.seed) == (0, 1)
    for words in ("update of old.h5", "rank 20", f"{FIRST} rows"):
        assert words in source.method
    assert f"{source.columns} product columns and " in done.stdout
    assert f"old.h5: {old.provenance.columns} product columns and " in done.stdout
    report = json.loads((folder / "new.json").read_text())
    assert report["command"] == "update" and report["ledger"]["columns"] >= source.columns
    moved = load_factor(folder / "new2.h5")  # a drifted point
    H0 = X.T @ X / (4 * ROWS)
    assert not moved.parameters.any()
    assert 0.5 <= moved.certificate.frobenius_error_estimate / error(moved, H0) <= 2
    assert 1 - 1e-12 <= error(moved, H0) / best(new, H0) < 1.05


def test_exact_spectrum_against_the_dense_hessian(worked):
    folder, done, X, x = worked
    w = np.linalg.eigvalsh(hessian(X, x))
    report = json.loads((folder / "exact.json").read_text())
    estimates = {name: estimate["value"] for name, estimate in report["estimates"].items()}
    assert estimates["trace"] == pytest.approx(w.sum(), rel=1e-10)
    assert estimates["frobenius_norm"] == pytest.approx(np.linalg.norm(w), rel=1e-10)
    assert estimates["logdet"] == pytest.approx(np.log(w + 0.01).sum(), rel=1e-10)
    assert estimates["negative"] == 0
    extremes = report["smallest_ritz_value"], report["largest_ritz_value"]
    np.testing.assert_allclose(extremes, w[[0, -1]], atol=1e-12)
    curve = np.loadtxt(folder / "exact.csv", delimiter=",", skiprows=1)
    assert curve.shape == (200, 4) and len(report["density"]) == 512
    width, ((low, high),) = report["width"], report["sides"]
    assert (low, high) == (curve[0, 0], curve[-1, 0]) and low >= 0  # a convex problem
    images = curve[:, :1], 2 * low - curve[:, :1], 2 * high - curve[:, :1]
    kernels = (np.exp(-0.5 * ((at - w) / width) ** 2) for at in images)
    expected = sum(kernels).mean(axis=1) / (width * np.sqrt(2 * np.pi))
    for column in (1, 2, 3):  # nothing was random: the band has no width
        np.testing.assert_allclose(curve[:, column], expected, rtol=1e-8, atol=1e-10)
    assert (folder / "exact.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "exact.svg").read_text()
    assert "note: old.h5 was made from other data" in done.stdout and "(exact)" in done.stdout


def test_sampled_spectrum_within_its_errors(worked):
    folder, _, X, x = worked
    w = np.linalg.eigvalsh(hessian(X, x))
    report = json.loads((folder / "slq.json").read_text())
    estimates = report["estimates"]
    assert estimates["logdet"]["method"] == "slq" and estimates["logdet"]["columns"] == 240
    assert report["ledger"]["columns"] == 240 + 64 + 64
    for name, value in (
        ("trace", w.sum()),
        ("frobenius_norm", np.linalg.norm(w)),
        ("logdet", np.log(w + 0.01).sum()),
        ("negative", 0.0),
    ):
        off = abs(estimates[name]["value"] - value)
        assert off <= 4 * estimates[name]["standard_error"] + estimates[name]["truncation_error"]
    area = np.trapezoid(report["density"], report["eigenvalue"])
    assert area == pytest.approx(1, rel=1e-2)
    lower, upper = np.array(report["lower"]), np.array(report["upper"])
    assert np.all(lower <= report["density"]) and np.all(report["density"] <= upper)
    assert (upper > lower).any()


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_ranks(worked):
    folder, *_ = worked
    serial = next(folder.parent.glob("ranks1*"))
    with h5py.File(folder / "new.h5") as here, h5py.File(serial / "new.h5") as there:
        difference = here["eigenvalues"][:] - there["eigenvalues"][:]
        assert np.abs(difference).max() <= 1e-10
    here, there = (json.loads((at / "slq.json").read_text()) for at in (folder, serial))
    np.testing.assert_allclose(here["density"], there["density"], rtol=1e-7, atol=1e-9)
