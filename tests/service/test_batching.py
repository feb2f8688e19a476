"""The queue of short requests by itself: for whom a block waits, and whose turn it is."""

import asyncio

import numpy as np
import pytest

from hesscomp.service import batching
from hesscomp.service.batching import LINGER, Work, WorkQueue


class Clock:
    """A clock that tests set."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(batching, "time", made)
    return made


@pytest.fixture(scope="module")
def work():
    loop = asyncio.new_event_loop()

    def made(client: str, point: str = "zero", kind: str = "product", columns: int = 1) -> Work:
        array = np.ones((5, columns)) if kind == "product" else None
        return Work(kind, point, "hessian", client, loop.create_future(), array)

    yield made
    loop.close()


def filled(*works: Work, **given) -> WorkQueue:
    queue = WorkQueue(**given)
    for each in works:
        queue.add(each)
    return queue


def clients(block: list[Work]) -> list[str]:
    return [each.client for each in block]


def test_a_block_waits_for_those_of_the_last_round_a_tenth_of_its_time(work, clock):
    queue = filled(*(work(name) for name in "abc"))
    block = queue.take()
    assert clients(block) == ["a", "b", "c"]
    queue.add(work("d"))  # while the block is under way
    queue.ended(block, seconds=2.0)
    assert LINGER == 0.1 and queue.linger() == pytest.approx(0.2)  # one of four waits
    clock.now += 0.15
    assert queue.linger() == pytest.approx(0.05)
    for name in "ab":
        queue.add(work(name))
    assert queue.linger() == pytest.approx(0.05)  # three of four
    queue.add(work("c"))
    assert queue.linger() == 0.0  # nobody is missing
    block = queue.take()
    queue.ended(block, seconds=2.0)
    queue.add(work("a"))
    clock.now += 0.2
    assert queue.linger() == 0.0  # the tenth is over; the others do not come back
    queue.ended(queue.take(), seconds=2.0)
    queue.add(work("a"))
    assert queue.linger() == 0.0  # now a round is of one


def test_the_first_to_come_back_waits_for_the_others(work, clock):
    queue = filled(*(work(name) for name in "ab"))
    queue.ended(queue.take(), seconds=2.0)
    clock.now += 1.0  # its answer and its next request took longer than a tenth
    queue.add(work("a"))
    assert queue.linger() == pytest.approx(0.2)
    queue.add(work("b"))
    assert queue.linger() == 0.0
    queue.ended(queue.take(), seconds=2.0)
    clock.now += 2.5  # the round is over
    queue.add(work("a"))
    assert queue.linger() == 0.0


def test_a_block_does_not_wait_where_others_do_or_where_nothing_is_shared(work, clock):
    for batch, other in ((True, work("d", point="initial")), (True, work("d", kind="gradient"))):
        queue = filled(work("a"), work("b"), batching=batch)
        queue.ended(queue.take(), seconds=2.0)
        queue.add(work("a"))
        assert queue.linger() > 0
        queue.add(other)
        assert queue.linger() == 0.0
    queue = filled(work("a"), work("b"), batching=False)
    queue.ended(queue.take(), seconds=2.0)
    assert queue.linger() == 0.0
    queue = filled(work("a", kind="gradient"))
    queue.ended(queue.take(), seconds=2.0)
    queue.add(work("a", kind="gradient"))
    assert queue.linger() == 0.0


def test_clients_take_turns_with_short_requests(work):
    """One that asks much does not keep out others, neither between blocks nor within one."""
    alone = filled(
        *(work("much", kind="gradient") for _ in range(3)), work("little", kind="gradient")
    )
    assert [alone.take()[0].client for _ in range(4)] == ["much", "little", "much", "much"]
    shared = filled(*(work("much") for _ in range(5)), work("a"), work("b"), columns=4)
    assert sorted(clients(shared.take())) == ["a", "b", "much", "much"]
    assert clients(shared.take()) == ["much"] * 3
    wide = filled(work("wide", columns=9), work("a"), work("b", columns=3), columns=4)
    assert clients(wide.take()) == ["wide"]  # it goes alone
    assert clients(wide.take()) == ["a", "b"]
