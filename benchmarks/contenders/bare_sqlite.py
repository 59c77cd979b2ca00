"""Bare sqlite3: the same rows, indexes and commits as the bus makes, and nothing else; what storing alone reaches."""

import sqlite3
import time
from pathlib import Path

from benchmarks.contenders.base import TEXT
from eventlog import database
from eventlog.event import GENESIS, Draft
from eventlog.migrate import migrate
from eventlog.queries import SQL
from eventlog.seal import seal, utc_now

#: Rows that are made beforehand, and stored under new ids again and again.
_ROWS = 1000


def commits_per_s(folder: Path, group: int, seconds: float) -> float:
    """Commits a second, each of `group` messages, with the bus's schema, statements and settings."""
    folder.mkdir(parents=True, exist_ok=True)
    connection = database.open_writer(folder / "bare.db")
    try:
        migrate(connection)
        rows = [_row(n) for n in range(_ROWS)]
        commits = 0
        id_ = 0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            connection.execute("BEGIN IMMEDIATE")
            chosen = [(id_ + n, *rows[n % _ROWS]) for n in range(1, group + 1)]
            _insert(connection, chosen)
            connection.execute("COMMIT")
            id_ += group
            commits += 1
        return commits / seconds
    finally:
        connection.close()


def _insert(connection: sqlite3.Connection, rows: list[tuple[object, ...]]) -> None:
    connection.executemany(SQL["insert_event"], rows)
    connection.executemany(SQL["put_thread"], [(row[0], row[0], 0) for row in rows])


def _row(number: int) -> tuple[object, ...]:
    """A message's row, its id left out; each starts a thread of its own, under an id that no other row has."""
    fields = {"from_agent": "bench", "type": "MESSAGE", "hops": 0, "to_agent": "mel", "thread_id": number + 1}
    draft = Draft("message", fields, b'{"text":"' + TEXT.encode() + b'"}')
    return seal(draft, number + 1, utc_now(time.time()), GENESIS, None, 0)[1][1:]
