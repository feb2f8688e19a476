"""The walls between modules: who may import and use what, and what a light command may load."""

import ast
import pkgutil
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]

# Ends the process in error, naming them, where heavy modules are loaded.
CHECK = """
import sys
heavy = {"tensorflow", "keras", "mpi4py"} & sys.modules.keys()
sys.exit(f"loads {heavy}" if heavy else 0)
"""

# `job` reads a command with that command's own parser, which knows the type of communicators: MPI
# is loaded then, but not started, as it may not be on a login node.
CHECK_STARTED = """
import sys
heavy = {"tensorflow", "keras"} & sys.modules.keys()
MPI = sys.modules.get("mpi4py.MPI")
sys.exit(f"loads {heavy}" if heavy else MPI is not None and MPI.Is_initialized())
"""

# Runs a hesscomp command line in this process, then checks.
RUN = """
import runpy, sys
sys.argv[0] = "hesscomp"
try:
    runpy.run_module("hesscomp", run_name="__main__")
except SystemExit as end:
    if end.code:
        raise
"""


def test_imports_keep_the_walls(run_command):
    pytest.importorskip("importlinter")
    lint = shutil.which("lint-imports", path=Path(sys.executable).parent) or "lint-imports"
    done = run_command([lint, "--no-logo", "--no-cache"], cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


KERAS = {"_kernel", "_keras_logits"}  # private names of Keras that are ours too by chance


@pytest.fixture(scope="module")
def trees():
    """The syntax tree of each module."""
    return {path: ast.parse(path.read_text()) for path in (ROOT / "hesscomp").rglob("*.py")}


def private_names(tree: ast.AST) -> set[str]:
    """Private names that a module defines: functions, classes, variables, attributes."""
    found = set()
    for node in ast.walk(tree):
        stored = isinstance(getattr(node, "ctx", None), ast.Store)
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and stored:
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and stored:
            found.add(node.attr)
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


def test_no_module_uses_private_names_of_another(trees):
    """But for those that a class inherits: self._name."""
    own = {path: private_names(tree) for path, tree in trees.items()}
    ours = set().union(*own.values()) - KERAS
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ours - own[path]:
                of = ast.unparse(node.value)
                assert of in ("self", "cls", "super()"), f"{path}:{node.lineno}: {of}.{node.attr}"
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hesscomp"):
                private = [name.name for name in node.names if name.name.startswith("_")]
                assert not private, f"{path}:{node.lineno}: imports {private}"


def test_problems_are_asked_and_not_probed(trees):
    """No hasattr or getattr of a problem, no functions that choose by its class."""
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = [name.name for name in node.names]
                assert not {"singledispatch", "singledispatchmethod"} & set(names), path
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("hasattr", "getattr"):
                of = ast.unparse(node.args[0])
                assert not of.endswith("problem"), f"{path}:{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("package", ["factors", "compression", "analysis"])
def test_no_module_loads_tensorflow_or_mpi(run_command, package):
    folder = ROOT / "hesscomp" / package
    modules = [f"hesscomp.{package}"]
    modules += [info.name for info in pkgutil.walk_packages([folder], f"hesscomp.{package}.")]
    check = f"import {', '.join(modules)}\n{CHECK}"
    done = run_command([sys.executable, "-c", check], cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_process_that_watches_a_rank_loads_nothing_heavy(run_command):
    check = CHECK.replace('"mpi4py"', '"mpi4py", "numpy", "h5py"')
    done = run_command([sys.executable, "-c", f"import hesscomp.cli.guard\n{check}"], cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def factor_file(tmp_path):
    from hesscomp.factors.certificate import Certificate
    from hesscomp.factors.hdf5 import save_factor
    from hesscomp.factors.lowrank import LowRank
    from hesscomp.factors.provenance import Provenance

    path = tmp_path / "factor.h5"
    certificate = Certificate(frobenius_error_estimate=0.1, frobenius_norm_estimate=2.3)
    save_factor(
        LowRank(
            np.array([2.0, -1.0]), np.eye(5, 2), certificate=certificate, provenance=Provenance()
        ),
        path,
    )
    return path


@pytest.mark.parametrize("command", ["compare", "inspect", "plot", "merge", "job", "plan"])
def test_light_commands_load_neither_tensorflow_nor_mpi(run_command, factor_file, command):
    picture, merged = factor_file.with_suffix(".png"), factor_file.with_suffix(".t.h5")
    arguments = {
        "compare": [factor_file, factor_file, "--plot", picture],
        "inspect": [factor_file],
        "plot": [factor_file, "--out", picture],
        "merge": [factor_file, factor_file, "--out", merged],
        "job": ["--nodes", 2, "--", "compress", "--data", "adult"],
        "plan": ["--n", "1e8", "--rows", "1e9", "--ranks", 4096, "--memory", "64G"],
    }[command]
    check = RUN + (CHECK_STARTED if command == "job" else CHECK)
    done = run_command([sys.executable, "-c", check, command, *arguments], cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
