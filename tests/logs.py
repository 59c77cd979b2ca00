"""Logs on real files for tests, and what tests say to them most often."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from eventlog.config import Config
from eventlog.event import Message
from eventlog.follow import Follower
from eventlog.log import EventLog
from eventlog.sse import Decoder, Frame
from eventlog.views import Accepted
from eventlog.wakes import Ask, Granted, Report
from eventlog.window import Filter

#: How long a test waits for what must come.
DEADLINE_S = 20.0
#: Everything of the log.
ALL = Filter(events=frozenset())


@asynccontextmanager
async def opened(folder: Path, **settings: Any) -> AsyncIterator[EventLog]:
    """A log in `folder`, with its default settings but for these."""
    async with EventLog.open(Config(data_dir=folder, **settings)) as log:
        yield log


async def send(
    log: EventLog, to: str = "mel", *, sender: str = "tony", payload: Any = "hello", **fields: Any
) -> Accepted:
    """One message; it answers what its sender is told."""
    one = Message(to_agent=to, payload=msgspec.json.encode(payload), **fields)
    return (await log.send([one], sender=sender, key=None, request=b"")).answers[0]


async def wake(log: EventLog, agent: str, key: str) -> Granted:
    """A wake of the agent, granted to this key."""
    granted = await log.leases.ask(Ask(agent=agent, key=key, watcher="w1", node="n1"))
    assert isinstance(granted, Granted)
    return granted


async def report(log: EventLog, granted: Granted, outcome: str) -> None:
    """How that wake ended."""
    await log.leases.report(granted.wake.id, Report(key=granted.wake.key, outcome=outcome))


class Listener:
    """Reads a follower as a client would, in a task of its own; every frame it was sent is in `frames`."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.frames: list[Frame] = []
        self.raw = b""
        self._decoder = Decoder()
        self._moved = asyncio.Event()
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for chunk in self.follower:
            self.take(chunk)

    def take(self, chunk: bytes) -> None:
        """Be sent a chunk."""
        self.raw += chunk
        self.frames += self._decoder.feed(chunk)
        self._moved.set()

    async def until(self, reached: Callable[["Listener"], bool]) -> None:
        """Returns as soon as `reached` is so; fails if it is not by the deadline."""
        async with asyncio.timeout(DEADLINE_S):
            while not reached(self):
                self._moved.clear()
                await self._moved.wait()

    async def reach(self, cursor: int) -> None:
        """Until the client's cursor has reached `cursor`."""
        await self.until(lambda me: me.cursor >= cursor)

    @property
    def cursor(self) -> int:
        """The id a reconnect would send."""
        return (self.frames[-1].cursor or 0) if self.frames else -1

    @property
    def shown(self) -> list[int]:
        """The ids of all events it was shown, in order."""
        return [frame.cursor or 0 for frame in self.frames if frame.data is not None]

    @property
    def id_only(self) -> list[int]:
        """The ids of the frames that only move the cursor, the opening one left out."""
        return [
            frame.cursor or 0
            for before, frame in zip(self.frames, self.frames[1:], strict=False)
            if frame.data is None and frame.cursor != before.cursor
        ]

    async def stop(self) -> None:
        """Go away, as a client that is cut off."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def listening(follower: Follower) -> AsyncIterator[Listener]:
    """A client of `follower` until the block ends."""
    listener = Listener(follower)
    try:
        yield listener
    finally:
        await listener.stop()
