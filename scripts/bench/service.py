"""What a resident service shows: latency, batching, visits to a running job, kills, and drift.

    python scripts/bench/service.py idle batching visits orphans  # six minutes
    python scripts/bench/service.py kills --kills 100             # an hour; or in pieces,
    python scripts/bench/service.py kills --kills 25 --seed 1     # each of them a row of its own
    python scripts/bench/service.py drift --minutes 60
    python scripts/bench/service.py --kills 3 --minutes 1 --seconds 2 --trial    # all, shortly

A 784-15-10 network on the packaged digits, 2 ranks of one thread each (4 GB). Rates with and
without batching are of one service, in turns: a request says `batch=false`. A latency during a job
is told in block products of that job, whose time is the job's by its ledger.
"""

import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tables import parts_parser, run_parts

from hesscomp.client import Service, connect, where
from hesscomp.errors import HesscompError

CODE = ("hesscomp/service", "hesscomp/client.py", "hesscomp/parallel/doorbell.py")
PROBLEM = ("--problem", "mnist-mlp", "--reproducible")
TIMEOUT = 20  # seconds after which ranks are called dead, in the kills
RANK, COLUMNS = 20, 300  # of the compression that others disturb


@contextmanager
def service(*words: str, ranks: tuple[str, ...] = ()):
    """Yield a client of a service on two ranks, which ends with the block."""
    with tempfile.TemporaryDirectory() as folder:
        front = started(folder, *words, ranks=ranks)
        try:
            yield until(lambda: _connected(folder), 120)
        finally:
            front.terminate()
            front.wait(60)


def started(folder: str, *words: str, ranks: tuple[str, ...] = ()) -> subprocess.Popen:
    """Start a service on two ranks; return the process of its front."""
    serve = [sys.executable, "-m", "hesscomp", "serve", folder, "--ranks", "2", *words]
    with open(Path(folder) / "said", "a") as said:
        return subprocess.Popen([*serve, "--", *PROBLEM, *ranks], stdout=said, stderr=said)


def _connected(folder: str) -> Service | None:
    try:
        found = connect(folder)
        found.ready(300)
        return found
    except HesscompError:
        return None


def until(what, seconds: float):
    """Wait until something is true, and return it."""
    end = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > end:
            raise SystemExit(f"nothing after {seconds} s")
        time.sleep(0.02)
    return found


def elapsed(what) -> float:
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def percentile(values: list[float], share: float) -> float:
    return float(np.quantile(values, share))


def processes(there: Service) -> dict[str, int]:
    """The ids of the front and of the ranks."""
    ranks = {f"rank {each['rank']}": each["pid"] for each in there.status()["ranks"]}
    return {"front": where(there.folder)["pid"], **ranks}


def launchers(there: Service) -> dict[str, int]:
    """The ids of the processes between the front and the ranks: mpiexec, proxies, watchdogs."""
    pids = processes(there)
    front = pids.pop("front")
    found: dict[int, str] = {}
    for rank, pid in pids.items():
        watchdog, *others = ancestors(pid)[1:]
        found[watchdog] = f"watchdog of {rank}"
        for other in others[: others.index(front)]:
            found[other] = Path(f"/proc/{other}/comm").read_text().strip()
    names = list(found.values())
    return {name if names.count(name) == 1 else f"{name} {pid}": pid for pid, name in found.items()}


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def idle(options) -> dict[str, dict]:
    """No-ops at once and after a second of idleness; what idle processes take of a core."""
    with service() as there:
        ask = lambda: there.request_json("GET", "/v1/noop")  # noqa: E731
        for _ in range(50):
            ask()
        soon = [elapsed(ask) for _ in range(300)]
        status = [elapsed(there.status) for _ in range(300)]
        late = []
        for _ in range(options.wakes):
            time.sleep(1)
            late.append(elapsed(ask))
        pids = {**processes(there), **launchers(there)}
        before = {name: cpu(pid) for name, pid in pids.items()}
        time.sleep(options.idle)
        share = {name: (cpu(pid) - before[name]) / options.idle for name, pid in pids.items()}
    found = {
        name: {
            "p50, ms": 1000 * statistics.median(times),
            "p99, ms": 1000 * percentile(times, 0.99),
        }
        for name, times in (
            ("no-op through the ranks", soon),
            ("no-op after a second of idleness", late),
            ("status", status),
        )
    }
    for name, part in share.items():
        found[f"{name}, idle for {options.idle:g} s"] = {"share of a core, %": 100 * part}
    return found


def rate(there: Service, clients: int, seconds: float, batch: bool) -> float:
    """Products a second of so many clients, each with a connection and a vector of its own."""
    n = there.status()["n"]
    end = time.monotonic() + seconds

    def work(seed: int) -> int:
        mine = Service(there.folder, None, None)  # its own name, for fairness
        point, done = mine.point("initial"), 0
        v = np.random.default_rng(seed).standard_normal(n)
        while time.monotonic() < end:
            point.product(v, batch=batch)
            done += 1
        return done

    start = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        done = sum(pool.map(work, range(clients)))
    return done / (time.monotonic() - start)


def middle(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """The pair with the median ratio; of an even number, the geometric mean of the middle two.

    Its ratio is that of the turns. The medians of the columns alone are of different turns, and
    their ratio may tell of what else the machine did then.
    """
    ordered = sorted(pairs, key=lambda pair: pair[0] / pair[1])
    chosen = ordered[(len(pairs) - 1) // 2 : len(pairs) // 2 + 1]
    first, second = (statistics.geometric_mean(each) for each in zip(*chosen, strict=True))
    return first, second


def batching(options) -> dict[str, dict]:
    """The rates of 1, 2 and 32 clients with and without batching, in turns; the first product."""
    found = {}
    with service() as there:
        for clients in (1, 2, 32):
            for batch in (True, False):
                rate(there, clients, 1.0, batch)  # what is compiled once is not counted
            pairs = []
            for i in range(options.repeats):  # each comes first as often as second
                order = (True, False) if i % 2 else (False, True)
                rates = {batch: rate(there, clients, options.seconds, batch) for batch in order}
                pairs.append((rates[True], rates[False]))
            together, alone = middle(pairs)
            found[f"{clients} client{'s' * (clients > 1)}"] = {
                "products a second": together, "without batching": alone, "ratio": together / alone,
            }  # fmt: skip
        ask = f"import hesscomp.client as c, numpy as np; s = c.connect({str(there.folder)!r}); "
        ask += "s.point('initial') @ np.ones(s.status()['n'])"
        first = min(elapsed(lambda: _run(sys.executable, "-c", ask)) for _ in range(3))
    launcher = Path(sys.executable).with_name("mpiexec")
    words = [launcher, "-n", "2", sys.executable, "-m", "hesscomp", "compress", *PROBLEM]
    with tempfile.TemporaryDirectory() as folder:
        words += ["--rank", "1", "--at", "initial", "--out", Path(folder) / "f.h5"]
        shell = min(elapsed(lambda: _run(*words)) for _ in range(2))
    found["first product of a new process"] = {
        "seconds": first, "hesscomp compress, s": shell, "ratio": shell / first,
    }  # fmt: skip
    return found


def _run(*words) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


def compression(there: Service):
    return there.compress(
        "initial", rank=RANK, method="krylov", block=8, max_columns=COLUMNS,
        residual_tolerance=1e-12,
    )  # fmt: skip


def until_running(job) -> None:
    until(lambda: job.known["done"] > 0, 60)


def arrays_of(job) -> list[bytes]:
    from hesscomp.factors import load_factor

    with tempfile.TemporaryDirectory() as folder:
        factor = load_factor(job.fetch("factor.h5", Path(folder) / "f.h5"))
    return [factor.eigenvalues.tobytes(), factor.eigenvectors.tobytes()]


def seconds_of(job) -> float:
    known = job.known
    return known["ended"] - known["started"]


def busy_seconds(there: Service) -> float:
    """Seconds that the ranks have spent on products."""
    text = there._request("GET", "/v1/metrics")[1].decode()
    found = re.search(r'^hesscomp_busy_seconds_total{kind="product"} (\S+)$', text, re.MULTILINE)
    return float(found[1])


def visits(options) -> dict[str, dict]:
    """Products during a compression, what they cost it, and how soon it is cancelled."""
    with service() as there:
        n = there.status()["n"]
        point, v = there.point("initial"), np.random.default_rng(0).standard_normal(n)
        right = point.product(v, batch=False)
        compression(there).result()
        slowdowns, shares, latencies, same = [], [], [], True
        for _ in range(options.repeats):
            alone = compression(there)
            numbers = alone.result()
            block = numbers["seconds"]["solve"] / numbers["ledger"]["passes"]
            before = busy_seconds(there)
            busy = compression(there)
            until_running(busy)
            while busy.state == "running":
                latencies.append(elapsed(lambda: point @ v) / block)
                time.sleep(options.pause * block)
            busy.result()
            slowdowns.append(seconds_of(busy) / seconds_of(alone))
            shares.append((busy_seconds(there) - before) / seconds_of(alone))
            same &= arrays_of(alone) == arrays_of(busy)
        cancels, after = [], True
        for seed in range(options.cancels):
            job = compression(there)
            until_running(job)
            time.sleep(random.Random(seed).random() * 5 * block)
            start = time.perf_counter()
            job.cancel()
            job.wait()
            cancels.append(time.perf_counter() - start)
            if job.state != "cancelled":
                raise SystemExit(f"the job was {job.state} before it was cancelled")
            after &= point.product(v, batch=False).tobytes() == right.tobytes()
    return {
        "product during a compression": {
            "p50, block products": percentile(latencies, 0.5),
            "largest, block products": max(latencies),
        },
        "the compression": {
            "time, of alone": statistics.median(slowdowns),
            "visitors' time, of alone": statistics.median(shares),
            "same bits": "yes" if same else "NO",
        },
        "cancel": {
            "largest, s": max(cancels), "largest, block products": max(cancels) / block,
            "next product right": "yes" if after else "NO",
        },
    }  # fmt: skip


def ancestors(pid: int) -> list[int]:
    found = [pid]
    while found[-1] > 1:
        words = Path(f"/proc/{found[-1]}/stat").read_text().rpartition(")")[2].split()
        found.append(int(words[1]))
    return found


@contextmanager
def watched(there: Service):
    """Yield the times of answers to `status`, which is asked all the while."""
    waits: list[float] = []
    over = threading.Event()

    def watch() -> None:
        mine = Service(there.folder, None, None)
        while not over.wait(0.02):
            waits.append(elapsed(mine.status))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield waits
    finally:
        over.set()
        watcher.join()


def kills(options) -> dict[str, dict]:
    """SIGKILL and SIGSTOP of ranks and launcher at random moments during jobs."""
    chance = random.Random(options.seed)
    names = "done", "queued behind it, done", "tried again", "failed", "wrong"
    names += "hit a rank", "named its rank"
    counts = dict.fromkeys(names, 0)
    restarts = [0]
    with service(ranks=("--comm-timeout", str(TIMEOUT))) as there, watched(there) as waits:
        start = time.monotonic()
        compression(there).result()
        right = compression(there)
        right.result()
        usual, bits = seconds_of(right), arrays_of(right)
        for number in range(options.kills):
            job, behind = compression(there), compression(there)
            time.sleep(chance.random() * usual)
            pids = processes(there)
            line = ancestors(pids["rank 0"])
            launcher = line[line.index(pids.pop("front")) - 1]
            victim = chance.choice([*pids.values(), launcher])
            how = chance.choice([signal.SIGKILL, signal.SIGSTOP])
            os.kill(victim, how)
            state, later = job.wait(300), behind.wait(300)
            known = job.known
            harmless = victim == launcher and how == signal.SIGSTOP  # until it has to do something
            if not harmless:  # a rank that was idle is missed later
                until(lambda: there.status()["restarts"] > restarts[-1], 120)
            counts["done"] += state == "done"
            counts["failed"] += state == "failed"
            counts["tried again"] += known["attempts"] > 0
            counts["queued behind it, done"] += later == "done"
            counts["wrong"] += state == "done" and arrays_of(job) != bits
            counts["wrong"] += later == "done" and arrays_of(behind) != bits
            there.ready(300)
            restarts.append(there.status()["restarts"])
            named = re.search(r"rank \d", there.status()["last_failure"]) is not None
            what = "launcher" if victim == launcher else "rank"
            counts["hit a rank"] += what == "rank"
            counts["named its rank"] += what == "rank" and restarts[-1] > restarts[-2] and named
            said = f"{state}, {known['attempts']} attempts lost; {there.status()['last_failure']}"
            print(f"{number + 1}: {how.name} of a {what}: {said}", flush=True)
        spent = time.monotonic() - start
    return {
        f"{options.kills} kills and stops, seed {options.seed}": {
            **counts, "restarts": restarts[-1], "status p99, ms": 1000 * percentile(waits, 0.99),
            "status largest, ms": 1000 * max(waits), "minutes": spent / 60,
        }
    }  # fmt: skip


def lives(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def orphans(options) -> dict[str, dict]:
    """SIGKILL of the front during a job: how long the others live on, and what a restart knows."""
    with tempfile.TemporaryDirectory() as folder:
        front = started(folder)
        there = until(lambda: _connected(folder), 120)
        right = compression(there)
        right.result()
        bits = arrays_of(right)
        running, waiting = compression(there), compression(there)
        until_running(running)
        pids = [*processes(there).values(), *launchers(there).values()]
        start = time.monotonic()
        front.kill()
        front.wait()
        until(lambda: not any(map(lives, pids)), 60)
        spent = time.monotonic() - start
        front = started(folder)
        try:
            there = until(lambda: _connected(folder), 120)
            listed = [job.id for job in there.jobs()] == [right.id, running.id, waiting.id]
            again = [there.job(job.id) for job in (running, waiting)]
            same = all(job.wait(300) == "done" and arrays_of(job) == bits for job in again)
        finally:
            front.terminate()
            front.wait(60)
    return {
        "the front is killed": {
            "last process gone, s": spent, "a restart lists every job": "yes" if listed else "NO",
            "jobs done with the right bits": "yes" if same else "NO",
        }
    }  # fmt: skip


def memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def handles(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def drift(options) -> dict[str, dict]:
    """Memory and file descriptors under 16 clients, from the second fifth of the time to the last.

    The service may hold few points, so that it soon holds as many as it will.
    """
    with service("--point-memory", "20M") as there:
        n, pids = there.status()["n"], processes(there)
        end = time.monotonic() + 60 * options.minutes
        held: dict[str, list[int]] = {name: [] for name in pids}
        open_now: dict[str, list[int]] = {name: [] for name in pids}
        done = 0

        def work(seed: int) -> int:
            mine, rng, count = Service(there.folder, None, None), np.random.default_rng(seed), 0
            while time.monotonic() < end:
                x = mine.point(rng.standard_normal(n) / 100)
                for _ in range(4):
                    x @ rng.standard_normal((n, int(rng.integers(1, 4))))
                assert len(x.gradient) == n
                if seed == 0 and count % 50 == 0:
                    mine.compress("initial", rank=3).result()
                count += 6
            return count

        with ThreadPoolExecutor(16) as pool:
            futures = [pool.submit(work, seed) for seed in range(16)]
            while time.monotonic() < end:
                for name, pid in pids.items():
                    held[name].append(memory(pid))
                    open_now[name].append(handles(pid))
                time.sleep(min(1.0, 0.6 * options.minutes))
            done = sum(future.result() for future in futures)
    found = {}
    for name, values in held.items():
        fifth = max(len(values) // 5, 1)
        early, last = (
            statistics.median(part) for part in (values[fifth : 2 * fifth], values[-fifth:])
        )
        files = open_now[name]
        found[f"{name}, {options.minutes:g} minutes"] = {
            "requests": done, "MB": last / 1e6, "memory's drift, %": 100 * (last / early - 1),
            "file descriptors": f"{statistics.median(files[fifth:2 * fifth]):g} to {files[-1]}",
        }  # fmt: skip
    return found


PARTS = {
    **{"idle": idle, "batching": batching, "visits": visits, "orphans": orphans},
    **{"kills": kills, "drift": drift},
}


def main() -> None:
    parser = parts_parser(__doc__, PARTS)
    parser.add_argument("--seconds", type=float, default=10, help="of each rate")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--idle", type=float, default=60, help="seconds of idleness")
    parser.add_argument("--wakes", type=int, default=20, help="no-ops after a second of idleness")
    parser.add_argument("--pause", type=float, default=3, help="block products between visits")
    parser.add_argument("--cancels", type=int, default=10)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=60, help="of the drift")
    parser.add_argument("--seed", type=int, default=0, help="of the kills' moments")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.pop("HESSCOMP_DATA", None)  # else "mnist-mlp" takes all of MNIST
    run_parts(options, PARTS, "service", CODE, options)


if __name__ == "__main__":
    main()
