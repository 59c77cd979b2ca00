"""SqliteEngine: the engine of one node; SQLite's own transaction orders events, and appends that meet share one."""

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec
import structlog

from eventlog import bundle, database
from eventlog.crashpoint import reached
from eventlog.engine import Append, Appended, Key, Replayed, Stale
from eventlog.errors import TooManyRequests, Unavailable
from eventlog.event import Event, kinds_of
from eventlog.head import Head
from eventlog.projections import Projector
from eventlog.queries import SQL, Write, run_each
from eventlog.seal import salts, seal, utc_now
from eventlog.store import Store

Answer = Appended | Replayed | Stale
_Waiting = tuple[asyncio.Future[Answer], Append]
#: Called with the events of each commit, on the loop, after the store has moved on by them and before the head moves.
Listener = Callable[[Sequence[Event]], None]

_log = structlog.get_logger()


class SqliteEngine:
    """Group commit: one writer takes all appends that wait, makes one transaction of them, and answers after it.

    Nothing waits on a timer: an append that comes alone is committed at once. An error in a transaction means that its
    outcome is not known; from then on the engine refuses everything, and `failed` tells the process to stop.
    """

    def __init__(
        self,
        store: Store,
        *,
        group_max: int = 512,
        append_queue_max: int = 10_000,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._group_max = group_max
        self._queue_max = append_queue_max
        self._wall = wall
        self._waiting: deque[_Waiting] = deque()
        self._more = asyncio.Event()
        self._closing = False
        self._tail = (max(store.head_at_open, store.lineage[-1].first_new_id - 1), store.hash_at_open)
        self._erased = False
        #: Set once a transaction's outcome is not known; the process must stop.
        self.failed = asyncio.Event()
        #: What wants to see every event as it is appended.
        self.listeners: list[Listener] = []

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        store: Store,
        *,
        group_max: int = 512,
        append_queue_max: int = 10_000,
        wall: Callable[[], float] = time.time,
    ) -> AsyncIterator["SqliteEngine"]:
        """An engine on `store` until the block ends; what was appended before that is committed first.

        `group_max`: the most events that share a transaction (one request's are never parted). `append_queue_max`: the
        most requests that wait for one. `wall` gives seconds since 1970, for the events' `time`.
        """
        engine = cls(store, group_max=group_max, append_queue_max=append_queue_max, wall=wall)
        writer = asyncio.create_task(engine._write(), name="log writer")
        try:
            yield engine
        finally:
            engine._closing = True
            engine._more.set()
            # Shielded: a transaction that was begun must end before the connection closes.
            await asyncio.shield(writer)

    @property
    def head(self) -> Head:
        """The id of the newest durable event, awaitable."""
        return self._store.head

    async def append(self, request: Append) -> Answer:
        """Append and answer once it is durable. A cancelled append may take effect all the same.

        Raises Unavailable when the outcome is not known or the engine is closed, TooManyRequests when
        `append_queue_max` requests wait, and TypeError, KeyError or ValueError for a draft that is no event.
        """
        if self._closing or self.failed.is_set():
            raise _unavailable()
        if len(self._waiting) >= self._queue_max:
            raise TooManyRequests("too many appends are waiting; send it again with its key", retry_after_s=1)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((answer, request))
        self._more.set()
        return await answer

    async def _write(self) -> None:
        group: list[_Waiting] = []
        try:
            while not self._closing or self._waiting:
                await self._more.wait()
                self._more.clear()
                while self._waiting:
                    group = self._next_group()
                    await self._commit(group)
        except Exception as error:
            _log.error("a commit failed; see to the disk", reason=str(error), at=str(self._store.path))
            self.failed.set()
            for answer, _ in (*group, *self._waiting):
                if not answer.done():
                    answer.set_exception(_unavailable(error))
            self._waiting.clear()

    def _next_group(self) -> list[_Waiting]:
        waiting, group = self._waiting, [self._waiting.popleft()]
        room = self._group_max - len(group[0][1].drafts)
        while waiting and (size := len(waiting[0][1].drafts)) <= room:
            group.append(waiting.popleft())
            room -= size
        return group

    async def _commit(self, group: list[_Waiting]) -> None:
        requests = [request for _, request in group]
        done = await self._store.writer.run(_append_all, requests, self._store, self._tail, utc_now(self._wall()))
        self._tail = done.tail
        self._store.publish(done.projector.agents)
        if done.events:
            for listener in self.listeners:
                listener(done.events)
            self._store.head.advance(done.events[-1].id)
            reached("bus.append.advanced")
            self._erased |= "redacted" in kinds_of(done.events)
            if self._erased:
                self._erased = not await self._store.writer.run(database.fold_wal)
                reached("bus.append.folded")
        # A step of the loop later: what followers are sent goes out before anyone makes an answer of these.
        asyncio.get_running_loop().call_soon(_answer, group, done.answers)


def _answer(group: Sequence[_Waiting], answers: Sequence[Answer | Exception]) -> None:
    for (future, _), answer in zip(group, answers, strict=True):
        if future.done():  # cancelled by whoever waited
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
    reached("bus.append.answered")


class _Group:
    """One transaction in the making: each request is decided after those before it, before anything is written."""

    def __init__(
        self, connection: sqlite3.Connection, store: Store, tail: tuple[int, bytes], time_: str, drafts: int
    ) -> None:
        self._connection = connection
        self._time = time_
        self.tail = tail
        self.projector = Projector(store.find)
        self._salts = salts(drafts)
        self.events: list[Event] = []
        self.rows: list[Write] = []
        self.answers: list[Answer | Exception] = []
        self._keyed: dict[tuple[str, str], Replayed] = {}

    def take(self, request: Append) -> None:
        """Decide one request."""
        try:
            self.answers.append(self._decide(request))
        except (KeyError, TypeError, ValueError, msgspec.MsgspecError) as error:
            # Not an event that can be stored: its maker's mistake, and no reason to fail the others.
            self.answers.append(error)

    def _decide(self, request: Append) -> Answer:
        if request.key is not None:
            earlier = self._earlier(request.key)
            if earlier is not None:
                return earlier
        for name, version in request.expect.items():
            agent = self.projector.find(name)
            if (agent.state.version if agent is not None else 0) != version:
                return Stale()
        # One draft is followed whole or not at all; several need a place of their own until the last one is.
        projector = self.projector if len(request.drafts) == 1 else Projector(self.projector.find)
        events: list[Event] = []
        rows: list[Write] = []
        id_, hash_ = self.tail
        time_, key, salts = self._time, request.key, self._salts
        for part, draft in enumerate(request.drafts):
            id_ += 1
            event, row = seal(draft, id_, time_, hash_, key, part, next(salts))
            hash_ = event.hash
            projector.apply(event)
            events.append(event)
            rows.append(row)
        self.tail = (id_, hash_)
        if projector is not self.projector:
            self.projector.take(projector)
        self.events += events
        self.rows += rows
        if request.key is not None:
            self._keyed[request.key.scope, request.key.key] = Replayed(tuple(events), request.key.request)
        return Appended(tuple(events))

    def _earlier(self, key: Key) -> Replayed | None:
        """What this key made: earlier in this transaction, or in one before."""
        found = self._keyed.get((key.scope, key.key))
        if found is not None:
            return found
        rows = self._connection.execute(SQL["keyed"], {"scope": key.scope, "key": key.key}).fetchall()
        return Replayed(tuple(Event(*row[:-1]) for row in rows), rows[0][-1]) if rows else None

    def write(self) -> None:
        """Make it durable; nothing to write is no transaction."""
        if not self.rows:
            return
        reached("bus.append.decided")
        if not self.projector.agents and bundle.run(self._connection, self.rows, self.projector.writes):
            reached("bus.append.committed")
        else:
            self._transact()

    def _transact(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            reached("bus.append.begun")
            run_each(self._connection, self.rows)
            reached("bus.append.inserted")
            self.projector.write(self._connection)
            reached("bus.append.projected")
            self._connection.execute("COMMIT")
            reached("bus.append.committed")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def _append_all(
    connection: sqlite3.Connection, requests: list[Append], store: Store, tail: tuple[int, bytes], time_: str
) -> _Group:
    """On the writer's thread: decide every request in order, write them in one transaction."""
    group = _Group(connection, store, tail, time_, sum(len(request.drafts) for request in requests))
    for request in requests:
        group.take(request)
    group.write()
    return group


def _unavailable(error: Exception | None = None) -> Unavailable:
    cause = f" ({error})" if error is not None else ""
    return Unavailable(f"the append's outcome is not known{cause}; send it again with its key", retry_after_s=1)
