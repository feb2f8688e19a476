"""The job scripts that people copy: they parse, they run, they ask SLURM for the right thing."""

import ast
import os
import re
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from hesscomp.cli.main import main

JOBS = Path(__file__).resolve().parents[2] / "jobs"
SCRIPTS = sorted(path for path in JOBS.iterdir() if path.suffix in (".sh", ".sbatch"))
BATCH = [path for path in SCRIPTS if path.suffix == ".sbatch"]
RECIPE = "# Made by: "

# Stand in for SLURM's srun: one shows how it was called, the other runs the task.
FAKE_SRUN = """#!/bin/sh
echo "OMP_NUM_THREADS=$OMP_NUM_THREADS"
echo "srun $*"
"""
PASSING_SRUN = """#!/bin/sh
while case $1 in --*) true ;; *) false ;; esac; do shift; done
exec "$@"
"""


@pytest.fixture
def run_script(run_command, tmp_path):
    """``run_script(script, *arguments, env=)``: run it in an allocation, with a stand-in for srun.

    Programs are looked for in the folder bin first; node-local scratch is the folder scratch.
    """
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    (tmp_path / "scratch").mkdir()
    for program in (srun, srun.with_name("hesscomp")):
        program.write_text(FAKE_SRUN)
        program.chmod(0o755)
    allocation = {
        "PATH": f"{srun.parent}:{os.environ['PATH']}",
        "HESSCOMP_VENV": str(tmp_path),
        "SLURM_CPUS_PER_TASK": "4",
        "SLURM_JOB_ID": "417",
        "SLURM_NNODES": "1",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_TMPDIR": str(tmp_path / "scratch"),
    }

    def run(script, *arguments, env=None):
        command = ["bash", script, *arguments]
        return run_command(command, env={**allocation, **(env or {})}, cwd=tmp_path)

    return run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_parses(run_command, script):
    done = run_command(["bash", "-n", script])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", BATCH, ids=lambda path: path.name)
def test_is_what_its_recipe_writes(path, capsys):
    text = path.read_text()
    recipe = next(line for line in text.splitlines() if line.startswith(RECIPE))
    assert main(shlex.split(recipe.removeprefix(RECIPE))[1:]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize(
    ("script", "arguments", "folder", "command"),
    [
        ("adult_newton.sbatch", ["--ridge", "1e-6"], "adult-417", "hesscomp newton --data adult"),
        ("compress.sbatch", [], "compress-417", "hesscomp compress --data adult"),
        ("compress.sbatch", ["--data", "a b.h5"], "compress-417", "--data a b.h5"),
    ],
)
def test_calls_srun(run_script, tmp_path, script, arguments, folder, command):
    done = run_script(JOBS / script, *arguments)
    assert done.returncode == 0, done.stderr
    threads, call = done.stdout.splitlines()
    assert threads == "OMP_NUM_THREADS=4"
    assert call.startswith("srun --mpi=pmi2 --cpus-per-task=4 --wait=10 hesscomp ")
    assert command in call
    assert call.endswith(" ".join(arguments))
    assert (tmp_path / "out" / folder).is_dir()
    assert f"out/{folder}/report.json" in call


def write_job(tmp_path, *words) -> Path:
    script = tmp_path / "job.sbatch"
    assert main(["job", "--out", str(script), *words]) == 0
    return script


@pytest.mark.parametrize(
    ("launcher", "started"),
    [("srun", "--launcher srun"), ("mpiexec", "--launcher mpiexec --ranks 2")],
)
def test_a_service_starts_its_ranks_itself(run_script, tmp_path, launcher, started):
    words = ["serve", "svc", "--", "--problem", "mnist-mlp"]
    script = write_job(tmp_path, "--nodes", "2", "--launcher", launcher, "--", *words)
    done = run_script(script, "--ridge", "1", env={"SLURM_NTASKS": "2", "SLURM_CPUS_ON_NODE": "4"})
    assert done.returncode == 0, done.stderr
    called = f"srun serve {started} svc -- --problem mnist-mlp --ridge 1"
    assert done.stdout.splitlines()[1] == called  # the stand-in for hesscomp says srun too


AWKWARD = [
    "a b",
    "it's",
    '"$HOME"',
    "$(false)",
    "`false`",
    "\\",
    "*",
    "!",
    "-",
    "",
    "%5",
    "é;&|",
    "{{ 7 * 7 }}{#",
]


@pytest.mark.parametrize("staged", [False, True])
def test_words_reach_the_command_as_they_are(run_script, run_command, tmp_path, staged):
    """Whatever they hold; what runs is a Python that shows its arguments, called hesscomp."""
    show = tmp_path / "bin" / "hesscomp"
    show.write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv[1:])\n")
    show.chmod(0o755)
    (tmp_path / "bin" / "srun").write_text(PASSING_SRUN)
    (tmp_path / "d'ata.npz").write_text("here")
    stage = ["--stage", "d'ata.npz"] if staged else []
    words = ["compress", "--out", "f.h5", "--at", *AWKWARD, "d'ata.npz", "%j-$x"]
    script = write_job(tmp_path, *stage, "--", *words)
    done = run_script(script, "more $y")
    assert done.returncode == 0, done.stderr
    data = f"{tmp_path}/scratch/d'ata.npz" if staged else "d'ata.npz"
    expected = [*words[:4], *AWKWARD, data, "417-$x", "more $y"]
    assert ast.literal_eval(done.stdout.splitlines()[-1]) == expected
    if staged:
        assert (tmp_path / "scratch" / "d'ata.npz").read_text() == "here"
    if shutil.which("shellcheck"):
        checked = run_command(["shellcheck", "--severity=error", script])
        assert checked.returncode == 0, checked.stdout


def let(folder: Path, **programs: str) -> None:
    """Have these shell commands stand in for programs."""
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)


def test_a_signal_before_the_work_puts_the_job_back(run_script, tmp_path):
    """Here from within the copying, which would take a while yet."""
    srun = "kill -USR1 $PPID; exec sleep 20 >&- 2>&-"
    let(tmp_path / "bin", srun=srun, scontrol='echo "scontrol $*"')
    words = ["--stage", "d.npz", "--", "compress", "--data", "d.npz"]
    start = time.monotonic()
    done = run_script(write_job(tmp_path, *words, "--run", "r"))
    assert (done.returncode, done.stdout) == (75, "scontrol requeue 417\n"), done.stderr
    assert run_script(write_job(tmp_path, *words)).returncode == -signal.SIGUSR1  # would not go on
    assert time.monotonic() - start < 20


def test_says_where_hesscomp_is_missing(run_script, tmp_path):
    (tmp_path / "bin" / "hesscomp").unlink()
    script = write_job(tmp_path, "--", "compress")
    done = run_script(script, env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"})
    assert done.returncode == 127 and "set HESSCOMP_VENV" in done.stderr


def test_the_status_of_work_that_ends_with_a_signal_is_kept(run_script, tmp_path):
    let(tmp_path / "bin", srun="kill -USR1 $PPID; exit 75", scontrol='echo "scontrol $*"')
    script = write_job(tmp_path, "--", "compress", "--run", "r")
    for _ in range(5):
        done = run_script(script)
        assert (done.returncode, done.stdout) == (75, "scontrol requeue 417\n"), done.stderr
    done = run_script(script, env={"SLURM_RESTART_COUNT": "50"})
    assert (done.returncode, done.stdout) == (75, "")
    assert "requeued 50 times: no more" in done.stderr


def test_array_task_takes_its_item(run_script, tmp_path):
    script = write_job(
        tmp_path, "--array", "--", "compress", "--at", "{}", "--out", "t-%A/{name}-%a.h5"
    )
    task = {"SLURM_ARRAY_JOB_ID": "410", "SLURM_ARRAY_TASK_ID": "1"}
    done = run_script(script, "run/a 1.h5", "run/a 2.h5", env=task)
    assert 'requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"' in script.read_text()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].endswith("--at run/a 2.h5 --out t-410/a 2.h5-1.h5")
    assert (tmp_path / "t-410").is_dir()
    missing = run_script(script, "run/a 1.h5", env=task)
    assert missing.returncode != 0
    assert "fewer arguments than tasks" in missing.stderr


def test_asks_for_what_it_is_told(tmp_path):
    text = write_job(
        tmp_path,
        *("--name", "big", "--nodes", "4", "--ranks-per-node", "8", "--cpus-per-rank", "2"),
        *("--time", "1-12:00:00", "--mem", "64G", "--partition", "long", "--account", "me"),
        *("--launcher", "mpiexec", "--warning", "300", "--", "compress", "--data", "adult"),
    ).read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", text, re.MULTILINE))
    assert asked == {
        **{"job-name": "big", "nodes": "4", "ntasks-per-node": "8", "cpus-per-task": "2"},
        **{"time": "1-12:00:00", "mem": "64G", "partition": "long", "account": "me"},
        **{"output": "%x-%j.out", "open-mode": "append", "signal": "B:USR1@300"},
    }
    assert 'mpiexec -n "$SLURM_NTASKS" hesscomp compress --data adult "$@" &' in text


def test_a_plan_of_a_problem_runs_on_ranks(tmp_path):
    words = [
        "--nodes",
        "2",
        "--mem-per-cpu",
        "3G",
        "--",
        "plan",
        "--problem=mnist-mlp",
        "--ranks",
        "9",
    ]
    text = write_job(tmp_path, *words).read_text()
    assert "#SBATCH --mem-per-cpu=3G\n" in text and "\nsrun --mpi" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes", "0", "--", "compress"], "--nodes must be at least 1, not 0"),
        (["--time", "soon", "--", "compress"], "--time soon: take minutes"),
        (["--account", "a b", "--", "compress"], "--account 'a b': SLURM takes no such name"),
        (["--name", "x\n#SBATCH", "--", "compress"], "--name 'x\\n#SBATCH': SLURM takes"),
        (["--", "compress", "--out", "a\nrm -rf /"], "cannot hold line breaks"),
        (["--", "compres"], "hesscomp compres: no such command"),
        (["--", "job"], "hesscomp job: no such command"),
        (["--", "python", "a.py"], "a Python script of yours is started by srun"),
        (["--nodes", "2", "--", "merge", "a.h5"], "hesscomp merge runs on one rank"),
        (
            ["--nodes", "2", "--", "plan", "--n", "9", "--rows", "9"],
            "hesscomp plan runs on one rank",
        ),
        (["--stage", "d.npz", "--", "compress"], "--stage d.npz: is not a word of the command"),
        (["--stage", "a/d", "b/d", "--", "compress", "--at", "a/d", "b/d"], "two files have"),
        (
            ["--array", "--stage", "{}", "--", "compress", "--at", "{}"],
            "--stage {}: name the file itself",
        ),
        (["--", "compress", "--at", "{}"], "add --array"),
        (["--array", "--", "compress", "--run", "r"], "all tasks would do the same"),
        (
            ["--warning", "0", "--", "compress"],
            "--warning must be at least 1",
        ),
        (["--time", "1", "--", "compress"], "--time 1: leaves no time before the --warning, 60"),
        (["--time", "0-0:10", "--warning", "600", "--", "compress"], "leaves no time"),
        (["--submit", "--out", "j", "--array", "--", "compress", "{}"], "needs its items"),
        (["--out", "j", "--array", "no-*.h5", "--", "compress", "{}"], "no-*.h5: no file fits"),
        (["--out", "no/folder/j", "--", "compress"], "no/folder/j: cannot be written"),
        ([], "no command after --"),
        (["--out", "j", "--"], "no command after --"),
        (["--out", "f.h5", "--", "compress", "--out", "f.h5"], "the command uses this file"),
        (["--array", "c.h5", "--", "compress", "--at", "{}"], "need a script in a file"),
        (["--", "compress", "--data", "d", "--out", "f", "--rank", "0"], "rank must be at least 1"),
        (["--", "compress", "--data", "d", "--out", "f", "--power", "-1"], "power must be"),
        (
            ["--", "train", "--data", "d", "--optimizer", "sgd", "--set", "speed=1"],
            "no option speed",
        ),
        (["--", "newton", "--data", "d", "--gamma", "2"], "--gamma goes with --step fixed"),
        (["--", "plan", "--problem", "mnist-mlp", "--ranks", "2", "--", "--rank", "3"], "--rank"),
        (["--submit", "--out", "j", "--", "compress", "--out", "f"], "name one with --data"),
    ],
)
def test_refuses_in_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["job", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compress", "--out", "f.h5"], "unrecognized arguments: compress; a command and its opt"),
        (["compress", "--out", "f.h5", "--", "compress"], "unrecognized arguments: compress"),
        (["--sub", "--", "compress"], "no option --sub; did you mean --submit?"),
        (["--", "compress", "--out", "f", "--rnk", "3"], "no option --rnk; did you mean --rank?"),
        (["--", "compress", "--out", "f", "--rank", "three"], "--rank: invalid int value"),
        (["--", "train", "--data", "d", "--optimizer", "magic"], "invalid choice: 'magic'"),
        (["--array", "--", "train", "--optimizer", "sgd", "--seed", "%a", "--runs", "r"], "--runs"),
        (["--submit", "--out", "j", "--", "compress"], "required: --out; see hesscomp compress"),
    ],
)
def test_refuses_what_the_parsers_refuse(tmp_path, monkeypatch, capsys, words, message):
    """Those of job and of the command, before anything is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.h5").write_bytes(b"precious")
    with pytest.raises(SystemExit) as ended:
        main(["job", *words])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and message in error and len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]
    assert (tmp_path / "f.h5").read_bytes() == b"precious"


def test_overwrites_nothing_but_its_own_scripts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for text in (b"\x89HDF", b"", b"#!/usr/bin/env bash\n# mine\n"):
        (tmp_path / "f").write_bytes(text)
        assert main(["job", "--out", "f", "--", "compress"]) == 2
        assert "f: exists and is not a job script of hesscomp" in capsys.readouterr().err
        assert (tmp_path / "f").read_bytes() == text
    for number in ("1", "2"):
        assert main(["job", "--out", "j", "--nodes", number, "--", "compress"]) == 0
    assert "--nodes=2" in (tmp_path / "j").read_text()


def test_warns_of_old_names_in_its_command(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    command = ["newton", "--data", "adult", "--max-iter", "3"]
    assert main(["job", "--out", "j", "--", *command]) == 0
    assert "--max-steps" in caplog.text + capsys.readouterr().err


def test_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    """What is lacking may follow on submission, also for an array, whose numbers are unknown."""
    monkeypatch.chdir(tmp_path)
    assert main(["job", "--out", "j", "--", "compress"]) == 0
    said = capsys.readouterr().out
    assert "still needs on submission: --out\n" in said and "submit it with: sbatch -- j\n" in said
    assert main(["job", "--out", "j", "--", "compress", "--out", "f.h5"]) == 0
    assert "still needs on submission: no data and no problem" in capsys.readouterr().out
    assert main(["job", "--", "newton", "--data", "a.svm", "--test", "%j.svm"]) == 0
    assert capsys.readouterr().err == "hesscomp: a.svm: is not here; the job will need it\n"
    seeds = ["--array", "7", "8", "--out", "j", "--", "compress", "--data", "adult"]
    assert main(["job", *seeds, "--seed", "{}", "--out", "%A-%a.h5"]) == 0
    assert capsys.readouterr().out.endswith("submit it with: sbatch --array=0-1 -- j 7 8\n")


def test_submits(tmp_path, monkeypatch, capfd):
    fake = tmp_path / "bin" / "sbatch"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho sbatch $*\n[ ! -e full ]\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent))
    monkeypatch.chdir(tmp_path)
    for number in (10, 9):
        (tmp_path / f"c-{number}.h5").touch()
    compress = ["compress", "--data", "d.csv", "--out", "{name}", "--at", "{}"]
    array = ["job", "--array", "c-*.h5", "--out", "j", "--submit", "--", *compress]
    assert main(array) == 0
    assert "sbatch --array=0-1 -- j c-9.h5 c-10.h5" in capfd.readouterr().out
    alone = ["job", "--out", "j", "--submit", "--", "newton", "--data", "d.csv"]
    assert main(alone) == 0
    assert "sbatch -- j\n" in capfd.readouterr().out
    assert main(["job", "--name", "night", *alone[3:]]) == 0
    assert "sbatch -- night.sbatch\n" in capfd.readouterr().out
    assert (tmp_path / "night.sbatch").read_text().startswith("#!")
    (tmp_path / "full").touch()
    assert main(alone) == 1
    assert "sbatch -- j: ended with status 1" in capfd.readouterr().err
    fake.unlink()
    assert main(alone) == 2
    assert "sbatch: not on this machine" in capfd.readouterr().err


def test_adult_newton_names_a_wrong_number_of_ranks(run_command, tmp_path):
    done = run_command([JOBS / "adult_newton.sh", "--ridge"], cwd=tmp_path)
    assert done.returncode == 2
    assert "the number of ranks comes first" in done.stderr
