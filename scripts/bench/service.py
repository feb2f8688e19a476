"""What the resident service costs and gains: latencies, batching, visitors of a job, idleness.

    python scripts/bench/service.py --trial             # 2 ranks, 784-15-10: about 3 minutes

All of a comparison are taken from one service, alternately, as ratios: products with and without
shared blocks, a compression alone and with a client that asks meanwhile.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import record

from hesscomp.client import Service, connect

COMPRESSION = {"rank": 60, "method": "krylov", "block": 16, "max_columns": 400}
TICKS = os.sysconf("SC_CLK_TCK")


def median_ms(work, repeats: int) -> float:
    """Return the median time of a call in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def rate(folder: Path, clients: int, batch: bool, seconds: float, n: int) -> float:
    """Return the products a second that so many clients get, each asking again at once."""
    counts, end = [0] * clients, time.monotonic() + seconds
    V = np.random.default_rng(0).standard_normal((clients, n))

    def ask(which: int) -> None:
        point = connect(folder).point("initial")
        while time.monotonic() < end:
            point.product(V[which], batch=batch)
            counts[which] += 1

    threads = [threading.Thread(target=ask, args=[which]) for which in range(clients)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - start)


def compression(service: Service, visits: float | None, n: int) -> tuple[float, list, list]:
    """Return the seconds of a compression, its eigenvalues, and the latencies of visitors."""
    latencies, done, point = [], threading.Event(), service.point("initial")
    v = np.random.default_rng(1).standard_normal(n)

    def visit() -> None:
        while visits is not None and not done.wait(visits):
            start = time.perf_counter()
            point.product(v)
            latencies.append(time.perf_counter() - start)

    visitor = threading.Thread(target=visit)
    visitor.start()
    result = service.compress("initial", **COMPRESSION).result()
    done.set()
    visitor.join()
    return result["seconds"]["solve"], result["eigenvalues"], latencies


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each throughput")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds of idleness")
    record.add_option(parser)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp()) / "svc"
    words, problem = [sys.executable, "-m", "hesscomp"], ["--problem", "mnist-mlp"]
    process = subprocess.Popen(
        [*words, "serve", str(folder), "--ranks", str(options.ranks), "--", *problem],
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()
    service = connect(folder)
    known = service.ready()
    values: dict[str, object] = {}

    def tell(name: str, value, unit: str = "") -> None:
        values[name] = value
        print(f"{name:<46} {value:.4g} {unit}", flush=True)

    n, point = known["n"], service.point("initial")
    for width in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32):  # compiled
        point @ np.ones((n, width))

    def noop() -> None:
        service._json("GET", "/v1/noop")

    tell("status, p50", median_ms(service.status, 200), "ms")
    tell("no-op of the ranks, p50", median_ms(noop, 200), "ms")

    def after_a_second() -> float:
        time.sleep(1)
        return median_ms(noop, 1)

    tell(
        "no-op after a second of idleness, p50",
        float(np.median([after_a_second() for _ in range(7)])),
        "ms",
    )
    for clients in (1, 2, 4, 32):
        pairs = [
            [rate(folder, clients, batch, options.seconds, n) for batch in (True, False)]
            for _ in range(2)
        ]
        tell(f"products a second without blocks, {clients} clients", max(b for _, b in pairs))
        tell("  with shared blocks, times that", float(np.median([a / b for a, b in pairs])))
    taken = {"alone": [], "visited": []}
    latencies, eigenvalues = [], []
    for _ in range(3):
        for how, visits in (("alone", None), ("visited", 0.5)):
            seconds, found, late = compression(service, visits, n)
            taken[how].append(seconds)
            eigenvalues.append(found)
            latencies += late
    tell("compression alone", float(np.median(taken["alone"])), "s")
    tell(
        "  with a product every 0.5 s, times that",
        float(np.median(taken["visited"]) / np.median(taken["alone"])),
    )
    tell("  such a product meanwhile, p50", 1e3 * float(np.median(latencies)), "ms")
    tell("  the same, longest", 1e3 * max(latencies), "ms")
    tell("  the bits differ", len({tuple(found) for found in eigenvalues}) - 1)
    job = service.compress("initial", **COMPRESSION)
    while not job.progress[0]:
        time.sleep(0.01)
    start = time.perf_counter()
    job.cancel()
    job.wait()
    tell("cancelling", 1e3 * (time.perf_counter() - start), "ms")

    script = (
        "import hesscomp.client as c, numpy as np; "
        f"p = c.connect({str(folder)!r}).point('initial'); p @ np.ones({n})"
    )
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", script], check=True)
    first = time.perf_counter() - start
    start = time.perf_counter()
    subprocess.run(
        [*words, "compress", *problem, "--rank", "1", "--out", str(folder / "f.h5")],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    tell("first product of a new client, of a process", first, "s")
    tell("  hesscomp compress from the shell, times that", (time.perf_counter() - start) / first)
    pids = {f"rank {each['rank']}": each["pid"] for each in known["ranks"]}
    pids["front"] = process.pid
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    time.sleep(options.idle)
    for name, pid in pids.items():
        share = 100 * (cpu_seconds(pid) - before[name]) / options.idle
        tell(f"idle, {name}", share, "% of a core")
    service.drain()
    process.wait()
    if not options.trial:
        row = f"784-15-10, {options.ranks} ranks"
        record.save("service", row, values, ("hesscomp/service", *record.ENGINE))


if __name__ == "__main__":
    main()
