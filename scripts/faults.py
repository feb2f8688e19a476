#!/usr/bin/env python3
"""Kill runs at random moments, go on with each, and compare with the run that nothing happened to.

    python scripts/faults.py --kills 200 --seed 0
    python scripts/faults.py --kills 10 --command newton

Small commands with ``--run FOLDER --reproducible`` on 3 ranks. A run is killed (SIGKILL to
one of its ranks, or to the process that watches one, at any moment; or SIGTERM to a rank), started
again with the same command, killed again, until it comes to its end. After each kill all its
processes must be gone within 15 seconds (of those in which this script was not itself stopped;
after a SIGTERM, which may find a rank that has yet to begin, as long as a whole run takes more), a
line must have said which rank was killed (if its watcher was not), and every checkpoint, product
and result must be whole to hesscomp's readers; at the end the result must have the bits of the
uninterrupted one. Exit status 1 if anything failed.

A kill costs a start on 3 ranks: 10 seconds where they have 2 cores for themselves.
"""

import argparse
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hesscomp.errors import InputError
from hesscomp.factors import load_factor
from hesscomp.runs.checkpoint import load_checkpoint
from hesscomp.runs.journal import load_product

RANKS = 3
PATIENCE = 15.0  # seconds in which all processes must be gone
LIMIT = 900.0  # seconds that a run may take
TOKEN = "HESSCOMP_FAULTS"
ALL_ROWS = (0, 2**62)
BAD = ("hangs", "unsaid", "unreadable", "wrong")
COLUMNS = ("SIGKILL", "SIGTERM", "saved", "runs", *BAD)  # saved: SIGTERMs that ended in status 75

SMALL = ["--data", "adult", "--reproducible"]
COMMANDS = {
    "compress": [
        *("compress", *SMALL, "--rank", "20", "--method", "krylov", "--block", "2"),
        *("--layout", "rows", "--residual-tolerance", "1e-12", "--out", "result.h5"),
    ],
    "hbs": [
        *("compress", *SMALL, "--format", "hbs", "--tolerance", "0.05", "--leaf-size", "8"),
        *("--sketch-columns", "12", "--layout", "rows", "--out", "result.h5"),
    ],
    "hodlr": [
        *("compress", *SMALL, "--format", "hodlr", "--rank", "2", "--leaf-size", "4"),
        *("--out", "result.h5"),
    ],
    "newton": [
        *("newton", *SMALL, "--solver", "pcg", "--rank", "5", "--tol", "1e-10"),
        *("--factor-out", "result.h5"),
    ],
    "train": [
        *("train", *SMALL, "--optimizer", "newton-cg", "--set", "rank=5", "--ridge", "1e-3"),
        *("--max-steps", "60", "--save-every", "2", "--save-point", "result.npy"),
    ],
    "soap": [
        *("train", "--problem", "adult-mlp", "--reproducible", "--optimizer", "soap"),
        *("--gradient-batch", "500", "--max-steps", "100", "--evaluate-every", "50"),
        *("--save-every", "2", "--save-point", "result.npy"),
    ],
    "drsom": [
        *("train", "--problem", "adult-mlp", "--reproducible", "--optimizer", "drsom"),
        *("--set", "curvature=kronecker", "averaging=0.9", "same_batch=yes"),
        *("--gradient-batch", "500", "--max-steps", "100", "--evaluate-every", "50"),
        *("--save-every", "2", "--save-point", "result.npy"),
    ],
    **{
        name: [
            *("train", *SMALL, "--ridge", "1e-3", "--optimizer", name, "--gradient-batch", "500"),
            *("--curvature-batch", "1000", "--max-steps", "300", "--set", "every=20"),
            *("--save-every", "2", "--save-point", "result.npy"),
        ]
        for name in ("sketchy-sgd", "saddle-free")
    },
}


class Run:
    """One run of a command in a folder of its own, killed and gone on with."""

    def __init__(self, command: str, folder: Path):
        self.command, self.folder = command, folder
        folder.mkdir()
        self.token = f"{os.getpid()}-{folder.name}"
        self.status: int | None = None
        self.left: list[str] = []  # processes that had to be killed in the end

    def start(self) -> None:
        launcher = shutil.which("mpiexec", path=Path(sys.executable).parent) or "mpiexec"
        words = [sys.executable, "-m", "hesscomp", *COMMANDS[self.command], "--run", "run"]
        environment = {**os.environ, TOKEN: self.token, "OMP_NUM_THREADS": "1"}
        self.before, self.left = self._traces(), []
        self.log = open(self.folder / "log", "a")  # noqa: SIM115 (closed by `end`)
        self.written = self.log.tell()
        self.process = subprocess.Popen(
            [launcher, "-n", str(RANKS), *words], cwd=self.folder, env=environment,
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.started = time.monotonic()

    def wait_for_work(self) -> None:
        """Wait until this start has left something on disk, or has ended."""
        while self._traces() == self.before and not self.over():
            time.sleep(0.01)

    def wait(self, seconds: float = LIMIT) -> None:
        """Wait for the end of the launcher, at most so long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.over():
            time.sleep(0.005)

    def over(self) -> bool:
        if time.monotonic() - self.started > LIMIT:
            raise SystemExit(f"{self.command}: still running after {LIMIT:g} s; {self.folder}/log")
        return self.process.poll() is not None

    def _traces(self) -> set:
        found = set()
        for path in (self.folder / "run").glob("[!.]*"):
            with suppress(FileNotFoundError):
                found.add((path.name, path.stat().st_mtime_ns))
        return found

    def ranks(self) -> tuple[dict[int, int], list[int]]:
        """The ranks by process id, and the processes that watch them."""
        found = {
            pid: int(re.search(rb"PMI_RANK=(\d+)", environment)[1])
            for pid, environment in self.processes()
            if b"PMI_RANK=" in environment
        }
        watched = {pid: rank for pid, rank in found.items() if parent(pid) in found}
        return watched, [pid for pid in found if pid not in watched]

    def said(self) -> str:
        """What this start has written."""
        with open(self.folder / "log", errors="replace") as log:
            log.seek(self.written)
            return log.read()

    def processes(self) -> list[tuple[int, bytes]]:
        """All processes of the run with their environments."""
        mark, found = f"{TOKEN}={self.token}".encode(), []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if mark in environment.split(b"\0"):
                found.append((int(entry.name), environment))
        return found

    def end(self, patience: float = PATIENCE) -> float:
        """Wait until all processes are gone; the seconds that took, infinite for a hang."""
        last, waited = time.monotonic(), 0.0
        while self.process.poll() is None or self.processes():
            now = time.monotonic()
            last, waited = now, waited + min(now - last, 0.5)
            if waited > patience:
                waited = float("inf")
                self.left = [describe(pid) for pid, _ in self.processes()]
                self.kill()
                break
            time.sleep(0.02)
        self.status = self.process.wait()
        self.log.close()
        return waited

    def kill(self) -> None:
        """Kill whatever is left of the run."""
        for pid, _ in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def unreadable(self) -> list[str]:
        """What is wrong with the files of final names."""
        problems = []
        for path in [*self.folder.glob("result.*"), *(self.folder / "run").rglob("*.h5")]:
            # Temporary files are none, and slabs are read with the file that names them.
            if path.name.startswith(".") or path.suffix == ".slab":
                continue
            try:
                self._read(path)
            except (InputError, OSError, ValueError) as error:
                problems.append(str(error))
        return problems

    def _read(self, path: Path):
        if path.name.startswith("product-"):
            return load_product(path)
        if path.name == "checkpoint-damaged.h5":
            raise InputError(f"{path}: was set aside")
        if path.name.startswith("checkpoint"):
            return load_checkpoint(path, ALL_ROWS)
        return np.load(path) if path.suffix == ".npy" else load_factor(path)

    def result(self) -> bytes:
        (path,) = self.folder.glob("result.*[5y]")
        found = self._read(path)
        if isinstance(found, np.ndarray):
            return found.tobytes()
        arrays = *found.contents().values(), found.parameters
        return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


def parent(pid: int) -> int:
    """Of a process; 0 of one that is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def describe(pid: int) -> str:
    """A process: its number, state, what it waits for in the kernel, and its command."""
    with suppress(OSError):
        folder = Path(f"/proc/{pid}")
        state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return f"{pid} {state} {(folder / 'wchan').read_text()} {words[:100]}"
    return f"{pid}, which is gone"


@dataclass(frozen=True)
class Reference:
    """The uninterrupted run: its result, and the seconds of all of it and of its work."""

    result: bytes
    whole: float
    work: float

    @classmethod
    def of(cls, run: Run) -> "Reference":
        run.start()
        run.wait_for_work()
        begun = time.monotonic()
        run.wait()
        whole, work = time.monotonic() - run.started, time.monotonic() - begun
        run.end()
        if run.status != 0:
            raise SystemExit(f"{run.command}: ended with status {run.status}; see {run.folder}/log")
        return cls(run.result(), whole, work)


@dataclass(frozen=True)
class Kill:
    """A signal to a rank, or to the process that watches one (None)."""

    number: signal.Signals
    rank: int | None

    def __str__(self) -> str:
        return f"{self.number.name} to {'a watcher' if self.rank is None else f'rank {self.rank}'}"

    def is_told(self, said: str) -> bool:
        return self.rank is None or f"rank {self.rank} on " in said


class Faults:
    """Kills runs until enough were killed, and counts what came of it."""

    def __init__(self, folder: Path, options):
        self.folder, self.kills, self.most = folder, options.kills, options.life
        self.deadline = time.monotonic() + options.seconds
        self.choice, self.killed = random.Random(options.seed), 0
        self.references: dict[str, Reference] = {}
        self.counts: dict[str, Counter] = {}

    @property
    def enough(self) -> bool:
        return self.killed >= self.kills or time.monotonic() > self.deadline

    def reference(self, command: str) -> Reference:
        if command not in self.references:
            run = Run(command, self.folder / command)
            try:
                self.references[command] = Reference.of(run)
            finally:
                run.kill()
        return self.references[command]

    def life(self, command: str, number: int) -> None:
        """One run, from its first start to its end."""
        reference = self.reference(command)
        count = self.counts.setdefault(command, Counter())
        run = Run(command, self.folder / f"{command}-{number}")
        try:
            for start in range(self.most + 1):
                run.start()
                last = start == self.most or self.enough
                kill = run.wait() if last else self.kill(run, reference)
                self.note(run, kill, count)
                if kill is None or run.status == 0:
                    break
            count["runs"] += 1
            count["wrong"] += run.status != 0 or run.result() != reference.result
        finally:
            run.kill()
        shutil.rmtree(run.folder)

    def kill(self, run: Run, reference: Reference) -> Kill | None:
        """Kill a run that has started; None where it came to its end before."""
        choice = self.choice
        number = signal.SIGTERM if choice.random() < 0.3 else signal.SIGKILL
        if choice.random() < 0.75:
            run.wait_for_work()
            run.wait(choice.uniform(0, reference.work))
        else:
            run.wait(choice.uniform(0, reference.whole))
        ranks, watchers = run.ranks()
        candidates = [*ranks, *watchers] if number == signal.SIGKILL else [*ranks]
        if run.over() or not candidates:
            return run.wait()
        pid = choice.choice(candidates)
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            return Kill(number, ranks.get(pid))
        return None

    def note(self, run: Run, kill: Kill | None, count: Counter) -> None:
        """Wait for the end of a start, look at what it left, and say so."""
        moment = time.monotonic() - run.started
        patience = PATIENCE
        if kill is not None and kill.number == signal.SIGTERM:  # it may have to begin first
            patience += self.reference(run.command).whole
        seconds, problems = run.end(patience), run.unreadable()
        count["unreadable"] += len(problems)
        if kill is not None:
            self.killed += 1
            count[kill.number.name] += 1
            count["saved"] += kill.number == signal.SIGTERM and run.status == 75
            count["hangs"] += seconds == float("inf")
            count["slowest"] = max(count["slowest"], seconds)
            if run.status not in (0, 75) and not kill.is_told(run.said()):
                count["unsaid"] += 1
                problems.append("nobody says so")
        problems += [f"left: {process}" for process in run.left]
        if run.status not in (0, 75) and (kill is None or kill.number == signal.SIGTERM):
            count["wrong"] += 1
            problems.append("should have come to its end, or saved")
        if problems:
            problems.append(run.said())
        told = f"{run.command}: {kill or 'ran'} at {moment:.1f} s, gone in {seconds:.1f} s"
        say(self.killed, self.kills, "; ".join([f"{told}, status {run.status}", *problems]))

    def table(self) -> str:
        lines = [f"{'command':<12}" + "".join(f"{column:>12}" for column in COLUMNS) + "   slowest"]
        for command, count in self.counts.items():
            numbers = "".join(f"{count[column]:12d}" for column in COLUMNS)
            lines.append(f"{command:<12}{numbers}{count['slowest']:8.1f} s")
        return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--life", type=int, default=4, help="most kills of one run")
    parser.add_argument(
        "--command", action="append", choices=tuple(COMMANDS), help="may be given several times; "
        "default: all in turn",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=np.inf, help="kill no more after these")
    options = parser.parse_args()
    commands = options.command or list(COMMANDS)
    with tempfile.TemporaryDirectory(prefix="hesscomp-faults-") as folder:
        faults = Faults(Path(folder), options)
        for number in itertools.count():
            if faults.enough:
                break
            faults.life(commands[number % len(commands)], number)
    print("\n" * sys.stdout.isatty() + faults.table())
    return int(any(count[bad] for count in faults.counts.values() for bad in BAD))


def say(done: int, of: int, text: str) -> None:
    """A line for each kill; on a terminal a bar instead."""
    if sys.stdout.isatty():
        filled = 30 * done // max(of, 1)
        print(f"\r[{'#' * filled:<30}] {done}/{of} {text[:60]:<60}", end="", flush=True)
    else:
        print(f"{done:4d}/{of} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
