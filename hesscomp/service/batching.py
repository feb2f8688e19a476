"""The queue of short requests: what waits at one point together becomes one block product.

Clients that ask again and again do so a moment after their answers. So a request waits a little
for others, at most `LINGER` of the last block's time, as long as fewer wait than were about when
that ended. Clients take turns: one that asks much does not keep others out.
"""

import asyncio
import time
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hesscomp.service.jobs import Full, check_share

LINGER = 0.1  # of the last block's seconds
MOST_WAITING = 1024
MOST_BYTES = 2**30
MOST_COLUMNS = 64
BLOCKED = "product"  # the kind of requests that can share a block
WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)  # of blocks: TensorFlow may compile for each width


def block_width(columns: int) -> int:
    """Return the width of the block in which so many columns are multiplied."""
    return next((width for width in WIDTHS if width >= columns), columns)


class Room:
    """The bytes of arrays that come in or wait for answers: so many, or a larger array alone.

    One client may have half of them, or one array.
    """

    def __init__(self, most: int = MOST_BYTES):
        self.most = most
        self.by_client: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """The bytes of all clients."""
        return self.by_client.total()

    def take(self, count: int, client: str) -> None:
        """Take room for so many bytes, until they are given back.

        Raises
        ------
        Full
            Where there is less.
        """
        if not count:  # such as the end of a body
            return
        if self.taken and self.taken + count > self.most:
            raise Full(f"arrays of {self.taken} bytes wait already, of {self.most}; ask again")
        check_share(self.by_client[client], count, self.most, "bytes of arrays")
        self.by_client[client] += count

    def give(self, count: int, client: str) -> None:
        """Give bytes back."""
        self.by_client[client] -= count
        if not self.by_client[client]:
            del self.by_client[client]


@dataclass
class Work:
    """A short request: what it is, and the future of its answer."""

    kind: str
    point: str
    operator: str
    client: str
    future: asyncio.Future
    array: np.ndarray | None = None  # (n, k)
    given: dict[str, Any] = field(default_factory=dict)  # further numbers
    alone: bool = False  # whether it must not share a block
    attempts: int = 0  # that ended with a rank's death

    @property
    def columns(self) -> int:
        return 0 if self.array is None else self.array.shape[1]

    @property
    def width(self) -> int:
        """The columns that the ranks multiply for it, where no other request shares its block."""
        return self.columns if self.key is None else block_width(self.columns)

    @property
    def key(self):
        """What requests of one block have in common; None for one that shares none."""
        shares = self.kind == BLOCKED and not self.alone
        return (self.point, self.operator) if shares else None


class WorkQueue:
    """Short requests that wait, by client.

    Parameters
    ----------
    batching : bool
        Whether products share blocks.
    most : int
        Requests that may wait; of one client half of them.
    columns : int
        Most columns of a block; a request of more goes alone.
    """

    def __init__(
        self, batching: bool = True, most: int = MOST_WAITING, columns: int = MOST_COLUMNS
    ):
        self.batching, self.most, self.columns = batching, most, columns
        self.clients: OrderedDict[str, deque[Work]] = OrderedDict()
        self._expected, self._until = 1, 0.0
        self._last_end, self._last_seconds = 0.0, 0.0
        self._last_key: Any = None

    def __len__(self) -> int:
        return sum(map(len, self.clients.values()))

    def add(self, work: Work, first: bool = False) -> None:
        """Let a request wait, `first` before the others of its client.

        Raises
        ------
        Full
            Where too many wait.
        """
        if len(self) >= self.most and not first:
            raise Full(f"{self.most} requests wait already; ask again")
        if not first:
            check_share(len(self.clients.get(work.client, ())), 1, self.most, "requests")
        now = time.monotonic()
        if not self.clients and now < self._last_end + self._last_seconds:
            self._until = now + LINGER * self._last_seconds
        waiting = self.clients.setdefault(work.client, deque())
        (waiting.appendleft if first else waiting.append)(work)

    def remove(self, work: Work) -> bool:
        """Take back a request; return whether it waited."""
        waiting = self.clients.get(work.client, ())
        found = any(each is work for each in waiting)
        if found:
            self._drop(work)
        return found

    def cleared(self) -> list[Work]:
        """Take back all requests, and return them."""
        found = [work for waiting in self.clients.values() for work in waiting]
        self.clients.clear()
        return found

    def _drop(self, work: Work) -> None:
        waiting = self.clients[work.client]
        del waiting[next(i for i, each in enumerate(waiting) if each is work)]
        if not waiting:
            del self.clients[work.client]

    def ended(self, block: list[Work], seconds: float) -> None:
        """Note that a block took so long: how many requests the next one should wait for."""
        key = block[0].key
        self._last_key = key
        self._expected = len(block) + self._count(key)
        self._last_end, self._last_seconds = time.monotonic(), seconds
        self._until = self._last_end + LINGER * seconds

    def linger(self) -> float:
        """Return the seconds for which the next block should wait for others."""
        if not self.batching or not self.clients or self._last_key is None:
            return 0.0
        waiting = self._count(self._last_key)
        if not 0 < waiting < self._expected or waiting < len(self):
            return 0.0
        return max(self._until - time.monotonic(), 0.0)

    def _count(self, key) -> int:
        if key is None:
            return 0
        return sum(work.key == key for waiting in self.clients.values() for work in waiting)

    def take(self, columns: int = MOST_COLUMNS) -> list[Work]:
        """Return the next requests that go together, at least one; the clients take turns.

        A block of several has at most so many columns, where memory allows fewer than usual.
        """
        most = min(self.columns, columns)
        first = self._pop(next(iter(self.clients)))
        block, taken = [first], first.columns
        if first.key is None or not self.batching:
            return block
        turns = list(self.clients)
        while turns:
            for client in list(turns):
                found = self._matching(client, first.key, most - taken)
                if found is None:
                    turns.remove(client)
                    continue
                block.append(found)
                taken += found.columns
        return block

    def _pop(self, client: str) -> Work:
        waiting = self.clients.pop(client)
        work = waiting.popleft()
        if waiting:
            self.clients[client] = waiting  # at the end: it has had its turn
        return work

    def _matching(self, client: str, key, room: int) -> Work | None:
        waiting = self.clients.get(client, ())
        found = next((work for work in waiting if work.key == key and work.columns <= room), None)
        if found is not None:
            self._drop(found)
        return found
