"""The command line as users call it: results, files, exit statuses, one-line errors."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.linalg import subspace_angles

from hesscomp.cli.arguments import warn_of_old_names
from hesscomp.cli.main import main, parse
from hesscomp.factors import Certificate, LowRank, Provenance, load_factor, save_factor
from hesscomp.parallel.world import World

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_csv(path, rows=60, n=4, seed=0, bad=None):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, n))
    y = (X[:, 0] + 0.5 * rng.standard_normal(rows) > 0).astype(int)
    lines = [",".join(f"f{j}" for j in range(n)) + ",label"]
    lines += [
        ",".join(f"{value:.6f}" for value in row) + f",{label}"
        for row, label in zip(X, y, strict=True)
    ]
    if bad is not None:
        lines[bad[0]] = bad[1]
    path.write_text("\n".join(lines) + "\n")


def test_newton_on_two_ranks_end_to_end(run_command, in_tmp):
    """As `jobs/adult_newton.sh` starts it."""
    if not (Path(sys.prefix) / "bin" / "hesscomp").exists():
        pytest.skip("hesscomp is not installed in this environment (make install)")
    done = run_command(
        [ROOT / "jobs" / "adult_newton.sh", 2, "--dtype", "float64", "--tol", "1e-9"],
        env={"HESSCOMP_VENV": sys.prefix, "OUT": "."},
        cwd=in_tmp,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    report = json.loads((in_tmp / "adult-report.json").read_text())
    assert abs(report["objective"] - 0.326523399290756) <= 1e-12
    assert report["gradient_norm"] <= 1e-9 and report["converged"] is True
    assert report["iterations"] <= 8 and report["ranks"] == 2
    assert round(report["train_accuracy"], 5) == 0.85212
    assert round(report["test_accuracy"], 5) == 0.85302
    assert {"startup", "compile", "solve"} <= report["seconds"].keys()
    assert report["history"][0]["iteration"] == 0
    assert set(report["history"][-1]) == {
        "iteration", "objective", "gradient_norm", "step", "cg_iterations", "factor_rank",
        "factor_error", "passes", "words_reduced", "seconds",
    }  # fmt: skip
    assert {"columns", "passes", "reductions", "words_reduced", "seconds"} <= report[
        "ledger"
    ].keys()
    assert (in_tmp / "adult-convergence.png").read_bytes().startswith(b"\x89PNG")
    reader = (  # a laptop without hesscomp
        "import h5py, numpy, sys; f = h5py.File('adult-factor.h5');"
        "U, w = f['eigenvectors'][:], f['eigenvalues'][:];"
        "departure = abs(U.T @ U - numpy.eye(len(w))).max();"
        "print(f.attrs['format'], U.shape, departure < 1e-12);"
        "assert 'hesscomp' not in sys.modules"
    )
    shown = subprocess.run(
        [sys.executable, "-c", reader], cwd=in_tmp, capture_output=True, text=True
    )
    assert shown.stdout.split("\n")[0] == "hesscomp-factor (109, 40) True"
    table = done.stdout
    for words in ("converged after", "||gradient||", "wrote factor: ./adult-factor.h5"):
        assert words in table
    assert main(["inspect", "adult-factor.h5"]) == 0
    assert main(["plot", "adult-factor.h5", "--out", "s.png"]) == 0
    assert main(["plot", "adult-report.json", "--out", "c.svg"]) == 0
    np.save("g.npy", np.ones(109))
    words = ["--rhs", "g.npy", "--shift", "1e-3", "--out", "d.npy"]
    assert main(["solve", "adult-factor.h5", *words]) == 0
    with h5py.File("adult-factor.h5") as file:
        U, w = file["eigenvectors"][:], file["eigenvalues"][:]
        assert file["provenance"].attrs["ranks"] == 2 and file["provenance"].attrs["ridge"] == 1e-3
    matrix = (U * (w - w[-1])) @ U.T + (w[-1] + 1e-3) * np.eye(109)
    np.testing.assert_allclose(np.load("d.npy"), np.linalg.solve(matrix, np.ones(109)), rtol=1e-8)


def test_compress_and_use_the_point_of_another_factor(in_tmp):
    write_csv(in_tmp / "d.csv", rows=7)
    assert main(["compress", "--data", "d.csv", "--rank", "2", "--out", "a.h5"]) == 0
    words = ["compress", "--data", "d.csv", "--tolerance", "0.5", "--at", "a.h5"]
    assert main([*words, "--out", "b.h5", "--json", "b.json"]) == 0
    assert json.loads((in_tmp / "b.json").read_text())["certificate"]["converged"] is True


def test_a_missed_tolerance_is_written_and_exits_with_3(in_tmp):
    words = ["compress", "--data", "adult", "--tolerance", "1e-6", "--max-rank", "5"]
    assert main([*words, "--out", "f.h5"]) == 3
    with h5py.File(in_tmp / "f.h5") as file:
        assert not file["certificate"].attrs["converged"] and file.attrs["rank"] == 5


BAD_CALLS = {
    "missing file": (["newton", "--data", "none.csv"], "none.csv"),
    "nan": (["newton", "--data", "nan.csv"], "row 7"),
    "columns": (["newton", "--data", "columns.csv"], "row 50"),
    "label": (["newton", "--data", "label.csv"], "row 3"),
    "output folder": (
        ["newton", "--data", "good.csv", "--json", "no/such/r.json"],
        "no/such/r.json",
    ),
    "picture": (["newton", "--data", "good.csv", "--plot", "p.xyz"], ".png"),
    "point": (
        ["compress", "--data", "good.csv", "--at", "short.npy", "--out", "o.h5"],
        "parameters",
    ),
    "ridge": (["newton", "--data", "good.csv", "--ridge", "-1"], "ridge"),
    "features": (["newton", "--data", "good.csv", "--features", "fourier"], "--feature-count"),
    "gamma": (["newton", "--data", "good.csv", "--gamma", "0.5"], "--step fixed"),
    "power": (["newton", "--data", "good.csv", "--power", "-1"], "power must be at least 0"),
    "method": (["newton", "--data", "good.csv", "--method", "eigh"], "--method goes with"),
    "trained": (
        ["train", "--data", "good.csv", "--optimizer", "sgd", "--at", "trained"],
        "--at trained: training must start elsewhere",
    ),
    "rank": (["compress", "--data", "good.csv", "--rank", "0", "--out", "o.h5"], "rank must be"),
    "threads": (["newton", "--data", "good.csv", "--threads", "0"], "--threads"),
    "same output": (
        ["newton", "--data", "good.csv", "--json", "r", "--factor-out", "r"],
        "same name",
    ),
}


@pytest.fixture
def bad_input(in_tmp):
    """A folder of files that are good or bad, in which a refused command has written nothing."""
    write_csv(in_tmp / "good.csv")
    write_csv(in_tmp / "nan.csv", bad=(7, "1,2,nan,4,1"))
    write_csv(in_tmp / "columns.csv", bad=(50, "1,2,1"))
    write_csv(in_tmp / "label.csv", bad=(3, "1,2,3,4,maybe"))
    np.save(in_tmp / "short.npy", np.zeros(3))
    before = sorted(path.name for path in in_tmp.iterdir())
    yield in_tmp
    assert sorted(path.name for path in in_tmp.iterdir()) == before


def check_refusal(case: str, status: int, error: str) -> None:
    lines = [line for line in error.splitlines() if line.strip()]
    assert status == 2 and len(lines) == 1
    assert lines[0].startswith("hesscomp: error: ") and BAD_CALLS[case][1] in lines[0]


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_input_is_refused_in_one_line(case, bad_input, capsys):
    status = main(BAD_CALLS[case][0])
    check_refusal(case, status, capsys.readouterr().err)


# In the options, before any rank reads; in a row of one rank; in a point that rank 0 reads.
@pytest.mark.parametrize(
    "case", ["missing file", "label", pytest.param("point", marks=pytest.mark.slow)]
)
def test_bad_input_ends_all_ranks_with_one_line(case, run_ranks, bad_input):
    done = run_ranks(3, BAD_CALLS[case][0], cwd=bad_input, timeout=120)
    check_refusal(case, done.returncode, done.stderr)


def test_serial_commands_refuse_bad_files_in_one_line(in_tmp, capsys):
    (in_tmp / "bad.h5").write_bytes(b"\x89HDF\r\n\x1a\nnonsense")
    (in_tmp / "bad.json").write_text("{")
    np.save("g.npy", np.ones(3))
    for name, n in (("good.h5", 3), ("other.h5", 4)):
        save_factor(LowRank(np.ones(1), np.eye(n, 1), certificate=Certificate(0.0, 1.0)), name)
    for arguments in (
        ["inspect", "none.h5"], ["inspect", "bad.h5"], ["plot", "bad.json", "--out", "p.png"],
        ["plot", "bad.h5", "--out", "p.txt"], ["plot", "bad.h5", "--out", "no/p.png"],
        ["solve", "bad.h5", "--rhs", "g.npy", "--shift", "1", "--out", "d.npy"],
        ["compare", "good.h5", "none.h5"], ["compare", "good.h5", "bad.h5"],
        ["compare", "good.h5", "other.h5"], ["compare", "good.h5", "good.h5", "--subspace", "2"],
        ["compare", "good.h5", "good.h5", "--plot", "p.txt"],
        ["compare", "good.h5", "good.h5", "--json", "p.png", "--plot", "p.png"],
    ):  # fmt: skip
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("hesscomp: error: ") and error.count("\n") == 1


def test_compare_two_factor_files(in_tmp, capsys):
    rng = np.random.default_rng(0)
    certificate = Certificate(0.1, 4.0)
    U, V = (np.linalg.qr(rng.standard_normal((9, k)))[0] for k in (3, 2))
    save_factor(
        LowRank(np.array([3.0, -2, 1]), U, certificate=certificate, provenance=Provenance(seed=1)),
        "f.h5",
    )
    save_factor(
        LowRank(np.array([3.0, 2.5]), V, certificate=certificate, provenance=Provenance(seed=2)),
        "g.h5",
    )
    assert main(["compare", "f.h5", "g.h5", "--json", "r.json", "--plot", "p.png"]) == 0
    table = capsys.readouterr().out
    difference = (U * [3, -2, 1]) @ U.T - (V * [3, 2.5]) @ V.T
    assert f"||F - G||_F       {np.linalg.norm(difference):.3e}, " in table
    for line in ("2           -2    2.5   -4.50e+00   -1.80e+00", "seed        1     2"):
        assert line in table
    report = json.loads((in_tmp / "r.json").read_text())
    assert (report["n"], report["ranks"], report["files"]) == (9, [3, 2], ["f.h5", "g.h5"])
    assert report["eigenvalues"] == [[3, -2, 1], [3, 2.5]]
    assert report["provenance"] == {"seed": [1, 2]}
    np.testing.assert_allclose(report["spectral_distance"], np.linalg.norm(difference, 2))
    angles = np.degrees(subspace_angles(U[:, :2], V))
    np.testing.assert_allclose(report["angles_degrees"], angles, rtol=1e-6)
    assert (in_tmp / "p.png").read_bytes().startswith(b"\x89PNG")
    assert main(["compare", "f.h5", "f.h5", "--leading", "1"]) == 0
    assert "the same" in capsys.readouterr().out


def test_help_and_usage(capsys):
    for arguments in (["--help"], ["newton", "--help"], ["compress", "--help"], ["--version"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
    assert main([]) == 2
    for arguments in (
        ["nonsense"],
        ["newton"],
        ["compress", "--data", "x", "--rank", "1", "--tolerance", "1"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    capsys.readouterr()


@pytest.mark.parametrize("error", [BrokenPipeError(), KeyboardInterrupt()])
@pytest.mark.parametrize(
    ("command", "table"), [("problems", "serial.problem_table"), ("data", "data.data_table")]
)
def test_nobody_reads_or_waits_any_more(monkeypatch, capsys, command, table, error):
    """Quietly where the reader has gone, in a line where Ctrl-C ends what has no steps."""

    def fails(*_):
        raise error

    monkeypatch.setattr(f"hesscomp.cli.{table}", fails)
    monkeypatch.setattr(World, "abort", lambda world, status: sys.exit(status))
    words = ["data", "adult"] if command == "data" else [command]
    pressed = isinstance(error, KeyboardInterrupt)
    try:
        status = main(words)
    except SystemExit as ended:
        status = ended.code
    said = capsys.readouterr()
    assert status == (130 if pressed else 141) and said.out == ""
    assert said.err.startswith("hesscomp: interrupted") if pressed else said.err == ""


def test_a_killed_rank_ends_the_others_and_leaves_no_file(run_command, mpiexec, in_tmp):
    script = (
        "import os, sys; from hesscomp.cli import main as m\n"
        "from hesscomp.parallel.world import World\n"
        "import hesscomp.optimizers.newton as n\n"
        "w = World(); inner = n.conjugate_gradients\n"
        "def dies(*a, **k):\n"
        "    if w.rank == 1: os.kill(os.getpid(), 9)\n"
        "    return inner(*a, **k)\n"
        "n.conjugate_gradients = dies\n"
        "a = ['newton', '--data', 'adult', '--solver', 'pcg', '--factor-out', 'f.h5']\n"
        "sys.exit(m.main(a))\n"
    )
    (in_tmp / "run.py").write_text(script)
    done = run_command([mpiexec, "-n", "2", sys.executable, "run.py"], cwd=in_tmp, timeout=100)
    assert done.returncode != 0
    assert [path.name for path in in_tmp.iterdir()] == ["run.py"]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["hbs", "hodlr"])
def test_a_killed_rank_loses_no_product(run_command, mpiexec, in_tmp, form):
    """The run folder keeps what was multiplied: the same command makes the bits of a whole run."""
    script = (
        "import os, sys; from hesscomp.cli import main as m\n"
        "from hesscomp.parallel.world import World\n"
        "from hesscomp.curvature.journal import Journaled\n"
        "w, made, inner = World(), [], Journaled.block_product\n"
        "def dies(*a, **k):\n"
        "    made.append(0)\n"
        "    if w.rank == 1 and len(made) == 2 and '--die' in sys.argv: os.kill(os.getpid(), 9)\n"
        "    return inner(*a, **k)\n"
        "Journaled.block_product = dies\n"
        "a = ['compress', '--data', 'adult', '--tolerance', '0.05', '--leaf-size', '8',\n"
        "     '--format', sys.argv[1], '--out', sys.argv[2], '--run', sys.argv[3]]\n"
        "sys.exit(m.main(a))\n"
    )
    (in_tmp / "run.py").write_text(script)
    command = [mpiexec, "-n", "2", sys.executable, "run.py", form]
    whole = run_command([*command, "whole.h5", "other"], cwd=in_tmp, timeout=100)
    assert whole.returncode == 0, whole.stderr
    died = run_command([*command, "f.h5", "run", "--die"], cwd=in_tmp, timeout=100)
    assert died.returncode != 0 and not (in_tmp / "f.h5").exists()
    kept = len(list((in_tmp / "run").glob("product-*.h5")))
    assert kept == 1
    again = run_command([*command, "f.h5", "run"], cwd=in_tmp, timeout=100)
    assert again.returncode == 0, again.stderr
    first, second = (load_factor(in_tmp / name) for name in ("whole.h5", "f.h5"))
    assert first.kind == form
    for name in first.arrays:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["replicated", "rows"])
def test_reproducible_factors_on_one_and_three_ranks(run_ranks, tmp_path, layout):
    request = ["compress", "--data", "adult", "--rank", "8", "--method", "eigh", "--threads", "1"]
    factors = []
    for ranks in (1, 3):
        out = tmp_path / f"{ranks}.h5"
        options = ["--reproducible", "--layout", layout, "--out", out]
        done = run_ranks(ranks, [*request, *options])
        assert done.returncode == 0, done.stderr
        factors.append(load_factor(out))
    first, second = factors
    np.testing.assert_array_equal(first.eigenvalues, second.eigenvalues)
    np.testing.assert_array_equal(first.eigenvectors, second.eigenvectors)
    assert first.provenance.reproducible and first.provenance.threads == 1
    if layout == "rows":
        assert main(["repack", str(out)]) == 0
        assert not list(tmp_path.glob("3.h5.*.slab"))
        np.testing.assert_array_equal(load_factor(out).eigenvectors, first.eigenvectors)


def test_names_of_the_last_version_are_accepted_with_a_warning(caplog):
    words = ["newton", "--data", "adult", "--max-iter", "2", "--report=r.json"]
    options = parse(words)
    assert (options.max_iterations, options.json) == (2, "r.json")
    warn_of_old_names(options)
    assert [record.getMessage() for record in caplog.records] == [
        "--max-iter is now --max-steps; the next version refuses --max-iter",
        "--report is now --json; the next version refuses --report",
    ]
    assert not parse(["newton", "--data", "adult", "--max-steps", "2"]).renamed


def test_format_is_the_factors_and_was_the_datas(capsys):
    words = ["compress", "--data", "d.csv", "--out", "f.h5", "--format"]
    options = parse([*words, "csv"])
    assert (options.format, options.factor_format, len(options.renamed)) == ("csv", "low-rank", 1)
    options = parse([*words, "hbs"])
    assert (options.format, options.factor_format, options.renamed) == (None, "hbs", [])
    options = parse([*words[:-1], "--factor-format=hodlr", "--format=npz"])
    assert (options.format, options.factor_format, len(options.renamed)) == ("npz", "hodlr", 2)
    with pytest.raises(SystemExit):
        parse([*words, "hss"])
    assert "argument --format: invalid choice: 'hss'" in capsys.readouterr().err
