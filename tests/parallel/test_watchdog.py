"""Missing ranks: the roll call, who is named, who reports. The ranks are threads here."""

import threading
import time
from collections import deque

import pytest
from mpi4py import MPI

from hesscomp.parallel.watchdog import collective_timeout, phase
from hesscomp.parallel.watchdog.collective_timeout import (
    GONE,
    HERE,
    CollectiveTimeout,
    RanksMissing,
)

HOSTS = ["h1"] * 4 + ["h2"] * 3 + ["h3"] * 2
LONG = 1000.0


class Comm:
    """What `CollectiveTimeout` needs of a communicator; words to unreachable ranks are lost."""

    def __init__(self, boxes, rank, cut=()):
        self.boxes, self.rank, self.size = boxes, rank, len(boxes)
        self.reached = [(HOSTS[rank] in cut) == (HOSTS[other] in cut) for other in range(self.size)]

    def Isend(self, word, rank, tag):
        if self.reached[rank]:
            self.boxes[rank].append((self.rank, *map(int, word)))

    def Iprobe(self, source, tag, status):
        if self.boxes[self.rank]:
            status.source = self.boxes[self.rank][0][0]
        return bool(self.boxes[self.rank])

    def Recv(self, word, source, tag):
        word[:] = self.boxes[self.rank].popleft()[1:]


class Request:
    """A collective that completes after so many seconds; never by default."""

    def __init__(self, seconds=float("inf")):
        self.end = time.monotonic() + seconds

    def Test(self):
        return time.monotonic() >= self.end


def outcomes(here, impatient, size=9, cut=(), request=lambda rank: Request()):
    """What the ranks that are here raise, `impatient` being the first to lose patience."""
    boxes, errors = [deque() for _ in range(size)], {}

    def wait(rank):
        waits = CollectiveTimeout(Comm(boxes, rank, cut), 0.05 if rank in impatient else LONG)
        waits.hosts = HOSTS[:size]
        try:
            waits.wait(request(rank), "reduction")
        except RanksMissing as error:
            errors[rank] = error

    threads = [threading.Thread(target=wait, args=[rank]) for rank in here]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(collective_timeout, "ANSWERS", 0.5)
    monkeypatch.setattr(collective_timeout, "GRACE", 0.0)


@pytest.mark.parametrize("impatient", [0, 3, 8])
def test_one_rank_names_those_that_did_not_come(impatient):
    here = [0, 2, 3, 5, 6, 7, 8]
    with phase.named_phase("compress"):
        errors = outcomes(here, [impatient])
    assert sorted(errors) == here
    assert [rank for rank in here if errors[rank].reports] == [0]
    assert str(errors[0]).startswith(
        "rank 1 on h1 and rank 4 on h2 did not come to the reduction in compress within"
    )


def test_each_side_of_a_cut_speaks_of_what_it_can_know():
    errors = outcomes(range(9), [0, 4, 7], cut=("h2",))
    assert [rank for rank in range(9) if errors[rank].reports] == [0, 4]
    assert str(errors[0]).startswith("ranks 4, 5, 6 on h2 did not come")
    assert str(errors[4]).startswith("ranks 0, 1, 2, 3 on h1 did not come")


def test_without_the_lowest_rank_the_next_one_speaks():
    errors = outcomes([1, 2], [2], size=4)
    assert errors[1].reports and not errors[2].reports
    assert str(errors[1]).startswith("ranks 0, 3 on h1 did not come")


def test_a_rank_that_comes_during_the_roll_call_is_welcome():
    assert not outcomes([0, 1], [0, 1], size=2, request=lambda rank: Request(0.2))


def test_ranks_that_answered_a_call_that_was_taken_back_wait_on():
    late = {0: 0.2, 1: 1.5, 2: 1.5, 3: 1.5}  # what they wait for; ranks 1 to 3 do not mind
    assert not outcomes(late, [0], size=4, request=lambda rank: Request(late[rank]))


def test_a_roll_call_that_was_taken_back_is_not_answered():
    boxes = [deque(), deque()]
    waits = CollectiveTimeout(Comm(boxes, 1), 0.05)
    waits.wait(Request(0.2), "reduction")  # rank 0 comes late
    assert list(boxes[0]) == [
        (1, HERE, 1, 1),
        (1, GONE, 1, 1),
    ]
    CollectiveTimeout(Comm(boxes, 0), LONG).wait(Request(0.05), "reduction")
    assert not boxes[0] and not [word for word in boxes[1] if word[0] == 0]


def test_a_broken_connection_is_told():
    class Broken:
        def Test(self):
            raise MPI.Exception(MPI.ERR_OTHER)

    errors = outcomes([0], [], size=2, request=lambda rank: Broken())
    assert str(errors[0]).startswith("rank 1 on h1 did not come to the reduction (MPI: ")


def test_the_innermost_phase_is_shown_and_kept_by_errors():
    board = bytearray(phase.BOARD_BYTES)
    phase.show_phase_on(board)
    try:
        with pytest.raises(ZeroDivisionError) as caught, phase.named_phase("newton"):
            with phase.named_phase("line search"):
                assert phase.read_phase(board) == phase.current_phase() == "line search"
            assert phase.read_phase(board) == "newton"
            with phase.named_phase("solve"):
                raise ZeroDivisionError
        assert phase.phase_of(caught.value) == "solve"
        assert phase.read_phase(board) == ""
    finally:
        phase.show_phase_on(None)
