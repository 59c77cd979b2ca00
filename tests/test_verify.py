"""Verify finds whatever was changed in a log's file behind the bus's back, and names the event."""

import asyncio
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from eventlog import database
from eventlog.engine import Append, Key
from eventlog.errors import SchemaError
from eventlog.event import Draft
from eventlog.maintenance import anchor, verify
from eventlog.sqlite_engine import SqliteEngine
from eventlog.store import Store
from tests.appends import ack, finished, message, started

#: Keyed messages at the start of the log; one of them is large enough to spill over several pages.
MESSAGES = 40
LARGE = 20
REDACTED = 7


async def fill(folder: Path) -> None:
    async with Store.open(folder) as store, SqliteEngine.open(store) as engine:
        for n in range(1, MESSAGES + 1):
            payload = b'"payload %d %s"' % (n, b"x" * (9000 if n == LARGE else 30))
            await engine.append(Append((message(payload=payload),), key=Key("tony", f"key{n}", b"R" * 32)))
        await engine.append(Append((started(1),), key=Key("wake:", "k", b"Q" * 32)))
        redacted = Draft("redacted", {"message_id": REDACTED, "reason": "r"})
        created = Draft("token.created", {"name": "t", "kind": "agent", "agents": ["mel"], "sha256": "ab"})
        await engine.append(Append((finished(MESSAGES + 1), redacted, ack(5), created)))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with every kind of thing in it, cleanly closed."""
    folder = tmp_path_factory.mktemp("log")
    asyncio.run(fill(folder))
    assert [path.name for path in folder.iterdir()] == [database.FILE]
    return folder / database.FILE


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy of it to be changed."""
    shutil.copy(pristine, tmp_path)
    return tmp_path


def change(folder: Path, *statements: str) -> None:
    """Change the file as someone could who has SQLite and no scruples."""
    with closing(sqlite3.connect(folder / database.FILE, isolation_level=None)) as connection:
        triggers = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        for _, sql in triggers:
            connection.execute(sql)


def test_a_log_as_it_was_written_is_good(folder: Path) -> None:
    report = verify(folder)
    assert report.ok, report.detail
    assert (report.events, report.head) == (MESSAGES + 5, MESSAGES + 5)
    assert (report.head, report.hash) == anchor(folder)


@pytest.mark.parametrize("n", [1, 2, LARGE, MESSAGES])
def test_one_flipped_byte_of_a_payload_is_found_and_named(folder: Path, n: int) -> None:
    content = bytearray((folder / database.FILE).read_bytes())
    at = content.index(b"payload %d " % n)
    content[at] ^= 1
    (folder / database.FILE).write_bytes(content)
    report = verify(folder)
    assert (report.ok, report.id) == (False, n)
    assert report.head == n - 1, "everything before it is as it was"


def logical(folder: Path) -> list[str]:
    """Everything that SQL shows of the database."""
    with closing(sqlite3.connect(folder / database.FILE)) as connection:
        return list(connection.iterdump())


def test_any_flipped_bit_is_found_unless_nothing_reads_it(folder: Path) -> None:
    path = folder / database.FILE
    content = path.read_bytes()
    before = logical(folder)
    rng = random.Random(20261122)
    found = 0
    for _ in range(250):
        at, bit = rng.randrange(len(content)), 1 << rng.randrange(8)
        for other in folder.iterdir():
            other.unlink()
        path.write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
        try:
            ok = verify(folder).ok
        except SchemaError:
            ok = False
        found += not ok
        if ok:
            assert logical(folder) == before, f"byte {at}, bit {bit}"
    assert found > 50


#: Every column but the id, without the key, which is unique.
COPIED = (
    "event, time, agent, sender, thread_id, reply_to, expires, NULL, NULL, NULL, NULL, "
    "header, salt, digest, hash, payload"
)
TEXT = {"event": "'ack'", "time": "'2026-01-01T00:00:00.000000Z'", "agent": "'bo'", "sender": "'bo'"}


@pytest.mark.parametrize(
    "assignment",
    [
        *(f"{column} = {value}" for column, value in TEXT.items()),
        "sender = NULL",
        "thread_id = 4",
        "reply_to = 1",
        "expires = '2026-01-01T00:00:00.000000Z'",
        "scope = 'ann'",
        "key = 'other'",
        "part = 1",
        "request = x'00'",
        "scope = NULL, key = NULL, part = NULL",
        "header = replace(header, 'tony', 'toni')",
        "payload = '\"payload 99\"'",
        "payload = NULL",
        "payload = NULL, salt = NULL",
        "salt = x'00'",
        "digest = x'00'",
        "hash = x'00'",
    ],
)
def test_a_changed_column_is_found_and_named(folder: Path, assignment: str) -> None:
    change(folder, f"UPDATE events SET {assignment} WHERE id = 5")
    report = verify(folder)
    assert (report.ok, report.id) == (False, 5), report


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("DELETE FROM events WHERE id = 5", 6),
        ("UPDATE events SET id = 1000 WHERE id = 5", 6),
        ("UPDATE events SET id = 4.0 + 96 WHERE id = 45", 100),
        (f"INSERT INTO events SELECT 46, {COPIED} FROM events WHERE id = 5", 46),
    ],
    ids=["removed", "moved", "renumbered", "repeated"],
)
def test_an_event_that_is_not_where_it_was_is_found(folder: Path, statement: str, named: int) -> None:
    change(folder, statement)
    report = verify(folder)
    assert (report.ok, report.id) == (False, named), report


def test_a_redaction_is_no_damage_and_a_silent_erasure_is(folder: Path) -> None:
    with closing(sqlite3.connect(folder / database.FILE)) as connection:
        row = connection.execute(
            "SELECT payload, salt, length(digest) FROM events WHERE id = ?", (REDACTED,)
        ).fetchone()
    assert row == (None, None, 32)
    assert verify(folder).ok


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE wakes SET outcome = 'failed'", MESSAGES + 1),
        ("DELETE FROM redactions", REDACTED),
        ("UPDATE threads SET messages = 2 WHERE id = 9", 9),
        ("UPDATE agents SET cursor = 6 WHERE name = 'mel'", 0),
        ("INSERT INTO dead_letters VALUES (3, 4, 'mel', 'r', 1, NULL, NULL)", 3),
        ("UPDATE tokens SET sha256 = 'cd'", 0),
        ("DROP INDEX events_agent", 0),
        ("DROP TRIGGER IF EXISTS events_kept", None),
        ("CREATE TABLE more (x)", 0),
    ],
)
def test_what_is_derived_must_follow_from_the_events(folder: Path, statement: str, named: int | None) -> None:
    change(folder, statement)
    report = verify(folder)
    # `change` puts triggers back: that one must be found good.
    assert (report.ok, report.id) == ((True, None) if named is None else (False, named)), report


def test_a_missing_trigger_is_found(folder: Path) -> None:
    with closing(sqlite3.connect(folder / database.FILE)) as connection:
        connection.execute("DROP TRIGGER events_kept")
    assert "triggers" in verify(folder).detail


def test_a_page_that_sqlite_cannot_read_is_named_by_the_first_event_lost(folder: Path) -> None:
    """The leaf page of an event in the middle of the log becomes noise."""
    content = bytearray((folder / database.FILE).read_bytes())
    page = content.index(b"payload 30 ") // 4096
    content[page * 4096 : page * 4096 + 8] = b"\xff" * 8
    (folder / database.FILE).write_bytes(content)
    report = verify(folder)
    assert not report.ok
    assert report.id is not None
    assert LARGE < report.id <= 30
    assert report.head == report.id - 1
    assert "cannot be read" in report.detail


class TestAnchors:
    """The chain shows tampering to whoever holds an earlier anchor, even if all of it was computed anew."""

    def test_a_kept_anchor_holds(self, folder: Path) -> None:
        kept = anchor(folder)
        asyncio.run(grow(folder))
        assert anchor(folder)[0] == kept[0] + 1
        assert verify(folder, kept).ok

    @pytest.mark.parametrize(
        ("wrong", "named"),
        [
            (lambda id_, hash_: (id_, "0" * 64), MESSAGES + 5),
            (lambda id_, hash_: (id_ - 1, hash_), MESSAGES + 4),
            (lambda id_, hash_: (id_ + 1, hash_), MESSAGES + 6),
        ],
        ids=["another hash", "another id", "a log that ends before"],
    )
    def test_another_does_not(self, folder: Path, wrong: Callable[[int, str], tuple[int, str]], named: int) -> None:
        report = verify(folder, wrong(*anchor(folder)))
        assert (report.ok, report.id) == (False, named)

    def test_a_log_that_was_cut_off_is_found_only_so(self, tmp_path: Path) -> None:
        asyncio.run(grow(tmp_path))
        asyncio.run(grow(tmp_path))
        kept = anchor(tmp_path)
        change(tmp_path, "DELETE FROM events WHERE id = 2", "DELETE FROM threads WHERE id = 2")
        assert verify(tmp_path).ok
        report = verify(tmp_path, kept)
        assert (report.ok, report.id) == (False, 2)


async def grow(folder: Path) -> None:
    async with Store.open(folder) as store, SqliteEngine.open(store) as engine:
        await engine.append(Append((message(),)))
