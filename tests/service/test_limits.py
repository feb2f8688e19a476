"""What a service takes in: arrays by their files, memory, and each client's share."""

import asyncio
import errno
import importlib
import json
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fakes import N, a_product_waiting, http, npy, running_front, until

from hesscomp.client import connect, point_id
from hesscomp.service.batching import Room, Work, WorkQueue
from hesscomp.service.jobs import Full
from hesscomp.service.points import OVERHEAD, Points


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with running_front(tmp_path_factory.mktemp("svc") / "svc") as running:
        yield running


def test_a_point_stays_when_the_file_that_brought_it_changes(running):
    x, path = np.arange(N) + 2.5, running.folder / "arrays" / "changing.npy"
    np.save(path, x)
    status, _, body = http(running, "PUT", "/v1/points", X_Hesscomp_Array="changing")
    name = json.loads(body)["id"]
    assert status == 201 and name == point_id(x)
    with open(path, "r+b") as stream:
        stream.seek(-8 * N, 2)
        stream.write(np.zeros(N).tobytes())
    np.testing.assert_array_equal(running.service.front.points[name], x)
    with open(path, "r+b") as stream:
        stream.truncate(0)
    np.testing.assert_array_equal(running.service.front.points[name], x)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{}] * N, object), "holds Python objects"),
        (np.full(N, np.nan), "numbers that are not finite"),
        (np.full(N, 1j), "holds complex128, not real numbers"),
        (np.ones(N + 1), "has shape"),
    ],
)
def test_files_that_are_no_points(running, array, message):
    np.save(running.folder / "arrays" / "bad.npy", array, allow_pickle=True)
    status, _, body = http(running, "PUT", "/v1/points", X_Hesscomp_Array="bad")
    assert status == 422 and message in json.loads(body)["error"]


@pytest.mark.parametrize("what", ["product", "product?batch=false", "solve?shift=1"])
def test_arrays_in_bodies_are_checked_against_the_memory_too(running, monkeypatch, what):
    monkeypatch.setitem(running.service.front.about["ranks"][0], "free_bytes", 8 * 8 * N * 2)
    for columns, expected in ((2, 200), (3, 422)):
        body = npy(np.ones((N, columns)))
        status, _, answer = http(running, "POST", f"/v1/points/zero/{what}", body)
        assert status == expected
    assert "send fewer columns at a time" in json.loads(answer)["error"]


def test_arrays_that_came_while_ranks_started_are_checked_against_the_new_ones(
    running, monkeypatch
):
    front, ranks, body = running.service.front, running.service.front.about["ranks"], npy(np.eye(N))
    monkeypatch.setattr(front, "about", {**front.about, "ranks": []})
    running.rank.hold.clear()
    try:
        with ThreadPoolExecutor(2) as pool:
            point = running.client.point("zero")
            first = pool.submit(lambda: point.value)
            until(lambda: front.under_way)
            second = pool.submit(http, running, "POST", "/v1/points/zero/product", body)
            until(lambda: len(front.queue) == 1)
            front.about["ranks"] = [{**ranks[0], "free_bytes": 100}]
            running.rank.hold.set()
            status, _, answer = second.result()
            assert first.result() == 0.0
            assert status == 422 and "send fewer columns" in json.loads(answer)["error"]
    finally:
        running.rank.hold.set()
    monkeypatch.undo()
    assert http(running, "POST", "/v1/points/zero/product", body)[0] == 200


def test_no_more_columns_are_joined_than_the_memory_takes(running, monkeypatch):
    """Of seven products that wait, three at most fit; a block of five would be six wide."""
    front, rank = running.service.front, running.rank
    monkeypatch.setitem(front.about["ranks"][0], "free_bytes", 8 * 8 * N * 3 + 100)
    rank.hold.clear()
    rank.blocks.clear()
    try:
        with ThreadPoolExecutor(8) as pool:
            point = running.client.point("zero")
            asked = [pool.submit(lambda: point.value)]
            until(lambda: front.under_way)
            asked += [
                pool.submit(lambda: connect(running.folder).point("zero") @ np.ones(N))
                for _ in range(7)
            ]
            until(lambda: len(front.queue) == 7)
            rank.hold.set()
            for each in asked[1:]:
                np.testing.assert_array_equal(each.result(), np.arange(1.0, N + 1))
    finally:
        rank.hold.set()
    assert sorted(rank.blocks) == [1, 3, 3]


def test_one_client_has_half_of_the_room_and_of_the_queue():
    room = Room(most=100)
    room.take(30, "a")
    with pytest.raises(Full, match="30 bytes of arrays of this client wait already, and half of"):
        room.take(21, "a")
    room.take(50, "b")
    room.take(20, "a")
    with pytest.raises(Full, match="arrays of 100 bytes wait already, of 100"):
        room.take(1, "c")
    room.give(30, "a")
    room.give(50, "b")
    room.give(20, "a")
    assert room.taken == 0 and not room.by_client
    room.take(500, "a")  # a larger array alone

    queue = WorkQueue(most=4)
    works = [Work("gradient", "zero", "hessian", client, None) for client in "aaabbc"]
    for work in works[:2]:
        queue.add(work)
    with pytest.raises(Full, match="2 requests of this client wait already"):
        queue.add(works[2])
    for work in works[3:5]:
        queue.add(work)
    with pytest.raises(Full, match="4 requests wait already"):
        queue.add(works[5])
    queue.add(queue.take()[0], first=True)  # what was not answered comes back in any case


def test_a_client_with_its_share_is_told_to_come_again_and_others_are_served(running):
    body, mine = npy(np.ones(N)), {"X_Hesscomp_Client": "mine"}
    with a_product_waiting(running, 3 * len(body), **mine):
        status, headers, answer = http(running, "PUT", "/v1/points", body, **mine)
        assert status == 503 and float(headers["Retry-After"]) > 0
        assert "of this client wait already" in json.loads(answer)["error"]
        assert http(running, "PUT", "/v1/points", body, X_Hesscomp_Client="other")[0] == 201


def test_bytes_count_as_the_numbers_that_they_become(running):
    body = npy(np.ones((N, 3), np.int8))  # 15 bytes and a header become 120
    with a_product_waiting(running, len(npy(np.ones(N))) + len(body) + 100):
        status, _, answer = http(running, "POST", "/v1/points/zero/product", body)
        assert status == 503 and "wait already" in json.loads(answer)["error"]


def test_an_answer_counts_until_its_client_has_taken_it(running, monkeypatch):
    front, rows = running.service.front, 2**16
    monkeypatch.setattr(front, "about", {**front.about, "n": rows})
    name = asyncio.run(front.add_point(np.ones(rows)))
    with socket.socket(socket.AF_UNIX) as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stream.connect(running.service.door.getsockname())
        head = f"GET /v1/points/{name} HTTP/1.1\r\nHost: hesscomp\r\nConnection: close\r\n"
        head += f"Authorization: Bearer {running.service.token}\r\n\r\n"
        stream.sendall(head.encode())
        answer = stream.recv(1)
        assert front.room.taken == 8 * rows
        while part := stream.recv(2**16):
            answer += part
    assert answer.endswith(np.ones(rows).tobytes())
    until(lambda: front.room.taken == 0)


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 507), (errno.EIO, 500)])
def test_a_large_answer_for_which_the_disk_has_no_room(running, monkeypatch, number, status):
    def save_npy(path, array):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("hesscomp.service.http.MOST_BODY", 8)
    monkeypatch.setattr("hesscomp.service.http.save_npy", save_npy)
    found, _, body = http(running, "POST", "/v1/points/zero/gradient")
    assert found == status and json.loads(body)["error"].endswith(os.strerror(number))


def test_tiny_points_take_memory_too():
    points = Points(3.5 * OVERHEAD)
    left = [points.add(str(i), np.zeros(1)) for i in range(5)]
    assert left == [[], [], [], ["0"], ["1"]] and points.bytes == 3 * (8 + OVERHEAD)
    assert not points.add("4", np.zeros(1)) and len(points.used) == 3


def test_large_arrays_are_read_and_named_off_the_event_loop(running, monkeypatch):
    threads = []
    for place, name in (("http", "numbers_of"), ("front", "point_id"), ("http", "npy_of")):
        function = getattr(importlib.import_module(f"hesscomp.service.{place}"), name)

        def noted(*given, function=function):
            threads.append(threading.current_thread())
            return function(*given)

        monkeypatch.setattr(f"hesscomp.service.{place}.{name}", noted)
    service = running.client
    for most, on_loop in ((2**20, True), (8, False)):
        monkeypatch.setattr("hesscomp.service.wire.LARGE", most)
        np.testing.assert_array_equal(service.point(np.ones(N)).gradient, np.arange(1.0, N + 1))
        assert [thread is running.thread for thread in threads] == [on_loop] * 3
        threads.clear()
