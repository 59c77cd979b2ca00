"""Status: what the running watcher says of itself, kept in the state folder for `bus-watcher status`."""

import asyncio
import contextlib
import os
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from watcher.state import Cursor, State

#: The cursor and the status are written this often at most.
WRITE_INTERVAL_S: Final = 1.0


@dataclass
class AgentStatus:
    """Where one agent's loop is. Times are RFC 3339 in UTC; `why` is the bus's reason for no wake, or our own.

    `runs`: it gets a run for each message. `wake` and `last` tell the `message` of a run, None for other wakes.
    """

    waker: str
    runs: bool = False
    state: str = "waiting"
    why: str = ""
    next_ask: str | None = None
    wake: dict[str, Any] | None = None
    last: dict[str, Any] | None = None


@dataclass
class Status:
    """All of it. `changed` asks for it to be written soon."""

    watcher: str
    node: str
    url: str
    connection: str = "connecting"
    since: str = ""
    detail: str = ""
    log: str | None = None
    cursor: int | None = None
    head: int | None = None
    agents: dict[str, AgentStatus] = field(default_factory=dict)
    pid: int = field(default_factory=os.getpid)

    def __post_init__(self) -> None:
        self._changed = asyncio.Event()
        self.since = clock()

    def changed(self) -> None:
        """Something here is not as it was."""
        self._changed.set()

    def connected(self, connection: str, detail: str = "") -> None:
        """The state of the connection: `connecting`, `replaying` or `connected`."""
        if (connection, detail) != (self.connection, self.detail):
            self.connection, self.detail, self.since = connection, detail, clock()
            self.changed()

    def moved(self, cursor: Cursor) -> None:
        """The stream is at this cursor."""
        if (self.log, self.cursor) != cursor:
            self.log, self.cursor = cursor
            self.head = max(self.head or 0, cursor.cursor)
            self.changed()

    def as_dict(self) -> dict[str, Any]:
        """What is shown, with `lag`, the distance from cursor to head in ids."""
        lag = None if self.cursor is None or self.head is None else max(0, self.head - self.cursor)
        return {**asdict(self), "lag": lag, "written": clock()}

    async def keep(self, state: State) -> None:
        """Write cursor and status when they change, but not too often; once more when cancelled."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                await asyncio.to_thread(self._write, state)
                await asyncio.sleep(WRITE_INTERVAL_S)
        finally:
            self._write(state)

    def _write(self, state: State) -> None:
        # A full disk costs a longer replay and an old status, no more.
        with contextlib.suppress(OSError):
            if self.log and self.cursor is not None:
                state.write_cursor(Cursor(self.log, self.cursor))
            state.write_status(self.as_dict())


def clock(in_s: float = 0.0) -> str:
    """The time of day, or the one that it will be."""
    return (datetime.now(UTC) + timedelta(seconds=in_s)).isoformat(timespec="seconds")
