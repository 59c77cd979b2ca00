"""Named statements run for many rows do what they do for each row by itself."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from eventlog.engine import Key
from eventlog.event import GENESIS, Draft
from eventlog.migrate import migrate
from eventlog.queries import ROWS, SQL, run_all, run_each
from eventlog.seal import seal


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection)
        yield connection


@pytest.mark.parametrize("count", [0, 1, ROWS[0] - 1, ROWS[0], 2 * ROWS[0] + 7])
def test_every_row_is_taken_once_and_in_order(connection: sqlite3.Connection, count: int) -> None:
    rows = [(n % 5, n, n % 3) for n in range(count)]
    run_all(connection, "put_thread", rows)
    many = connection.execute("SELECT id, messages, last, hops FROM threads ORDER BY id").fetchall()
    connection.execute("DELETE FROM threads")
    connection.executemany(SQL["put_thread"], rows)
    assert many == connection.execute("SELECT id, messages, last, hops FROM threads ORDER BY id").fetchall()
    assert sum(row[1] for row in many) == count


def test_a_statement_that_inserts_nothing_runs_for_every_row(connection: sqlite3.Connection) -> None:
    run_all(connection, "put_thread", [(1, 1, 0), (2, 2, 0)])
    run_all(connection, "put_thread_wake", [(1,), (2,), (2,)])
    assert connection.execute("SELECT id, wakes FROM threads ORDER BY id").fetchall() == [(1, 1), (2, 2)]


def test_what_stands_for_nothing_is_stored_as_null(connection: sqlite3.Connection) -> None:
    empty = bytearray()
    row = (1, "ack", "t", "mel", "", -1, -1, "", "", "", -1, empty, b"{}", empty, b"d", b"h", empty)
    run_all(connection, "insert_event", [row])
    stored = connection.execute("SELECT * FROM events").fetchone()
    assert stored == (1, "ack", "t", "mel", *[None] * 8, "{}", None, b"d", b"h", None)


def test_what_follows_one_another_under_one_name_runs_together_and_all_of_it_in_order(
    connection: sqlite3.Connection,
) -> None:
    ran: list[str] = []
    connection.set_trace_callback(
        lambda statement: ran.extend(re.findall("^(?:INSERT|UPDATE)", statement, re.MULTILINE))
    )
    of_four = [("put_thread", (n, n, 0)) for n in range(4)]
    run_each(connection, [*of_four, ("put_thread_wake", (1,)), ("put_thread", (1, 9, 0))])
    connection.set_trace_callback(None)
    assert ran == ["INSERT", "UPDATE", "INSERT"]
    assert connection.execute("SELECT messages, wakes, last FROM threads WHERE id = 1").fetchone() == (2, 1, 9)


@pytest.mark.parametrize("reply_to", [None, 7])
def test_a_message_is_the_same_row_by_either_statement(connection: sqlite3.Connection, reply_to: int | None) -> None:
    fields = {"from_agent": "Ann", "to_agent": "Mel", "type": "MESSAGE", "hops": 0}
    draft = Draft(
        "message", fields if reply_to is None else {**fields, "reply_to": reply_to, "thread_id": 5}, b'"\xc3\xa9"'
    )
    _, (name, values) = seal(draft, 9, "2026-01-01T00:00:00.000000Z", GENESIS, None, 0, bytes(range(16)))
    assert name == "insert_message"
    run_each(connection, [(name, values)])
    short = connection.execute("SELECT * FROM events").fetchone()
    connection.execute("DROP TRIGGER events_kept")
    connection.execute("DELETE FROM events")
    id_, time, agent, sender, thread_id, answered, *rest = values
    run_all(
        connection,
        "insert_event",
        [(id_, "message", time, agent, sender, thread_id, answered, "", "", "", -1, bytearray(), *rest)],
    )
    assert connection.execute("SELECT * FROM events").fetchone() == short
    assert short[:8] == (9, "message", time, "mel", "ann", 9 if reply_to is None else 5, reply_to, None)


@pytest.mark.parametrize(
    ("more", "key"),
    [({"expires": "2030-01-01T00:00:00Z"}, None), ({}, Key("ann", "k", bytes(32)))],
    ids=["it expires", "it has a key"],
)
def test_a_message_with_more_to_it_is_stored_by_the_long_statement(more: dict[str, str], key: Key | None) -> None:
    draft = Draft("message", {"from_agent": "ann", "to_agent": "mel", **more})
    assert seal(draft, 1, "2026-01-01T00:00:00.000000Z", GENESIS, key, 0, bytes(16))[1][0] == "insert_event"
