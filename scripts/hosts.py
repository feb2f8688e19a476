"""What several hosts cost and survive, on those of scripts/hosts-sandbox (root, iproute2).

    scripts/hosts.py wire                       # bytes on the links beside the ledger's words
    scripts/hosts.py faults --cuts 20 --stops 20
    scripts/hosts.py faults --cuts 2 --stops 2 --job train     # and goes on from the checkpoint

`faults` cuts a host's link, or stops a rank with SIGSTOP, at random moments of a job of one rank on
each of three hosts. Right is: all processes gone within --timeout plus 15 seconds, a status other
than 0, and one line of hesscomp's that names the ranks that were lost and no others; and training
that goes on to the same bits. A run during which this script itself stood still is done again.
"""

import argparse
import logging
import math
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from hesscomp.cli import guard

SANDBOX = Path(__file__).resolve().parent / "hosts-sandbox"
HOSTS = ("h1", "h2", "h3")
END = 15.0  # seconds after the timeout in which all has to be over
STALL = 1.0  # seconds between two looks of this script, which sleeps for far less
TRAIN = "train --problem adult-mlp --optimizer hessian-free --max-steps 30 --reproducible"
TRAIN += " --threads 1 --save-every 1 --run run --save-point point.npy"


# A rank's job


def reduce_for_ever(world) -> None:
    """All kinds of collectives, with pauses that differ between ranks."""
    rng, counts = np.random.default_rng(world.rank), [1000] * world.size
    for turn in range(10**9):
        with world.ledger.timed("reducing"):
            world.sum(rng.random(10 ** (turn % 6)))
            world.sum_rows(world.gather_rows(rng.random((1000, 8)), counts), counts)
        with world.phase("resting"):
            time.sleep(0.02 * rng.random())
        world.exchange(world.gather(world.broadcast(turn)))
        if turn == 3:
            Path(f"begun-{world.rank}").touch()


def as_rank(job: str, *arguments: str) -> int:
    from hesscomp.cli import session  # which starts MPI: not before the rank has its own process

    def run(_, here) -> int:
        if job == "reduce":
            reduce_for_ever(here.world)
        for _ in range(int(arguments[1])):
            here.world.sum(np.ones(int(arguments[0])))
        return 0

    logging.basicConfig(format="hesscomp: %(message)s")
    timeout = float(arguments[0]) if job == "reduce" else 60.0
    return session.run_on_ranks(run, argparse.Namespace(threads=1, comm_timeout=timeout), 0.0)


# Hosts


def sandbox(*words) -> str:
    return subprocess.run(
        [SANDBOX, *map(str, words)], stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def processes() -> dict[int, str]:
    """What runs on the hosts, and where."""
    return {int(pid): host for host in HOSTS for pid in sandbox("pids", host).split()}


def sent(hosts=HOSTS) -> np.ndarray:
    """Bytes that each host has sent on its link."""
    return np.array([int(sandbox("bytes", host).split()[0]) for host in hosts])


def start(words: list[str], folder: Path) -> subprocess.Popen:
    """A job of one rank on each host; what it says is in `log` in its folder."""
    log = open(folder / "log", "w")  # noqa: SIM115 (the process writes to it)
    command = [SANDBOX, "mpiexec", "-n", str(len(HOSTS)), sys.executable, *words]
    return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def ranks_on(host: str) -> list[int]:
    """The processes on a host that compute: those that have no children there."""
    here = [pid for pid, place in processes().items() if place == host]
    parents = {
        int(Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[1]) for pid in here
    }
    return [pid for pid in here if pid not in parents]


# Faults


@dataclass
class Outcome:
    """How a run ended."""

    seconds: float  # from the fault to the end of the last process
    said: str
    faults: list[str]  # what was not as it should be
    stalled: bool  # this script stood still: the run says nothing


class Clock:
    """Seconds since it was made, and whether somebody stopped this process meanwhile."""

    def __init__(self):
        self.first = self.last = time.monotonic()
        self.stalled = False

    def tick(self, seconds: float = 0.02) -> float:
        time.sleep(seconds)
        now = time.monotonic()
        self.stalled |= now - self.last > STALL
        self.last = now
        return now - self.first


def one_fault(kind: str, job: str, timeout: float, rng: random.Random, folder: Path) -> Outcome:
    process = start(job_words(job, timeout), folder)
    clock = Clock()
    while not begun(job, folder):
        if process.poll() is not None or clock.tick(0.1) > 300:
            raise SystemExit(f"the job did not begin:\n{(folder / 'log').read_text()}")
    rest, clock = rng.uniform(0, 2), Clock()
    while clock.tick() < rest:
        pass
    host = rng.choice(HOSTS)
    if kind == "cut":
        sandbox("cut", host)
    else:
        os.kill(rng.choice(ranks_on(host)), signal.SIGSTOP)
    clock, faults = Clock(), []
    while process.poll() is None or processes():
        if clock.tick() > timeout + END:
            faults.append(f"after {timeout + END:g} s there are still {sorted(processes())}")
            break
    seconds = clock.tick()
    for pid in processes():
        os.kill(pid, signal.SIGKILL)
    process.wait()
    if kind == "cut":
        sandbox("join", host)
    said = [line for line in (folder / "log").read_text().splitlines() if "error:" in line]
    lost = {HOSTS.index(host)}
    if kind == "cut" and host == HOSTS[0]:  # from where the message comes
        lost = set(range(1, len(HOSTS)))
    named = {int(rank) for line in said for rank in re.findall(r"ranks? (\d+) on", line)}
    if process.returncode == 0:
        faults.append("its status was 0")
    if len(said) != 1 or named != lost:
        faults.append(f"rank {host} was lost, and it said {said}")
    return Outcome(seconds, " / ".join(said), faults, clock.stalled)


def job_words(job: str, timeout: float) -> list[str]:
    if job == "reduce":
        return [__file__, "rank", "reduce", str(timeout)]
    return ["-m", "hesscomp", *shlex.split(TRAIN), "--comm-timeout", str(timeout)]


def begun(job: str, folder: Path) -> bool:
    if job == "reduce":
        return len(list(folder.glob("begun-*"))) == len(HOSTS)
    return (folder / "run" / "checkpoint.h5").exists()


def finish(folder: Path) -> bytes:
    """Let training go on to its end; the bytes of its point."""
    process = start(job_words("train", 300.0), folder)
    if process.wait():
        raise SystemExit(f"training did not go on:\n{(folder / 'log').read_text()}")
    return (folder / "point.npy").read_bytes()


def faults(options) -> int:
    rng, bad = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        right = finish(Path(folder)) if options.job == "train" else None
    for kind, count in (("cut", options.cuts), ("stop", options.stops)):
        seconds = []
        while len(seconds) < count:
            with tempfile.TemporaryDirectory() as folder:
                outcome = one_fault(kind, options.job, options.timeout, rng, Path(folder))
                if outcome.stalled:
                    print(f"{kind}: this script was stopped meanwhile; again", flush=True)
                    continue
                if right is not None and finish(Path(folder)) != right:
                    outcome.faults.append("it went on to another point")
            seconds.append(outcome.seconds)
            bad += bool(outcome.faults)
            verdict = "; ".join(outcome.faults) or outcome.said
            print(f"{kind} {len(seconds)}: over after {seconds[-1]:.1f} s; {verdict}", flush=True)
        if seconds:
            print(
                f"{count} of {kind}: over after {min(seconds):.1f} to {max(seconds):.1f} s, "
                f"median {np.median(seconds):.1f} s, with --comm-timeout {options.timeout:g}"
            )
    print(f"{bad} of {options.cuts + options.stops} ended otherwise than they should")
    return bool(bad)


# The wire


def wire(options) -> int:
    """Bytes that all hosts send together, for each byte that is handed to a reduction.

    A sum over P hosts costs at least 2 (P - 1): each of them has to send 2 (1 - 1/P) of its array
    (Thakur, Rabenseifner and Gropp 2005). Recursive doubling, for short arrays, sends all of it
    ceil(log2 P) times, and once more each way where P is no power of two.
    """
    right = True
    with tempfile.TemporaryDirectory() as name:
        for count in (2, 3):
            least = 2 * (count - 1)
            most = count * math.ceil(math.log2(count)) + 2 * (count & (count - 1) > 0)
            folder = Path(name)
            for what, more, words in chain(sums(count), compression(count, folder)):
                ratio = more / (8 * words)
                right &= 0.99 * least < ratio < 1.15 * most
                print(
                    f"{count} hosts, {what}: {ratio:.3f} bytes sent a byte reduced (at least "
                    f"{least}, at most {most}, and headers)",
                    flush=True,
                )
    return not right


def sums(count: int) -> Iterator[tuple[str, int, int]]:
    """Sums of some lengths: what they are, the bytes sent, and the words reduced."""
    program = [__file__, "rank", "words"]
    idle = bytes_sent([*program, 1, 1], count)
    for words, times in ((1_000, 2_000), (100_000, 200), (1_000_000, 20)):
        more = bytes_sent([*program, words, times], count) - idle
        yield f"{times} sums of {words} float64", more, words * times


def compression(count: int, folder: Path) -> Iterator[tuple[str, int, int]]:
    """A network's Hessian compressed: the words are those of the factor's own ledger."""
    from hesscomp.factors import load_factor

    program, out = ["-m", "hesscomp"], folder / f"{count}.h5"
    idle = bytes_sent([*program, "data", "mnist-sample"], count)
    request = "compress --problem mnist-mlp --at initial --rank 20 --dtype float64 --out"
    more = bytes_sent([*program, *request.split(), out], count) - idle
    words = load_factor(out).provenance.words_reduced
    yield f"compress mnist-mlp, {words} words in the ledger", more, words


def bytes_sent(words: list, count: int) -> int:
    """By all hosts, in a job of one rank on each of `count`."""
    before = sent().sum()
    sandbox("mpiexec", "-n", count, sys.executable, *words)
    return sent().sum() - before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("wire", help="bytes on the links beside the ledger's words")
    request = commands.add_parser("faults", help="link cuts and stopped ranks")
    request.add_argument("--cuts", type=int, default=20)
    request.add_argument("--stops", type=int, default=20)
    request.add_argument("--timeout", type=float, default=5.0, help="--comm-timeout of the jobs")
    request.add_argument("--job", choices=("reduce", "train"), default="reduce")
    request.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # mpiexec
    sandbox("start", len(HOSTS))
    try:
        return wire(options) if options.command == "wire" else faults(options)
    finally:
        sandbox("stop")


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        guard.command = lambda: as_rank(*sys.argv[2:])
        sys.exit(guard.main())
    sys.exit(main())
