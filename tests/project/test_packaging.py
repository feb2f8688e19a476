"""The wheel and the sdist, installed away from the source tree, and the recipes beside them."""

import configparser
import re
import shutil
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from project.first_steps import main

import hesscomp

ROOT = Path(__file__).resolve().parents[2]
LEFT = {".git", "out", "build", "dist", "__pycache__"}  # and .venv, .mypy_cache, *.egg-info ...
CONDA = {"tensorboardx": "tensorboardX", "matplotlib-base": "matplotlib"}

BUILD = """
import sys
from setuptools import build_meta
getattr(build_meta, sys.argv[1])(sys.argv[2])
"""
USE = """
import sys
import hesscomp as hc
loaded = {"tensorflow", "keras", "mpi4py", "numpy"} & sys.modules.keys()
assert not loaded, loaded
assert set(hc.__all__) <= set(dir(hc))
assert hc.__file__.startswith(sys.prefix), hc.__file__

import numpy as np
from importlib.metadata import metadata
factor = hc.compress(np.diag([3.0, -2.0, 1.0, 0.0]), rank=2)
assert factor.eigenvalues.round(6).tolist() == [3.0, -2.0]
assert hc.load_data("adult").features == 109
assert hc.load_data("mnist-sample").features == 784
hc.report(factor, "report.html")
assert "tensorflow" not in sys.modules

about = metadata("hesscomp")
assert about["License-File"] == "LICENSE"
assert "MIT" in (about["License"], about["License-Expression"])
assert "# hesscomp" in (about["Description"] or about.get_payload())
assert {"gpu", "mpich", "test"} <= set(about.get_all("Provides-Extra"))
"""


def _left_out(folder: str, names: list[str]) -> set[str]:
    hidden = {name for name in names if name.startswith(".") and name != ".ci"}
    return hidden | (LEFT & set(names)) | {name for name in names if name.endswith(".egg-info")}


@pytest.fixture(scope="module")
def built(tmp_path_factory, run_command) -> tuple[Path, Path]:
    """The sdist of a copy of this tree, and the wheel that is built from the sdist."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, folder / "tree", ignore=_left_out)

    def build(what: str, tree: Path) -> None:
        done = run_command([sys.executable, "-c", BUILD, what, folder], cwd=tree)
        assert done.returncode == 0, done.stdout + done.stderr

    build("build_sdist", folder / "tree")
    (sdist,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(sdist, folder / "sdist")
    build("build_wheel", next((folder / "sdist").iterdir()))
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory, run_command) -> Path:
    """An environment with the wheel; what the package requires comes from this Python's."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    words = ["--python", python, "install", "--quiet", "--no-deps", "--no-index", built[1]]
    done = run_command([sys.executable, "-m", "pip", *words])
    assert done.returncode == 0, done.stderr
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return folder


def test_the_archives_hold_the_data_and_the_licence(built):
    sdist, wheel = built
    with tarfile.open(sdist) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        binary = set(archive.namelist())
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "hesscomp").rglob("*.py")}
    data = [path for path in (ROOT / "hesscomp").rglob("*") if path.is_file()]
    data = [path for path in data if path.suffix not in (".py", ".pyc")]
    wanted = package | {str(path.relative_to(ROOT)) for path in data}
    assert len(wanted) > 150
    assert wanted <= source and wanted <= binary
    assert {"LICENSE", "README.md", "tests/conftest.py", "packaging/recipe.yaml"} <= source
    outside = {name for name in binary if not name.startswith("hesscomp")}
    assert not outside and any(name.endswith("LICENSE") for name in binary)


def test_the_wheel_works_away_from_the_source(installed, run_command, tmp_path):
    libraries = str(Path(sys.prefix) / "lib")  # where the mpich wheel has its own
    away = {"env": {"PYTHONPATH": "", "LD_LIBRARY_PATH": libraries}, "cwd": tmp_path}
    done = run_command([installed / "bin" / "hesscomp", "--version"], **away)
    assert (done.returncode, done.stdout) == (0, f"hesscomp {hesscomp.__version__}\n")
    done = run_command([installed / "bin" / "python", "-c", USE], **away)
    assert done.returncode == 0, done.stderr


def test_a_users_script_runs(tmp_path, capsys):
    assert main(tmp_path) > 0
    assert (tmp_path / "factor.h5").exists() and (tmp_path / "report.html").exists()


CHECKERS = {  # with Node from a wheel, pyright downloads nothing
    "mypy": (
        ["--strict", "--ignore-missing-imports", "--python-executable"],
        'Revealed type is "hesscomp.factors.lowrank.LowRank"',
    ),
    "pyright": (["--pythonpath"], 'Type of "hc.compress(np.eye(2))" is "LowRank"'),
}


@pytest.mark.parametrize("checker", CHECKERS)
def test_types_of_a_users_script(installed, run_command, tmp_path, checker):
    """Checkers see the types that the installed package tells."""
    words, told = CHECKERS[checker]
    script = tmp_path / "script.py"
    text = Path(__file__).with_name("first_steps.py").read_text()
    script.write_text(f"{text}\n\nreveal_type(hc.compress(np.eye(2)))\n")
    done = run_command(
        [sys.executable, "-m", checker, *words, installed / "bin" / "python", script],
        env={"PYTHONPATH": "", "MYPYPATH": "", "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout
    assert told in done.stdout


def requirements() -> tuple[dict[str, str], configparser.ConfigParser]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].split("\n")
    found = [re.fullmatch(r"([\w-]+)(>=.*)", line) for line in lines if line[:1] not in ("", "#")]
    return {match[1]: match[2] for match in found}, config


def test_the_conda_recipe_asks_for_what_setup_cfg_asks_for():
    recipe = yaml.safe_load((ROOT / "packaging" / "recipe.yaml").read_text())
    wanted, config = requirements()
    wanted["python"] = config["options"]["python_requires"]
    asked = dict(line.split(" ") for line in recipe["requirements"]["run"])
    assert {CONDA.get(name, name): least for name, least in asked.items()} == wanted
    assert recipe["context"]["version"] == hesscomp.__version__
    script = config["options.entry_points"]["console_scripts"].strip()
    assert recipe["build"]["python"]["entry_points"] == [script]


def test_the_apptainer_definition_installs_an_extra_and_tests_it():
    text = (ROOT / "packaging" / "hesscomp.def").read_text()
    sections = dict(re.findall(r"^%(\w+)\n(.*?)(?=^%|\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(sections) >= {"files", "post", "runscript", "test", "help"}
    extras = re.search(r"extras=(\w+)", sections["arguments"])[1]
    assert extras in requirements()[1]["options.extras_require"]
    assert "hesscomp doctor" in sections["test"]
