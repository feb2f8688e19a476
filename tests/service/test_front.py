"""The front with a fake rank 0: requests, batches, jobs, security; without TensorFlow."""

import asyncio
import errno
import json
import os
import pickle
import random
import re
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import client as http_client
from pathlib import Path

import fakes
import numpy as np
import pytest
from fakes import N, Running, a_product_waiting, http, npy, running_front, until
from marks import slow_but

from hesscomp.cli.main import main
from hesscomp.client import NotRunning, Point, ServiceError, connect, leave, point_id
from hesscomp.errors import InputError
from hesscomp.parallel.resources import resident_bytes
from hesscomp.service.jobs import DONE, QUEUED, RUNNING, STATES, Full, JobStore
from hesscomp.service.options import ServiceOptions
from hesscomp.service.points import OVERHEAD
from hesscomp.service.ranks import Ranks
from hesscomp.service.requests import KINDS, ServedProblem, check_memory, job_request, settable
from hesscomp.service.server import Service, raise_descriptors
from hesscomp.service.wire import JobBody, pack
from hesscomp.service.workspace import Workspace

H = np.diag(np.arange(1.0, N + 1))
TOKENS = (
    b"nan",
    b"null",
    b"[",
    b"{",
    b'"',
    b"\\u0000",
    b"-1",
    b"1e999",
    b"'|O'",
    b"(9" + b"9" * 20,
    b"\xff",
    b"../",
)
HEAD = b"GET /v1/status HTTP/1.1\r\nHost: hesscomp\r\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with running_front(tmp_path_factory.mktemp("svc") / "svc") as running:
        yield running


def raw(running, data: bytes) -> bytes:
    """Send bytes to the Unix socket; return all that comes until the end."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(10)
        stream.connect(running.service.door.getsockname())
        with suppress(BrokenPipeError):  # it has answered already, and closed
            stream.sendall(data)
            stream.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(ConnectionResetError):  # it has not read all that was sent
            while part := stream.recv(2**16):
                answer += part
        return answer


def test_points_and_short_requests(running):
    service, x = running.client, np.arange(N) + 0.5
    point = service.point(x)
    assert point.id == point_id(x)
    np.testing.assert_array_equal(service.point("zero").x, np.zeros(N))
    assert point.value == pytest.approx(x @ H @ x / 2)
    np.testing.assert_allclose(point.gradient, H @ x)
    V = np.random.default_rng(0).standard_normal((N, 3))
    np.testing.assert_allclose(point @ V, H @ V)
    np.testing.assert_allclose(point @ V[:, 0], H @ V[:, 0])
    np.testing.assert_allclose(
        point.solve(V[:, 0], shift=1.0), np.linalg.solve(H + np.eye(N), V[:, 0])
    )
    np.testing.assert_allclose(point.to_scipy() @ V, H @ V)
    with pytest.raises(ServiceError, match="no solution within 1 iterations"):
        point.solve(V[:, 0], shift=-1.0)
    with pytest.raises(ServiceError, match="operator 'jacobian': there is none"):
        point.of("jacobian") @ V
    with pytest.raises(ServiceError, match=r"has shape \(4, 3\); send \(5,\)"):
        point @ V[:4]


def test_complex_arrays_are_refused_before_they_are_halved(running):
    point, v = running.client.point("zero"), np.full(N, 1 + 1j)
    for ask in (lambda: point @ v, lambda: point.solve(v), lambda: running.client.point(v)):
        with pytest.raises(InputError, match="complex128: a service takes real numbers alone"):
            ask()


def test_what_waits_becomes_one_block_and_a_bad_column_fails_alone(running):
    rank, point = running.rank, running.client.point("zero")
    point @ np.ones(N)
    rank.hold.clear()
    rank.blocks.clear()
    V = np.eye(N)
    V[0, 2] = 1e31
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(lambda: point @ np.ones(N))
        until(lambda: running.service.front.under_way)
        others = [pool.submit(lambda v=v: connect(running.folder).point("zero") @ v) for v in V.T]
        alone = pool.submit(lambda: point.product(np.ones(N), batch=False))
        until(lambda: len(running.service.front.queue) == N + 1)
        rank.hold.set()
        np.testing.assert_array_equal(first.result(), np.arange(1.0, N + 1))
        np.testing.assert_array_equal(alone.result(), np.arange(1.0, N + 1))
        for i, other in enumerate(others):
            if i == 2:
                with pytest.raises(ServiceError, match="the product is not finite"):
                    other.result()
            else:
                np.testing.assert_array_equal(other.result(), H[i])
    assert sorted(rank.blocks) == [1, 1, N]


def test_a_job_from_submission_to_its_file(running, tmp_path):
    service = running.client
    job = service.compress(np.ones(N), rank=2, key="mine")
    assert service.compress(np.ones(N), rank=2, key="mine") == job
    with pytest.raises(ServiceError, match="`key` mine: belongs to"):
        service.compress(np.ones(N), rank=3, key="mine")
    assert job.result(10) == {"eigenvalues": [2.0, 1.0]}
    assert job.files == ["factor.h5", "numbers.json"] and job.progress == (10, 10)
    assert job.warnings == ["take care"]
    assert job.fetch("factor.h5", tmp_path / "f.h5").read_bytes() == b"a factor"
    assert running.rank.at.endswith(f"{job.id}/point.npy")
    with ThreadPoolExecutor(4) as pool:
        made = pool.map(lambda _: service.compress("zero", rank=2, key="once"), range(4))
    assert len({each.id for each in made}) == 1
    with pytest.raises(ServiceError, match="has no file 'job"):
        job.fetch("job.json", tmp_path / "g")
    with pytest.raises(ServiceError, match="failed: it had to"):
        service.compress("zero", rank=3).result(10)
    left = leave(running.folder, "compress", {"rank": 2}, "zero")
    found = until(lambda: [job for job in service.jobs() if job.known["key"] == left])
    assert found[0].result(10)


def test_a_job_is_submitted_again_after_its_point_has_left(tmp_path):
    """The new job has the point of the old one, from its folder, as the page asks for it."""
    x = np.arange(N) + 0.25
    with running_front(tmp_path / "svc") as running:
        first = running.client.compress(x, rank=2)
        named = running.client.compress("zero", rank=2)
        assert first.result(10) and named.result(10)
    with running_front(tmp_path / "svc") as running:
        service = running.client
        assert service.status()["points"] == 0

        def again(**body) -> tuple[int, dict]:
            text = json.dumps({"kind": "compress", "options": {"rank": 2}, **body})
            status, _, answer = http(running, "POST", "/v1/jobs", text.encode())
            return status, json.loads(answer)

        assert again(point=point_id(x))[0] == 404
        status, known = again(point_of=first.id, key="again")
        assert status == 201 and known["point"] == point_id(x)
        assert service.job(known["id"]).result(10)
        kept = running.service.front.store.place(running.service.front.store[known["id"]])
        np.testing.assert_array_equal(np.load(kept / "point.npy"), x)
        assert again(point_of=first.id, key="again") == (200, service.job(known["id"]).known)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: again(point_of=first.id, key="at-once"), range(4)))
        assert sorted(status for status, _ in found) == [200, 200, 200, 201]
        assert len({known["id"] for _, known in found}) == 1
        assert again(point_of=named.id)[1]["point"] == "zero"
        assert again(point_of="j999999")[0] == 404
        assert again(point_of=first.id, point="zero")[0] == 422
        (running.folder / "jobs" / first.id / "point.npy").write_bytes(b"damaged")
        assert again(point_of=first.id)[0] == 422
        other = Point(service, point_id(-x), -x)  # as one that the service has dropped
        assert service.compress(other, rank=2).result(10)


def test_picture_and_report_of_a_factor(running, tmp_path):
    """Made once, when they are first asked for; what cannot be read is told in one line."""
    service, rank = running.client, running.rank
    bad = service.compress("zero", rank=2)
    bad.result(10)
    status, _, body = http(running, "GET", f"/v1/jobs/{bad.id}/picture")
    error = json.loads(body)["error"]
    assert status == 500 and "hesscomp plot: " in error and "factor.h5" in error
    try:
        rank.factor = fakes.factor_bytes(tmp_path)
        job = service.compress("zero", rank=2)
        job.result(10)
    finally:
        rank.factor = b"a factor"
    place = running.service.front.store.place(running.service.front.store[job.id])
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(
            lambda _: http(running, "GET", f"/v1/jobs/{job.id}/picture"), range(2)
        )
    assert first[0] == 200 and first[1]["content-type"] == "image/png"
    assert first[2].startswith(b"\x89PNG") and first[2] == second[2]
    status, headers, page = http(running, "GET", f"/v1/jobs/{job.id}/report")
    assert status == 200 and headers["content-type"].startswith("text/html")
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    assert "script-src" not in policy and policy.endswith("sandbox")
    assert b"a &lt;script&gt;fake" in page and b"Certificate" in page
    made = {path.name: path.stat().st_mtime_ns for path in place.iterdir()}
    assert {"factor.png", "factor.html"} <= set(made) and not [n for n in made if ".tmp" in n]
    assert http(running, "GET", f"/v1/jobs/{job.id}/report")[2] == page
    assert {path.name: path.stat().st_mtime_ns for path in place.iterdir()} == made
    assert job.files == ["factor.h5", "numbers.json"]  # the job's own
    assert http(running, "GET", f"/v1/jobs/{job.id}/picture", Authorization=None)[0] == 401


def test_what_has_no_picture(running):
    service, rank = running.client, running.rank
    rank.step = 0.2
    job = service.compress("zero", rank=2)
    status, _, body = http(running, "GET", f"/v1/jobs/{job.id}/report")
    assert status == 422 and "it has no report" in json.loads(body)["error"]
    rank.step = 0.01
    job.result(10)
    assert http(running, "GET", "/v1/jobs/j999999/picture")[0] == 404


def test_a_drawing_has_a_deadline_and_delays_nobody(running, monkeypatch):
    """The status is answered while a picture is made, by another process."""
    job = running.client.compress("zero", rank=2)
    job.result(10)
    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(http, running, "GET", f"/v1/jobs/{job.id}/picture")
        answers = 0
        while not drawn.done():
            running.client.status()
            answers += 1
            time.sleep(0.01)
        assert answers > 10 and drawn.result()[0] == 500  # "a factor" is none
    monkeypatch.setattr("hesscomp.service.drawings.available_bytes", lambda: 23)
    status, _, body = http(running, "GET", f"/v1/jobs/{job.id}/report")
    assert status == 422 and "a factor of 8 B takes about 24 B" in json.loads(body)["error"]
    monkeypatch.undo()
    monkeypatch.setattr("hesscomp.service.drawings.SECONDS", 0.01)
    status, _, body = http(running, "GET", f"/v1/jobs/{job.id}/report")
    assert status == 500 and "report took longer than 0.01 s" in json.loads(body)["error"]


def test_the_front_loads_neither_tensorflow_nor_a_drawing_library():
    """Whatever job comes in: its request is read and its memory is planned."""
    words = """
import sys
from pathlib import Path
import hesscomp.service.server
from hesscomp.service.requests import KINDS, ServedProblem, check_memory, job_request

for kind in KINDS:
    served = ServedProblem(data="adult") if kind == "newton" else ServedProblem(problem="mnist-mlp")
    options = {"optimizer": "newton-cg"} if kind == "train" else {}
    request = job_request(kind, options, served, Path("jobs"), None)
    check_memory(kind, request, 1000, 500, [{"free_bytes": 2**30}])
    loaded = {"tensorflow", "keras", "matplotlib"} & set(sys.modules)
    assert not loaded, (kind, loaded)
"""
    subprocess.run([sys.executable, "-c", words], check=True)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("compress", {"rank": 0}, "`rank` must be at least 1, not 0"),
        ("compress", {"out": "x.h5"}, "a job compress has no option `out`"),
        ("compress", {"problem": "os:system"}, "a job compress has no option `problem`"),
        ("compress", {"ordering": "/etc/passwd.npy"}, "takes no files by their names"),
        ("compress", {"rank": "many"}, "`rank` must be a whole number"),
        ("spectrum", {"factor": "f.h5"}, "a job spectrum has no option `factor`"),
        ("train", {"optimizer": "adam", "run": "x"}, "a job train has no option `run`"),
        ("newton", {}, "a job newton fits linear models"),
        ("dance", {}, "'dance' is no kind of job"),
    ],
)
def test_jobs_that_are_refused(running, kind, options, message):
    with pytest.raises(ServiceError, match=message) as why:
        running.client.submit(kind, **options)
    assert why.value.status == 422 and "\n" not in str(why.value)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("family", "poisson", "fits logistic regression; run `hesscomp newton`"),
        ("standardize", True, "serve data that you have scaled, or run `hesscomp newton`"),
    ],
)
def test_a_fit_of_another_problem_is_refused(option, value, message):
    served = ServedProblem(data="adult")
    with pytest.raises(InputError, match=f"newton has no option `{option}`; .*{message}") as why:
        job_request("newton", {option: value}, served, Path("jobs"), None)
    assert "\n" not in str(why.value)


def test_ridges_take_the_place_of_the_ridge_of_the_service():
    served = ServedProblem(data="adult", ridge=0.01)
    options = {"ridges": [0.1, 0.2]}
    request = job_request("newton", options, served, Path("jobs"), None)
    assert request.ridges == (0.1, 0.2)


def test_every_kind_has_options_of_its_own():
    for kind in KINDS:
        assert "problem" not in settable(kind) and "out" not in settable(kind)
    assert "rank" in settable("compress") and "optimizer" in settable("train")


def test_cancelling(running):
    running.rank.step = 0.2
    job, waiting = running.client.compress("zero", rank=2), running.client.compress("zero", rank=2)
    until(lambda: job.state == "running")
    waiting.cancel()
    job.cancel()
    running.rank.step = 0.01
    assert job.wait(10) == "cancelled" and waiting.wait(10) == "cancelled"
    with pytest.raises(ServiceError, match="cancelled: by request"):
        job.result()


def test_the_commands_of_a_shell(tmp_path, capsys):
    """FOLDER stands before JOB in all of them, as their usage says."""
    folder, out = str(tmp_path / "svc"), tmp_path / "f.h5"

    def said(*words: str) -> str:
        assert main(list(words)) == 0
        return capsys.readouterr().out

    with running_front(folder) as running:
        assert said("submit", folder, "--", "compress", "--rank", "2") == "j000001\n"
        assert " done " in said("wait", folder, "j000001", "--seconds", "10")
        assert said("jobs", folder).startswith("j000001  compress    done ")
        assert said("fetch", folder, "j000001") == "factor.h5\nnumbers.json\n"
        fetch = "fetch", folder, "j000001", "--file", "factor.h5", "--out", str(out)
        assert said(*fetch) == f"{out}\n" and out.read_bytes() == b"a factor"
        assert " done " in said("cancel", folder, "j000001")  # it has ended already
        said("drain", folder)
        running.thread.join(20)
        assert running.status == 0


def test_clients_take_turns_with_jobs(tmp_path):
    """Ours are 0, 1 and 2, and another's 3; the front writes and starts them as it does here."""
    store, begun = JobStore(tmp_path, most=6), []
    for i, client in enumerate(["me", "me", "me", "you"]):
        store.add(JobBody("compress"), client).created = i
    with pytest.raises(Full, match="3 jobs of this client wait already"):
        store.add(JobBody("compress"), "me")
    while (job := store.next()) is not None:
        begun.append(job.created)
        store.move(job, RUNNING)
        # The third is interrupted, and goes on first.
        store.move(job, QUEUED if begun == [0, 3, 1] else DONE)
    assert begun == [0, 3, 1, 1, 2]
    assert store.counts() == dict.fromkeys(STATES, 0) | {DONE: 4}
    store.close()


def test_old_jobs_keep_the_last_row_of_their_histories(tmp_path, monkeypatch):
    monkeypatch.setattr("hesscomp.service.jobs.WHOLE", 1)
    store = JobStore(tmp_path)
    for i in range(3):
        job = store.add(JobBody("compress", key=f"k{i}"), "me")
        job.history = [{"step": 1}, {"step": 2}]
        store.move(job, RUNNING)
        store.move(job, DONE)
    assert [len(job.history) for job in store.jobs.values()] == [1, 1, 2]
    gone = store.add(JobBody("compress", key="k3"), "me")
    store.drop(gone)
    assert [store.with_key(key) for key in ("k3", None)] == [None, None] and store.next() is None
    assert store.with_key("k1") is store["j000002"] and store.counts()[QUEUED] == 0
    store.close()


def test_waiting_for_a_job(running):
    """One request waits for the end; where that comes too late, its state is told."""
    running.rank.step = 0.3
    job = running.client.compress("zero", rank=2)
    until(lambda: job.state == "running")
    with pytest.raises(ServiceError, match=f"{job.id} is running after 0.1 s"):
        job.wait(0.1)
    running.rank.step = 0.01
    assert running.client.request_json("GET", f"/v1/jobs/{job.id}?wait=9")["state"] == "done"


def test_events_are_resumed(running):
    service = running.client
    before = service.status()["event"]
    service.compress("zero", rank=2).result(10)
    seen = []
    for known, name, data in service.events(before):
        seen.append((known, name))
        if name == "job" and data["state"] == "done":
            break
    start, _, number = before.partition("-")
    assert [known for known, _ in seen] == [
        f"{start}-{int(number) + 1 + i}" for i in range(len(seen))
    ]
    assert {"job", "row"} == {name for _, name in seen}


def test_who_missed_events_is_told_to_ask_for_everything_again(tmp_path):
    """After a restart too, whose numbers begin again: an old one may be below the new ones."""
    with running_front(tmp_path / "svc") as running:
        before = running.client.status()["event"]
    with running_front(tmp_path / "svc") as running:
        service = running.client
        service.compress("zero", rank=2).result(10)
        now = service.status()["event"]
        start, _, number = now.partition("-")
        assert int(before.partition("-")[2]) < int(number)
        for known in (before, number, f"{start}-{10**9}", f"{start}-²", f"{start}--1", "x" * 99):
            assert next(service.events(known.encode().decode("latin-1"))) == (now, "reset", {})
        told = service.events(before)
        assert next(told)[1] == "reset"
        service.compress("zero", rank=2)
        assert next(told)[1] == "job"  # and so on, as for others


def test_a_job_that_the_ranks_have_no_memory_for_is_refused(running, monkeypatch):
    ranks = running.service.front.about["ranks"]
    monkeypatch.setitem(ranks[0], "free_bytes", 100)
    with pytest.raises(ServiceError, match=r"compress takes .* on each rank.* and 100 B are free"):
        running.client.submit("compress", rank=3)


@pytest.mark.parametrize(
    ("kind", "options", "least", "most"),
    [
        ("compress", {"rank": 300}, 70, 90),
        ("compress", {"tolerance": 1e-3}, 4, 8),
        ("compress", {"factor_format": "hbs"}, 4, 8),
        ("spectrum", {}, 64, 70),  # 10 x 80 vectors of 80 MB
        ("spectrum", {"probes": 2, "steps": 20}, 3, 5),
        ("sensitivity", {}, 50, 65),
        pytest.param("train", {"optimizer": "adam"}, 0.4, 1, marks=pytest.mark.slow),
        ("newton", {"rank": 20}, 9, 15),
    ],
)
def test_memory_of_jobs_by_the_plan(kind, options, least, most):
    """What jobs hold at least, in GB on each of two ranks, for 10^7 parameters."""
    which = {"data": "x.npz"} if kind == "newton" else {"problem": "mnist-mlp"}
    served, n = ServedProblem(**which), 10**7

    def check(gigabytes):
        request = job_request(kind, options, served, Path("jobs"), None)
        check_memory(kind, request, n, 10**4, 2 * [{"free_bytes": gigabytes * 1e9}])

    check(most)
    with pytest.raises(InputError, match=f"a job {kind} takes at least .* are free; take"):
        check(least)


def test_an_array_that_the_ranks_have_no_memory_for_is_refused(running, monkeypatch):
    np.save(running.folder / "arrays" / "wide.npy", np.ones((N, 3)))
    monkeypatch.setitem(running.service.front.about["ranks"][0], "free_bytes", 100)
    named = {"X_Hesscomp_Array": "wide"}
    status, _, body = http(running, "POST", "/v1/points/zero/product", **named)
    assert status == 422 and "takes about 960 B on each rank" in json.loads(body)["error"]


def test_histories_are_told_by_rows_and_by_the_job_alone(running):
    service = running.client
    before = service.status()["event"]
    job = service.compress("zero", rank=2)
    assert job.result(10) and [row["step"] for row in job.known["history"]] == list(range(1, 11))
    listed = {each["id"]: each for each in service.request_json("GET", "/v1/jobs")}
    assert [row["step"] for row in listed[job.id]["history"]] == [10]
    steps = []
    for _, name, data in service.events(before):
        if name == "row":
            steps.append(data["row"]["step"])
        elif name == "job":
            assert len(data["history"]) <= 1
            if data["state"] == "done":
                break
    assert steps == list(range(1, 11))


def test_metrics(running):
    status, headers, body = http(running, "GET", "/v1/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain")
    assert b'hesscomp_rank_resident_bytes{rank="0"} 1048576' in body


# Security


def test_the_folder_is_its_owners_alone(running):
    folder = running.folder
    modes = {name: stat.S_IMODE((folder / name).stat().st_mode) for name in ("", "token")}
    assert modes == {"": 0o700, "token": 0o600}
    assert stat.S_IMODE(os.stat(running.service.door.getsockname()).st_mode) == 0o600
    assert len(running.service.token) == 64
    with pytest.raises(InputError, match="another service is using it"):
        Running(folder)


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"Authorization": None}, 401),
        ({"Authorization": "Bearer " + "0" * 64}, 401),
        ({"Host": "evil.example"}, 403),
        ({"Host": "hesscomp:80@evil"}, 403),
        ({"Host": "hesscomp:80@evil.example:80"}, 403),
        ({"Host": "[::1]evil.example"}, 403),
        ({"Host": "localhost:"}, 403),
        ({"Host": "localhost:80:80"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),  # such as another port of this host
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Cookie": "hesscomp=x; \x01", "Authorization": None}, 401),
    ],
)
def test_who_is_refused(running, given, status):
    found, headers, body = http(running, "GET", "/v1/status", **given)
    assert found == status and set(json.loads(body)) == {"error"}
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_does_not_get_in(running):
    path, token = running.service.door.getsockname(), running.folder / "token"
    words = f"""
import os, socket
os.setgroups([]); os.setgid(65534); os.setuid(65534)
door = socket.socket(socket.AF_UNIX)
for enter in (lambda: door.connect({path!r}), lambda: open({str(token)!r})):
    try:
        enter()
    except PermissionError:
        print("refused")
"""
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused", "refused"]
    assert stat.S_IMODE(running.folder.stat().st_mode) == 0o700


def test_a_damaged_token_opens_nothing(tmp_path):
    folder = tmp_path / "svc"
    folder.mkdir(mode=0o700)
    (folder / "token").touch(mode=0o600)
    with pytest.raises(InputError, match="token: holds no token of a service; remove it"):
        Running(folder)


def test_changes_need_the_header_of_clients(running):
    assert http(running, "POST", "/v1/drain", X_Hesscomp=None)[0] == 403
    assert http(running, "DELETE", "/v1/jobs/j000001", X_Hesscomp=None)[0] == 403


def test_the_cookie_opens_the_page(running):
    status, headers, _ = http(running, "POST", "/v1/session")
    cookie = headers["Set-Cookie"]
    assert status == 204 and "HttpOnly" in cookie and "SameSite=Strict" in cookie
    pair = cookie.partition(";")[0]
    origin = running.url
    given = {"Authorization": None, "Cookie": pair, "Origin": origin}
    for site in ("same-origin", "none"):
        assert http(running, "GET", "/v1/status", Sec_Fetch_Site=site, **given)[0] == 200


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 422, "is no .npy file"),
        (npy(np.array([{}], object), allow_pickle=True), 422, "is no .npy file|Python objects"),
        (pickle.dumps(np.zeros(N)), 422, "is no .npy file"),
        (npy(np.full(N, np.nan)), 422, "not finite"),
        (npy(np.full(N, 1j)), 422, "holds complex128, not real numbers"),
        (npy(np.zeros(N))[:-1], 422, "is cut short"),
        (npy(np.zeros(N)).replace(b"(5,)", b"(9" + b"9" * 9), 422, "is no .npy file|cut short"),
        (npy(np.zeros(N + 1)), 422, "has shape"),
        (npy(np.zeros((N, 2))), 422, "send \\(5,\\)"),
    ],
)
def test_bodies_that_are_no_points(running, body, status, message):
    found, _, answer = http(running, "PUT", "/v1/points", body or b" ")
    assert found == status
    assert re.search(message, json.loads(answer)["error"])


@pytest.mark.parametrize(
    "body", [b"{", b'{"kind":"\xfd"}', b'{"kind":1}', b'{"kind":"train","x":1}']
)
def test_bodies_that_are_no_jobs(running, body):
    status, _, answer = http(running, "POST", "/v1/jobs", body)
    assert status == 400 and set(json.loads(answer)) == {"error"}


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Change, drop, double or cut a few bytes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, length = rng.randrange(len(out) + 1), rng.choice((1, 2, 8, 64))
        how = rng.randrange(5)
        if how == 0:
            out[at : at + length] = rng.randbytes(length)
        elif how == 1:
            del out[at : at + length]
        elif how == 2:
            out[at:at] = out[at : at + length] * rng.choice((1, 2, 30))
        elif how == 3:
            out[at : at + length] = rng.choice(TOKENS)
        elif rng.random() < 0.2:
            del out[at:]
    return bytes(out)


@pytest.mark.parametrize("count", slow_but([60], [60, 10_000]))
def test_damaged_bodies_are_answered_in_one_line(tmp_path, count):
    """Each gets an answer, none an error of the server; the memory of the process stays."""
    rng, V = random.Random(count), np.ones((N, 2))
    jobs = [
        {"kind": "compress", "options": {"rank": 3, "seed": 1}, "point": "zero", "key": "k"},
        {"kind": "train", "options": {"optimizer": "adam", "steps": 3}},
    ]
    doors = [
        ("PUT", "/v1/points", npy(np.ones(N))),
        ("POST", "/v1/points/zero/product", npy(V)),
        ("POST", "/v1/points/zero/solve?shift=1", npy(V.astype(np.float32))),
        *(("POST", "/v1/jobs", json.dumps(job).encode()) for job in jobs),
    ]
    with running_front(tmp_path / "svc") as running:
        given = {"Authorization": f"Bearer {running.service.token}", "X-Hesscomp": "1"}
        host, port = running.url.removeprefix("http://").split(":")
        line, statuses, begun = http_client.HTTPConnection(host, int(port), timeout=20), set(), 0
        for i in range(count):
            method, path, body = rng.choice(doors)
            line.request(method, path, mutated(body, rng) or b" ", given)
            answer = line.getresponse()
            text = answer.read()
            statuses.add(answer.status)
            assert answer.status < 500 or answer.status == 503, (path, text)  # 503: jobs wait
            if answer.status >= 400:
                assert set(json.loads(text)) == {"error"} and b"\n" not in text
            if i == count // 10:
                begun = resident_bytes()
        assert {200, 422, 400} <= statuses | {201, 202}
        assert resident_bytes() - begun < 64 * 2**20


def test_another_host_comes_by_tls_and_trusts_the_certificate_of_the_folder(tmp_path, monkeypatch):
    """`tls.pem` is a certificate of localhost with its key, both made for this test."""
    file = str(Path(__file__).with_name("tls.pem"))
    folder, given = tmp_path / "svc", {"host": "localhost", "certificate": file, "key": file}
    with running_front(folder, **given) as running:
        assert running.url.startswith("https://localhost:")
        assert "PRIVATE KEY" not in (folder / "service.json").read_text()
        monkeypatch.setattr("platform.node", lambda: "another host")
        there = connect(folder, timeout=10)
        np.testing.assert_allclose(there.point("zero") @ np.ones(N), np.diag(H))
        bare = tmp_path / "copy"  # with the token alone: nothing says that the address is right
        bare.mkdir()
        (bare / "token").write_text((folder / "token").read_text())
        with pytest.raises(NotRunning, match="certificate verify failed"):
            connect(bare, running.url, timeout=10)


def test_a_certificate_without_its_key_is_refused(tmp_path):
    certificate, key = Path(__file__).with_name("tls.pem"), tmp_path / "key.pem"
    key.write_text("no key")
    files = {"certificate": str(certificate), "key": str(key)}
    options = ServiceOptions(folder=str(tmp_path / "svc"), port=0, host="localhost", **files)
    service = Service(options, ServedProblem(problem="mnist-mlp"), (), print, own_ranks=False)
    with pytest.raises(InputError, match=r"tls\.pem, .*key\.pem: no certificate and its key"):
        asyncio.run(asyncio.wait_for(service.run(), 10))


def test_lengths_and_halves(running, monkeypatch):
    token = f"Authorization: Bearer {running.service.token}\r\nX-Hesscomp: 1\r\n".encode()
    head = b"PUT /v1/points HTTP/1.1\r\nHost: hesscomp\r\n" + token
    assert b" 413 " in raw(running, head + b"Content-Length: 1000000000000\r\n\r\n")
    assert b" 400 " in raw(running, head + b"Content-Length: -1\r\n\r\n")
    assert b" 400 " in raw(running, HEAD + b"Host: other\r\n\r\n")
    assert b" 400 " in raw(running, b"\x00\xff" * 100 + b"\r\n\r\n")
    assert b" 400 " in raw(running, HEAD + b"X: " + b"y" * 2**20)
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"1000000\r\n" + bytes(2**24)
    answer = raw(running, chunked + b"\r\n100000\r\n" + bytes(2**20))
    assert not answer or b" 413 " in answer


def test_half_a_head_is_not_waited_for(running, monkeypatch):
    monkeypatch.setattr("hesscomp.service.server.HEAD_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(10)
        stream.connect(running.service.door.getsockname())
        stream.sendall(HEAD)
        with stream.makefile("rb") as answer:
            assert answer.readline() == b"HTTP/1.1 408 Request Timeout\r\n"
            head, _, body = answer.read().partition(b"\r\n\r\n")  # to the connection's end
    assert b"connection: close" in head and f"content-length: {len(body)}".encode() in head
    assert json.loads(body) == {"error": "the head of a request did not come within 0.1 s"}
    assert running.client.status()["state"] == "ready"


def test_half_a_body_is_not_waited_for(running, monkeypatch):
    """Its deadline is of the whole body: bytes that come one by one do not move it."""
    monkeypatch.setattr("hesscomp.service.server.BODY_SECONDS", 0.3)
    head = "PUT /v1/points HTTP/1.1\r\nHost: hesscomp\r\nX-Hesscomp: 1\r\nContent-Length: 168\r\n"
    head += f"Authorization: Bearer {running.service.token}\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(10)
        stream.connect(running.service.door.getsockname())
        stream.sendall(head.encode() + npy(np.ones(N))[:100])
        stream.settimeout(0.05)
        answer = b""
        with suppress(ConnectionError):  # it closes before it has read all that was sent
            for _ in range(60):
                with suppress(TimeoutError):
                    if not (part := stream.recv(2**16)):
                        break
                    answer += part
                stream.sendall(b"x")
    assert answer.startswith(b"HTTP/1.1 408 ") and b"connection: close" in answer
    assert b"the body of a request did not come within" in answer
    until(lambda: running.service.front.room.taken == 0)
    assert running.client.status()["state"] == "ready"


def test_one_connection_too_many_is_told_to_come_again(running, monkeypatch):
    assert running.client.status()["state"] == "ready"  # its connection stays open
    monkeypatch.setattr("hesscomp.service.server.CONNECTIONS", 0)
    status, headers, body = http(running, "GET", "/v1/status")
    assert status == 503 and headers["retry-after"] == "2" and headers["connection"] == "close"
    assert json.loads(body)["error"].startswith("0 connections are open already")
    assert running.client.status()["state"] == "ready"


@pytest.mark.parametrize("limit", [{"CONNECTIONS": 0, "TOLD": 0}, {"SPARE": 2**40}])
def test_connections_far_beyond_the_limit_are_closed_unheard(running, monkeypatch, limit):
    """Or where they would take the descriptors that files and ranks need."""
    assert running.client.status()["state"] == "ready"  # its connection stays open
    for name, value in limit.items():
        monkeypatch.setattr(f"hesscomp.service.server.{name}", value)
    assert raw(running, HEAD) == b""
    assert running.client.status()["state"] == "ready"
    monkeypatch.undo()
    assert connect(running.folder).status()["state"] == "ready"


def test_the_limit_of_descriptors_is_raised():
    soft, hard = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 300), hard))
        raise_descriptors()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(hard, 4096), hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_body_that_nobody_reads_is_not_waited_for(running):
    """One byte of it comes after the answer, if it can: that buys no time."""
    token = f"Authorization: Bearer {running.service.token}\r\nX-Hesscomp: 1\r\n".encode()
    for first, mine, status in (
        (b"GET /v1/status", b"", b" 401 "),
        (b"GET /", b"", b" 200 "),
        (b"POST /v1/points/zero/value", token, b" 200 "),
        (b"DELETE /v1/jobs/j999999", token, b" 404 "),
    ):
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(10)
            stream.connect(running.service.door.getsockname())
            head = first + b" HTTP/1.1\r\nHost: hesscomp\r\n" + mine
            stream.sendall(head + b"Content-Length: 1000000000000\r\n\r\n")
            answer = stream.recv(2**16)
            with suppress(ConnectionError):
                stream.sendall(b"x")
                while part := stream.recv(2**16):  # to the connection's end
                    answer += part
        assert status in answer


def test_a_body_that_does_not_come_does_not_wait_for_the_ranks_either(running, monkeypatch):
    monkeypatch.setattr("hesscomp.service.server.BODY_SECONDS", 0.1)
    head = "POST /v1/points/zero/value HTTP/1.1\r\nHost: hesscomp\r\nX-Hesscomp: 1\r\n"
    head += f"Authorization: Bearer {running.service.token}\r\nContent-Length: 1\r\n\r\n"
    running.rank.hold.clear()
    try:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(10)
            stream.connect(running.service.door.getsockname())
            stream.sendall(head.encode())
            assert stream.recv(2**16).startswith(b"HTTP/1.1 408 ")
    finally:
        running.rank.hold.set()


def test_an_answer_that_is_not_taken_ends_its_connection(running, monkeypatch):
    monkeypatch.setattr("hesscomp.service.server.ANSWER_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(running.service.door.getsockname())
        stream.sendall(b"GET /page.js HTTP/1.1\r\nHost: hesscomp\r\n\r\n" * 50)
        ended = select.poll()
        ended.register(stream, 0)
        assert ended.poll(10_000) == [(stream.fileno(), select.POLLHUP)]
    assert running.client.status()["state"] == "ready"


@pytest.mark.parametrize(
    "path", ["/../token", "/v1/jobs/..%2f..%2ftoken/result/x", "/v1/points/..%2ftoken", "/token"]
)
def test_no_way_out_of_the_folder(running, path):
    status, _, body = http(running, "GET", path)
    assert status == 404 and running.service.token.encode() not in body


def test_large_arrays_by_name(running):
    x = np.arange(N) + 1.25
    np.save(running.folder / "arrays" / "mine.npy", x)
    status, _, body = http(running, "PUT", "/v1/points", X_Hesscomp_Array="mine")
    assert status == 201 and json.loads(body)["id"] == point_id(x)
    for name in ("../token", "missing", ".."):
        status, _, body = http(running, "PUT", "/v1/points", X_Hesscomp_Array=name)
        assert status == 422, name


def test_large_arrays_of_a_host_that_does_not_see_the_folder(running, tmp_path, monkeypatch):
    """Products go in parts of their columns; what has no parts is refused in one line."""
    monkeypatch.setattr("hesscomp.client.MOST_BODY", 80)  # two columns
    (tmp_path / "token").write_text(running.service.token)
    point = connect(tmp_path, running.url, timeout=10).point("zero")
    V = np.random.default_rng(0).standard_normal((N, 5))
    running.rank.blocks.clear()
    np.testing.assert_array_equal(point @ V, H @ V)
    assert running.rank.blocks == [2, 2, 1]
    for ask in (
        lambda: point.solve(V),
        lambda: point.product(V, batch=False),
        lambda: point.service.point(np.ones(11)),
    ):
        with pytest.raises(InputError, match="is a copy of that; send fewer columns at a time"):
            ask()
    monkeypatch.setattr("hesscomp.service.http.MOST_BODY", 8)
    for part in (None, "arrays"):  # a copy of the token alone, and of the whole folder
        if part is not None:
            (tmp_path / part).mkdir()
        with pytest.raises(ServiceError, match="it came as a file of the service's folder"):
            _ = point.gradient
        assert not list((running.folder / "arrays").glob("answer-*"))


def test_large_answers_do_not_wait_for_ever(tmp_path, monkeypatch):
    """The client takes its file, or the service removes it, in time or at its next start."""
    monkeypatch.setattr("hesscomp.service.http.MOST_BODY", 8)
    folder = tmp_path / "svc"
    arrays = folder / "arrays"
    with running_front(folder) as running:
        np.testing.assert_array_equal(running.client.point("zero").gradient, np.zeros(N))
        assert not list(arrays.iterdir())
        status, _, body = http(running, "POST", "/v1/points/zero/gradient")
        kept = arrays / f"{json.loads(body)['array']}.npy"
        assert status == 200 and kept.name.startswith("answer-") and kept.exists()
        (arrays / "mine.npy").touch()
        assert http(running, "DELETE", "/v1/arrays/mine")[0] == 404
        assert http(running, "DELETE", "/v1/arrays/answer-..%2f..%2ftoken")[0] in (404, 422)
        monkeypatch.setattr("hesscomp.service.http.ANSWER_SECONDS", 0.05)
        body = http(running, "POST", "/v1/points/zero/gradient")[2]
        until(lambda: not (arrays / f"{json.loads(body)['array']}.npy").exists())
        assert kept.exists()
    with running_front(folder):
        assert [path.name for path in arrays.iterdir()] == ["mine.npy"]


def test_the_token_is_in_no_file_but_its_own(running):
    token = running.service.token
    others = [path for path in running.folder.rglob("*") if path.is_file() and path.name != "token"]
    assert others and not [path for path in others if token in path.read_text(errors="replace")]


# The life of a service


def test_a_lost_rank_and_a_restart(tmp_path):
    with running_front(tmp_path / "svc") as running:
        service, rank = running.client, running.rank
        x = service.point(np.ones(N))
        rank.step = 60
        job, later = service.compress(x, rank=2), service.compress("zero", rank=2)
        until(lambda: job.state == "running")
        rank.die()
        until(lambda: service.status()["restarts"] == 1)
        assert job.state == "queued" and job.known["attempts"] == 1
        rank.start()
        until(lambda: job.state == "running")
        np.testing.assert_array_equal(x @ np.ones(N), np.arange(1.0, N + 1))
        rank.die()
        assert job.wait(10) == "failed" and "the ranks have ended" in job.known["error"]
        rank.start()
        until(lambda: later.state == "running")
        rank.step = 0.01
        service.drain()
        with pytest.raises(ServiceError, match="the service is ending"):
            service.compress("zero", rank=2)
        running.thread.join(20)
        assert running.status == 75
    with pytest.raises(NotRunning, match="no service runs here"):
        connect(tmp_path / "svc")
    with running_front(tmp_path / "svc") as running:
        assert [job.id for job in running.client.jobs()] == [job.id, later.id]
        assert running.client.job(later.id).result(10)
        assert running.client.job(job.id).state == "failed"
        assert running.end() == 0


@pytest.mark.parametrize(
    ("blow", "said"),
    [
        (signal.SIGKILL, "rank 1 has ended"),
        (signal.SIGSTOP, "rank 1 was stopped, rank 0 has ended"),
    ],
)
def test_a_rank_is_named_where_the_launcher_says_nothing(tmp_path, monkeypatch, blow, said):
    """One that is stopped itself, for which `sleep` stands: rank 1 is hit, then rank 0 gives up."""
    monkeypatch.setattr("hesscomp.service.ranks.LOOKS", 0.02)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        words, heard, told = ["sleep", "60"], [], []
        ranks = Ranks(
            listener, words, tmp_path / "log", lambda *frame: heard.append(frame), told.append
        )

        async def run() -> None:
            running = asyncio.create_task(ranks.run())
            both = [await asyncio.create_subprocess_exec(*words) for _ in range(2)]
            while ranks.process is None:
                await asyncio.sleep(0.01)
            _, line = await asyncio.open_unix_connection(str(tmp_path / "s"))
            known = [
                {"rank": rank, "host": os.uname().nodename, "pid": process.pid}
                for rank, process in enumerate(both)
            ]
            line.writelines(pack({"say": "hello", "ranks": known}, ()))
            while not heard:
                await asyncio.sleep(0.01)
            both[1].send_signal(blow)
            await asyncio.sleep(0.1)  # several looks
            line.close()
            both[0].kill()
            while not told:
                await asyncio.sleep(0.01)
            ranks.ending = True
            ranks.kill()
            await running
            if blow == signal.SIGSTOP:
                both[1].kill()
            for process in both:
                await process.wait()

        asyncio.run(asyncio.wait_for(run(), 10))
    assert told == [said]


@pytest.mark.parametrize("pause", [0, 0.2])
def test_ranks_that_have_not_come_end_at_once(tmp_path, monkeypatch, pause):
    """While they start, and before they do so."""
    monkeypatch.setattr("hesscomp.service.ranks.PAUSES", [pause])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        ranks = Ranks(listener, ["sleep", "60"], tmp_path / "log", print, print)

        async def run() -> None:
            running = asyncio.create_task(ranks.run())
            while ranks.process is None and not pause:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0)
            ranks.end()
            await running

        asyncio.run(asyncio.wait_for(run(), 5))


def test_a_stale_service_is_told(tmp_path):
    folder = tmp_path / "svc"
    folder.mkdir()
    (folder / "token").write_text("x")
    known = {"pid": 2**22 - 1, "host": os.uname().nodename, "socket": "nowhere"}
    (folder / "service.json").write_text(json.dumps(known))
    with pytest.raises(NotRunning, match=r"its service \(process 4194303\) has ended"):
        connect(folder)
    known = {**known, "host": "n7", "url": None}
    (folder / "service.json").write_text(json.dumps(known))
    with pytest.raises(NotRunning, match=r"it runs on n7: .* ssh -N -L 8000:nowhere n7 and"):
        connect(folder)


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        OSError(errno.EHOSTUNREACH, "No route to host"),
        TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
    ],
)
def test_without_a_route_to_its_host_jobs_are_left_in_the_folder(
    tmp_path, monkeypatch, capsys, error
):
    def refuse(*_, **__):
        raise error

    Workspace.made(str(tmp_path)).token()
    known = {"pid": 1, "host": "n7", "socket": "s", "url": "https://n7:8443", "certificates": []}
    (tmp_path / "service.json").write_text(json.dumps(known))
    monkeypatch.setattr("socket.create_connection", refuse)
    assert main(["submit", str(tmp_path), "--", "compress", "--rank", "2"]) == 0
    said = capsys.readouterr().out
    assert error.strerror in said and "left in the inbox for its next start" in said
    (left,) = (tmp_path / "inbox").glob("*.json")
    assert json.loads(left.read_text())["options"] == {"rank": 2}


def test_a_connection_that_dies_before_its_answer_is_told(running, monkeypatch):
    def die(_):
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    monkeypatch.setattr("http.client.HTTPConnection.getresponse", die)
    with pytest.raises(NotRunning, match=r"does not answer .*Connection timed out"):
        connect(running.folder)


def test_a_long_path_has_its_socket_elsewhere(tmp_path, monkeypatch):
    with tempfile.TemporaryDirectory(prefix="h") as runtime:  # a short name, of mode 0700
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        with running_front(tmp_path / ("d" * 100)) as running:
            assert runtime in running.service.door.getsockname()
            assert running.client.point("zero").value == 0


def test_a_full_queue_says_when_to_come_again(tmp_path):
    with running_front(tmp_path / "svc") as running:
        running.rank.hold.clear()
        running.service.front.queue.most = 1
        with ThreadPoolExecutor(4) as pool:
            point = running.client.point("zero")
            first = pool.submit(lambda: point.value)
            until(lambda: running.service.front.under_way)
            second = pool.submit(lambda: connect(running.folder).point("zero").value)
            until(lambda: len(running.service.front.queue) == 1)
            status, headers, _ = http(running, "POST", "/v1/points/zero/value")
            assert status == 503 and float(headers["Retry-After"]) > 0
            running.rank.hold.set()
            assert (first.result(), second.result()) == (0.0, 0.0)


def test_bytes_that_come_in_or_wait_are_bounded(running):
    body = npy(np.ones(N))
    with a_product_waiting(running, 2 * len(body) - 1):
        assert running.service.front.status()["waiting_bytes"] == len(body)
        status, headers, answer = http(running, "PUT", "/v1/points", body)
        assert status == 503 and float(headers["Retry-After"]) > 0
        assert f"arrays of {len(body)} bytes wait already" in json.loads(answer)["error"]


def test_a_client_that_leaves_takes_its_requests_along(running):
    front = running.service.front
    running.rank.hold.clear()
    try:
        point = running.client.point("zero")
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(lambda: point.value)
            until(lambda: front.under_way)
            body, token = npy(np.ones(N)), running.service.token
            with socket.socket(socket.AF_UNIX) as stream:
                stream.connect(running.service.door.getsockname())
                head = (
                    "POST /v1/points/zero/product HTTP/1.1\r\nHost: hesscomp\r\nX-Hesscomp: 1\r\n"
                )
                head += f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
                stream.sendall(head.encode() + body)
                until(lambda: len(front.queue) == 1)
            until(lambda: len(front.queue) == 0)
            running.rank.hold.set()
            assert first.result() == 0.0
    finally:
        running.rank.hold.set()


def test_a_solve_lets_others_pass_and_ends_when_its_client_leaves(running):
    front, rank, point = running.service.front, running.rank, running.client.point("zero")
    rank.keep = True
    try:
        with ThreadPoolExecutor(2) as pool:
            solves = [pool.submit(point.solve, np.ones(N), 1.0) for _ in range(2)]
            until(lambda: rank.kept and len(front.solves) == 1)
            np.testing.assert_array_equal(point @ np.ones(N), np.arange(1.0, N + 1))
            assert front.status()["waiting"] == 2 and not any(each.done() for each in solves)
            rank.release()
            for each in solves:
                np.testing.assert_allclose(each.result(), 1 / np.arange(2.0, N + 2))
        rank.keep = True
        with pytest.raises(ServiceError, match="no answer within"):
            connect(running.folder, timeout=0.2).point("zero").solve(np.ones(N))
        until(lambda: rank.left)
        assert rank.left == [rank.kept[0][0]["id"]]
    finally:
        rank.release()


def test_a_state_that_cannot_be_written_is_told(tmp_path, monkeypatch, caplog):
    def no_room(path):
        raise OSError(28, "No space left on device", str(path))

    with running_front(tmp_path / "svc") as running:
        job = running.client.compress("zero", rank=2)
        monkeypatch.setattr("hesscomp.service.jobs.atomic_path", no_room)
        assert job.wait(10) == "done" and job.files == ["factor.h5", "numbers.json"]
        assert any("done is not on disk" in text for text in job.warnings)
        assert "No space left on device" in caplog.text
        status, _, answer = http(running, "POST", "/v1/jobs", b'{"kind":"compress"}')
        assert status == 507 and "the job cannot be kept: " in json.loads(answer)["error"]
        monkeypatch.undo()


def test_points_leave_when_they_take_too_much(tmp_path):
    with running_front(tmp_path / "svc", point_memory=2.5 * OVERHEAD) as running:
        service = running.client
        points = [service.point(np.full(N, float(i))) for i in range(3)]
        assert service.status()["points"] == 2
        assert [point.value for point in points] == [7.5 * i**2 for i in range(3)]  # sent again
        assert http(running, "POST", "/v1/points/" + "0" * 64 + "/value")[0] == 404


def test_threads_of_one_client(running):
    point, errors = running.client.point("zero"), []

    def ask():
        try:
            for _ in range(20):
                np.testing.assert_array_equal(point @ np.ones(N), np.arange(1.0, N + 1))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and isinstance(fakes.RANKS, list) and Path(running.folder).is_dir()
