"""Every option of every command does something: it changes what is said or written, or is refused.

The options come from the parsers themselves, so that a new one fails here until it has an entry in
`TABLE`. The clock stands still, so that equal runs say and write the same.
"""

import itertools
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from hesscomp.cli import session
from hesscomp.cli.commands import PURPOSES
from hesscomp.cli.main import COMMANDS, _parser, main
from hesscomp.runs.journal import Journal

ROWS, FEATURES = 40, 30
RUNS = [name for name in COMMANDS if name not in PURPOSES["serve"]]  # those need a service


@dataclass(frozen=True)
class Case:
    """A value for an option, and where it takes effect.

    Attributes
    ----------
    words : str
        The option with its value, and what it needs beside it.
    base : str or None
        The command in which it changes the outcome of a run that succeeds; None for the command's
        first base. In the first base it must change the outcome too, or be refused.
    refused : bool
        Whether it succeeds nowhere at this size.
    idle : bool
        Whether the first base does the same by nature: the value is what is found out there, or it
        would take effect where the run goes otherwise. It is accepted then.
    """

    words: str
    base: str | None = None
    refused: bool = False
    idle: bool = False


LOGISTIC = "--data d.csv"
MODEL = "--model m.keras --loss sigmoid-cross-entropy --data d.csv"
SQUARED = "--model m.keras --loss squared-error --data d.csv"
NAMED = "--problem adult-mlp --data d.csv"
DENSE = "--threads 2", "--comm-timeout 77", "--reproducible"
# Options that show at no size that a test can afford: what they are handed to must have them.
HANDED = ("--threads", "--comm-timeout", "--reproducible", "--check", "--memory-limit", "--timeout")


def rank_options(*names: str) -> dict[str, Case]:
    return {word.split()[0]: Case(word) for word in DENSE if word.split()[0] in names or not names}


def data_options(start: str, end: str) -> dict[str, Case]:
    """Those of `add_data_arguments` in a command that starts and ends so."""
    return {
        "--data": Case("--data e.csv"),
        "--data-format": Case("--data-format hdf5", refused=True),
        "--label": Case("--label f0"),
        **table_options(start, end),
        "--intercept": Case("--intercept"),
        "--features": Case("--features fourier --feature-count 20 --bandwidth 2"),
        "--feature-count": Case(
            "--feature-count 10",
            f"{start} --data d.csv --features fourier --feature-count 20 --bandwidth 2 {end}",
        ),
        "--bandwidth": Case(
            "--bandwidth 3",
            f"{start} --data d.csv --features fourier --feature-count 20 --bandwidth 2 {end}",
        ),
    }


def table_options(start: str, end: str, refused: bool = False) -> dict[str, Case]:
    """Those of rows that no factor and no model fits which has other columns."""
    gaps = f"{start} --data gaps.csv --missing drop {end}"
    return {
        "--weights": Case("--weights f0", refused=refused),
        "--offset": Case("--offset f1", refused=refused),
        "--missing": Case("--missing level", gaps, refused, idle=True),
        "--categories": Case("--categories f1", refused=refused),
        "--ignore": Case("--ignore f1", refused=refused),
        "--memory-map": Case("--memory-map", refused=True),  # of a CSV file
    }


def problem_options() -> dict[str, Case]:
    return {
        "--ridge": Case("--ridge 0.5"),
        "--dtype": Case("--dtype float64"),
        "--seed": Case("--seed 5"),
        **rank_options(),
    }


def subject_options(start: str, end: str) -> dict[str, Case]:
    model, squared = f"{start} {MODEL} {end}", f"{start} {SQUARED} {end}"
    return {
        "--problem": Case("--problem adult-mlp", refused=True),
        "--viscosity": Case("--viscosity 0.01", refused=True),
        "--model": Case("--model m.keras --loss squared-error"),
        "--loss": Case("--loss squared-error", model),
        "--targets": Case("--targets signs", squared, idle="figure" in start),
        "--engine": Case("--engine generic", model),
        "--check": Case("--check off", model),
        "--memory-limit": Case("--memory-limit 40K", model),
        **data_options(start, end),
    }


def sketch_options(start: str, end: str) -> dict[str, Case]:
    krylov = f"{start} --method krylov --block 2 {end}"
    return {
        "--method": Case("--method eigh", f"{start} {end}"),
        "--test-matrix": Case("--test-matrix srtt", f"{start} {end}"),
        "--oversample": Case("--oversample 2", f"{start} {end}", idle="newton" in start),
        "--power": Case("--power 0", f"{start} {end}"),
        "--layout": Case("--layout rows", f"{start} {end}"),
        "--panel": Case("--panel 2", f"{start} --layout rows {end}"),
        "--block": Case("--block 3", krylov, idle="update" in start),
        "--max-columns": Case("--max-columns 6", krylov),
        "--max-basis": Case("--max-basis 4", krylov, idle="update" in start),
        "--residual-tolerance": Case("--residual-tolerance 0.5", krylov, idle="update" in start),
    }


def operator_options(start: str, end: str) -> dict[str, Case]:
    model = f"{start} {MODEL} {end}"
    fisher = f"{model} --operator monte-carlo-fisher"
    return {
        "--operator": Case("--operator ggn", model),
        "--fisher-samples": Case("--fisher-samples 3", fisher),
        "--fisher-seed": Case("--fisher-seed 9", fisher),
        "--blocks": Case("--blocks hidden", model),
        "--sample": Case("--sample 0.5"),
        "--at": Case("--at x.npy"),
        "--epochs": Case("--epochs 2", f"{start} {MODEL} {end} --at trained --epochs 1"),
        "--save-point": Case("--save-point point.npy"),
    }


COMPRESS = "compress --rank 3 --oversample 1", "--out f.h5 --json r.json"
HBS = "compress --rank 1 --format hbs --data d.csv --out f.h5 --json r.json"
UPDATE = "update f0.h5 --rank 2 --oversample 1", "--out f.h5 --json r.json"
UPDATE_MODEL = "update m0.h5 --rank 2", "--out f.h5 --json r.json"
DIAGONAL = "diagonal --columns 8", "--out f.h5 --json r.json"
SPECTRUM = "spectrum --probes 2 --steps 3", "--out p.png --json c.json"
TRAIN = "train --optimizer newton-cg --max-steps 3", ""
SENSITIVITY = "sensitivity --leverage --damping 5 --leading 3", "--at zero --json r.json"
FIGURE = "figure mnist-hessian --rank 3", "--at zero --out p.png --json r.json"
NEWTON = "newton --max-steps 4", "--json r.json"
PLAN = "plan --n 1e6 --rows 1e5 --ranks 4"
JOB_END = "-- compress --data d.csv --out f.h5"

TABLE: dict[str, tuple[str, dict[str, Case]]] = {
    "compress": (
        f"{COMPRESS[0]} {LOGISTIC} {COMPRESS[1]}",
        {
            **subject_options(*COMPRESS),
            "--rank": Case("--rank 4"),
            "--tolerance": Case("--tolerance 0.1", "compress --data d.csv --out f.h5"),
            "--tolerance-norm": Case(
                "--tolerance-norm spectral", "compress --tolerance 0.3 --data d.csv --out f.h5"
            ),
            "--max-rank": Case("--max-rank 2", "compress --tolerance 0.1 --data d.csv --out f.h5"),
            "--which": Case("--which SA"),
            "--format": Case("--format hbs"),
            "--ordering": Case("--ordering clusters", HBS),
            "--leaf-size": Case("--leaf-size 5", HBS),
            "--sketch-columns": Case("--sketch-columns 7", HBS),
            "--passes": Case("--passes 1", HBS.replace("hbs", "hodlr")),
            **operator_options(*COMPRESS),
            **sketch_options(f"{COMPRESS[0]} {LOGISTIC}", COMPRESS[1]),
            **problem_options(),
            "--out": Case("--out other.h5"),
            "--json": Case("--json other.json"),
            "--run": Case("--run run"),
        },
    ),
    "update": (
        f"{UPDATE[0]} {LOGISTIC} {UPDATE[1]}",
        {
            **subject_options(*UPDATE_MODEL),
            **data_options(*UPDATE),
            **table_options(*UPDATE, refused=True),
            "--intercept": Case("--intercept", refused=True),
            "--problem": Case("--problem adult-mlp", refused=True),
            "--model": Case("--model m.keras --loss squared-error", refused=True),
            "--features": Case("--features fourier --feature-count 30 --bandwidth 2"),
            "--feature-count": Case("--feature-count 10", refused=True),
            "--bandwidth": Case("--bandwidth 3", refused=True),
            "--by": Case("--by refit"),
            "--rank": Case("--rank 4"),
            "--tolerance": Case(
                "--tolerance 0.3", f"update f0.h5 --by refit {LOGISTIC} --out f.h5 --json r.json"
            ),
            "--max-rank": Case("--max-rank 2"),
            **operator_options(*UPDATE_MODEL),
            "--blocks": Case("--blocks hidden", refused=True),
            **sketch_options(f"{UPDATE[0]} {LOGISTIC}", UPDATE[1]),
            **problem_options(),
            "--out": Case("--out other.h5"),
            "--json": Case("--json other.json"),
            "--run": Case("--run run"),
        },
    ),
    "diagonal": (
        f"{DIAGONAL[0]} {LOGISTIC} {DIAGONAL[1]}",
        {
            **subject_options(*DIAGONAL),
            "--columns": Case("--columns 12"),
            "--method": Case("--method hutchinson"),
            **operator_options(*DIAGONAL),
            **problem_options(),
            "--out": Case("--out other.h5"),
            "--json": Case("--json other.json"),
            "--run": Case("--run run"),
        },
    ),
    "spectrum": (
        f"{SPECTRUM[0]} {LOGISTIC} {SPECTRUM[1]}",
        {
            **subject_options(*SPECTRUM),
            **operator_options(*SPECTRUM),
            "--probes": Case("--probes 3"),
            "--steps": Case("--steps 4"),
            "--shift": Case("--shift 1"),
            "--bins": Case("--bins 100"),
            "--factor": Case("--factor f0.h5"),
            **problem_options(),
            "--ridge": Case(
                "--ridge 0.5", f"{SPECTRUM[0]} {LOGISTIC} --at trained {SPECTRUM[1]}", idle=True
            ),
            "--out": Case("--out other.png"),
            "--json": Case("--json other.csv"),
        },
    ),
    "sensitivity": (
        f"{SENSITIVITY[0]} {LOGISTIC} {SENSITIVITY[1]}",
        {
            **subject_options(*SENSITIVITY),
            **{
                name: case
                for name, case in operator_options(*SENSITIVITY).items()
                if name not in ("--fisher-samples", "--fisher-seed", "--blocks")
            },
            "--test": Case("--test t.csv"),
            "--test-rows": Case("--test-rows 0 1", f"{SENSITIVITY[0]} {LOGISTIC} --test t.csv"),
            "--leading": Case("--leading 2"),
            "--leverage": Case("--leverage", f"sensitivity {LOGISTIC} --test t.csv", idle=True),
            "--by-data": Case("--by-data", f"{SENSITIVITY[0]} {LOGISTIC} --test t.csv"),
            "--laplace": Case("--laplace"),
            "--tolerance": Case("--tolerance 0.5"),
            "--max-iterations": Case(
                "--max-iterations 1", f"{SENSITIVITY[0]} {LOGISTIC} --factor f0.h5", idle=True
            ),
            "--damping": Case("--damping 3"),
            "--gradient-limit": Case("--gradient-limit 1e-9", refused=True),
            "--dispersion": Case("--dispersion 2"),
            "--tail": Case("--tail last", f"{SENSITIVITY[0]} {LOGISTIC} --factor f0.h5", idle=True),
            "--factor": Case("--factor f0.h5"),
            **problem_options(),
            "--dtype": Case("--dtype float32"),
            "--out": Case("--out s.h5"),
            "--json": Case("--json other.json"),
            "--plot": Case("--plot p.png"),
        },
    ),
    "figure": (
        f"{FIGURE[0]} {MODEL} {FIGURE[1]}",
        {
            **subject_options(*FIGURE),
            **data_options(*FIGURE),
            **table_options(f"{FIGURE[0]} --model m.keras --loss squared-error", FIGURE[1], True),
            "--intercept": Case("--intercept", refused=True),
            "--features": Case("--features fourier --feature-count 9 --bandwidth 2", refused=True),
            "--feature-count": Case("--feature-count 9", refused=True),
            "--bandwidth": Case("--bandwidth 2", refused=True),
            "--rank": Case("--rank 4"),
            **operator_options(*FIGURE),
            "--at": Case("--at initial"),
            **problem_options(),
            "--seed": Case(
                "--seed 5",
                f"{FIGURE[0]} {MODEL} {FIGURE[1]} --operator monte-carlo-fisher",
                idle=True,
            ),
            "--out": Case("--out other.png"),
            "--json": Case("--json other.json"),
        },
    ),
    "newton": (
        f"{NEWTON[0]} {LOGISTIC} {NEWTON[1]}",
        {
            **data_options(*NEWTON),
            "--test": Case("--test t.csv"),
            "--family": Case("--family least-squares"),
            "--standardize": Case("--standardize"),
            "--ridges": Case("--ridges 0.1 1"),
            "--folds": Case("--folds 3", f"newton {LOGISTIC} --ridges 0.1 1"),
            "--model-out": Case("--model-out m.h5"),
            "--covariance": Case("--covariance robust"),
            "--errors-of": Case("--errors-of f1", f"newton {LOGISTIC} --covariance observed", True),
            "--level": Case("--level 0.5", f"newton {LOGISTIC} --covariance observed"),
            "--solver": Case("--solver pcg"),
            "--preconditioner": Case(
                "--preconditioner hbs", f"newton {LOGISTIC} --solver pcg --max-steps 3", idle=True
            ),
            "--ordering": Case(
                "--ordering clusters",
                f"newton {LOGISTIC} --solver pcg --preconditioner hbs --max-steps 3",
                idle=True,
            ),
            "--tol": Case("--tol 0.1"),
            "--max-steps": Case("--max-steps 2"),
            "--step": Case("--step fixed"),
            "--gamma": Case("--gamma 0.5", f"newton {LOGISTIC} --step fixed --max-steps 3"),
            "--rank": Case("--rank 5", f"newton {LOGISTIC} --solver pcg --max-steps 3"),
            "--tail": Case(
                "--tail zero", f"newton {LOGISTIC} --solver lowrank --rank 4 --max-steps 3"
            ),
            **sketch_options(
                f"newton {LOGISTIC} --rank 3 --oversample 1 --max-steps 3", "--factor-out f.h5"
            ),
            **problem_options(),
            "--factor-out": Case("--factor-out f.h5"),
            "--json": Case("--json other.json"),
            "--plot": Case("--plot p.png"),
            "--run": Case("--run run"),
            "--save-every": Case("--save-every 2", f"newton {LOGISTIC} --max-steps 3 --run run"),
        },
    ),
    "predict": (
        "predict p0.h5 --data d.csv --out p.csv",
        {
            "--data": Case("--data e.csv"),
            "--out": Case("--out other.csv"),
            "--level": Case("--level 0.5"),
            "--offset": Case("--offset f0"),
            "--plot": Case("--plot c.png"),
            "--unknown": Case(
                "--unknown refuse",
                "predict p0.h5 --data gaps.csv --out p.csv --unknown blank",
                idle=True,
                refused=True,
            ),
            **rank_options("--threads", "--comm-timeout"),
        },
    ),
    "train": (
        f"{TRAIN[0]} {LOGISTIC}",
        {
            **subject_options(*TRAIN),
            "--test": Case("--test t.csv"),
            "--optimizer": Case("--optimizer sgd"),
            "--set": Case("--set rank=5"),
            "--learning-rate": Case(
                "--learning-rate cosine:0.1,steps=5",
                f"train --optimizer adamw {LOGISTIC} --max-steps 3",
            ),
            "--at": Case("--at x.npy"),
            "--gradient-batch": Case("--gradient-batch 0.5"),
            "--curvature-batch": Case("--curvature-batch 0.5"),
            "--acceptance-batch": Case(
                "--acceptance-batch 0.5",
                f"train --optimizer hessian-free {LOGISTIC} --max-steps 5",
                idle=True,
            ),
            "--max-steps": Case("--max-steps 2"),
            "--tol": Case("--tol 0.2"),
            "--target": Case("--target 0.5"),
            "--max-passes": Case("--max-passes 3"),
            "--max-seconds": Case("--max-seconds 1e-9"),
            "--patience": Case(
                "--patience 1",
                f"train --optimizer sgd --set learning_rate=20 {LOGISTIC} --test t.csv "
                "--max-steps 9",
            ),
            **problem_options(),
            "--seed": Case(
                "--seed 5",
                f"train --optimizer sgd {LOGISTIC} --gradient-batch 0.5 --max-steps 3",
                idle=True,
            ),
            "--run": Case("--run run"),
            "--save-every": Case("--save-every 2", f"{TRAIN[0]} {LOGISTIC} --run run"),
            "--evaluate-every": Case(
                "--evaluate-every 1",
                f"train --optimizer sgd {LOGISTIC} --gradient-batch 0.5 --max-steps 6 --run run",
            ),
            "--tensorboard": Case("--tensorboard", f"{TRAIN[0]} {LOGISTIC} --run run"),
            "--save-point": Case("--save-point point.npy"),
        },
    ),
    "data": (
        "data d.csv",
        {
            "data": Case("data e.csv"),
            "--data-format": Case("--data-format hdf5", refused=True),
            "--label": Case("--label f0"),
            "--test": Case("--test t.csv"),
            "--targets": Case("--targets values"),
            **table_options("data d.csv", ""),
            "--missing": Case("--missing level", "data gaps.csv --missing drop", idle=True),
            "--ranks": Case("--ranks 3"),
            **rank_options("--threads", "--comm-timeout"),
        },
    ),
    "problems": ("problems", {}),
    "doctor": ("doctor", {"--timeout": Case("--timeout 7")}),
    "completion": ("completion bash", {"completion": Case("completion zsh")}),
    "inspect": ("inspect f0.h5", {"--leading": Case("--leading 1")}),
    "compare": (
        "compare f0.h5 g0.h5",
        {
            "--leading": Case("--leading 1"),
            "--subspace": Case("--subspace 1"),
            "--json": Case("--json r.json"),
            "--plot": Case("--plot p.png"),
        },
    ),
    "report": ("report f0.h5 --out p.html", {"--out": Case("--out other.html")}),
    "merge": ("merge f0.h5 g0.h5 --out t.h5", {"--out": Case("--out other.h5")}),
    "repack": (
        "repack f0.h5 --out f.h5",
        {
            "--out": Case("--out other.h5"),
            "--dtype": Case("--dtype float32"),
            "--compress": Case("--compress"),
        },
    ),
    "plot": (
        "plot f0.h5 --out p.png",
        {
            "--out": Case("--out other.png"),
            "--by": Case("--by passes", "plot r0 --out p.png"),
        },
    ),
    "solve": (
        "solve f0.h5 --rhs x.npy --shift 1 --out p.npy",
        {
            "--rhs": Case("--rhs z.npy"),
            "--shift": Case("--shift 2"),
            "--tail": Case("--tail zero"),
            "--out": Case("--out other.npy"),
        },
    ),
    "plan": (
        PLAN,
        {
            "--n": Case("--n 2e6"),
            "--rows": Case("--rows 2e5"),
            "--problem": Case("--problem adult-mlp", refused=True),
            "--model": Case("--model m.keras", refused=True),
            "--loss": Case("--loss squared-error", refused=True),
            "--data": Case("--data d.csv", refused=True),
            "--ranks": Case("--ranks 8"),
            "--rank": Case("--rank 20"),
            "--oversample": Case("--oversample 20"),
            "--power": Case("--power 2"),
            "--which": Case("--which SA"),
            "--method": Case("--method eigh"),
            "--psd": Case("--psd"),
            "--layout": Case("--layout replicated"),
            "--panel": Case("--panel 2", f"{PLAN} --layout rows"),
            "--block": Case("--block 5"),
            "--dtype": Case("--dtype float64", f"{PLAN} --layout rows"),
            "--memory": Case("--memory 8G"),
            "--memory-limit": Case("--memory-limit 1M", f"{PLAN} --memory 64G", idle=True),
            "--row-bytes": Case("--row-bytes 1000"),
            "--row-seconds": Case("--row-seconds 1"),
            "--rate": Case("--rate 1e9"),
            "--latency": Case("--latency 1"),
            "--bandwidth": Case("--bandwidth 1e6"),
        },
    ),
    "job": (
        f"job {JOB_END}",
        {
            "--name": Case("--name mine"),
            "--nodes": Case("--nodes 2"),
            "--ranks-per-node": Case("--ranks-per-node 2"),
            "--cpus-per-rank": Case("--cpus-per-rank 2"),
            "--time": Case("--time 2:00:00"),
            "--mem": Case("--mem 3G"),
            "--mem-per-cpu": Case("--mem-per-cpu 3G"),
            "--partition": Case("--partition p"),
            "--account": Case("--account a"),
            "--launcher": Case("--launcher mpiexec"),
            "--stage": Case("--stage d.csv"),
            "--warning": Case("--warning 99"),
            "--array": Case("--array", "job -- compress --data d.csv --out f-%a.h5"),
            "--out": Case("--out j.sbatch"),
            "--submit": Case("--submit --array", refused=True),
        },
    ),
}


def options_of(command: str) -> set[str]:
    """The options of a command's own parser."""
    actions = _parser(command)[1][command]._actions
    flags = [[word for word in each.option_strings if word[:2] == "--"] for each in actions]
    names = {words[0] for words in flags if words}
    return names - {"--help", "--help-all"}


@pytest.mark.parametrize("command", RUNS)
def test_every_option_has_an_entry(command):
    table = {name for name in TABLE[command][1] if name.startswith("--")}
    assert table == options_of(command)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder of tiny inputs, which no run changes."""
    from hesscomp.curvature.tensorflow import keras

    folder = tmp_path_factory.mktemp("options")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((ROWS, FEATURES))
    y = np.where(X @ rng.standard_normal(FEATURES) > 0, 1, 0)
    X[:, 0] = np.where(X[:, 0] > 0, 1, 0)  # a label too
    header = ",".join([f"f{j}" for j in range(FEATURES)] + ["y"])
    for name, rows in (("d.csv", slice(None)), ("e.csv", slice(30)), ("t.csv", slice(20, None))):
        text = {"delimiter": ",", "header": header, "comments": "", "fmt": "%.8g"}
        np.savetxt(folder / name, np.column_stack((X, y))[rows], **text)
    lines = (folder / "d.csv").read_text().splitlines()
    lines[-1] = "1,," + lines[-1].split(",", 2)[2]
    (folder / "gaps.csv").write_text("\n".join(lines))
    np.save(folder / "x.npy", rng.standard_normal(FEATURES) / 5)
    np.save(folder / "z.npy", rng.standard_normal(FEATURES))
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(1, "tanh", name="hidden"), keras.layers.Dense(1, name="logits")]
    keras.Sequential([keras.Input((FEATURES,)), *layers], name="tiny").save(folder / "m.keras")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("hesscomp.curvature.tensorflow.set_threads", lambda threads: None)
        patch.setattr(session, "listen", lambda options, world: None)
        for words in (
            "compress --data d.csv --rank 3 --out f0.h5",
            "compress --data e.csv --rank 3 --out g0.h5",
            f"compress {MODEL} --rank 3 --out m0.h5",
            f"{TRAIN[0]} {LOGISTIC} --run r0",
            f"newton {LOGISTIC} --ridge 0.1 --model-out p0.h5",
        ):
            assert main(words.split()) == 0
    return folder


@pytest.fixture(scope="module")
def known() -> dict:
    """The outcomes of the commands that have run."""
    return {}


@pytest.fixture
def outcome(inputs, known, monkeypatch, capsys):
    """``outcome(words)``: the status, what a command says and writes, and what was handed on."""
    from hesscomp.problems.keras import KerasProblem

    monkeypatch.chdir(inputs)
    monkeypatch.delenv("HESSCOMP_DATA", raising=False)
    monkeypatch.setattr("hesscomp.cli.progress.QUIET", np.inf)  # a slow machine shows progress
    monkeypatch.setattr("hesscomp.curvature.tensorflow.set_threads", lambda threads: None)
    monkeypatch.setattr(session, "listen", lambda options, world: None)
    handed, world, made = [], session.World, KerasProblem.__init__
    kept, remove = {}, Journal.remove

    def limits(threads):
        handed.append(threads)

    def make_world(**options):
        handed.append(options)
        return world(**options)

    def make_problem(self, *arguments, **options):
        handed.append({name: options[name] for name in ("check", "memory")})
        made(self, *arguments, **options)

    def keep(journal):
        """What a run keeps until it is done goes then; here it is seen before."""
        kept.update({str(path): contents(path) for path in journal._files()})
        remove(journal)

    def examine(request, show):
        handed.append(request.timeout)
        return ()

    monkeypatch.setattr("hesscomp.cli.doctor.doctor", examine)
    monkeypatch.setattr(session, "threadpool_limits", limits)
    monkeypatch.setattr(session, "World", make_world)
    monkeypatch.setattr(KerasProblem, "__init__", make_problem)
    monkeypatch.setattr(Journal, "remove", keep)
    there = set(inputs.rglob("*"))

    def run(words: str):
        if words in known:
            return known[words]
        handed.clear()
        kept.clear()
        moves = itertools.count() if "--max-seconds" in words else itertools.repeat(0)
        monkeypatch.setattr(time, "perf_counter", lambda: float(next(moves)))
        try:
            status = main(words.split())
        except SystemExit as ended:
            status = ended.code
        said = capsys.readouterr()
        files = dict(kept)
        for path in sorted(set(inputs.rglob("*")) - there):
            files[str(path.relative_to(inputs))] = contents(path)
        for path in set(inputs.iterdir()) - there:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        known[words] = status, (status, said.out, said.err, files), json.dumps(handed)
        return known[words]

    return run


def contents(path: Path):
    """What a file holds, but for the time at which it was written."""
    if path.is_dir() or "events.out" in path.name:
        return None
    if path.suffix != ".h5":
        return path.read_bytes()
    found = {}
    with h5py.File(path) as file:
        found[""] = {name: str(file.attrs[name]) for name in file.attrs if name != "created"}

        def add(name, item):
            attributes = {key: str(value) for key, value in item.attrs.items() if key != "created"}
            found[name] = attributes
            if isinstance(item, h5py.Dataset):
                found[name] |= {
                    "data": np.asarray(item[()]).tolist(),
                    "as": (item.dtype, item.compression),
                }

        file.visititems(add)
    return found


LONG = ("update", "figure")  # whose options are compress's for the most part
# Options that others take by the same functions as compress, whose cases test them.
SHARED = {**subject_options("", ""), **operator_options("", "")}
OF_MODELS = ("--model", "--loss", "--targets", "--engine", "--check", "--memory-limit")


def is_slow(command: str, option: str) -> bool:
    return (
        command in LONG
        or (command in ("diagonal", "spectrum", "sensitivity") and option in SHARED)
        or (command == "train" and option in OF_MODELS)
    )


@pytest.mark.parametrize(
    ("command", "option"),
    [
        pytest.param(
            command,
            option,
            id=f"{command} {option}",
            marks=[pytest.mark.slow] if is_slow(command, option) else [],
        )
        for command, (_, cases) in TABLE.items()
        for option in cases
    ],
)
def test_does_something(outcome, command, option):
    base, cases = TABLE[command]
    case = cases[option]
    places = [place for place in (None if case.idle else base, case.base) if place is not None]
    for place in places:
        status, before, handed_before = outcome(place)
        assert status in (0, 3), before[2]
        after_status, after, handed = outcome(with_option(place, case.words))
        changed = after != before or (option in HANDED and handed != handed_before)
        assert changed or after_status == 2, f"{case.words} changes nothing in: {place}"
    assert (after_status == 2) == case.refused, after[2]


@pytest.mark.parametrize("command", RUNS)
def test_equal_runs_say_and_write_the_same(outcome, command):
    """Else every option would seem to do something."""
    base = TABLE[command][0]
    assert outcome(base) == outcome(f" {base}")


@pytest.mark.parametrize("command", ["compress", "update"])
def test_a_run_keeps_its_products_until_it_is_done(outcome, command):
    files = outcome(f"{TABLE[command][0]} --run run")[1][3]
    assert "run/product-000000.h5" in files


def with_option(command: str, words: str) -> str:
    """A command with an option; those of a job stand before the command that it wraps."""
    if not words.startswith("-"):  # another file in the place of the first
        return words
    own, separator, wrapped = command.partition(" -- ")
    return f"{own} {words}{separator}{wrapped}"
