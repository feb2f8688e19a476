"""One service on 2 ranks, started once: what only real ranks show."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import until

from hesscomp.client import ServiceError, connect
from hesscomp.parallel.world import World
from hesscomp.problems.catalogue import RIDGE
from hesscomp.workflows import CurvatureRequest, make_curvature
from hesscomp.workflows.factors import CompressRequest, compress

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
RANK = {"rank": 20, "method": "krylov", "block": 1}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "svc"
    words = [sys.executable, "-m", "hesscomp", "serve", str(folder), "--ranks", "2"]
    words += ["--", "--data", "adult", "--reproducible", "--threads", "1"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("service: ")
    service = connect(folder)
    service.ready(200)
    service.process = process
    yield service
    pids = [each["pid"] for each in service.status()["ranks"]]
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert not (folder / "service.json").exists()


@pytest.fixture(scope="module")
def here():
    """The same operator in this process, at zero."""
    world = World(reproducible=True)
    return make_curvature(CurvatureRequest(data="adult", at="zero"), world)


def test_short_requests(service, here):
    zero, rng = service.point("zero"), np.random.default_rng(0)
    V = rng.standard_normal((here.operator.n, 3))
    value, gradient = here.problem.objective_and_gradient(here.x)
    assert zero.value == value
    np.testing.assert_array_equal(zero.gradient, gradient)
    np.testing.assert_array_equal(zero.product(V, batch=False), here.operator @ V)
    np.testing.assert_allclose(zero @ V[:, 0], here.operator @ V[:, 0], rtol=1e-5, atol=1e-7)
    x = zero.solve(V[:, 0], shift=RIDGE + 1e-2, tolerance=1e-4)
    np.testing.assert_allclose(here.operator @ x + (RIDGE + 1e-2) * x, V[:, 0], atol=1e-2)
    V[:, 1] *= 1e200
    with pytest.raises(ServiceError, match="columns 1 of the product is not finite"):
        zero @ V
    status = service.status()
    assert [each["rank"] for each in status["ranks"]] == [0, 1] and status["n"] == len(x)


def test_a_job_has_the_bits_of_one_alone_and_lets_visitors_in(service, here):
    alone = compress(
        CompressRequest(data="adult", at=("zero",), **RANK), here.problem.world, subject=None
    )
    zero, served, done = service.point("zero"), [], threading.Event()
    expected = here.operator @ np.ones(here.operator.n)

    def visit():
        while not done.is_set():
            served.append(
                np.abs(zero.product(np.ones(here.operator.n), batch=False) - expected).max()
            )

    visitor = threading.Thread(target=visit)
    visitor.start()
    try:
        result = service.compress("zero", **RANK).result(60)
    finally:
        done.set()
        visitor.join()
    assert result["eigenvalues"] == alone.factor.eigenvalues.tolist()
    assert result["provenance"]["columns"] == alone.factor.provenance.columns
    assert served and max(served) == 0.0


def test_kinds_of_jobs(service):
    spectrum = service.spectrum("zero", probes=2, steps=5)
    newton = service.submit("newton", max_iterations=3)
    train = service.train("newton-cg", "zero", max_steps=2)
    assert spectrum.result(60)["command"] == "spectrum" and "spectrum.png" in spectrum.files
    assert newton.result(60)["iterations"] <= 3 and "factor.h5" in newton.files
    assert len(train.result(60)["history"]) >= 2 and "best.npy" in train.files
    assert len(train.known["history"]) >= 1
    with pytest.raises(ServiceError, match="nothing"):
        service.compress("zero", blocks="nothing").result(60)


def test_cancelling_at_a_product(service):
    job = service.train("sgd", "zero", max_steps=10**6, learning_rate="1e-3")
    until(lambda: job.known["history"], 30)
    job.cancel()
    assert job.wait(20) == "cancelled"
    assert service.compress("zero", **RANK).wait(60) == "done"


@pytest.mark.timeout(400)
def test_two_minutes_of_sixteen_clients(monkeypatch):
    """No memory and no file descriptor is left behind; an hour is in scripts/bench/service.py."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts" / "bench"))
    drift = importlib.import_module("service").drift
    for name, found in drift(SimpleNamespace(minutes=2)).items():
        before, after = found["file descriptors"].split(" to ")
        assert before == after and found["memory's drift, %"] < 5, (name, found)


def test_a_killed_rank_is_named_and_the_job_goes_on(service):
    expected = service.compress("zero", **RANK).result(60)["eigenvalues"]
    job = service.compress("zero", **RANK)
    until(lambda: job.state == "running", 30)
    os.kill(service.status()["ranks"][1]["pid"], signal.SIGKILL)
    until(lambda: service.status()["restarts"] == 1, 30)
    start = time.monotonic()
    service.status()
    assert time.monotonic() - start < 1
    assert "rank 1" in service.status()["last_failure"]
    assert job.result(120)["eigenvalues"] == expected
