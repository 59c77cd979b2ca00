"""The store: what it answers of messages, wakes, agents and tokens, and its files."""

import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from eventlog import database
from eventlog.agents import EVERYONE, Limits, Segment
from eventlog.engine import Append, Appended
from eventlog.errors import SchemaError, Unavailable
from eventlog.event import Draft
from eventlog.sqlite_engine import SqliteEngine
from eventlog.store import Store
from eventlog.wakes import Span
from tests.appends import ack, finished, message, one, started

pytestmark = pytest.mark.anyio

WALL = "2026-06-01T00:00:00.000000Z"
PAST = "2026-05-31T23:59:59Z"
FUTURE = "2026-06-01T02:00:01+02:00"


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[tuple[SqliteEngine, Store]]:
    async with Store.open(folder) as store, SqliteEngine.open(store) as engine:
        yield engine, store


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[tuple[SqliteEngine, Store]]:
    async with opened(tmp_path) as pair:
        yield pair


async def put(engine: SqliteEngine, *drafts: Draft) -> list[int]:
    """Append; the ids."""
    answer = await engine.append(Append(drafts))
    assert isinstance(answer, Appended)
    return [event.id for event in answer.events]


class TestMessages:
    async def test_an_inbox_is_one_agent_s_messages(self, log: tuple[SqliteEngine, Store]) -> None:
        engine, store = log
        ids = await put(engine, message(), message(to="bo"), ack(1), message(to="MEL"), message())
        assert [event.id for event in await store.inbox("Mel", 0, 10)] == [ids[0], ids[3], ids[4]]
        assert [event.id for event in await store.inbox("mel", ids[0], 1)] == [ids[3]]
        assert [event.id for event in await store.inbox("mel", 0, 10, through=ids[3])] == [ids[0], ids[3]]

    async def test_what_is_living_is_neither_expired_nor_dead(self, log: tuple[SqliteEngine, Store]) -> None:
        engine, store = log
        drafts = [message(), message(expires=PAST), message(expires=FUTURE), message(), message(to="bo")]
        ids = await put(engine, *drafts)
        await put(engine, Draft("dead_letter", {"message_id": ids[3], "agent": "mel", "reason": "r", "attempts": 1}))
        assert [event.id for event in await store.living("mel", 0, 99, 10, WALL)] == [ids[0], ids[2]]
        assert await store.unread(store.agent("mel"), WALL) == 2
        assert await store.unread(store.agent("mel"), WALL, limit=1) == 1
        await put(engine, ack(ids[0]))
        assert await store.unread(store.agent("mel"), WALL) == 1

    async def test_a_message_is_no_other_event(self, log: tuple[SqliteEngine, Store]) -> None:
        engine, store = log
        await put(engine, message(), ack(1))
        assert (await store.message(1)) == (await store.event(1))
        assert await store.event(2) is not None
        assert await store.message(2) is None
        assert await store.event(3) is None

    async def test_threads_and_replies(self, log: tuple[SqliteEngine, Store]) -> None:
        engine, store = log
        await put(engine, message(), message(to="bo"), message("tony", "Mel", thread_id=1, reply_to=1))
        assert [event.id for event in await store.thread(1)] == [1, 3]
        assert await store.thread(99) == []
        assert await store.replies(1) == [3]
        assert await store.replies(3) == []
        assert await store.takes_part(1, ["MEL"])
        assert await store.takes_part(1, ["bo", "tony"])
        assert not await store.takes_part(1, ["bo"])
        assert not await store.takes_part(99, ["mel"])


class TestSpans:
    async def test_a_stretch_for_each_segment_and_each_gap_with_something_living(
        self, log: tuple[SqliteEngine, Store]
    ) -> None:
        engine, store = log
        ids = await put(engine, *(message() for _ in range(6)), message(to="bo"))
        wake = (await put(engine, started(ids[3], after=ids[1])))[0]
        covered = Segment(ids[1], ids[3], attempts=1)
        assert (await store.unread_of(store.agent("mel"), WALL, 10))[0] == (
            Span(None, ids[0], ids[1], 0),
            Span(covered, ids[2], ids[3], ids[1]),
            Span(None, ids[4], ids[5], ids[3]),
        )
        await put(engine, finished(wake, "failed"), ack(ids[0]))
        assert (await store.unread_of(store.agent("mel"), WALL, 10))[0] == (Span(None, ids[1], ids[5], ids[0]),)

    async def test_before_is_the_agent_s_own_message_even_one_that_expired(
        self, log: tuple[SqliteEngine, Store]
    ) -> None:
        engine, store = log
        ids = await put(engine, message(expires=PAST), message(to="bo"), message(), message(expires=PAST))
        assert (await store.unread_of(store.agent("mel"), WALL, 10))[0] == (Span(None, ids[2], ids[2], ids[0]),)

    async def test_dead_ones_are_no_span_and_settled_ones_are(self, log: tuple[SqliteEngine, Store]) -> None:
        engine, store = log
        ids = await put(engine, message(), message())
        await put(engine, started(ids[0], limits=Limits(ack="none")))
        await put(engine, finished(3, "ok"), started(ids[1], after=ids[0], key="k2"))
        await put(engine, finished(5, "failed"))
        await put(engine, Draft("dead_letter", {"message_id": ids[1], "agent": "mel", "reason": "r", "attempts": 1}))
        assert (await store.unread_of(store.agent("mel"), WALL, 10))[0] == (
            Span(Segment(0, ids[0], settled=True), ids[0], ids[0], 0),
        )

    async def test_nothing_unread_is_no_span(self, log: tuple[SqliteEngine, Store]) -> None:
        engine, store = log
        assert (await store.unread_of(store.agent("nobody"), WALL, 10))[0] == ()
        await put(engine, message(), ack(1))
        assert (await store.unread_of(store.agent("mel"), WALL, 10))[0] == ()


class TestWakes:
    async def test_a_wake_as_the_log_tells_it(self, log: tuple[SqliteEngine, Store]) -> None:
        engine, store = log
        await put(engine, message("Mel"))
        answer = await engine.append(one(started(1, agent="Mel", key="k1"), "k1", b"r" * 32))
        assert isinstance(answer, Appended)
        row = await store.wake(2)
        assert row is not None
        assert row == await store.wake_by_key("k1")
        assert (row.id, row.agent, row.after, row.through, row.attempt) == (2, "Mel", 0, 1, 1)
        assert (row.limits, row.outcome, row.reported, row.request) == (Limits(), None, False, b"r" * 32)
        assert row.time == answer.events[0].fields["time"]
        assert await store.wake(1) is None
        assert await store.wake_by_key("k2") is None

    async def test_what_the_bus_said_gives_way_to_a_report_and_that_stands(
        self, log: tuple[SqliteEngine, Store]
    ) -> None:
        engine, store = log
        await put(engine, message(), started(1))
        ends: list[tuple[str | None, bool, int]] = []
        for end in (finished(2, "interrupted", by="bus"), finished(2, "ok", exit_code=0, duration_ms=7), finished(2)):
            await put(engine, end)
            row = await store.wake(2)
            assert row is not None
            ends.append((row.outcome, row.reported, row.finished))
        assert ends == [("interrupted", False, 3), ("ok", True, 4), ("ok", True, 4)]
        assert row is not None
        assert (row.exit_code, row.duration_ms) == (0, 7)

    async def test_the_wakes_that_covered_a_message(self, log: tuple[SqliteEngine, Store]) -> None:
        engine, store = log
        ids = await put(engine, *(message() for _ in range(3)))
        covers = [(0, ids[1]), (ids[1], ids[2]), (0, ids[2])]
        wakes = []
        for n, (after, through) in enumerate(covers):
            wakes += await put(engine, started(through, after=after, key=f"k{n}"))
            await put(engine, finished(wakes[-1], "failed"))
        covering = [[row.id for row in await store.wakes_covering("MEL", i)] for i in ids]
        assert covering == [[wakes[0], wakes[2]], [wakes[0], wakes[2]], [wakes[1], wakes[2]]]
        assert [row.id for row in await store.wakes_of("mel", 2)] == [wakes[2], wakes[1]]
        assert await store.wakes_covering("bo", ids[0]) == []


class TestAgents:
    async def test_who_is_known_and_how_they_are_spelled(self, log: tuple[SqliteEngine, Store]) -> None:
        engine, store = log
        await put(engine, message("Mel", "Tony"), message("mel", "bus"), message("Zoe", "admin"))
        assert store.names() == ["Tony"], "a message to someone makes nobody known, nor do the bus and admins"
        await put(
            engine,
            message("TONY", "MEL"),
            Draft("token.created", {"name": "t", "kind": "watcher", "agents": ["Ann", "ZOE", "*"], "sha256": "00"}),
            started(1, agent="Wake"),
        )
        assert store.names() == ["Ann", "Mel", "Tony", "Wake", "Zoe"]
        assert store.known("ZOE")
        assert not store.known("nobody")
        assert store.agent("MEL").name == "Mel"
        assert store.agent("Nobody").name == "Nobody"

    async def test_states_are_the_same_after_opening_again(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as (engine, store):
            await put(engine, message("Mel"), started(1), ack(1), Draft("agent.paused", {"agent": "*", "by": "admin"}))
            before = dict(store.states()), store.names(), store.log_id
            assert store.agent(EVERYONE).paused
        async with opened(tmp_path) as (_, store):
            assert (dict(store.states()), store.names(), store.log_id) == before
            assert store.head_at_open == 4


class TestTokens:
    async def test_tokens_that_are_good_and_that_were_revoked(self, log: tuple[SqliteEngine, Store]) -> None:
        engine, store = log
        fields = {"name": "Phone", "kind": "agent", "agents": ["Mel", "bo"], "peer": "tony", "sha256": "ab"}
        await put(engine, Draft("token.created", fields))
        row = (await store.tokens())[0]
        assert (row.name, row.kind, row.agents, row.peer) == ("Phone", "agent", ("Mel", "bo"), "tony")
        assert (row.sha256, row.created, row.revoked) == ("ab", 1, None)
        await put(engine, Draft("token.revoked", {"name": "PHONE"}))
        assert [row.revoked for row in await store.tokens()] == [2]
        await put(engine, Draft("token.created", {"name": "phone", "kind": "auditor", "sha256": "cd"}))
        assert [(row.name, row.sha256, row.revoked) for row in await store.tokens()] == [("phone", "cd", None)]


class TestDeadLetters:
    async def test_a_message_dies_once(self, log: tuple[SqliteEngine, Store]) -> None:
        engine, store = log
        letter = {"message_id": 1, "agent": "mel", "reason": "max_attempts"}
        await put(engine, message(), message(), Draft("dead_letter", {**letter, "attempts": 10}))
        await put(engine, Draft("dead_letter", {**letter, "attempts": 11}))
        assert await store.dead([1, 2]) == {1}
        assert await store.dead([]) == set()
        dead = await store.dead_letter(1)
        assert dead is not None
        assert (dead.id, dead.attempts, dead.reason) == (3, 10, "max_attempts")
        assert await store.dead_letter(2) is None


class TestFile:
    async def test_only_its_owner_may_read_it(self, tmp_path: Path) -> None:
        folder = tmp_path / "new" / "log"
        async with opened(folder) as (engine, _):
            await put(engine, message())
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
        assert modes == {"log": 0o700, "eventlog.db": 0o600, "eventlog.db-wal": 0o600, "eventlog.db-shm": 0o600}

    async def test_commits_are_flushed_to_the_disk(self, log: tuple[SqliteEngine, Store]) -> None:
        _, store = log

        def pragmas(connection: sqlite3.Connection) -> list[object]:
            names = ("journal_mode", "synchronous", "secure_delete")
            return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

        assert await store.writer.run(pragmas) == ["wal", 2, 1]

    async def test_readers_cannot_write(self, log: tuple[SqliteEngine, Store], tmp_path: Path) -> None:
        reader = database.open_reader(tmp_path / database.FILE)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute("INSERT INTO meta VALUES ('a', 'b')")
        reader.close()

    async def test_a_file_that_is_no_database_is_said_to_be_none(self, tmp_path: Path) -> None:
        (tmp_path / database.FILE).write_text("something else " * 100)
        with pytest.raises(SchemaError, match="not a SQLite database"):
            async with Store.open(tmp_path):
                pass

    async def test_a_read_that_fails_is_unavailable(self, log: tuple[SqliteEngine, Store]) -> None:
        _, store = log
        await store.writer.run(lambda connection: connection.execute("DROP TABLE dead_letters"))
        with pytest.raises(Unavailable, match="dead_letters"):
            await store.dead_letter(1)

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM events",
            "UPDATE events SET payload = '1'",
            "UPDATE events SET payload = NULL",
            "UPDATE events SET payload = NULL, salt = NULL, hash = x'00'",
            "UPDATE events SET payload = NULL, salt = NULL, agent = 'bo'",
            "UPDATE events SET time = 'now'",
        ],
    )
    async def test_the_log_is_append_only(self, log: tuple[SqliteEngine, Store], statement: str) -> None:
        engine, store = log
        await put(engine, message())
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            await store.writer.run(lambda connection: connection.execute(statement))
