"""A front in this process with ranks that only pretend: H = diag(1, ..., n), f = x H x / 2."""

import asyncio
import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hesscomp.client import connect
from hesscomp.factors import Certificate, LowRank, Provenance, save_factor
from hesscomp.service.batching import MOST_BYTES
from hesscomp.service.options import ServiceOptions
from hesscomp.service.requests import ServedProblem
from hesscomp.service.server import Service
from hesscomp.service.wire import pack, receive

N = 5
RANKS = [
    {
        **{"rank": 0, "host": "here", "pid": 1, "threads": 1},
        **{"resident_bytes": 2**20, "free_bytes": 2**30},
    }
]


class FakeRank:
    """Rank 0: answers short work at once, jobs in steps; `die` drops the connection."""

    def __init__(self, address: str, step: float = 0.01):
        self.address, self.step, self.blocks = address, step, []
        self.hold = threading.Event()  # work is answered while it is set
        self.hold.set()
        self.asked, self.left = "", []
        self.factor = b"a factor"  # the bytes of the file that jobs make
        self.keep, self.kept = False, []  # whether solves take until `release`
        self.start()

    def start(self) -> None:
        self.stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.stream.connect(self.address)
        self.thread = threading.Thread(target=self._run, args=[self.stream], daemon=True)
        self.thread.start()

    def die(self) -> None:
        self.stream.shutdown(socket.SHUT_RDWR)
        self.thread.join()

    def say(self, header, *arrays):
        for piece in pack(header, arrays):
            self.stream.sendall(piece)

    def _run(self, stream) -> None:
        self.job, self.points, self.asked = None, {}, ""
        hello = {"problem": "a fake", "n": N, "rows": 7, "ranks": RANKS}
        try:
            self.say({"say": "hello", **hello})
            while True:
                stream.settimeout(self.step if self.job else None)
                try:
                    header, arrays = receive(stream)
                except TimeoutError:
                    self._go_on()
                    continue
                stream.settimeout(None)
                if header["do"] == "end":
                    return
                if header["do"] == "job":
                    self.job, self.done, self.at = header, 0, header["at"]
                elif header["do"] in ("cancel", "drain"):
                    self.asked = {"cancel": "cancelled", "drain": "queued"}[header["do"]]
                elif header["do"] == "leave":
                    self.left.append(header["id"])
                else:
                    self.hold.wait()
                    self._work(header, arrays)
        except (EOFError, OSError):
            return
        finally:
            stream.close()

    def _go_on(self) -> None:
        name = self.job["job"]["id"]
        self.done += 1
        self.say({"say": "event", "job": name, "done": self.done, "total": 10})
        self.say({"say": "event", "job": name, "row": {"step": self.done, "objective": 1.0}})
        if self.done == 1:
            self.say({"say": "event", "job": name, "warning": "take care"})
        if self.done < 10 and not self.asked:
            return
        state, error = self.asked or "done", ""
        if self.job["job"]["options"].get("rank") == 3:
            state, error = "failed", "it had to"
        if state == "done":
            path = Path(self.job["folder"])
            (path / "numbers.json").write_text(json.dumps({"eigenvalues": [2.0, 1.0]}))
            (path / "factor.h5").write_bytes(self.factor)
        self.job, self.asked = None, ""
        self.say({"say": "ended", "job": name, "state": state, "error": error})

    def release(self) -> None:
        """Answer the solves that were kept."""
        self.keep, kept, self.kept = False, self.kept, []
        for frame in kept:
            self._work(*frame)

    def _work(self, header, arrays) -> None:
        if self.keep and header["kind"] == "solve":
            self.kept.append((header, arrays))
            return
        if header["brings"]:
            self.points[header["point"]] = arrays.pop(0)
        x = self.points.get(header["point"], np.zeros(N))
        h, answer, out = np.arange(1.0, N + 1), {}, ()
        if header["kind"] == "gradient":
            answer, out = {"value": float(x @ (h * x) / 2)}, (h * x,)
        elif header["kind"] == "product":
            self.blocks.append(arrays[0].shape[1])
            big = np.abs(arrays[0]).max(axis=0) > 1e30
            answer, out = {"failed": np.flatnonzero(big).tolist()}, (h[:, None] * arrays[0],)
        elif header["kind"] == "solve":
            X = arrays[0] / (h + abs(header["shift"]))[:, None]
            found = {"iterations": [1], "residuals": [0.0], "converged": [header["shift"] >= 0]}
            answer, out = found, (X,)
        elif header["kind"] == "point_itself":
            out = (x,)
        self.say({"say": "answer", "id": header["id"], "seconds": 0.001, **answer}, *out)


class Running:
    """A service in a thread of its own, its fake rank, and a client."""

    def __init__(self, folder, **options):
        self.folder = folder
        options = ServiceOptions(folder=str(folder), port=0, **options)
        self.lines = []
        served = ServedProblem(problem="mnist-mlp")
        self.service = Service(options, served, (), self.lines.append, own_ranks=False)
        self.status = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        until(lambda: self.lines)
        self.rank = FakeRank(self.service.address)
        self.client = connect(folder)
        self.client.ready(10)

    def _run(self):
        self.status = asyncio.run(self.service.run())

    @property
    def url(self) -> str:
        return self.service.url

    def end(self) -> int:
        if self.thread.is_alive():
            self.client.drain()
            self.thread.join(20)
        return self.status


def factor_bytes(folder: Path) -> bytes:
    """The bytes of a factor's file, which is made in `folder`."""
    factor = LowRank(
        np.array([2.0, 1.0]), np.eye(N)[:, :2], certificate=Certificate(0.1, 2.0),
        provenance=Provenance(problem="a <script>fake"),
    )  # fmt: skip
    save_factor(factor, folder / "made.h5")
    return (folder / "made.h5").read_bytes()


@contextmanager
def running_front(folder, **options):
    """Yield a `Running` service in `folder`."""
    running = Running(Path(folder), **options)
    try:
        yield running
    finally:
        running.rank.hold.set()
        running.end()


def until(what, seconds: float = 10.0):
    """Wait until something is true, and return it."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)
    return found


def http(running, method, path, body=b"", **headers):
    """Ask over TCP; return status, headers and body."""
    token = running.service.token
    given = {"Authorization": f"Bearer {token}", "X-Hesscomp": "1"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    given = {name: value for name, value in given.items() if value is not None}
    request = urllib.request.Request(running.url + path, body or None, given, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def npy(array, **how) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **how)
    return stream.getvalue()


@contextmanager
def a_product_waiting(running, most: int, **headers):
    """Let a product wait at a rank, in a front with room for so many bytes, until the block ends.

    It must then be answered, and the room empty.
    """
    front = running.service.front
    until(lambda: front.room.taken == 0)  # an answer is sent before its room is given back
    front.room.most = most
    running.rank.hold.clear()
    try:
        with ThreadPoolExecutor(1) as pool:
            path, body = "/v1/points/zero/product", npy(np.ones(N))
            first = pool.submit(http, running, "POST", path, body, **headers)
            try:
                until(lambda: front.under_way)
                yield
            finally:
                running.rank.hold.set()
            assert first.result()[0] == 200
    finally:
        running.rank.hold.set()
        front.room.most = MOST_BYTES
    until(lambda: front.room.taken == 0)
