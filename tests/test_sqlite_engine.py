"""The SQLite engine: what shares a transaction, what is refused, and what happens when a commit fails."""

import asyncio
import resource
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from eventlog import database
from eventlog.engine import Append, Appended, Replayed
from eventlog.errors import TooManyRequests, Unavailable
from eventlog.event import Draft, Event
from eventlog.sqlite_engine import SqliteEngine
from eventlog.store import Store
from tests.appends import ack, message, one

pytestmark = pytest.mark.anyio

#: How long a test waits for what must come.
DEADLINE_S = 20


@asynccontextmanager
async def opened(
    folder: Path, group_max: int = 512, append_queue_max: int = 10_000
) -> AsyncIterator[tuple[SqliteEngine, Store]]:
    async with (
        Store.open(folder) as store,
        SqliteEngine.open(store, group_max=group_max, append_queue_max=append_queue_max) as engine,
    ):
        yield engine, store


class Busy:
    """Keeps the writer's thread from committing until `let_go`, and counts its transactions after that."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._go = threading.Event()
        self.statements: list[str] = []

    async def __aenter__(self) -> "Busy":
        begun = threading.Event()

        def wait(connection: sqlite3.Connection) -> None:
            begun.set()
            assert self._go.wait(DEADLINE_S)
            connection.set_trace_callback(self.statements.append)

        self._task = asyncio.create_task(self._store.writer.run(wait))
        await asyncio.to_thread(begun.wait, DEADLINE_S)
        return self

    def let_go(self) -> None:
        self._go.set()

    async def __aexit__(self, *_: object) -> None:
        self.let_go()
        await self._task

    @property
    def commits(self) -> int:
        # A statement that has triggers is told again with each step of theirs.
        bundles = {text for text in self.statements if text.startswith("INSERT INTO plain_")}
        return self.statements.count("COMMIT") + len(bundles)


async def waiting(engine: SqliteEngine, requests: list[Append]) -> list[asyncio.Task[object]]:
    """Appends that are on their way: all of them have been handed to the engine."""
    tasks = [asyncio.create_task(engine.append(request)) for request in requests]
    await asyncio.sleep(0)
    return tasks  # type: ignore[return-value]


class TestGroups:
    async def test_appends_that_wait_share_one_transaction(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as (engine, store), Busy(store) as busy:
            tasks = await waiting(engine, [one(message()) for _ in range(100)])
            busy.let_go()
            await asyncio.wait_for(asyncio.gather(*tasks), DEADLINE_S)
            assert engine.head.value == 100
            assert busy.commits == 1

    async def test_a_group_has_its_limit_and_parts_no_request(self, tmp_path: Path) -> None:
        async with opened(tmp_path, group_max=10) as (engine, store), Busy(store) as busy:
            requests = [Append(tuple(message() for _ in range(size))) for size in (4, 4, 4, 25, 1)]
            tasks = await waiting(engine, requests)
            busy.let_go()
            await asyncio.wait_for(asyncio.gather(*tasks), DEADLINE_S)
            assert busy.commits == 4, "4 + 4, 4, 25, 1"

    async def test_one_alone_is_committed_without_any_other(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as (engine, _):
            assert isinstance(await asyncio.wait_for(engine.append(one(message())), DEADLINE_S), Appended)

    async def test_a_repeat_or_a_lost_condition_alone_is_no_transaction(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as (engine, store):
            await engine.append(one(message(), "k1"))
            async with Busy(store) as busy:
                busy.let_go()
                assert isinstance(await engine.append(one(message(), "k1")), Replayed)
                await engine.append(one(ack(1), mel=7))
                assert busy.commits == 0

    async def test_an_agent_is_written_once_however_often_it_changed(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as (engine, store):
            await engine.append(Append(tuple(message() for _ in range(10))))
            async with Busy(store) as busy:
                tasks = await waiting(engine, [one(ack(cursor)) for cursor in range(1, 11)])
                busy.let_go()
                await asyncio.gather(*tasks)
                assert sum("INSERT INTO agents" in s for s in busy.statements) == 1
            assert store.agent("mel").cursor == 10

    async def test_listeners_hear_of_each_event_once_in_order_and_before_the_head_moves(self, tmp_path: Path) -> None:
        heard: list[Event] = []
        async with opened(tmp_path) as (engine, store):

            def listen(events: object) -> None:
                assert isinstance(events, list)
                assert engine.head.value < events[0].id
                assert all(store.known(event.sender) for event in events if event.event == "message")
                heard.extend(events)

            engine.listeners.append(listen)
            await asyncio.gather(*(engine.append(one(message(sender=f"s{i}"))) for i in range(50)))
            assert heard == await store.page(0, 100)


class TestLimits:
    async def test_more_than_may_wait_are_refused_and_may_come_again(self, tmp_path: Path) -> None:
        async with opened(tmp_path, append_queue_max=5) as (engine, store):
            async with Busy(store) as busy:
                first = await waiting(engine, [one(message())])
                await asyncio.sleep(0)  # the writer has taken it: it waits no more
                queued = await waiting(engine, [one(message()) for _ in range(5)])
                with pytest.raises(TooManyRequests) as caught:
                    await engine.append(one(message()))
                assert caught.value.retry_after_s == 1
                busy.let_go()
                await asyncio.wait_for(asyncio.gather(*first, *queued), DEADLINE_S)
            await engine.append(one(message()))
            assert engine.head.value == 7


class TestClosing:
    async def test_what_was_handed_over_is_committed_first(self, tmp_path: Path) -> None:
        async with Store.open(tmp_path) as store:
            async with SqliteEngine.open(store) as engine:
                tasks = await waiting(engine, [one(message()) for _ in range(20)])
            await asyncio.gather(*tasks)
            assert len(await store.page(0, 100)) == 20

    async def test_nothing_is_taken_after_it(self, tmp_path: Path) -> None:
        async with Store.open(tmp_path) as store:
            async with SqliteEngine.open(store) as engine:
                pass
            with pytest.raises(Unavailable):
                await engine.append(one(message()))


@contextmanager
def no_file_may_grow_past(size: int) -> Iterator[None]:
    """A disk that is full, as far as this process can tell."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestFailure:
    async def test_a_commit_that_fails_is_not_guessed_at(self, tmp_path: Path) -> None:
        large = message(payload=b'"' + b"x" * 200_000 + b'"')
        async with opened(tmp_path) as (engine, store):
            earlier = await engine.append(one(message()))
            async with Busy(store) as busy:
                tasks = await waiting(engine, [one(message(), "k1"), one(large, "k2"), one(message(), "k3")])
                wal = (tmp_path / f"{database.FILE}-wal").stat().st_size
                with no_file_may_grow_past(wal + 50_000):
                    busy.let_go()
                    answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), DEADLINE_S)
            assert all(isinstance(answer, Unavailable) for answer in answers), answers
            assert engine.failed.is_set()
            assert engine.head.value == 1
            with pytest.raises(Unavailable):
                await engine.append(one(message()))
        async with opened(tmp_path) as (engine, store):
            repeated = [await engine.append(one(draft, key)) for draft, key in ((message(), "k1"), (large, "k2"))]
            assert all(isinstance(answer, Appended | Replayed) for answer in repeated)
            assert isinstance(earlier, Appended)
            stored = await store.page(0, 10)
            assert stored[0] == earlier.events[0]
            assert sorted(event.fields.get("type", "") for event in stored).count("TASK") == len(stored)
            assert len({event.payload for event in stored if event.payload and len(event.payload) > 1000}) == 1

    async def test_who_waits_behind_the_failed_transaction_is_told_too(self, tmp_path: Path) -> None:
        async with opened(tmp_path, group_max=1) as (engine, store):

            def break_it(connection: sqlite3.Connection) -> None:
                connection.execute("DROP TABLE threads")

            await store.writer.run(break_it)
            tasks = await waiting(engine, [one(message()) for _ in range(5)])
            answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), DEADLINE_S)
            assert all(isinstance(answer, Unavailable) for answer in answers)
            assert engine.failed.is_set()

    async def test_a_listener_that_fails_stops_everything_aloud(self, tmp_path: Path) -> None:
        def listen(events: object) -> None:
            raise RuntimeError("a mistake")

        async with opened(tmp_path) as (engine, _):
            engine.listeners.append(listen)
            with pytest.raises(Unavailable):
                await asyncio.wait_for(engine.append(one(message())), DEADLINE_S)
            assert engine.failed.is_set()


SECRET = b"xyzzy-plugh-42"


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


class TestRedaction:
    redact = Draft("redacted", {"message_id": 1, "reason": "a password"})

    @pytest.mark.parametrize("size", [1, 3000])
    async def test_nothing_of_it_stays_in_any_file(self, tmp_path: Path, size: int) -> None:
        async with opened(tmp_path) as (engine, store):
            payload = b'"' + SECRET * size + b'"'
            answer = await engine.append(one(message(payload=payload)))
            assert isinstance(answer, Appended)
            assert SECRET in on_disk(tmp_path)
            await engine.append(one(self.redact))
            assert SECRET not in on_disk(tmp_path)
            stored = await store.event(1)
            assert stored is not None
            assert (stored.payload, stored.hash) == (None, answer.events[0].hash)
            assert await store.redacted(1)
            assert not await store.redacted(2)

    async def test_a_reader_in_the_way_only_puts_it_off(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as (engine, _):
            await engine.append(one(message(payload=b'"' + SECRET + b'"')))
            reader = database.open_reader(tmp_path / database.FILE)
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM events").fetchall()
            await engine.append(one(self.redact))
            assert SECRET in on_disk(tmp_path)
            reader.execute("COMMIT")
            reader.close()
            await engine.append(one(message()))
            assert SECRET not in on_disk(tmp_path)

    async def test_redacting_twice_or_nothing_is_harmless(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as (engine, store):
            await engine.append(one(message()))
            for message_id in (1, 1, 2, 999):
                draft = Draft("redacted", {"message_id": message_id, "reason": "r"})
                assert isinstance(await engine.append(one(draft)), Appended)
            assert (await store.page(0, 10))[0].payload is None
