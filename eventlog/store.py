"""Store: one log's SQLite file, with the connection that writes, the ones that read, and every agent's state in memory.

The engine writes through it (eventlog/sqlite_engine.py); everyone else only reads. Names are taken in any spelling.
Every asynchronous read raises Unavailable if the file cannot be read.
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from eventlog import bundle, database, lineage, reads
from eventlog.agents import AgentState
from eventlog.crashpoint import reached
from eventlog.errors import Unavailable
from eventlog.event import GENESIS, Event, fold
from eventlog.head import Head
from eventlog.lineage import Log
from eventlog.migrate import migrate
from eventlog.projections import Agent, load_agents
from eventlog.reads import DeadLetter, ThreadCount, TokenRow, Unreached, WakeRow
from eventlog.wakes import Span
from eventlog.window import Filter, Slice

__all__ = ["DeadLetter", "Log", "Store", "ThreadCount", "TokenRow", "Unreached", "WakeRow"]

#: The most that an answer without a `limit` holds.
ANSWER_MAX = 10_000

_T = TypeVar("_T")


class Store:
    """An open log. Made by `Store.open`, which the process that holds the data folder's lock may do."""

    def __init__(self, path: Path, writer: database.Connection, readers: database.Readers, opened: "_Opened") -> None:
        self.path = path
        #: The one connection that may write; the engine's alone.
        self.writer = writer
        self._readers = readers
        self._lineage = opened.lineage
        #: How long this log has kept quiet since it was restored, as last noted, seconds; None if it never was.
        self.quiet_kept_s = opened.quiet_kept_s
        self._agents = opened.agents
        self._states = {name: agent.state for name, agent in opened.agents.items()}
        self._states_view = MappingProxyType(self._states)
        #: Another number each time that an agent becomes known.
        self.names_version = 0
        #: The newest event's id and hash when this process opened the log.
        self.head_at_open, self.hash_at_open = opened.head
        self.head = Head(self.head_at_open)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, data_dir: Path, *, readers: int = 2, wall: Callable[[], float] = time.time
    ) -> AsyncIterator["Store"]:
        """The log in `data_dir`, made or brought to this program's version if need be; closed when the block ends.

        A backup's copy becomes a log of its own here. `wall` gives seconds since 1970. Raises SchemaError, also for a
        file that is damaged.
        """
        path = database.make_private(data_dir)
        with database.naming_damage(path):
            writer = await database.on_thread(lambda: database.open_writer(path))
        others: list[database.Connection] = []
        try:
            with database.naming_damage(path):
                opened = await writer.run(_prepare, wall())
            others += [await database.on_thread(lambda: database.open_reader(path)) for _ in range(readers)]
            yield cls(path, writer, database.Readers(others), opened)
        finally:
            # Shielded: a connection that is left open would keep the process from ending.
            await asyncio.shield(_close([*others, writer]))

    # ---- the log ----

    @property
    def log_id(self) -> str:
        """This log's identity."""
        return self._lineage[-1].log_id

    @property
    def lineage(self) -> tuple[Log, ...]:
        """The logs that this one descends from, oldest first, itself last."""
        return self._lineage

    async def note_quiet(self, kept_s: float) -> None:
        """Note that this log has kept quiet for so long; wakes that cannot run any longer need no quiet any more."""
        await self.writer.run(lineage.put, "quiet", f"{kept_s:.3f}")
        reached("bus.quiet.noted")
        self.quiet_kept_s = kept_s

    def resolve_cursor(self, log_id: str | None, cursor: int) -> tuple[int, str | None]:
        """Where a reader with this cursor goes on, and why elsewhere (`other_log`, `past_head`, `skipped`) or None."""
        return lineage.resolve_cursor(self._lineage, self.head.value, log_id, cursor)

    # ---- agents, from memory ----

    def agent(self, name: str) -> AgentState:
        """The agent's state; a fresh one if no event named it."""
        return self._states.get(fold(name)) or AgentState(name=name)

    def known(self, name: str) -> bool:
        """Whether a token, a watcher or a message from it named this agent."""
        agent = self._agents.get(fold(name))
        return agent is not None and agent.known

    def names(self) -> list[str]:
        """The known agents, as first spelled, in order."""
        return [agent.state.name for _, agent in sorted(self._agents.items()) if agent.known]

    def states(self) -> Mapping[str, AgentState]:
        """Every agent that any event named, by folded name, "*" (all agents paused) included; a live view."""
        return self._states_view

    def find(self, name: str) -> Agent | None:
        """What the engine starts from: the agent with this folded name, if any event named it."""
        return self._agents.get(name)

    def publish(self, agents: Mapping[str, Agent]) -> None:
        """Take over what a commit made of these agents; the engine's alone."""
        if not agents:
            return
        self.names_version += any(agent.known and not self.known(name) for name, agent in agents.items())
        self._agents.update(agents)
        self._states.update((name, agent.state) for name, agent in agents.items())

    # ---- events ----

    async def event(self, event_id: int) -> Event | None:
        """The event with this id."""
        return await self._read(reads.event, event_id)

    async def message(self, message_id: int) -> Event | None:
        """The message with this id; None for any other event's."""
        event = await self.event(message_id)
        return event if event is not None and event.event == "message" else None

    async def message_in_thread(self, message_id: int) -> tuple[Event, ThreadCount] | None:
        """The message with this id, and what is counted of its thread."""
        return await self._read(reads.message_in_thread, message_id)

    async def page(
        self,
        after: int,
        limit: int,
        before: int | None = None,
        agents: Collection[str] | None = None,
        events: Collection[str] | None = None,
        thread: int | None = None,
    ) -> list[Event]:
        """The first `limit` events with after < id < before, in order; `agents`: for or about one of them."""
        return await self._read(reads.page, after, limit, before, agents, events, thread)

    async def frames(self, wanted: Filter, after: int, before: int, limit: int) -> Slice:
        """What `wanted` shows of at most `limit` events with after < id < before, as frames; before <= head + 1."""
        return await self._read(reads.frames, wanted, after, before, limit)

    async def inbox(self, agent: str, after: int, limit: int, *, through: int | None = None) -> list[Event]:
        """Messages to `agent` with after < id <= through, oldest first."""
        return await self._read(reads.inbox, agent, after, limit, through)

    async def living(self, agent: str, after: int, through: int, limit: int, wall: str) -> list[Event]:
        """Such messages that are neither dead nor expired at `wall` (RFC 3339 in UTC, microseconds, Z)."""
        return await self._read(reads.living, agent, after, through, limit, wall)

    async def unread(self, state: AgentState, wall: str, limit: int = ANSWER_MAX) -> int:
        """How many messages past the agent's cursor are neither dead nor expired; counted up to `limit`."""
        return await self._read(reads.count_living, state.name, state.cursor, limit, wall)

    async def unread_of(self, state: AgentState, wall: str, limit: int) -> tuple[tuple[Span, ...], list[Event]]:
        """Those messages as stretches that one segment of `state` says the same of, in order; and the first `limit`."""
        return await self._read(reads.unread_of, state, wall, limit)

    async def replies(self, message_id: int, limit: int = ANSWER_MAX) -> list[int]:
        """The ids of the messages that answer this one."""
        return await self._read(lambda c: reads.ids(c, "replies", id=message_id, limit=limit))

    async def thread(self, thread_id: int, limit: int = ANSWER_MAX) -> list[Event]:
        """The messages of a thread, in order."""
        return await self._read(reads.page, 0, limit, None, None, ("message",), thread_id)

    async def takes_part(self, thread_id: int, agents: Collection[str]) -> bool:
        """Whether one of `agents` sent or was sent a message of the thread."""
        return await self._read(reads.takes_part, thread_id, agents)

    async def stops(self) -> tuple[list[Event], int]:
        """The `thread.stopped` events that stand, oldest first; and the id of the newest `thread.resumed`, or 0."""
        return await self._read(reads.stops)

    # ---- wakes, dead letters, redactions, tokens ----

    async def wake(self, wake_id: int) -> WakeRow | None:
        """The wake with this id."""
        return await self._one_wake(lambda c: reads.wakes(c, "wake", id=wake_id))

    async def wake_by_key(self, key: str) -> WakeRow | None:
        """The wake that this key was granted."""
        return await self._one_wake(lambda c: reads.wakes(c, "wake_by_key", key=key))

    async def wakes_covering(self, agent: str, message_id: int, limit: int = ANSWER_MAX) -> list[WakeRow]:
        """The latest wakes that covered a message to `agent`, oldest first."""
        rows = await self._read(lambda c: reads.wakes(c, "wakes_covering", agent=agent, id=message_id, limit=limit))
        return rows[::-1]

    async def wakes_of(self, agent: str, limit: int) -> list[WakeRow]:
        """The agent's latest wakes, newest first."""
        return await self._read(lambda c: reads.wakes(c, "wakes_of", agent=agent, limit=limit))

    async def starts_before_open(self, agent: str, limit: int) -> list[tuple[int, str]]:
        """Ids and times of the agent's latest wakes of before this process that may have begun a turn, oldest first."""
        return await self._read(reads.starts, agent, self.head_at_open, limit)

    async def dead_letter(self, message_id: int) -> DeadLetter | None:
        """What is known of a dead message; None for one that is not dead."""
        return await self._read(reads.dead_letter, message_id)

    async def last_wake_covering(self, agent: str, message_id: int) -> WakeRow | None:
        """The latest wake that covered a message to `agent`."""
        return await self._one_wake(lambda c: reads.wakes(c, "last_wake_covering", agent=agent, id=message_id))

    async def dead_letters(self, agent: str | None, after: int, limit: int, *, closed: bool) -> list[DeadLetter]:
        """Dead letters of `agent` (None: of all) with message ids after `after`, in order; open ones, or with `closed`
        those that were closed, too."""
        return await self._read(reads.dead_letters, agent, after, limit, closed)

    async def count_dead(self, agent: str, limit: int = ANSWER_MAX) -> int:
        """How many dead letters of the agent are open; counted up to `limit`."""
        return (await self._read(lambda c: reads.ids(c, "count_dead_letters", agent=agent, limit=limit)))[0]

    async def deadlines_due(self, wall: str, limit: int) -> list[int]:
        """The messages whose deadline has passed at `wall`, and whose sender was not told yet; the earliest first."""
        return await self._read(lambda c: reads.ids(c, "deadlines_due", wall=wall, limit=limit))

    async def unreached(self, agent: str, after: int, limit: int) -> list[Unreached]:
        """The agent's messages after `after`, oldest first, with what decides about telling of them."""
        return await self._read(reads.unreached, agent, after, limit)

    async def dead(self, ids: Collection[int]) -> set[int]:
        """Which of these messages are dead."""
        return set(await self._read(lambda c: reads.ids(c, "dead", ids=reads.json_array(ids)))) if ids else set()

    async def redacted(self, message_id: int) -> bool:
        """Whether this message's payload was erased."""
        return bool(await self._read(lambda c: reads.ids(c, "redaction", id=message_id)))

    async def tokens(self) -> list[TokenRow]:
        """Every token, revoked ones too, oldest first; of a name that was taken again only the latest."""
        return await self._read(reads.tokens)

    async def _one_wake(self, question: Callable[[sqlite3.Connection], list[WakeRow]]) -> WakeRow | None:
        found = await self._read(question)
        return found[0] if found else None

    async def _read(self, function: Callable[..., _T], *args: object) -> _T:
        try:
            return await self._readers.run(function, *args)
        except sqlite3.Error as error:
            raise Unavailable(f"the log could not be read: {error}", retry_after_s=1) from error


class _Opened:
    """What the writer finds when it opens the log."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.lineage = lineage.load(connection)
        quiet = lineage.get(connection, "quiet")
        self.quiet_kept_s = None if quiet is None else float(quiet)
        self.agents = load_agents(connection)
        self.head = reads.head(connection) or (0, GENESIS)


def _prepare(connection: sqlite3.Connection, now: float) -> _Opened:
    migrate(connection)
    lineage.adopt(connection, now)
    # What a redaction erased just before a crash may still be in the write-ahead log.
    database.fold_wal(connection)
    reached("bus.open.folded")
    bundle.prepare(connection)
    return _Opened(connection)


async def _close(connections: list[database.Connection]) -> None:
    for connection in connections:
        await connection.close()
