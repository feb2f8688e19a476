"""What happens in a service, numbered, for those who listen and those who come back.

The id of an event is "START-NUMBER": numbers begin again when a service is started again, and one
of an earlier life tells nothing of what its listener has missed.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import msgspec

KEPT = 2000
QUIET = 15.0  # seconds after which a comment says that the service is there


class Events:
    """The last events, and the listeners that wait for more."""

    def __init__(self, kept: int = KEPT):
        self.start, self.last = time.time_ns() // 10**6, 0  # milliseconds since 1970; a number
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=kept)
        self._news: asyncio.Event = asyncio.Event()
        self.open = True

    def add(self, name: str, data: Any) -> None:
        """Tell the listeners of an event."""
        self.last += 1
        text = msgspec.json.encode(data)
        self._kept.append((self.last, self._event(name, text)))
        self._wake()

    @property
    def id(self) -> str:
        """The id of the last event."""
        return f"{self.start}-{self.last}"

    def _event(self, name: str, data: bytes) -> bytes:
        return f"id: {self.id}\nevent: {name}\ndata: ".encode() + data + b"\n\n"

    def close(self) -> None:
        """Let the listeners end."""
        self.open = False
        self._wake()

    async def next(self) -> None:
        """Wait until an event is added, or there will be none any more."""
        if self.open:
            await self._news.wait()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _number(self, known: str) -> int | None:
        """Return the number of an id; None where it is of another life, or none at all."""
        start, _, number = known[:40].partition("-")
        if start != str(self.start) or not (number.isascii() and number.isdecimal()):
            return None
        return int(number)

    async def since(self, known: str | None) -> AsyncIterator[bytes]:
        """Yield events as text: those after an id that are kept, and then each that comes.

        A listener that has missed some is told to `reset`, which means: ask for everything again.
        """
        found = self.last if known is None else self._number(known)
        yield b": hesscomp\nretry: 1000\n\n"
        oldest = self._kept[0][0] if self._kept else 0
        if found is None or not oldest - 1 <= found <= self.last:
            found = self.last
            yield self._event("reset", b"{}")
        at = found
        while self.open:
            news = self._news
            coming = [(each, text) for each, text in self._kept if each > at]
            if coming and coming[0][0] > at + 1:  # it listened too slowly
                at = self.last
                yield self._event("reset", b"{}")
                continue
            for each, text in coming:
                yield text
                at = each
            if not coming:
                try:
                    await asyncio.wait_for(news.wait(), QUIET)
                except TimeoutError:
                    yield b": quiet\n\n"
