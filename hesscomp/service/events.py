"""What happens in a service, numbered, for those who listen and those who come back."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import msgspec

KEPT = 2000
QUIET = 15.0  # seconds after which a comment says that the service is there


class Events:
    """The last events, and the listeners that wait for more."""

    def __init__(self, kept: int = KEPT):
        self.last = 0
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=kept)
        self._news: asyncio.Event = asyncio.Event()
        self.open = True

    def add(self, name: str, data: Any) -> None:
        """Tell the listeners of an event."""
        self.last += 1
        text = msgspec.json.encode(data)
        self._kept.append((self.last, b"id: %d\nevent: %s\ndata: %s\n\n" % (
            self.last, name.encode(), text)))  # fmt: skip
        self._wake()

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

    async def since(self, number: int | None) -> AsyncIterator[bytes]:
        """Yield events as text: those after a number that are kept, and then each that comes.

        A listener that has missed some is told to `reset`, which means: ask for everything again.
        """
        at = self.last if number is None else number
        yield b": hesscomp\nretry: 1000\n\n"
        if at > self.last or (self._kept and at < self._kept[0][0] - 1):
            at = self.last
            yield b"id: %d\nevent: reset\ndata: {}\n\n" % at
        while self.open:
            news = self._news
            coming = [(each, text) for each, text in self._kept if each > at]
            if coming and coming[0][0] > at + 1:  # it listened too slowly
                yield b"id: %d\nevent: reset\ndata: {}\n\n" % self.last
                at = self.last
                continue
            for each, text in coming:
                yield text
                at = each
            if not coming:
                try:
                    await asyncio.wait_for(news.wait(), QUIET)
                except TimeoutError:
                    yield b": quiet\n\n"
