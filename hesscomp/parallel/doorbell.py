"""How idle ranks wait for rank 0 without work: asleep, until an empty datagram wakes them.

A rank that waits in a collective polls, and one that sleeps and looks now and then is late or costs
a core's share. Here a rank sleeps in `select` on a socket of its own. Rank 0 sends a word through
MPI and an empty datagram; the datagram only wakes, the word counts. So a datagram of a stranger
changes nothing, and one that is lost costs `LOOKS` seconds at most. An idle rank is in no
collective, so no limit on those ends it. What rank 0 has to say is the word itself where it is
short, which saves a broadcast.
"""

import os
import pickle
import secrets
import select
import socket
import time
from contextlib import suppress
from typing import Any

import numpy as np
from mpi4py import MPI

TAG = 2
LOOKS = 1.0  # seconds after which a rank that nothing woke looks for a word
AWAKE = 0.05  # seconds in which a rank that was woken looks: MPI's word may come after the datagram
SPIN = 1e-3  # seconds of them without a pause: most words are there at the first or second look
PAUSE = 1e-4  # seconds between two later looks
LONGEST = 4096  # bytes of a word; MPI sends so few at once, to however slow a receiver


class Doorbell:
    """The bell of each rank but 0, on the host of rank 0 a Unix socket, elsewhere UDP. Collective.

    Parameters
    ----------
    world : World

    Examples
    --------
    >>> import hesscomp as hc
    >>> from hesscomp.parallel.doorbell import Doorbell
    >>> world = hc.World()
    >>> bell = Doorbell(world)
    >>> bell.ring("good morning") if world.rank == 0 else bell.wait()  # all have it
    'good morning'
    """

    def __init__(self, world):
        self.world, self.comm = world, world.comm.Dup()
        hosts = world.gather(MPI.Get_processor_name())
        near = hosts[world.rank] == hosts[0]
        self.socket = _bell(near)
        # A Unix socket's name begins with a zero: it is in no folder, and ends with the socket.
        name = f"\0hesscomp-{secrets.token_hex(16)}"
        self.socket.bind(name if near else (_own_address(hosts[0]), 0))
        addresses = world.gather(self.socket.getsockname())
        self._bells, self._words = [], []
        if world.rank == 0:
            for address in addresses[1:]:
                bell = _bell(near=isinstance(address, bytes))
                bell.connect(address)
                self._bells.append(bell)

    def ring(self, value: Any = None) -> Any:
        """Wake all other ranks, whose `wait` returns this Python object; on rank 0.

        It goes to each rank by itself, or where it is long, by a broadcast when all are awake.
        """
        word = np.frombuffer(pickle.dumps(value), np.uint8)
        short = word.size <= LONGEST
        self._words = [request for request in self._words if not request.Test()]
        for rank, bell in enumerate(self._bells, 1):
            self._words.append(self.comm.Isend(word if short else word[:0], rank, TAG))
            with suppress(OSError):  # it has not heard the last ring yet, and will find the word
                bell.send(b"")
        return value if short else self.world.broadcast(value)

    def wait(self) -> Any:
        """Sleep until rank 0 rings; return what it says. On the other ranks."""
        word = self._word()
        return pickle.loads(word.data) if word.size else self.world.broadcast(None)

    def _word(self) -> np.ndarray:
        status = MPI.Status()
        while True:
            woken, _, _ = select.select([self.socket], [], [], LOOKS)
            with suppress(BlockingIOError):
                while True:
                    self.socket.recv(1)
            start = now = time.monotonic()
            while True:
                if self.comm.Iprobe(0, TAG, status):
                    word = np.empty(status.Get_count(MPI.BYTE), np.uint8)
                    self.comm.Recv(word, 0, TAG)
                    return word
                if now >= start + (AWAKE if woken else 0):
                    break
                os.sched_yield() if now < start + SPIN else time.sleep(PAUSE)
                now = time.monotonic()


def _bell(near: bool) -> socket.socket:
    family = socket.AF_UNIX if near else socket.AF_INET
    return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)


def _own_address(host: str) -> str:
    """Return this host's address on the way to another host; any, where that has no name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
            return probe.getsockname()[0]
        except OSError:
            return ""
