#!/usr/bin/env python3
"""Feed every reader of files with damaged and crafted ones, and see that it refuses them well.

A reader does well with any file if it gives a value, or raises InputError or OSError with one line
that names the file: within seconds, with memory in proportion to the file's length, without
opening another file or running anything. All else is a finding, of which the file is kept:

    scripts/fuzz.py                        all readers, 60 seconds each
    scripts/fuzz.py csv hdf5 --inputs 100000
    scripts/fuzz.py --replay FILE          what the reader does with a file that was kept

Files are made from valid ones by changing bytes and by changing what they hold (the objects of an
HDF5 file, a member of an archive, the header of an array). Where the package atheris is there, its
libFuzzer chooses by coverage which to change further; with --blind, or without it, the valid files
alone are changed. Each reader runs in a process of its own, which is started again after a crash.
Two runs at a time need a TMPDIR each, where the file lies that no reader may open.
"""

import argparse
import gc
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from random import Random

LIMIT = 5.0  # seconds of processor time that one file may take
STARVED = 600.0  # seconds that it may take by the clock: others may be at work
MOST_CRASHES = 20  # after which a reader is given up
MAX_LENGTH = 2**15
SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None  # a file a millisecond: not on a disk


@dataclass
class Result:
    """What came out for one reader."""

    reader: str
    inputs: int = 0
    seconds: float = 0.0
    seeds_covered: int = 0
    covered: int = 0
    kept: int = 0
    findings: Counter = field(default_factory=Counter)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("readers", nargs="*", metavar="READER", help="default: all")
    parser.add_argument("--inputs", type=int, metavar="N", help="files for each reader")
    parser.add_argument("--seconds", type=float, metavar="S", help="for each reader")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all that is random")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), metavar="FOLDER")
    parser.add_argument("--blind", action="store_true", help="without coverage")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE", default=[])
    parser.add_argument("--list", action="store_true", help="the readers")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inputs is None and options.seconds is None:
        options.seconds = 60.0
    options.blind = options.blind or find_spec("atheris") is None
    if options.worker is not None:
        from fuzzing.judge import keep_quiet

        keep_quiet()
        return Worker(options).run()
    from fuzzing.readers import READERS

    if options.list:
        print("\n".join(READERS))
        return 0
    unknown = {*options.readers, *(file.parent.name for file in options.replay)} - {*READERS}
    if unknown:
        parser.error(f"no such reader: {', '.join(sorted(unknown))}")
    if options.replay:
        results = [replay(file, options) for file in options.replay]
    else:
        results = [fuzz(name, options) for name in options.readers or READERS]
    show(results)
    return int(any(result.findings for result in results))


def show(results: list[Result]) -> None:
    head = f"{'reader':<16} {'inputs':>8} {'seconds':>8} {'coverage':>14} {'kept':>6}"
    print(f"\n{head} {'findings':>9}")
    for result in results:
        print(
            f"{result.reader:<16} {result.inputs:8d} {result.seconds:8.1f} "
            f"{f'{result.seeds_covered} to {result.covered}':>14} {result.kept:6d} "
            f"{len(result.findings):9d}"
        )
    for result in results:
        for where, count in result.findings.items():
            print(f"{result.reader}: {where} ({count} inputs)")


# The process that watches


def replay(file: Path, options) -> Result:
    """What the file's reader, named by its folder, does with it."""
    options.replay = [file]
    result = Result(file.parent.name)
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=SCRATCH) as work:
        _run_worker(result, Path(work), options, 1, LIMIT + STARVED)
    for text in (options.out / result.reader).glob("*.txt"):
        if text.stem == file.stem:
            print(text.read_text())
    return result


def fuzz(name: str, options) -> Result:
    """Feed one reader until the inputs or the time are used up."""
    result, started = Result(name), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=SCRATCH) as work:
        crashes = 0
        while crashes < MOST_CRASHES:
            left = None if options.inputs is None else options.inputs - result.inputs
            seconds = (options.seconds or 1e9) - (time.monotonic() - started)
            if seconds <= 0 or (left is not None and left <= 0):
                break
            crashed = _run_worker(result, Path(work), options, left, seconds)
            if not crashed:
                break
            crashes += 1
    result.seconds = time.monotonic() - started
    print(f"{name}: {result.inputs} inputs, {len(result.findings)} findings", flush=True)
    return result


def _run_worker(result: Result, work: Path, options, inputs, seconds: float) -> bool:
    """Run one worker to its end; whether it crashed or hung."""
    command = [
        *(sys.executable, __file__, result.reader, "--worker", str(work)),
        *("--seed", str(options.seed + result.inputs), "--seconds", str(seconds)),
        *("--out", str(options.out)),
        *(["--inputs", str(inputs)] if inputs is not None else []),
        *(["--blind"] if options.blind else []),
        *(["--replay", *map(str, options.replay)] if options.replay else []),
    ]
    log = work / "log"
    with open(log, "w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        hung = _watch(process, work, result)
    finally:
        process.kill()
        process.wait()
    text = log.read_text(errors="replace")
    done = _count(work)
    result.inputs += done
    coverage = re.findall(r"cov: (\d+) .*?corp: (\d+)", text)
    if coverage:
        result.seeds_covered = result.seeds_covered or int(coverage[0][0])
        result.covered, result.kept = int(coverage[-1][0]), int(coverage[-1][1])
    findings = work / "findings"
    if findings.exists():
        result.findings.update(findings.read_text().splitlines())
        findings.unlink()
    if not done and process.returncode:
        raise SystemExit(f"{result.reader}: the worker did not start:\n{text[-3000:]}")
    if hung or process.returncode:
        where = "hangs" if hung else f"ends the process with {process.returncode}"
        from fuzzing.readers import READERS

        data = (work / READERS[result.reader].file).read_bytes()
        _keep(options.out / result.reader, f"{where} {len(data)} {done}", data, text[-4000:])
        result.findings[where] += 1
        return True
    return False


def _watch(process: subprocess.Popen, work: Path, result: Result) -> bool:
    """Wait for the end of a worker; whether one input kept it busy for too long."""
    last, clock, spent, told = -1, time.monotonic(), 0.0, time.monotonic()
    while process.poll() is None:
        time.sleep(0.05)
        now, done = time.monotonic(), _count(work)
        if done != last:
            last, clock, spent = done, now, _cpu_seconds(process.pid)
        elif done > 0 and (_cpu_seconds(process.pid) - spent > LIMIT or now - clock > STARVED):
            return True
        if now - told > 10:
            print(f"{result.reader}: {result.inputs + done} inputs", flush=True)
            told = now
    return False


def _count(work: Path) -> int:
    try:
        return int((work / "count").read_text() or 0)
    except (FileNotFoundError, ValueError):
        return 0


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _keep(folder: Path, where: str, data: bytes, text: str) -> None:
    """Store an input and what is known of it; one for each place."""
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(where.encode()).hexdigest()[:12]
    if not (folder / f"{name}.bin").exists():
        (folder / f"{name}.bin").write_bytes(data)
        (folder / f"{name}.txt").write_text(f"{where}\n\n{text}\n")


# The process that reads


class Worker:
    """Reads one input after another. What it does now stands in its work folder: input, count."""

    def __init__(self, options):
        self.options, self.work = options, options.worker
        self.name = options.readers[0] if options.readers else options.replay[0].parent.name
        self.done, self.ends = 0, time.monotonic() + (options.seconds or 1e9)

    def run(self) -> int:
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
        self.counter = os.open(self.work / "count", flags)
        try:
            return self._run()
        finally:
            os.close(self.counter)

    def _run(self) -> int:
        if not (self.options.blind or self.options.replay):
            import atheris

            with atheris.instrument_imports(include=["hesscomp"]):
                self._prepare()
            return self._guided(atheris)
        self._prepare()
        if self.options.replay:
            for file in self.options.replay:
                self.feed(file.read_bytes())
            return 0
        while self.done < (self.options.inputs or 1e18) and time.monotonic() < self.ends:
            random = Random(f"{self.options.seed} {self.done}")
            self.feed(self.mutate(random.choice(self.seeds), random))
        return 0

    def _prepare(self) -> None:
        from fuzzing.judge import judge
        from fuzzing.mutations import bytewise
        from fuzzing.readers import READERS

        self.reader, self.judge, self.bytewise = READERS[self.name], judge, bytewise
        self.seeds = self.reader.seeds()
        self.path = self.work / self.reader.file
        self.path.parent.mkdir(exist_ok=True)
        self.reader.beside(self.path)
        for seed in self.seeds:
            self.path.write_bytes(seed)
            self.reader.read(self.path)  # what is valid must be read

    def feed(self, data: bytes) -> None:
        """Let the reader read one input."""
        self.done += 1
        os.pwrite(self.counter, str(self.done).encode(), 0)
        self.path.write_bytes(data)
        finding = self.judge(self.reader.read, self.path, self.reader.spare)
        if finding is not None:
            _keep(self.options.out / self.name, finding.where, data, finding.text)
            with open(self.work / "findings", "a") as stream:
                stream.write(f"{finding.where}\n")
        if self.done == self.options.inputs or time.monotonic() > self.ends - 1:
            # libFuzzer leaves without Python's own end, and HDF5 1.14.6 crashes at its end if a
            # property list of a virtual data set is still about.
            gc.collect()

    def mutate(self, data: bytes, random: Random, other=None) -> bytes:
        """A changed input: its inside, its bytes by libFuzzer (`other`) or by us, or both."""
        kind = random.random()
        if self.reader.mutations and kind < 0.6:
            if self.reader.sound or random.random() < 0.3:
                data = random.choice(self.seeds)
            try:
                data = random.choice(self.reader.mutations)(data, random)
            except Exception:  # the input was none of this kind any more
                return self.bytewise(data, random)
            if kind < 0.45:
                return data
        if other is not None and kind > 0.8:
            return other(data)
        return self.bytewise(data, random)

    def _guided(self, atheris) -> int:
        corpus = self.work / "corpus"
        corpus.mkdir(exist_ok=True)
        for i, seed in enumerate(self.seeds):
            (corpus / f"seed-{i}").write_bytes(seed)

        def mutator(data: bytes, longest: int, seed: int) -> bytes:
            other = lambda data: atheris.Mutate(data, longest)  # noqa: E731
            return self.mutate(bytes(data), Random(seed), other)[:longest]

        flags = [
            f"-max_len={MAX_LENGTH}",
            "-mutate_depth=1",
            "-rss_limit_mb=0",
            "-timeout=1000000",
            "-report_slow_units=1000000",
            f"-seed={self.options.seed % 2**31 + 1}",
            "-print_final_stats=1",
            f"-max_total_time={max(int(self.ends - time.monotonic()), 1)}",
            *([f"-runs={self.options.inputs}"] if self.options.inputs is not None else []),
        ]
        atheris.Setup([sys.argv[0], *flags, str(corpus)], self.feed, custom_mutator=mutator)
        atheris.Fuzz()
        return 0


if __name__ == "__main__":
    sys.exit(main())
