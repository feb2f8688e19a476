#!/usr/bin/env python3
"""Kill runs at random moments, go on with each, and compare with the run that nothing happened to.

    python scripts/faults.py --kills 200 --seed 0
    python scripts/faults.py --kills 10 --command newton

Three small commands with ``--run FOLDER --reproducible`` on 3 ranks. A run is killed (SIGKILL to
one of its ranks at any moment, or SIGTERM to one while it works), started again with the same
command, killed again, until it comes to its end. After each kill all its processes must be gone
within 15 seconds (of those in which this script was not itself stopped), and every checkpoint,
product and result must be whole to hesscomp's readers; at the end the result must have the bits of
the uninterrupted one. Exit status 1 if anything failed.

A kill costs a start on 3 ranks: 10 seconds on 2 cores of their own.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np

from hesscomp.errors import InputError
from hesscomp.factors import load_factor
from hesscomp.runs.checkpoint import load_checkpoint
from hesscomp.runs.journal import load_product

RANKS = 3
PATIENCE = 15.0  # seconds in which all processes must be gone
LIMIT = 900.0  # seconds that a run may take
LIFE = 8  # kills of one run, after which it may come to its end
TOKEN = "HESSCOMP_FAULTS"
ALL_ROWS = (0, 2**62)

SMALL = ["--data", "adult", "--reproducible"]
COMMANDS = {
    "compress": [
        *("compress", *SMALL, "--rank", "20", "--method", "krylov", "--block", "2"),
        *("--layout", "rows", "--residual-tolerance", "1e-12", "--out", "result.h5"),
    ],
    "newton": [
        *("newton", *SMALL, "--solver", "pcg", "--rank", "5", "--ridge", "1e-6"),
        *("--factor-out", "result.h5"),
    ],
    "train": [
        *("train", *SMALL, "--optimizer", "newton-cg", "--set", "rank=5", "--ridge", "1e-6"),
        *("--max-steps", "30", "--save-every", "2", "--save-point", "result.npy"),
    ],
}


class Run:
    """One run of a command in a folder of its own, killed and gone on with."""

    def __init__(self, command: str, folder: Path):
        self.command, self.folder = command, folder
        folder.mkdir()
        self.token = f"{os.getpid()}-{folder.name}"
        self.status: int | None = None

    def start(self) -> None:
        launcher = shutil.which("mpiexec", path=Path(sys.executable).parent) or "mpiexec"
        words = [sys.executable, "-m", "hesscomp", *COMMANDS[self.command], "--run", "run"]
        environment = {**os.environ, TOKEN: self.token, "OMP_NUM_THREADS": "1"}
        self.before = self._traces()
        self.log = open(self.folder / "log", "a")  # noqa: SIM115 (closed by `end`)
        self.process = subprocess.Popen(
            [launcher, "-n", str(RANKS), *words], cwd=self.folder, env=environment,
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.started = time.monotonic()

    def wait_for_work(self) -> bool:
        """Wait until this start has left something on disk; False if it ended without."""
        while self._traces() == self.before:
            if self.over():
                return False
            time.sleep(0.01)
        return True

    def over(self) -> bool:
        if time.monotonic() - self.started > LIMIT:
            raise SystemExit(f"{self.command}: still running after {LIMIT:g} s; {self.folder}/log")
        return self.process.poll() is not None

    def _traces(self) -> set:
        found = set()
        for path in (self.folder / "run").glob("*"):
            with suppress(FileNotFoundError):
                found.add((path.name, path.stat().st_mtime_ns))
        return found

    def ranks(self) -> list[int]:
        """The process ids of the ranks."""
        return [pid for pid, environment in self.processes() if b"PMI_RANK=" in environment]

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

    def end(self) -> float:
        """Wait until all processes are gone; the seconds that took, infinite for a hang."""
        last, waited = time.monotonic(), 0.0
        while self.process.poll() is None or self.processes():
            now = time.monotonic()
            last, waited = now, waited + min(now - last, 0.5)
            if waited > PATIENCE:
                waited = float("inf")
                for pid, _ in self.processes():
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.02)
        self.status = self.process.wait()
        self.log.close()
        return waited

    def unreadable(self) -> list[str]:
        """What is wrong with the files of final names."""
        problems = []
        for path in [*self.folder.glob("result.*"), *(self.folder / "run").rglob("*.h5")]:
            if path.name.startswith("."):  # a temporary file
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
        arrays = found.eigenvalues, found.eigenvectors, found.parameters
        return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


def whole_run(command: str, folder: Path) -> tuple[bytes, float, float]:
    """The uninterrupted result, and the seconds of the whole run and of its work."""
    run = Run(command, folder)
    run.start()
    run.wait_for_work()
    begun = time.monotonic()
    while not run.over():
        time.sleep(0.02)
    whole, work = time.monotonic() - run.started, time.monotonic() - begun
    run.end()
    if run.status != 0:
        raise SystemExit(f"{command}: ended with status {run.status}; {folder}/log")
    return run.result(), whole, work


def kill_once(run: Run, choice: random.Random, whole: float, work: float) -> str | None:
    """Start the run and kill it; how, or None where it came to its end before."""
    run.start()
    term = choice.random() < 0.3
    if term or choice.random() < 0.75:
        at = choice.uniform(0, work) if run.wait_for_work() else 0.0
    else:
        at = choice.uniform(0, whole)
    deadline = time.monotonic() + at
    while time.monotonic() < deadline and not run.over():
        time.sleep(0.005)
    ranks = run.ranks()
    if run.over() or not ranks:
        while not run.over():
            time.sleep(0.02)
        return None
    number = signal.SIGTERM if term else signal.SIGKILL
    try:
        os.kill(choice.choice(ranks), number)
    except ProcessLookupError:
        return None
    return number.name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", choices=tuple(COMMANDS), help="default: all in turn")
    parser.add_argument("--seconds", type=float, default=np.inf, help="start no run after these")
    options = parser.parse_args()
    commands = [options.command] if options.command else list(COMMANDS)
    choice, begun = random.Random(options.seed), time.monotonic()
    totals = {command: Counter() for command in commands}
    slowest = dict.fromkeys(commands, 0.0)
    with tempfile.TemporaryDirectory(prefix="hesscomp-faults-") as name:
        folder, kills, number = Path(name), 0, 0
        references = {}
        while kills < options.kills and time.monotonic() - begun < options.seconds:
            command = commands[number % len(commands)]
            count = totals[command]
            if command not in references:
                references[command] = whole_run(command, folder / command)
            expected, whole, work = references[command]
            run, number = Run(command, folder / f"{command}-{number}"), number + 1
            for life in range(LIFE + 1):
                how = None
                if life < LIFE and kills < options.kills:
                    how = kill_once(run, choice, whole, work)
                else:
                    run.start()
                    while not run.over():
                        time.sleep(0.02)
                seconds, problems = run.end(), run.unreadable()
                hung = seconds == float("inf")
                if how is not None:
                    kills += 1
                    count[how] += 1
                    count["hangs"] += hung
                    slowest[command] = max(slowest[command], seconds)
                count["unreadable"] += len(problems)
                told = f"{command}: {how or 'ran'}, gone in {seconds:.1f} s, status {run.status}"
                say(kills, options.kills, "; ".join([told, *problems]))
                if how is None or run.status == 0:
                    break
            count["runs"] += 1
            good = run.status == 0 and run.result() == expected
            count["wrong"] += not good
            if good:
                shutil.rmtree(run.folder)
            else:
                print((run.folder / "log").read_text()[-3000:])
    if sys.stdout.isatty():
        print()
    columns = ("SIGKILL", "SIGTERM", "runs", "hangs", "unreadable", "wrong")
    print(f"{'command':<10}" + "".join(f"{column:>12}" for column in columns) + "   slowest end")
    for command, count in totals.items():
        numbers = "".join(f"{count[column]:12d}" for column in columns)
        print(f"{command:<10}{numbers}{slowest[command]:12.1f} s")
    bad = ("hangs", "unreadable", "wrong")
    return int(any(count[column] for count in totals.values() for column in bad))


def say(done: int, of: int, text: str) -> None:
    """A line for each kill; on a terminal a bar instead."""
    if sys.stdout.isatty():
        filled = 30 * done // max(of, 1)
        print(f"\r[{'#' * filled:<30}] {done}/{of} {text[:60]:<60}", end="", flush=True)
    else:
        print(f"{done:4d}/{of} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
