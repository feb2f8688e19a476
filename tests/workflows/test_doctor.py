"""What `doctor` finds where all is well, where parts are missing or broken, and where they hang."""

import os
import sys
import time

import pytest

from hesscomp.cli.main import main
from hesscomp.workflows import probes
from hesscomp.workflows.doctor import DoctorRequest, doctor

TENSORFLOW = """
__version__, ones = "2.99", lambda shape: Ones()
class Ones:
    __matmul__ = lambda self, other: self
class config:
    list_physical_devices = lambda kind: []
class test:
    is_built_with_cuda = lambda: False
def reduce_sum(x):
    return 64.0
"""


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """``machine(modules=, programs=)``: this machine with these in place of its own.

    TensorFlow and Keras, which take seconds to load, are replaced too, and so is SLURM.
    """
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.path.dirname(sys.executable)}:/usr/bin:/bin")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def make(modules=(), programs=()):
        known = {"tensorflow": TENSORFLOW, "keras": "__version__ = '3.99'"}
        for name, source in {**known, **dict(modules)}.items():
            (tmp_path / f"{name}.py").write_text(source)
        known = {"sbatch": "echo slurm 1.2", "srun": "echo pmi2"}
        for name, source in {**known, **dict(programs)}.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{source}\n")
            (tmp_path / name).chmod(0o755)

    return make


def found(timeout=60.0) -> dict:
    findings = doctor(DoctorRequest(timeout=timeout), lambda finding: None)
    for finding in findings:
        assert "\n" not in finding.text + finding.remedy
        assert finding.remedy or finding.state != "problem"
    return {finding.part: finding for finding in findings}


def test_a_machine_where_all_is_well(machine, mpiexec, capsys):
    machine()
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for words in ("no problems", "ok      self-test", "ok      MPI", "2.99", "pmi2", "HDF5"):
        assert words in shown


def test_the_probes_find_what_this_process_has():
    import tensorflow as tf

    assert probes.tensorflow()["version"] == tf.__version__
    assert probes.hdf5()["h5py"] and probes.mpi()["name"]
    assert probes.selftest()["ranks"] == 1


def test_parts_that_cannot_be_imported(machine):
    broken = "raise ImportError('libbroken.so:\\nno such file')"
    machine({"tensorflow": broken, "mpi4py": broken, "h5py": broken})
    parts = found()
    for part in ("MPI", "TensorFlow", "HDF5"):
        assert parts[part].state == "problem"
        assert parts[part].text == "ImportError: libbroken.so: no such file"
    assert parts["self-test"].state == "note"


def test_parts_that_crash_or_hang(machine, monkeypatch):
    monkeypatch.setattr("hesscomp.workflows.doctor.GRACE", 0.5)
    machine(
        {"tensorflow": "import os, signal; os.kill(os.getpid(), signal.SIGILL)"},
        {"mpiexec": "trap '' TERM\n[ $1 = --version ] && echo HYDRA Version: 5.0\nsleep 600"},
    )
    started = time.monotonic()
    parts = found(timeout=2.0)
    assert time.monotonic() - started < 30
    assert "SIGILL" in parts["TensorFlow"].text and "AVX" in parts["TensorFlow"].remedy
    assert "no answer within 2 s" in parts["MPI"].text
    assert parts["self-test"].state == "problem"


def test_a_launcher_of_another_mpi(machine):
    """It starts each rank as if it were alone."""
    script = '[ $1 = --version ] && echo "mpiexec (OpenRTE) 4.1.4" && exit\nshift 2\n"$@"\n"$@"'
    machine(programs={"mpiexec": script})
    parts = found()
    if "Open MPI" in parts["MPI"].text.split(";")[0]:
        pytest.skip("the library is Open MPI")
    assert parts["MPI"].state == "problem" and "belongs to Open MPI" in parts["MPI"].text
    assert parts["self-test"].text == "2 ranks do not see each other: each is alone"


def test_threads_and_programs_that_do_not_fit(machine, monkeypatch):
    machine(programs={"sbatch": "echo no configuration; exit 1", "mpiexec": "exit 1"})
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    parts = found()
    assert {part for part in parts if parts[part].state == "problem"} == {
        "cores", "MPI", "self-test"
    }  # fmt: skip
    assert parts["SLURM"].text == "exit status 1 (no configuration)"
