"""Fixtures, and the rules by which several MPI ranks run one test together.

Run serially (``python -m pytest``), this file only provides fixtures. Under
``mpiexec -n P python -m pytest tests -m ranks`` every rank runs the same tests in the same order:

- after each phase of a test (setup, call, teardown) the ranks agree on its outcome: a test that
  failed on any rank has failed on all, and rank 0 shows that rank's report;
- only rank 0 writes to the terminal;
- only tests marked `door` compare their models with Keras first: that takes a quarter of the time,
  and serially a model of every kind is compared (`Door`);
- nothing waits for ever. A rank that fails alone, while the others sit in a reduction, shows its
  failure within seconds and ends the run if they do not come; a rank that hangs is ended by a
  watchdog that shows where it was. The limit is 120 seconds a phase (HESSCOMP_TEST_LIMIT), 600 for
  slow tests, or what ``@pytest.mark.timeout(seconds)`` says.
"""

import faulthandler
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from array import array
from pathlib import Path

import pytest
from mpi4py import MPI

MOST = 3  # ranks of a test that does not say `most`: the fourth tells something new of few
SIZE = MPI.COMM_WORLD.Get_size()
RANK = MPI.COMM_WORLD.Get_rank()

if SIZE > 1:  # before NumPy and TensorFlow read them
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

try:
    from hypothesis import settings
except ImportError:
    pass
else:  # the same examples on every rank and in every run
    settings.register_profile("hesscomp", derandomize=True, database=None, deadline=None)
    settings.load_profile("hesscomp")


# Fixtures


@pytest.fixture(scope="session")
def world():
    """All ranks of this test run; a world of one when run serially."""
    from hesscomp.parallel.world import World

    return World()


@pytest.fixture(scope="session", autouse=True)
def _threads():
    """As many threads as the commands take that tests run in this process, from the beginning."""
    tensorflow = sys.modules.get("hesscomp.curvature.tensorflow")
    if tensorflow is not None:
        tensorflow.set_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture
def eager(monkeypatch):
    """Functions run as they are written, so that hundreds of tiny problems need no compilation.

    What is traced to find a model's ending is traced as ever.
    """
    from hesscomp.curvature.tensorflow import tf
    from hesscomp.problems.differentiable import DifferentiableProblem

    compiled = DifferentiableProblem.compiled
    monkeypatch.setattr(
        DifferentiableProblem, "compiled", lambda *given, **more: Written(compiled(*given, **more))
    )
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


class Written:
    """A function that is its own concrete one, which is traced only for what it would return."""

    def __init__(self, function):
        self.function = function

    def __call__(self, *arguments):
        return self.function(*arguments)

    def get_concrete_function(self):
        return self

    def __getattr__(self, name):
        return getattr(self.function.get_concrete_function(), name)


@pytest.fixture
def shared_tmp(world):
    """A temporary folder, the same one on all ranks; removed after the test."""
    folder = world.broadcast(tempfile.mkdtemp(prefix="hesscomp-") if RANK == 0 else None)
    yield Path(folder)
    world.gather(None)
    if RANK == 0:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def full_data() -> Path:
    """The folder of the full data sets, named by HESSCOMP_DATA; the test is skipped without it."""
    folder = os.environ.get("HESSCOMP_DATA")
    if not folder:
        pytest.skip("set HESSCOMP_DATA to the folder of the full data sets (adult.data.xz, mnist/)")
    if not Path(folder).is_dir():
        pytest.fail(f"HESSCOMP_DATA={folder} is not a folder")
    return Path(folder)


@pytest.fixture(scope="session")
def launch_environment() -> dict[str, str]:
    """This process's environment without what ties it to an MPI job; for starting another."""
    from hesscomp.workflows.doctor import JOB

    environment = {key: value for key, value in os.environ.items() if not key.startswith(JOB)}
    # Open MPI refuses more ranks than cores, and root, unless told otherwise.
    environment.setdefault("OMPI_MCA_rmaps_base_oversubscribe", "1")
    environment.setdefault("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")
    if os.geteuid() == 0:
        environment.setdefault("OMPI_ALLOW_RUN_AS_ROOT", "1")
        environment.setdefault("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
    return environment


@pytest.fixture(scope="session")
def run_command(launch_environment):
    """``run_command(argv, timeout=, env=, cwd=)``: run to the end, return a CompletedProcess.

    Standard output and error are captured as text. A process that is still running after
    `timeout` seconds is ended, its children too, and the test fails with what it had written.
    """

    def run(argv, timeout=300.0, env=None, cwd=None):
        argv = [str(word) for word in argv]
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**launch_environment, **(env or {})},
        )
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            out, err = _end(process)
            pytest.fail(
                f"still running after {timeout} s: {' '.join(argv)}\n"
                f"--- standard output\n{out}\n--- standard error\n{err}"
            )
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    return run


def _end(process: subprocess.Popen) -> tuple[str, str]:
    """End a process, politely first so that mpiexec ends its ranks; return what it wrote."""
    for end in (process.terminate, process.kill):
        end()
        try:
            return process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            continue
    return "", "(it could not be ended)"


@pytest.fixture(scope="session")
def run_ranks(run_command):
    """``run_ranks(P, ["newton", ...], timeout=, env=, cwd=)``: run hesscomp on P ranks.

    For end-to-end tests in the serial run; P = 1 runs without mpiexec. See `run_command`.
    """
    if SIZE > 1:
        pytest.fail("run_ranks starts MPI jobs of its own: not for tests marked `ranks`")

    def run(ranks, arguments, **options):
        launcher = [] if ranks == 1 else [_mpiexec(), "-n", str(ranks)]
        return run_command([*launcher, sys.executable, "-m", "hesscomp", *arguments], **options)

    return run


@pytest.fixture(scope="session")
def mpiexec() -> str:
    """The launcher beside this Python, else the one in PATH."""
    return _mpiexec()


def _mpiexec() -> str:
    """The mpiexec of this Python's environment, else the one in PATH."""
    found = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")
    if found is None:
        pytest.fail("no mpiexec beside this Python or in PATH: pip install '.[mpich]'")
    return found


# Several ranks


def pytest_configure(config):
    config.pluginmanager.register(Door(), "hesscomp-door")
    if SIZE > 1:
        config.pluginmanager.register(Lockstep(config), "hesscomp-lockstep")
    if RANK > 0:
        config.pluginmanager.set_blocked("terminalreporter")


def pytest_ignore_collect(collection_path):
    """A module none of whose tests run on so many ranks is not even imported."""
    if SIZE > 1 and collection_path.suffix == ".py":
        marks = re.findall(r"mark\.ranks(?:\(most=(\d+)\))?", collection_path.read_text())
        if all(int(most or MOST) < SIZE for most in marks):
            return True
    return None


class Door:
    """The pytest plugin that says which models are compared with Keras before they are used.

    All those of tests marked `door`; serially also the first of the others with the same layers,
    loss and engine.
    """

    def __init__(self):
        self.marked, self.compared = False, set()

    def pytest_collection_finish(self):
        keras = sys.modules.get("hesscomp.problems.keras")
        if keras is None:  # no test has models
            return
        compare = keras.KerasProblem._check_at_the_door

        def compare_where_it_tells(problem, given, ending, check, wanted):
            kind = _kind(problem, given, check)
            if self.marked or (SIZE == 1 and kind not in self.compared):
                compare(problem, given, ending, check, wanted)
                self.compared |= {kind} - {None}

        keras.KerasProblem._check_at_the_door = compare_where_it_tells

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self.marked = item.get_closest_marker("door") is not None
        return (yield)


def _kind(problem, given, check: str) -> tuple | None:
    """What a comparison with Keras depends on but for numbers; None where that is not known."""
    from hesscomp.curvature.tensorflow import keras

    if isinstance(given, keras.losses.Loss) and _is_of_keras(given):
        given = type(given).__name__, str(given.get_config())
    elif not isinstance(given, str):
        return None
    if not all(map(_is_of_keras, problem.model._flatten_layers())):
        return None
    try:
        layers = problem.model.to_json()
    except (NotImplementedError, TypeError):  # a regulariser of a test's own
        return None
    return re.sub(r"_\d+", "", layers), given, problem.engine.name, check


def _is_of_keras(thing) -> bool:
    return type(thing).__module__.startswith("keras.")


class Lockstep:
    """The pytest plugin of a run on several ranks; see the top of this file."""

    def __init__(self, config):
        # A communicator of its own: messages that a failed test left behind do not matter.
        self.comm = MPI.COMM_WORLD.Dup()
        self.limit = float(os.environ.get("HESSCOMP_TEST_LIMIT", "120"))
        self.collection_errors = []
        self.watchdog = None
        capture = config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():  # the real standard error
            self.stderr = open(os.dup(2), "w")  # noqa: SIM115 (open to the end of the process)

    def pytest_report_header(self):
        return f"MPI ranks: {SIZE}"

    def pytest_sessionstart(self):
        self._arm("collecting the tests", self.limit)

    def pytest_collectreport(self, report):
        if report.failed:
            self.collection_errors.append(report.longreprtext)

    def pytest_collection_modifyitems(self, config, items):
        chosen, others = [], []
        for item in items:
            # A test's own marks and its case's, or those of its module.
            marks = [mark for mark in item.own_markers if mark.name == "ranks"]
            marks = marks or [*item.iter_markers("ranks")][:1]
            most = min((mark.kwargs.get("most", MOST) for mark in marks), default=0)
            runs = most >= SIZE
            (chosen if runs else others).append(item)
        if others:
            config.hook.pytest_deselected(items=others)
            items[:] = chosen

    def pytest_collection_finish(self, session):
        self._disarm()
        tests = [item.nodeid for item in session.items]
        everyone = self._meet("collecting the tests", self.limit, (tests, self.collection_errors))
        if any(other != everyone[0] for other in everyone):
            lines = ["the ranks collected different tests"]
            for rank, (tests, errors) in enumerate(everyone):
                odd = sorted(set(tests) ^ set(everyone[0][0]))
                lines += [f"rank {rank}: {len(tests)} tests", *odd, *errors]
            pytest.exit("\n".join([*lines, ""]), returncode=pytest.ExitCode.INTERRUPTED)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item):
        self._arm(item.nodeid, self._limit(item))
        try:
            return (yield)
        finally:
            self._disarm()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item):
        report = yield
        self._disarm()
        place, limit = f"{item.nodeid} ({report.when})", self._limit(item)
        failure = _failure_text(report) if report.failed else ""
        outcome = (report.outcome, _failure_line(report) if report.failed else "", failure)
        _merge(report, self._meet(place, limit, outcome, failure, report.passed))
        self._arm(item.nodeid, limit)  # for the next phase
        return report

    def _limit(self, item) -> float:
        """Seconds that one phase of this test may take."""
        mark = item.get_closest_marker("timeout")
        if mark is not None:
            return float(mark.args[0] if mark.args else mark.kwargs["timeout"])
        return max(self.limit, 600.0) if item.get_closest_marker("slow") else self.limit

    def _arm(self, place: str, limit: float) -> None:
        """Start the watchdog: a thread, and in case the interpreter hangs too, a timer in C."""
        self.watchdog = threading.Timer(limit, self._end, [place, limit])
        self.watchdog.daemon = True
        self.watchdog.start()
        faulthandler.dump_traceback_later(limit + 10, exit=True, file=self.stderr)

    def _disarm(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        self.watchdog.cancel()

    def _end(self, place: str, limit: float) -> None:
        frames = traceback.extract_stack(sys._current_frames()[threading.main_thread().ident])
        names = [frame.name for frame in frames]
        if "pytest_pyfunc_call" in names:  # leave out pytest's own frames
            frames = frames[names.index("pytest_pyfunc_call") + 1 :]
        where = "".join(traceback.format_list(frames))
        self._tell(f"still in {place} after {limit:g} s; ending all ranks\n{where}")
        time.sleep(2)  # the other ranks show where they are
        os._exit(1)

    def _meet(self, place: str, limit: float, value, failure="", passed: bool = False) -> list:
        """Every rank's value, in rank order, once all are here; nothing where all have passed."""
        loud = array("i", [not passed])
        arrival = self.comm.Iallreduce(MPI.IN_PLACE, loud)
        start, told = time.monotonic(), False
        # A rank that hangs is ended by its own watchdog, which knows where; wait longer than it.
        # A rank that failed need not: the others are stuck without it.
        patience = limit / 2 if failure else limit + 30
        while not arrival.Test():
            waited = time.monotonic() - start
            if failure and not told and waited > min(2, patience):
                self._tell(f"failed in {place}, where the others still are\n{failure}")
                told = True
            if waited > patience:
                self._tell(f"waited {waited:.0f} s for the others in {place}; ending all ranks")
                self.comm.Abort(1)
            time.sleep(5e-4)
        return self.comm.allgather(value) if loud[0] else []

    def _tell(self, text: str) -> None:
        self.stderr.write(f"\n[rank {RANK} of {SIZE}] {text}\n")
        self.stderr.flush()


def _failure_text(report) -> str:
    sections = [f"--- {title}\n{content}" for title, content in report.sections]
    return "\n".join([report.longreprtext, *sections])


def _failure_line(report) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return report.longreprtext if crash is None else f"{crash.path}:{crash.lineno} {crash.message}"


def _merge(report, everyone: list[tuple[str, str, str]]) -> None:
    """Make this rank's report say what happened on all ranks.

    `everyone` holds each rank's outcome, its failure in a line, and in full.
    """
    outcomes = [outcome for outcome, _, _ in everyone]
    if set(outcomes) in (set(), {"passed"}, {"skipped"}):
        return
    if not report.failed:
        summary = ", ".join(f"rank {rank} {outcome}" for rank, outcome in enumerate(outcomes))
        report.outcome, report.longrepr = "failed", f"the ranks disagree: {summary}"
    seen = {everyone[RANK][1]}
    for rank, (outcome, line, text) in enumerate(everyone):
        if outcome == "failed" and line not in seen:
            report.sections.append((f"failure on rank {rank}", text))
            seen.add(line)
