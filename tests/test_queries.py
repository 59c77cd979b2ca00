"""Named statements run for many rows do what they do for each row by itself."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from eventlog.migrate import migrate
from eventlog.queries import ROWS, SQL, run_all


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
