"""The job scripts that people copy: they parse, they run, they ask SLURM for the right thing."""

import json
import os
import sys
from pathlib import Path

import h5py
import pytest

JOBS = Path(__file__).resolve().parent.parent / "jobs"
SCRIPTS = sorted(path for path in JOBS.iterdir() if path.suffix in (".sh", ".sbatch"))

# Stands in for SLURM's srun: shows how it was called.
FAKE_SRUN = """#!/bin/sh
echo "OMP_NUM_THREADS=$OMP_NUM_THREADS"
echo "srun $*"
"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_parses(run_command, script):
    done = run_command(["bash", "-n", script])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("script", "arguments", "folder", "command"),
    [
        ("adult_newton.sbatch", ["--ridge", "1e-6"], "adult-417", "hesscomp newton --data adult"),
        ("compress.sbatch", [], "compress-417", "hesscomp compress --data adult"),
        ("compress.sbatch", ["a b.h5", "--rank", "9"], "compress-417", "--data a b.h5"),
    ],
)
def test_slurm_script(run_command, tmp_path, script, arguments, folder, command):
    text = (JOBS / script).read_text()
    for option in ("nodes", "ntasks-per-node", "cpus-per-task", "time", "job-name"):
        assert f"#SBATCH --{option}=" in text
    assert "#SBATCH --output=%x-%j.out" in text

    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(FAKE_SRUN)
    srun.chmod(0o755)
    allocation = {
        "PATH": f"{srun.parent}:{os.environ['PATH']}",
        "SLURM_CPUS_PER_TASK": "4",
        "SLURM_JOB_ID": "417",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }
    done = run_command(["bash", JOBS / script, *arguments], env=allocation, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    threads, call = done.stdout.splitlines()
    assert threads == "OMP_NUM_THREADS=4"
    assert call.startswith("srun --mpi=pmi2 --cpus-per-task=4 --kill-on-bad-exit=1 hesscomp ")
    assert command in call
    assert call.endswith(" ".join(arguments[-2:] or ["--rank 40"]))
    assert (tmp_path / "out" / folder).is_dir()
    assert f"out/{folder}/report.json" in call


def test_adult_newton_runs(run_command, tmp_path):
    if not (Path(sys.prefix) / "bin" / "hesscomp").exists():
        pytest.skip("hesscomp is not installed in this environment (make install)")
    environment = {"HESSCOMP_VENV": sys.prefix, "OUT": str(tmp_path / "results")}
    script = JOBS / "adult_newton.sh"
    done = run_command([script, 2, "--ridge", "1e-3"], env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr

    report = json.loads((tmp_path / "results" / "adult-report.json").read_text())
    assert report["converged"]
    assert report["ranks"] == 2
    assert report["objective"] == pytest.approx(0.326523399290756, abs=1e-12)
    with h5py.File(tmp_path / "results" / "adult-factor.h5") as file:
        assert file["eigenvectors"].shape == (109, 40)
    assert (tmp_path / "results" / "adult-convergence.png").stat().st_size > 0


def test_adult_newton_names_a_wrong_number_of_ranks(run_command, tmp_path):
    done = run_command([JOBS / "adult_newton.sh", "--ridge"], cwd=tmp_path)
    assert done.returncode == 2
    assert "the number of ranks comes first" in done.stderr
