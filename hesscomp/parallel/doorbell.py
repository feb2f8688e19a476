"""How idle ranks wait for rank 0 without work: asleep, until an empty datagram wakes them.

A rank that waits in a collective polls, and one that sleeps and looks now and then is late or costs
a core's share. Here a rank sleeps in `select` on a socket of its own. Rank 0 sends a word through
MPI and an empty datagram; the datagram only wakes, the word counts. So a datagram of a stranger
changes nothing, and one that is lost costs `LOOKS` seconds at most. An idle rank is in no
collective, so no limit on those ends it.
"""

import os
import select
import shutil
import socket
import tempfile
import time
from contextlib import suppress

import numpy as np
from mpi4py import MPI

TAG = 2
LOOKS = 1.0  # seconds after which a rank that nothing woke looks for a word
AWAKE = 0.05  # seconds in which a rank that was woken looks: MPI's word may come after the datagram
PAUSE = 1e-4  # seconds between two looks
WORD = np.zeros(1, np.int8)


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
    >>> bell.ring() if world.rank == 0 else bell.wait()  # all go on together
    """

    def __init__(self, world):
        self.comm = world.comm.Dup()
        hosts = world.gather(MPI.Get_processor_name())
        near, folder = hosts[world.rank] == hosts[0], None
        self.socket = socket.socket(
            socket.AF_UNIX if near else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        )
        if near:
            folder = tempfile.mkdtemp(prefix="hesscomp-")
            self.socket.bind(os.path.join(folder, "bell"))
            address = self.socket.getsockname()
        else:
            self.socket.bind((_own_address(hosts[0]), 0))
            address = self.socket.getsockname()
        addresses = world.gather(address)
        self._bells, self._words = [], []
        if world.rank == 0:
            self._bells = [_connected(address) for address in addresses[1:]]
        world.gather(None)  # rank 0 is connected
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def ring(self) -> None:
        """Wake all other ranks; on rank 0."""
        self._words = [request for request in self._words if not request.Test()]
        for rank, bell in enumerate(self._bells, 1):
            self._words.append(self.comm.Isend(WORD, rank, TAG))
            with suppress(OSError):  # it has not heard the last ring yet, and will find the word
                bell.send(b"")

    def wait(self) -> None:
        """Sleep until rank 0 rings; on the other ranks."""
        while True:
            woken, _, _ = select.select([self.socket], [], [], LOOKS)
            with suppress(BlockingIOError):
                while True:
                    self.socket.recv(1)
            end = time.monotonic() + (AWAKE if woken else 0)
            while True:
                if self.comm.Iprobe(0, TAG):
                    self.comm.Recv(np.empty_like(WORD), 0, TAG)
                    return
                if time.monotonic() >= end:
                    break
                time.sleep(PAUSE)


def _connected(address) -> socket.socket:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    bell = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    bell.connect(address)
    return bell


def _own_address(host: str) -> str:
    """Return this host's address on the way to another host; any, where that has no name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
            return probe.getsockname()[0]
        except OSError:
            return ""
