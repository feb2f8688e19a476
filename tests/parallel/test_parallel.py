"""The world: reductions, agreement on errors, rows, random blocks."""

import argparse
import itertools
from pathlib import Path

import numpy as np
import pytest

from hesscomp.cli.session import run_on_ranks
from hesscomp.errors import InputError, RankFailure
from hesscomp.parallel import random
from hesscomp.parallel.resources import algebra_rate, network_speed, threads_per_rank
from hesscomp.parallel.rows import row_block, row_range
from hesscomp.parallel.watchdog.phase import named_phase

pytestmark = pytest.mark.ranks(most=4)


def test_reductions_are_right_and_counted(world):
    before = (world.ledger.reductions, world.ledger.words_reduced)
    total = world.sum(np.full((2, 3), world.rank + 1.0))
    np.testing.assert_array_equal(total, np.full((2, 3), world.size * (world.size + 1) / 2))
    assert world.max(np.array([world.rank]))[0] == world.size - 1
    assert world.sum(np.empty((0, 4))).shape == (0, 4)
    assert world.ledger.reductions - before[0] == 3
    assert world.ledger.words_reduced - before[1] == 7


def test_phase_raises_the_lowest_failing_ranks_message_everywhere(world):
    with world.phase("nothing"):
        pass
    with pytest.raises(InputError) as caught, world.phase("reading"):
        if world.rank >= world.size // 2:
            raise InputError(f"row {world.rank} is bad")
    assert f"row {world.size // 2} is bad" in str(caught.value)
    if world.size > 1:
        assert f"rank {world.size // 2}, reading" in str(caught.value)


def test_phase_tells_a_bug_from_bad_input(world):
    with pytest.raises(RankFailure, match="ZeroDivisionError"), world.phase("computing"):
        if world.rank == world.size - 1:
            raise ZeroDivisionError
    with pytest.raises(InputError, match="No such file"), world.phase("opening"):
        Path("/no/such/file").read_text()
    with pytest.raises(RankFailure, match=r"memory ran out .*hesscomp plan"), world.phase("asking"):
        np.empty(2**50)


@pytest.mark.parametrize("asked", [False, True])
def test_a_traceback_is_shown_on_request(world, monkeypatch, caplog, capsys, asked):
    def command(_, session):
        with named_phase("dividing"):
            raise ZeroDivisionError("by zero")

    if asked:
        monkeypatch.setenv("HESSCOMP_TRACEBACK", "1")
    with (
        pytest.raises(RankFailure, match=r"\(test_parallel.py:\d+\); H"),
        world.phase("adding"),
    ):
        raise ZeroDivisionError
    assert ("Traceback" in caplog.text) == asked
    options = argparse.Namespace(threads=1, comm_timeout=60.0)
    assert run_on_ranks(command, options, 0.0) == 1
    lines = capsys.readouterr().err.splitlines()
    if world.rank:
        assert not lines
        return
    who = "all ranks failed" if world.size > 1 else "failed"
    assert lines[0].startswith(f"hesscomp: error: {who} in dividing: ZeroDivisionError: by zero (")
    assert (len(lines) > 1) == asked


def test_root_work_and_its_failure_reach_all_ranks(world):
    np.testing.assert_array_equal(
        world.on_root(lambda: np.arange(6.0).reshape(2, 3)), np.arange(6.0).reshape(2, 3)
    )
    with pytest.raises(np.linalg.LinAlgError):
        world.on_root(np.linalg.cholesky, -np.eye(3))
    assert world.decide(world.rank == 0)
    assert world.everyone_is_here()


def test_large_arrays_arrive_whole(world):
    rows = np.full((2, 40_000), world.rank + 1.0)
    found = world.exchange_columns(np.array_split(rows, world.size, axis=1), [2] * world.size)
    ranks = np.arange(1.0, world.size + 1)
    assert (found == np.repeat(ranks, 2)[:, None]).all()
    assert (world.sum(rows) == ranks.sum()).all()
    assert (world.broadcast_array(rows.copy(), world.size - 1) == world.size).all()
    assert (world.gather_rows(rows, [2] * world.size)[::2, 0] == ranks).all()
    sent = world.exchange([rows] * world.size)
    assert [part[0, 0] for part in sent] == list(ranks)


def test_exchange_and_gather(world):
    assert world.gather(world.rank) == list(range(world.size))
    received = world.exchange([f"{world.rank} to {r}" for r in range(world.size)])
    assert received == [f"{r} to {world.rank}" for r in range(world.size)]


@pytest.mark.parametrize("rows", [0, 1, 3, 127, 1000, 32561, 10**9])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_row_ranges_tile_the_rows_in_whole_blocks(rows, size):
    ranges = [row_range(rows, rank, size) for rank in range(size)]
    assert ranges[0][0] == 0 and ranges[-1][1] == rows
    assert all(left[1] == right[0] for left, right in itertools.pairwise(ranges))
    assert all(start % row_block(rows) == 0 or start == rows for start, _ in ranges)


@pytest.mark.parametrize("draw", [random.standard_normal, random.uniform])
def test_random_blocks_do_not_depend_on_who_makes_them(draw):
    whole = draw(7, random.SKETCH, (0, 20000), (0, 5))
    part = draw(7, random.SKETCH, (8000, 17001), (2, 4))
    np.testing.assert_array_equal(part, whole[8000:17001, 2:4])
    assert not np.array_equal(whole, draw(8, random.SKETCH, (0, 20000), (0, 5)))
    assert not np.array_equal(whole, draw(7, random.PROBE, (0, 20000), (0, 5)))


def test_normals_are_normal_and_uncorrelated():
    X = random.standard_normal(0, random.SKETCH, (0, 40000), (0, 6))
    assert np.abs(X.mean(axis=0)).max() < 0.03
    assert np.abs(np.cov(X.T) - np.eye(6)).max() < 0.03
    assert abs((X[:8192] * X[8192:16384]).mean()) < 0.02


def test_threads_share_the_cores(world, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    shared = threads_per_rank(world)
    assert shared >= 1
    assert threads_per_rank(world, 3) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads_per_rank(world) == 5


def test_the_ranks_of_a_node_are_those_with_its_name(world, monkeypatch):
    hosts = [f"n{rank % 2}" for rank in range(world.size)]
    monkeypatch.setattr(world._deadline, "hosts", hosts)
    here = [rank for rank in range(world.size) if rank % 2 == world.rank % 2]
    assert world.ranks_here() == len(here) and world.place_here() == world.rank // 2
    assert world.node_shares({0, 10 + world.rank}) in ([len(here), 1], [1, len(here)])


def test_the_network_and_the_algebra_are_timed_on_arrays_that_fit(world):
    assert algebra_rate(10**12, 20) > 0
    if world.size > 1:
        latency, bandwidth = network_speed(world, 10**15)
        assert latency > 0 and bandwidth > 0
