"""The ranks' side of a service, with a front that is a thread of rank 0."""

import json
import os
import select
import socket
import tempfile
import threading
import time

import numpy as np
import pytest
from mpi4py import MPI

from hesscomp.client import point_id
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.parallel.doorbell import Doorbell
from hesscomp.parallel.ledger import Ledger
from hesscomp.parallel.world import World
from hesscomp.service import loop
from hesscomp.service.loop import ManyProducts, RankLoop
from hesscomp.service.requests import ServedProblem
from hesscomp.service.wire import pack, receive
from hesscomp.workflows import CurvatureRequest, make_curvature
from hesscomp.workflows.factors import CompressRequest, compress
from hesscomp.workflows.sensitivity import SensitivityRequest, find_sensitivity

pytestmark = pytest.mark.ranks
OPTIONS = {"rank": 8, "method": "krylov", "block": 1}


class FrontThread:
    """Sends frames to rank 0 and keeps what it says."""

    def __init__(self, script):
        self.address = os.path.join(tempfile.mkdtemp(), "ranks.sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.address)
        self.listener.listen(1)
        self.said, self.failure, self.number, self.out = [], None, 0, b""
        self.thread = threading.Thread(target=self._run, args=[script], daemon=True)
        self.thread.start()

    def _run(self, script):
        self.stream = self.listener.accept()[0]
        try:
            self.hello = self.hear("hello")[0]
            script(self)
        except BaseException as error:
            self.failure = error
        finally:
            self.stream.close()  # at the latest now the ranks end

    def send(self, header, *arrays, more=False):
        """Send a frame; one with `more` goes together with the next."""
        self.out += b"".join(pack(header, arrays))
        if not more:
            self.stream.sendall(self.out)
            self.out = b""

    def hear(self, what):
        while True:
            header, arrays = receive(self.stream)
            self.said.append(header)
            if header["say"] == what:
                return header, arrays

    def work(self, kind, point="zero", *arrays, brings=False, more=False, **given):
        self.number += 1
        known = {"kind": kind, "point": point, "operator": "hessian", "alone": True}
        self.send(
            {"do": "work", "id": self.number, **known, "drop": [], "brings": brings, **given},
            *arrays,
            more=more,
        )

    def ask(self, *words, **given):
        self.work(*words, **given)
        return self.hear("answer")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A table of 40 rows and 60 columns, the same file for all ranks."""
    world, rng = World(), np.random.default_rng(0)
    path = world.broadcast(str(tmp_path_factory.mktemp("data") / "d.npz"))
    if world.rank == 0:
        np.savez(path, X=rng.standard_normal((40, 60)), y=rng.integers(0, 2, 40))
    world.gather(None)
    return path


def served(script, monkeypatch, data, **problem):
    """Run the ranks of a service until the script of the front is through; return the front."""
    monkeypatch.setattr(loop, "STOP_SIGNALS", ())
    world = World(reproducible=True)
    front = FrontThread(script) if world.rank == 0 else None
    address = world.broadcast(None if front is None else front.address)
    assert RankLoop(address, ServedProblem(data=data, **problem), world).run() == 0
    if front is not None:
        front.thread.join(10)
    failure = world.broadcast(None if front is None else repr(front.failure))
    assert failure == "None", failure
    return front


def test_short_work_and_visitors_of_a_job(monkeypatch, tmp_path, data):
    world = World(reproducible=True)
    folder = world.broadcast(str(tmp_path))
    here = make_curvature(CurvatureRequest(data=data, at="zero"), world)
    n = here.operator.n
    V = np.random.default_rng(0).standard_normal((n, 2))
    alone = compress(CompressRequest(data=data, at=("zero",), **OPTIONS), world)
    value, gradient = here.problem.objective_and_gradient(here.x)
    x = np.full(n, 0.1)
    other = make_curvature(CurvatureRequest(data=data), world).problem
    expected = here.operator @ V, other.objective_and_gradient(x), alone.factor.eigenvalues

    def script(front):
        header, arrays = front.ask("gradient")
        assert header["value"] == value
        np.testing.assert_array_equal(arrays[0], gradient)
        np.testing.assert_array_equal(front.ask("product", "zero", V)[1][0], expected[0])
        header, arrays = front.ask("gradient", point_id(x), x, brings=True)
        assert header["value"] == expected[1][0]
        header, arrays = front.ask("product", "zero", V * [1e300, 1])
        assert header["failed"] == [0]
        np.testing.assert_array_equal(arrays[0][:, 1], expected[0][:, 1])
        given = {"shift": 1.0, "tolerance": 1e-4, "iterations": 100}
        header, arrays = front.ask("solve", "zero", V, **given)
        assert header["converged"] == [True, True]
        assert "error" in front.ask("product", "zero", V[:-1])[0]

        given["tolerance"] = 1e-10  # it takes many products, and others are done between them
        told, (X,) = front.ask("solve", "zero", V, **given)
        front.work("solve", "zero", V, more=True, **given)
        front.work("noop", more=True)
        front.work("product", "zero", V)
        assert front.hear("answer")[0]["id"] == front.number - 1
        np.testing.assert_array_equal(front.hear("answer")[1][0], expected[0])
        header, (visited,) = front.hear("answer")
        assert header["id"] == front.number - 2 and header["iterations"] == told["iterations"]
        np.testing.assert_array_equal(visited, X)

        job = {"id": "j1", "kind": "compress", "options": OPTIONS}
        front.send({"do": "job", "job": job, "folder": folder, "at": "zero"}, more=True)
        for more in (True, True, False):  # all are there when the job begins
            front.work("product", "zero", V, more=more)
        for _ in range(3):  # served before the job ends
            np.testing.assert_array_equal(front.hear("answer")[1][0], expected[0])
            assert front.said[-1]["say"] == "answer"
        assert not [said for said in front.said if said["say"] == "ended"]
        assert front.hear("ended")[0]["state"] == "done"

        bad = {**job, "options": {"blocks": "nothing"}}
        front.send({"do": "job", "job": bad, "folder": folder, "at": "zero"})
        ended = front.hear("ended")[0]
        assert ended["state"] == "failed" and "nothing" in ended["error"]

        long = {**job, "options": {**OPTIONS, "rank": 50, "block": 1}}
        for word, state in (("cancel", "cancelled"), ("drain", "queued")):
            front.send({"do": "job", "job": long, "folder": folder, "at": "zero"})
            front.hear("event")
            front.send({"do": word, "job": "j1"})
            assert front.hear("ended")[0]["state"] == state

    front = served(script, monkeypatch, data)
    if front is not None:
        from hesscomp.factors import load_factor

        factor = load_factor(tmp_path / "factor.h5")
        np.testing.assert_array_equal(factor.eigenvalues, expected[2])
        assert factor.provenance.columns == alone.factor.provenance.columns
        assert front.hello["n"] == n and len(front.hello["ranks"]) == world.size


def test_a_job_leaves_the_problem_as_it_is_and_computes_as_its_command(monkeypatch, tmp_path, data):
    """The ridges of a fit, and the precision of a sensitivity, are those of the job alone."""
    world = World(reproducible=True)
    folder = world.broadcast(str(tmp_path))
    alone = find_sensitivity(SensitivityRequest(data=data, test=data), world)
    V = np.ones((60, 1))

    def script(front):
        def known():
            header, (gradient,) = front.ask("gradient", "here", x, brings=True)
            return header["value"], gradient, front.ask("product", "here", V)[1][0]

        def done(name, kind, options):
            (tmp_path / name).mkdir()
            job = {"id": name, "kind": kind, "options": options}
            front.send({"do": "job", "job": job, "folder": f"{folder}/{name}", "at": None})
            ended = front.hear("ended")[0]
            assert ended["state"] == "done", ended["error"]
            return json.loads((tmp_path / name / "numbers.json").read_text())

        x = np.full(60, 0.1)
        before = known()
        told = done("j1", "newton", {"ridges": [0.1, 1.0], "folds": 2, "rank": 8})
        assert told["ridge"] in (0.1, 1.0) and told["dtype"] == "float32"
        assert done("j2", "newton", {"covariance": "observed", "rank": 8})["dtype"] == "float64"
        told = done("j3", "sensitivity", {})
        assert told["tolerance"] == 1e-8 == alone.tolerance
        np.testing.assert_array_equal(told["values"], alone.values)
        np.testing.assert_array_equal(told["influence"], alone.influence[alone.chosen])
        for value, now in zip(before, known(), strict=True):
            np.testing.assert_array_equal(now, value)

    served(script, monkeypatch, data, test=data)


def test_what_comes_during_a_product_is_done_before_the_next(monkeypatch, tmp_path, data):
    folder = World().broadcast(str(tmp_path))
    products, seen = [], []
    multiply = HessianOperator.block_product

    def product(operator, V):
        if len(products) == 2 and operator.world.rank == 0:
            fronts[0].work("noop")
        products.append(V.shape[1])
        return multiply(operator, V)

    def noop(ranks, header, arrays):
        seen.append(len(products))
        return {}, ()

    def script(front):
        fronts.append(front)
        job = {"id": "j1", "kind": "compress", "options": OPTIONS}
        front.send({"do": "job", "job": job, "folder": folder, "at": "zero"})
        assert front.hear("ended")[0]["state"] == "done"

    fronts = []
    monkeypatch.setattr(HessianOperator, "block_product", product)
    monkeypatch.setattr(RankLoop, "_noop", noop)
    served(script, monkeypatch, data)
    assert seen == [3] and len(products) > 5


@pytest.mark.serial
def test_visitors_take_a_tenth_of_the_time_or_wait_for_one_and_a_half_products(monkeypatch):
    now, ledger = 0.0, Ledger()
    monkeypatch.setattr(loop.time, "monotonic", lambda: now)
    host = ManyProducts(ledger)
    for seconds in (5.0, 1.0, 1.0):  # the first product, with all that it compiles, tells nothing
        now += seconds
        ledger.product(8)
        host.look()
        assert host.receives()
        host.visited(0.3)
        now += 0.3
    assert host._product() == pytest.approx(1.0)
    host.visited(1.0)  # with which they took much
    received = []
    for later in (9.0, 10.0, 10.4, 10.6):
        now = later
        received.append(host.receives())
    assert received == [False, False, False, True]


@pytest.mark.serial
@pytest.mark.parametrize("visit", [0.2, 1.0, 3.0])
def test_visitors_without_pauses_take_what_the_page_says(monkeypatch, visit):
    now, ledger = 0.0, Ledger()
    monkeypatch.setattr(loop.time, "monotonic", lambda: now)
    host = ManyProducts(ledger)
    for pause in range(1, 401):  # four to a product
        now += 0.25
        if pause % 4 == 0:
            ledger.product(8)
        host.look()
        if pause > 8 and host.receives():
            now += visit
            host.visited(visit)
    assert host.lent <= max(0.1 * 100 + visit, 100 * visit / 1.5)


def test_a_long_solve_ends_when_nobody_waits_for_it(monkeypatch, tmp_path, data):
    """Its client has left; the job that it visits is cancelled; the service drains."""
    folder = World().broadcast(str(tmp_path))
    begun = threading.Event()

    def endless(A, B, **_):
        while True:
            A @ B
            begun.set()

    monkeypatch.setattr(loop, "solve_columns", endless)
    given = {"shift": 1.0, "tolerance": 1e-4, "iterations": 100}

    def script(front):
        def solve_until(word):
            begun.clear()
            front.work("solve", "zero", np.ones((60, 1)), **given)
            begun.wait()
            front.send(word)
            assert front.hear("answer")[0]["unfinished"]

        solve_until({"do": "leave", "id": 1})
        options = {**OPTIONS, "rank": 25}
        job = {"id": "j1", "kind": "compress", "options": options}
        front.send({"do": "job", "job": job, "folder": folder, "at": "zero"}, more=True)
        solve_until({"do": "cancel", "job": "j1"})
        assert front.hear("ended")[0]["state"] == "cancelled"
        solve_until({"do": "drain"})

    served(script, monkeypatch, data)


def test_idle_ranks_wait_outside_of_collectives(monkeypatch, data):
    monkeypatch.setattr(loop, "BEAT", 0.05)

    def script(front):
        front.hear("beat")
        front.hear("beat")

    served(script, monkeypatch, data)


@pytest.fixture(params=["one host", "several"])
def bell(request, monkeypatch):
    """A bell whose ranks are on one host, or behave as on several: then they hear UDP."""
    world = World()
    if request.param == "several":
        name = "127.0.0.1" if world.rank else "localhost"
        monkeypatch.setattr(MPI, "Get_processor_name", lambda: name)
    bell = Doorbell(world)
    far = world.rank and request.param == "several"
    assert bell.socket.family == (socket.AF_INET if far else socket.AF_UNIX)
    return bell


@pytest.mark.parametrize("what", [None, "short", 10**5 * b"long"])
def test_all_hear_what_is_rung(bell, what):
    assert (bell.ring(what) if bell.world.rank == 0 else bell.wait()) == what


def test_a_stranger_at_the_bell_changes_nothing(bell):
    world = bell.world
    if world.rank == 0:
        for each in bell._bells:
            each.send(b"")
    else:
        assert select.select([bell.socket], [], [], 10)[0]  # the datagram comes
    world.gather(None)
    if world.rank == 0:
        time.sleep(0.2)
        rung = time.monotonic()
        bell.ring()
    else:
        bell.wait()
        woken = time.monotonic()
    times = world.gather(rung if world.rank == 0 else woken)
    assert min(times) == times[0]
