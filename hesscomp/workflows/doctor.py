"""Find what of MPI, TensorFlow, HDF5 and SLURM this machine has, and what is wrong with it.

Whatever may fail, crash or hang runs in a process of its own, which is ended when its time is over.
"""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import hesscomp
from hesscomp.errors import reason
from hesscomp.options import Options, option
from hesscomp.parallel import INSTALL_MPI, threads_of_environment
from hesscomp.workflows.probes import MARK

OK, NOTE, PROBLEM = "ok", "note", "problem"
GRACE = 5.0  # seconds in which a process that is told to end does so
AGREE = 1e-8  # relative distance of eigenvalues on one and on two ranks that rounding explains
JOB = ("PMI", "HYDRA_", "HYDI_", "MPI_LOCAL", "OMPI_COMM_WORLD_", "OMPI_UNIVERSE_")  # of a rank
MPICH_FAMILY = r"HYDRA|MPICH|MVAPICH|Intel"
OPEN_MPI_FAMILY = r"Open ?MPI|OpenRTE|PRRTE|prte"
NVIDIA = Path("/proc/driver/nvidia/version")  # there with the driver of a GPU


@dataclass(frozen=True, kw_only=True)
class DoctorRequest(Options):
    """How patient to be."""

    timeout: float = option(
        60.0, above=0, high=86400, metavar="S",
        help="seconds after which a check that has not answered is ended and counts as a problem",
    )  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """What was found of one part.

    Attributes
    ----------
    part : str
        Such as "MPI".
    state : {"ok", "note", "problem"}
    text : str
        What there is, or what is wrong.
    remedy : str
        What to do about it, in one sentence; empty where nothing is to be done.
    """

    part: str
    state: str
    text: str
    remedy: str = ""


def doctor(request: DoctorRequest, show: Callable[[Finding], None]) -> tuple[Finding, ...]:
    """Check this machine; `show` gets each finding as soon as there is one.

    Takes at most about six times ``request.timeout``, whatever hangs.
    """
    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        findings.append(finding)
        show(finding)

    tell(_python())
    tell(_cores())
    with ExitStack() as children:  # they run while each is waited for
        probes = {
            name: children.enter_context(Child(_probe(name), request.timeout))
            for name in ("mpi", "hdf5", "tensorflow")
        }
        library = _found(probes["mpi"])
        launcher, finding = _mpi(library, request.timeout)
        tell(finding)
        tell(_hdf5(_found(probes["hdf5"])))
        tell(_tensorflow(_found(probes["tensorflow"])))
    tell(_slurm(request.timeout))
    tell(_selftest(library, launcher, request.timeout))
    return tuple(findings)


class Child:
    """A process that is ended, with its children, when its time is over.

    It writes into a file, not into a pipe: a grandchild that lives on cannot hold up the reader.
    """

    def __init__(self, words: Sequence[str], seconds: float):
        self.started = time.monotonic()
        self.seconds, self.timed_out, self.text = seconds, False, ""
        self.status: int | None = None  # None where it could not be started or ended
        self._process: subprocess.Popen | None = None
        self._out = tempfile.TemporaryFile()  # noqa: SIM115 (open until __exit__)
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=self._out,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            self.text = f"{words[0]}: {error.strerror}"

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_) -> None:
        self._end()
        self._out.close()

    def wait(self) -> "Child":
        """Wait for its end, for no longer than its time; return it with its output."""
        if self._process is None or self._out.closed:
            return self
        left = self.started + self.seconds - time.monotonic()
        try:
            self._process.wait(max(left, 0.01))
        except subprocess.TimeoutExpired:
            self.timed_out = True
            self._end()
        self.status = self._process.poll()
        self._out.seek(0)
        self.text = self._out.read().decode(errors="replace")
        return self

    def _end(self) -> None:
        """End the process: politely first, so that mpiexec ends its ranks."""
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is not None:
                return
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)


def _environment() -> dict[str, str]:
    """Return this process's environment for one that imports the same and is no rank of a job."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(JOB)}
    paths = [path or os.getcwd() for path in sys.path]
    return kept | {
        "PYTHONPATH": os.pathsep.join(paths),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",  # a shared GPU's memory is not taken whole
    }


def _run(words: Sequence[str], seconds: float) -> Child:
    """Run a program to its end, or to the end of its time."""
    with Child(words, seconds) as child:
        return child.wait()


def _probe(name: str) -> list[str]:
    """Return the words that run a probe in another process of the same Python."""
    code = f"from hesscomp.workflows.probes import main; main({name!r})"
    return [sys.executable, "-P", "-c", code]


def _results(child: Child) -> list[dict]:
    """Return what the probes in a process have printed, one for each that did."""
    lines = child.text.splitlines()
    return [json.loads(line[len(MARK) :]) for line in lines if line.startswith(MARK)]


def _found(child: Child) -> dict:
    """Return what a probe found, or {"error": why it found nothing}."""
    results = _results(child.wait())
    if results:
        return results[0].get("found") or results[0]
    return {"error": _failure(child)}


def _failure(child: Child) -> str:
    """Return in one line why a process did not do what it should."""
    if child.timed_out:
        return f"no answer within {child.seconds:g} s"
    lines = [line for line in child.text.splitlines() if line.strip()]
    said = reason(lines[-1]) if lines else "it wrote nothing"
    if child.status is not None and child.status < 0:
        return f"killed by {signal.Signals(-child.status).name} ({said})"
    return said if child.status is None else f"exit status {child.status} ({said})"


def _python() -> Finding:
    """Find whether the packages are as new as this version requires."""
    text = f"hesscomp {hesscomp.__version__} on Python {platform.python_version()}"
    try:
        lines = metadata.requires("hesscomp") or []
    except metadata.PackageNotFoundError:
        return Finding("Python", NOTE, f"{text}, not installed: its packages are not checked")
    old, checked = [], 0
    for name, least in re.findall(r"^([\w-]+)>=([\d.]+)$", "\n".join(lines), re.MULTILINE):
        checked += 1
        try:
            there = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name != "tensorflow":  # builds of it have other names
                old.append(f"{name}>={least}")
        else:
            if _numbers(there) < _numbers(least):
                old.append(f"{name}>={least}")
    if not old:
        return Finding("Python", OK, f"{text}; {checked} packages are new enough")
    remedy = "install what is missing or too old: pip install " + " ".join(map(repr, old))
    return Finding("Python", PROBLEM, f"{text}; needs {', '.join(old)}", remedy)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _cores() -> Finding:
    """Find how many cores and threads a rank has."""
    there = os.cpu_count() or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    text = f"{cores} core{'s' * (cores > 1)}"
    if cores < there:
        text += f" of this machine's {there}"
    fixed = os.environ.get("OMP_NUM_THREADS", "")
    if not fixed:
        return Finding(
            "cores", OK, f"{text}: {cores} for one rank, {max(cores // 2, 1)} for each of two"
        )
    text += f"; OMP_NUM_THREADS={fixed}"
    remedy = f"set OMP_NUM_THREADS to the cores of a rank, here at most {cores}, or unset it"
    threads = threads_of_environment()
    if threads is None:
        return Finding("cores", PROBLEM, f"{text} is no number of threads", remedy)
    if threads > cores:
        return Finding("cores", PROBLEM, f"{text} is more threads than cores", remedy)
    return Finding("cores", OK, f"{text} thread{'s' * (fixed != '1')} for each rank")


def _mpi(library: dict, seconds: float) -> tuple[str | None, Finding]:
    """Return the launcher, if there is one, and whether it fits the library of mpi4py."""
    beside = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    launcher = shutil.which("mpiexec") or beside
    if "error" in library:
        return launcher, Finding("MPI", PROBLEM, library["error"], _remedy_of_mpi(library["error"]))
    text = f"{library['name']} {library['version']} (mpi4py {library['mpi4py']})"
    if launcher is None:
        if shutil.which("srun"):
            return None, Finding("MPI", NOTE, f"{text}; no mpiexec here: start ranks with srun")
        return None, Finding("MPI", PROBLEM, f"{text}; no mpiexec in PATH", INSTALL_MPI)
    asked = _run([launcher, "--version"], seconds)
    if asked.timed_out or not asked.text.strip():
        return launcher, Finding(
            "MPI", PROBLEM, f"{text}; {launcher} --version: {_failure(asked)}",
            "put another mpiexec of the same MPI first in PATH",
        )  # fmt: skip
    version = (re.findall(r"\d+(?:\.\d+)+", asked.text) or ["of unknown version"])[0]
    text += f"; mpiexec {version} ({launcher})"
    if _family(asked.text) != _family(library["name"]) and _family(asked.text):
        text += f" belongs to {_family(asked.text)}: every rank would be alone"
        other = beside if beside != launcher else None
        remedy = f"start ranks with {other or 'the mpiexec of ' + library['name']}"
        return launcher, Finding("MPI", PROBLEM, text, f"{remedy}: put its folder first in PATH")
    if shutil.which("mpiexec") is None:
        remedy = f'put it in PATH: export PATH="{Path(launcher).parent}:$PATH"'
        return launcher, Finding("MPI", NOTE, f"{text} is not in PATH", remedy)
    if _numbers(version)[:2] != _numbers(library["version"])[:2]:
        remedy = "if ranks do not find each other, use the library and mpiexec of one installation"
        return launcher, Finding("MPI", NOTE, f"{text} is of another version", remedy)
    return launcher, Finding("MPI", OK, text)


def _family(text: str) -> str:
    """Return which launchers and libraries of MPI work together; empty where that is unknown."""
    if re.search(OPEN_MPI_FAMILY, text, re.IGNORECASE):
        return "Open MPI"
    return "MPICH" if re.search(MPICH_FAMILY, text, re.IGNORECASE) else ""


def _remedy_of_mpi(error: str) -> str:
    if "No module named" in error:
        return "install it with: pip install 'mpi4py>=4.1', and where there is no MPI 'mpich>=5'"
    if "no answer" in error:
        return "run hesscomp doctor on a compute node, or give it more time with --timeout"
    return INSTALL_MPI


def _hdf5(found: dict) -> Finding:
    if "error" in found:
        remedy = "install h5py anew with its own HDF5: pip install --force-reinstall h5py"
        return Finding("HDF5", PROBLEM, found["error"], remedy)
    built = "built for MPI" if found["parallel"] else "not built for MPI, which is not needed"
    return Finding("HDF5", OK, f"{found['version']} (h5py {found['h5py']}), {built}")


def _tensorflow(found: dict) -> Finding:
    part = "TensorFlow"
    if "error" in found:
        error = found["error"]
        if "no answer" in error:
            remedy = "put the environment on a local disk, or give it more time with --timeout"
        elif "SIGILL" in error:
            remedy = "take a build for processors without AVX, such as the one of conda-forge"
        else:
            remedy = "install it anew: pip install --force-reinstall tensorflow"
        return Finding(part, PROBLEM, error, remedy)
    gpus = found["gpus"]
    text = f"{found['version']} (Keras {found['keras']})"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if not gpus and NVIDIA.exists() and not hidden:
        if not found["built_for_gpus"]:
            remedy = "install a build for GPUs: pip install 'tensorflow[and-cuda]'"
        else:
            remedy = "install the CUDA libraries: pip install 'hesscomp[gpu]'"
        return Finding(part, PROBLEM, f"{text} does not see this machine's GPU", remedy)
    devices = f"{gpus} GPU{'s' * (gpus > 1)}" if gpus else "no GPU: computes on the cores"
    return Finding(part, OK, f"{text}, {devices}; takes the threads of its rank")


def _slurm(seconds: float) -> Finding:
    """Find SLURM, and whether its srun can start MPI."""
    if shutil.which("sbatch") is None:
        return Finding("SLURM", OK, "not found; only hesscomp job needs it")
    asked = _run(["sbatch", "--version"], seconds)
    if asked.status != 0:
        remedy = "submit jobs from a login node of the cluster: sbatch does not work here"
        return Finding("SLURM", NOTE, _failure(asked), remedy)
    text = reason(asked.text)
    listed = _run(["srun", "--mpi=list"], seconds)
    kinds = [kind for kind in ("pmi2", "pmix") if re.search(rf"\b{kind}", listed.text)]
    if not kinds:
        remedy = "write jobs that start ranks themselves: hesscomp job --launcher mpiexec"
        return Finding("SLURM", NOTE, f"{text}, whose srun knows neither pmi2 nor pmix", remedy)
    return Finding("SLURM", OK, f"{text}, srun --mpi={' or '.join(kinds)}")


def _selftest(library: dict, launcher: str | None, seconds: float) -> Finding:
    """Compress a small matrix on one and on two ranks, and compare the eigenvalues."""
    part = "self-test"
    if "error" in library or launcher is None:
        return Finding(part, NOTE, "not run: it needs MPI and mpiexec")
    alone = _found(_run(_probe("selftest"), seconds))
    if "error" in alone:
        remedy = "see what is said of the other parts; on a login node, run it on a compute node"
        return Finding(part, PROBLEM, f"1 rank: {alone['error']}", remedy)
    two = _run([launcher, "-n", "2", *_probe("selftest")], seconds)
    results = [each.get("found", each) for each in _results(two)]
    errors = [each["error"] for each in results if "error" in each]
    if errors or not results:
        text = errors[0] if errors else _failure(two)
        return Finding(part, PROBLEM, f"2 ranks: {text}", _remedy_of_two(two))
    if results[0]["ranks"] != 2:
        remedy = f"use the mpiexec of {library['name']}, or install mpi4py for this one"
        return Finding(part, PROBLEM, "2 ranks do not see each other: each is alone", remedy)
    distance = max(
        abs(one - other)
        for one, other in zip(alone["eigenvalues"], results[0]["eigenvalues"], strict=True)
    ) / abs(alone["eigenvalues"][0])
    if not distance < AGREE:
        text = f"eigenvalues on 1 and 2 ranks differ by {distance:.1e} of the largest"
        return Finding(part, PROBLEM, text, "install MPI, NumPy and SciPy anew, then report this")
    return Finding(part, OK, "a matrix compressed on 2 ranks has the eigenvalues of 1 rank")


def _remedy_of_two(child: Child) -> str:
    if "slots" in child.text:
        return "allow more ranks than cores: mpiexec --oversubscribe (Open MPI)"
    if "as root" in child.text:
        return "run mpiexec as an ordinary user, which Open MPI asks for"
    if child.timed_out:
        return "check that this host's name has an address (/etc/hosts), or use a compute node"
    return "try: mpiexec -n 2 hostname; where that fails too, MPI must be mended first"
