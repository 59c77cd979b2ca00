"""Bare sqlite3: the same rows, indexes and commits as the bus makes, and nothing else; what storing alone reaches."""

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders.base import TEXT
from eventlog import database
from eventlog.event import GENESIS, Draft
from eventlog.migrate import migrate
from eventlog.queries import run_all
from eventlog.seal import SALT_BYTES, seal, utc_now

#: Rows that are made beforehand, and stored under new ids again and again.
_ROWS = 1000

#: Stores rows of `events`, each of which begins a thread.
Insert = Callable[[sqlite3.Connection, Sequence[tuple[Any, ...]]], None]


def commits_per_s(folder: Path, group: int, seconds: float, *, ours: bool = False) -> float:
    """Commits a second, each of `group` messages, with the bus's schema and settings.

    The statements are those that any program would write, one row at a time by `executemany`; with `ours` the bus's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    connection = database.open_writer(folder / "bare.db")
    insert, rows = (_insert_ours, _rows()) if ours else (_insert_plainly, [_plain(row) for row in _rows()])
    try:
        migrate(connection)
        commits = 0
        id_ = 0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            connection.execute("BEGIN IMMEDIATE")
            insert(connection, [(id_ + n, *rows[n % _ROWS]) for n in range(1, group + 1)])
            connection.execute("COMMIT")
            id_ += group
            commits += 1
        return commits / seconds
    finally:
        connection.close()


def _insert_plainly(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    connection.executemany(f"INSERT INTO events VALUES ({', '.join('?' * len(rows[0]))})", rows)
    connection.executemany(
        "INSERT INTO threads (id, messages, last, hops) VALUES (?, 1, ?, ?) ON CONFLICT (id) DO UPDATE SET"
        " messages = messages + 1, last = excluded.last, hops = max(hops, excluded.hops)",
        [(row[0], row[0], 0) for row in rows],
    )


def _insert_ours(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    run_all(connection, "insert_message", rows)
    run_all(connection, "put_thread", [(row[0], row[0], 0) for row in rows])


def _rows() -> list[tuple[Any, ...]]:
    """Messages' rows, their ids left out; each starts a thread of its own, under an id that no other row has."""
    return [_row(number) for number in range(_ROWS)]


def _row(number: int) -> tuple[Any, ...]:
    fields = {"from_agent": "bench", "type": "MESSAGE", "hops": 0, "to_agent": "mel", "thread_id": number + 1}
    draft = Draft("message", fields, b'{"text":"' + TEXT.encode() + b'"}')
    name, values = seal(draft, number + 1, utc_now(time.time()), GENESIS, None, 0, bytes(SALT_BYTES))[1]
    assert name == "insert_message", name
    return values[1:]


def _plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same row as it stands in the table, but for its id: every column, text and NULL where it has them."""
    time_, agent, sender, thread_id, _, header, salt, digest, hash_, payload = row
    nothing = (None,) * 6  # what it replies to, when it expires, and its key
    blobs = bytes(salt), bytes(digest), bytes(hash_)
    return ("message", time_, agent, sender, thread_id, *nothing, header.decode(), *blobs, payload.decode())
