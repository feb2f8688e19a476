"""The job scripts on a real SLURM: two nodes on this machine, by scripts/slurm-sandbox.

Ranks spend their time on importing TensorFlow, so most jobs have one on each node. What is marked
`slow` too is for `make test-slurm` alone, the rest is also for continuous integration.
"""

import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
JOBS, SANDBOX = ROOT / "jobs", ROOT / "scripts" / "slurm-sandbox"
FEATURES, CLASSES, ROWS = 8, 3, 200
STEPS = 9, 10  # of the checkpoints, in an order that their names are not in
UNENDED = "PENDING", "CONFIGURING", "RUNNING", "COMPLETING"  # the last of a requeued job too
SMALL = ("--cpus-per-task=1", "--ntasks-per-node=1")

pytestmark = pytest.mark.slurm

# Stands in for hesscomp: its ranks save when they are told to, once, and resume after that.
SAVES_ONCE = """#!/bin/bash
rank=${PMI_RANK:-$SLURM_PROCID}
if [ -z "${SLURM_RESTART_COUNT:-}" ]; then
    trap 'echo "rank $rank saves"; sleep 0.$rank; exit 75' USR1
    touch "ready-${SLURM_ARRAY_TASK_ID:-}-$rank"
    while :; do sleep 0.1; done
fi
echo "rank $rank resumes"
"""
# Stands in for hesscomp: one rank is killed, the others wait for it.
ONE_IS_KILLED = """#!/bin/bash
if [ "$SLURM_PROCID" = 3 ]; then kill -KILL $$; fi
sleep 300
"""
# hesscomp in a process whose memory is full of bytes that are not zero, between small holes: what
# MPICH sends of the memory behind an address is as long as it can be.
FULL_OF_BYTES = f"""#!{sys.executable}
import ctypes, sys
from hesscomp.cli.guard import main

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = libc.free.argtypes = [ctypes.c_size_t]
holes = []
for size in range(128, 1025, 16):
    for _ in range(150):
        holes.append(libc.malloc(size))
        ctypes.memset(libc.malloc(5000), 0xAA, 5000)
for hole in holes:
    libc.free(hole)
sys.exit(main())
"""

# What a notebook does with a cell: it shows the last expression. IPython may be missing here.
NOTEBOOK = """
import ast, sys, types
from pathlib import Path

try:
    import IPython.display
except ImportError:
    display = types.ModuleType("IPython.display")
    display.Image = lambda filename: types.SimpleNamespace(data=Path(filename).read_bytes())
    sys.modules |= {"IPython": types.ModuleType("IPython"), "IPython.display": display}
cell, names = ast.parse(sys.argv[1]), {}
last = ast.Expression(cell.body.pop().value)
exec(compile(cell, "cell", "exec"), names)
print(eval(compile(last, "cell", "eval"), names).data[1:4].decode())
"""


class Slurm:
    """Submits jobs from a folder and waits for them."""

    def __init__(self, run_command, folder: Path, environment: dict[str, str]):
        self.run_command, self.folder, self.environment = run_command, folder, environment

    def run(self, *words) -> str:
        done = self.run_command(words, env=self.environment, cwd=self.folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, *words) -> str:
        """The id of the job that sbatch makes of the words."""
        return self.run("sbatch", "--parsable", *words).strip()

    def wait(self, job: str, seconds: float = 300) -> tuple[str, str]:
        """The job's final state and its log."""
        deadline = time.monotonic() + seconds
        while (state := self.state(job)) in UNENDED:
            assert time.monotonic() < deadline, f"job {job} is still {state}\n{self.log(job)}"
            time.sleep(0.3)
        return state, self.log(job)

    def state(self, job: str) -> str:
        return re.search(r"JobState=(\w+)", self.run("scontrol", "-o", "show", "job", job))[1]

    def log(self, job: str) -> str:
        return "".join(path.read_text() for path in self.folder.glob(f"*-{job}*.out"))

    def pretend(self, program: str) -> None:
        """Let a script stand in for hesscomp, in an environment with this one's launcher."""
        path = self.folder / "bin" / "hesscomp"
        path.parent.mkdir()
        for name in ("mpiexec", "hydra_pmi_proxy"):
            if (own := Path(sys.prefix) / "bin" / name).exists():  # else the system's
                (path.parent / name).symlink_to(own)
        path.write_text(program)
        path.chmod(0o755)
        self.environment = {**self.environment, "HESSCOMP_VENV": str(self.folder)}


@pytest.fixture(scope="module")
def possible():
    """Skips where there can be no sandbox, with the reason."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [
        name for name in ("munged", "slurmctld", "slurmd") if not shutil.which(name, path=path)
    ]
    if missing:
        pytest.skip(f"there is no {missing[0]}: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("SLURM's daemons need root: sudo make test-slurm")
    if not (Path(sys.prefix) / "bin" / "hesscomp").exists():
        pytest.skip("hesscomp is not installed in this environment (make install)")


@pytest.fixture(scope="module")
def sandbox(possible, run_command):
    """The settings of a running sandbox; one that is started here is stopped here."""
    folder = os.environ.get("SLURM_SANDBOX", "/run/slurm-sandbox")
    started = run_command([SANDBOX, "status"]).returncode != 0
    if started:
        done = run_command([SANDBOX, "start"])
        assert done.returncode == 0, done.stderr
    yield f"{folder}/slurm.conf"
    if started:
        done = run_command([SANDBOX, "stop"])
        assert done.returncode == 0, done.stderr


@pytest.fixture
def slurm(sandbox, run_command, tmp_path):
    environment = {"SLURM_CONF": sandbox, "HESSCOMP_VENV": sys.prefix}
    return Slurm(run_command, tmp_path, environment)


def test_a_start_that_fails_leaves_nothing(possible, run_command, tmp_path):
    (tmp_path / "slurmctld").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "slurmctld").chmod(0o755)
    folder = tmp_path / "s"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_SANDBOX": str(folder)}
    assert run_command([SANDBOX, "start"], env=environment).returncode == 1
    assert not folder.exists()
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [words for words in commands if str(folder).encode() in words]


def test_newton_on_two_nodes(slurm):
    job = slurm.submit(*SMALL, JOBS / "adult_newton.sbatch", "--ridge", "1e-3")
    state, log = slurm.wait(job)
    assert state == "COMPLETED", log
    assert "NumNodes=2" in slurm.run("scontrol", "-o", "show", "job", job)
    report = json.loads((slurm.folder / f"out/adult-{job}/report.json").read_text())
    assert report["converged"] and report["ranks"] == 2 and report["threads_per_rank"] == 1
    assert report["objective"] == pytest.approx(0.326523399290756, abs=1e-12)


def test_mpi_starts_whatever_memory_holds(slurm):
    """SLURM reads 1024 bytes of a request: MPICH may not send more (see `pmi_relay`)."""
    slurm.pretend(FULL_OF_BYTES)
    job = slurm.submit(*SMALL, JOBS / "adult_newton.sbatch", "--comm-timeout", 60)
    state, log = slurm.wait(job)
    assert state == "COMPLETED" and "converged" in log, log


@pytest.mark.parametrize(
    "script", ["compress", pytest.param("compress_mpiexec", marks=pytest.mark.slow)]
)
def test_compress_by_either_launcher(slurm, script):
    from hesscomp.datasets import load_dataset
    from hesscomp.factors import load_factor
    from hesscomp.parallel.world import World

    script = JOBS / f"{script}.sbatch"
    state, log = slurm.wait(job := slurm.submit("--cpus-per-task=1", script, "--rank", 20))
    assert state == "COMPLETED", log
    factor = load_factor(slurm.folder / f"out/compress-{job}/factor.h5")
    assert factor.provenance.ranks == 4
    A = load_dataset("adult", World.serial()).train.X
    A = A.toarray() if hasattr(A, "toarray") else A
    expected = np.linalg.eigvalsh(A.T @ A / (4 * len(A)))[::-1]  # at zero, s(1 - s) is a quarter
    assert factor.eigenvalues[:5] == pytest.approx(expected[:5], rel=1e-3)


@pytest.fixture
def network(slurm):
    """m.keras, d.npz and checkpoints in the folder; each checkpoint's dense Hessian."""
    from hesscomp.curvature.hessian import HessianOperator
    from hesscomp.curvature.tensorflow import keras
    from hesscomp.datasets import from_arrays
    from hesscomp.parallel.world import World
    from hesscomp.problems.keras import KerasProblem

    keras.utils.set_random_seed(1)
    layers = [keras.Input((FEATURES,)), keras.layers.Dense(3, "tanh"), keras.layers.Dense(CLASSES)]
    model = keras.Sequential(layers)
    model.save(slurm.folder / "m.keras")
    rng = np.random.default_rng(2)
    X, y = rng.standard_normal((ROWS, FEATURES)), rng.integers(0, CLASSES, ROWS)
    np.savez(slurm.folder / "d.npz", X=X, y=y)
    world = World.serial()
    data = from_arrays(X, y, world, targets="classes")
    problem = KerasProblem(model, "softmax-cross-entropy", data, world, dtype="float64")
    (slurm.folder / "run").mkdir()
    hessians = []
    for step in STEPS:
        x = problem.initial + 0.1 * step * rng.standard_normal(problem.n)
        np.save(slurm.folder / f"run/ckpt-{step}.npy", x)
        hessians.append(HessianOperator(problem, x) @ np.eye(problem.n))
    return hessians


def leading(H: np.ndarray, count: int) -> np.ndarray:
    w = np.linalg.eigvalsh(H)
    return w[np.argsort(-np.abs(w))][:count]


def test_a_network_with_its_data_on_scratch(slurm, network):
    from hesscomp.factors import load_factor

    options = ["--at", "run/ckpt-9.npy", "--rank", 5, "--dtype", "float64"]
    job = slurm.submit(*SMALL, JOBS / "compress_keras.sbatch", *options)
    state, log = slurm.wait(job)
    assert state == "COMPLETED", log
    factor = load_factor(slurm.folder / f"out/keras-{job}/factor.h5")
    assert factor.eigenvalues == pytest.approx(leading(network[0], 5), rel=1e-6)
    assert not list(Path(slurm.environment["SLURM_CONF"]).parent.glob(f"scratch/*/{job}"))


def test_a_trajectory_by_an_array_and_a_merge(slurm, network):
    from hesscomp.factors import load_trajectory

    points = [f"run/ckpt-{step}.npy" for step in STEPS]
    said = slurm.run(JOBS / "trajectory.sh", *points)
    merge = re.search(r"Submitted batch job (\d+)", said)[1]
    state, log = slurm.wait(merge)
    assert state == "COMPLETED", log + slurm.log(str(int(merge) - 1))
    (path,) = slurm.folder.glob("out/trajectory-*.h5")
    found = load_trajectory(path)
    assert found.labels == tuple(f"ckpt-{step}.npy" for step in STEPS)
    for factor, H in zip(found.factors, network, strict=True):
        assert factor.eigenvalues[:5] == pytest.approx(leading(H, 5), rel=1e-4)


def until_ready(slurm, job: str, ranks: int) -> None:
    while len(list(slurm.folder.glob("ready-*"))) < ranks:
        assert slurm.state(job) in ("PENDING", "CONFIGURING", "RUNNING"), slurm.log(job)
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("launcher", "signal"),
    [pytest.param("srun", "USR1", marks=pytest.mark.slow), ("srun", "TERM"), ("mpiexec", "USR1")],
)
def test_a_preempted_job_saves_and_is_requeued(slurm, launcher, signal):
    slurm.pretend(SAVES_ONCE)
    words = ["--nodes", 2, "--ranks-per-node", 2, "--launcher", launcher, "--out", "j.sbatch"]
    slurm.run(sys.executable, "-m", "hesscomp", "job", *words, "--", "compress")
    job = slurm.submit("j.sbatch")
    until_ready(slurm, job, 4)
    slurm.run("scancel", "--batch", f"--signal={signal}", job)
    state, log = slurm.wait(job)
    assert state == "COMPLETED", log
    for rank in range(4):
        assert log.count(f"rank {rank} saves") == 1 and log.count(f"rank {rank} resumes") == 1


def test_a_preempted_task_of_an_array_is_requeued_alone(slurm):
    """First the one whose own id is the array's."""
    slurm.pretend(SAVES_ONCE)
    words = ["--array", "--out", "j.sbatch", "--", "compress", "--at", "{}"]
    slurm.run(sys.executable, "-m", "hesscomp", "job", *words)
    job = slurm.submit("--array=0-1", "j.sbatch", "a", "b")
    until_ready(slurm, f"{job}_1", 2)
    assert f"JobId={job} " in slurm.run("scontrol", "-o", "show", "job", f"{job}_1")
    slurm.run("scancel", "--batch", "--signal=USR1", f"{job}_1")
    state, log = slurm.wait(f"{job}_1")
    assert state == "COMPLETED" and "rank 0 resumes" in log, log
    assert slurm.state(f"{job}_0") == "RUNNING" and slurm.log(f"{job}_0") == ""
    slurm.run("scancel", "--batch", "--signal=USR1", f"{job}_0")
    state, log = slurm.wait(f"{job}_0")
    assert state == "COMPLETED" and "rank 0 resumes" in log, log


@pytest.mark.slow
def test_preempted_training_gives_the_uninterrupted_point(slurm):
    options = ["--problem", "adult-mlp", "--max-steps", 6, "--reproducible"]
    train = (*SMALL, JOBS / "train.sbatch", *options)
    job = slurm.submit(*train, "--save-point", "a.npy")
    while not re.search(r"^ +1 ", slurm.log(job), re.MULTILINE):  # it has taken a step
        assert slurm.state(job) in ("PENDING", "CONFIGURING", "RUNNING"), slurm.log(job)
        time.sleep(0.1)
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    state, log = slurm.wait(job)
    assert state == "COMPLETED" and "ended by a signal" in log and "after 6 steps" in log, log
    again = slurm.submit(*train, "--run", "again", "--save-point", "b.npy")
    state, log = slurm.wait(again)
    assert state == "COMPLETED" and "ended by a signal" not in log, log
    a, b = (np.load(slurm.folder / name) for name in ("a.npy", "b.npy"))
    assert a.tobytes() == b.tobytes()


@pytest.mark.slow
def test_a_preempted_compression_gives_the_uninterrupted_factor(slurm):
    """Ended within its Krylov process, between two of some four hundred block products."""
    from hesscomp.factors import load_factor

    options = ["--features", "fourier", "--feature-count", 1000, "--bandwidth", 6]
    options += ["--rank", 120, "--method", "krylov", "--block", 1, "--residual-tolerance", 1e-12]
    compress = (*SMALL, JOBS / "compress.sbatch", *options, "--reproducible")
    job = slurm.submit(*compress)
    run = slurm.folder / f"out/compress-{job}/run"
    while not (run / "product-000003.h5").exists():
        assert slurm.state(job) in ("PENDING", "CONFIGURING", "RUNNING"), slurm.log(job)
        time.sleep(0.05)
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    state, log = slurm.wait(job)
    assert state == "COMPLETED" and log.count("ended by a signal") == 1, log
    assert not run.exists()
    report = json.loads((slurm.folder / f"out/compress-{job}/report.json").read_text())
    assert 4 <= report["ledger"]["replayed"] < report["provenance"]["columns"]
    again = slurm.submit(*compress)
    state, log = slurm.wait(again)
    assert state == "COMPLETED" and "ended by a signal" not in log, log
    factors = [load_factor(slurm.folder / f"out/compress-{j}/factor.h5") for j in (job, again)]
    for name in ("eigenvalues", "eigenvectors"):
        a, b = (getattr(factor, name) for factor in factors)
        assert a.tobytes() == b.tobytes()


@pytest.mark.slow
def test_a_preempted_service_goes_on_with_its_job(slurm):
    """USR1 saves its job and requeues it; a killed rank's step ends; TERM ends it without jobs."""
    from hesscomp.client import NotRunning, connect
    from hesscomp.errors import InputError

    def service(starts: int):
        """The service after so many starts, with its ranks."""
        while slurm.log(job).count("service: ") < starts:
            assert slurm.state(job) in UNENDED, slurm.log(job)
            time.sleep(0.2)
        while True:
            try:
                found = connect(slurm.folder / "out/service")
                found.ready(120)
                return found
            except (NotRunning, InputError):
                time.sleep(0.2)

    job = slurm.submit(*SMALL, JOBS / "serve.sbatch", "--reproducible")
    there = service(1)
    assert len(there.status()["ranks"]) == 2
    first = there.train("gauss-newton", max_steps=20)
    while not any(row["step"] >= 2 for row in first.known["history"]):
        time.sleep(0.02)
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    there = service(2)
    first, second = there.job(first.id), there.train("gauss-newton", max_steps=20)
    points = []
    for each in (first, second):
        assert each.result(300)["steps"] == 20
        points.append(each.fetch("best.npy", slurm.folder / f"{each.id}.npy").read_bytes())
    assert points[0] == points[1]
    assert first.known["attempts"] == 0
    ranks = {each["rank"]: each["pid"] for each in there.status()["ranks"]}
    os.kill(ranks[1], signal.SIGSTOP)  # only its step's end can end it
    os.kill(ranks[0], signal.SIGKILL)
    third = there.train("gauss-newton", max_steps=1)
    assert third.result(300)["steps"] == 1
    assert not {each["pid"] for each in there.status()["ranks"]} & set(ranks.values())
    slurm.run("scancel", "--batch", "--signal=TERM", job)
    state, log = slurm.wait(job)
    assert state == "COMPLETED" and log.count("service: ") == 2, log


@pytest.mark.slow
def test_from_sbatch_to_a_spectrum_in_a_notebook(slurm):
    """As a new user who has docs/service.md alone: its command, its five lines."""
    page = (ROOT / "docs" / "service.md").read_text().partition("\n## Under SLURM\n")[2]
    script = re.search(r"^sbatch (\S+)$", page, re.MULTILINE)[1]
    cell = re.search(r"^```{code-block} python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[1]
    assert len([line for line in cell.splitlines() if line.strip()]) == 5
    (slurm.folder / "jobs").symlink_to(JOBS)
    job = slurm.submit(*SMALL, script)
    while "service: " not in slurm.log(job):
        assert slurm.state(job) in UNENDED, slurm.log(job)
        time.sleep(0.2)
    done = slurm.run_command([sys.executable, "-c", NOTEBOOK, cell], cwd=slurm.folder)
    assert done.returncode == 0, done.stderr
    value, kind = done.stdout.split()
    assert float(value) > 0 and kind == "PNG"
    slurm.run("scancel", "--batch", "--signal=TERM", job)
    assert slurm.wait(job)[0] == "COMPLETED"


@pytest.mark.slow
def test_a_killed_rank_ends_the_job(slurm):
    slurm.pretend(ONE_IS_KILLED)
    start = time.monotonic()
    state, log = slurm.wait(slurm.submit("--cpus-per-task=1", JOBS / "compress.sbatch"), 40)
    assert state == "FAILED" and "task 3: Killed" in log
    assert time.monotonic() - start < 40
