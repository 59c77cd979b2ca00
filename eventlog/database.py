"""Database: opens the log's SQLite file the one right way, for its owner and for each reader."""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import aiosqlite

from eventlog.errors import SchemaError

#: The database's name in the data folder.
FILE = "eventlog.db"
#: How long a statement waits for a lock, milliseconds. One process owns the file, so it hardly ever does.
BUSY_TIMEOUT_MS = 5000
#: How long folding the write-ahead log in on demand waits for readers, milliseconds.
FOLD_TIMEOUT_MS = 20
#: Pages in the write-ahead log after which the writer folds it into the database (4 KiB each).
CHECKPOINT_PAGES = 2000
#: The write-ahead log is cut down to this many bytes when it was folded in.
WAL_LIMIT_BYTES = 32 * 1024 * 1024
#: Prepared statements that are kept: those of bundle.py alone are two for each number of messages.
STATEMENTS_MAX = 256
#: Memory for cached pages, KiB for each connection.
CACHE_KIB = 16 * 1024

#: SQLite's codes for a file that is not what it wrote.
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_T = TypeVar("_T")


class Connection(aiosqlite.Connection):
    """An aiosqlite connection whose thread runs whole functions."""

    #: Done when the thread has ended; the loop must live until then.
    stopped: "asyncio.Future[None] | None" = None

    def stop(self) -> "asyncio.Future[None] | None":
        """End the thread."""
        self.stopped = super().stop()
        return self.stopped

    async def run(self, function: Callable[..., _T], *args: object) -> _T:
        """Run `function(connection, *args)` on the connection's own thread, with the sqlite3 connection, in one hop.

        Raises what the function raises. Cancelling the await does not stop the function.
        """
        result: _T = await self._execute(function, self._conn, *args)  # type: ignore[no-untyped-call]
        return result


def make_private(data_dir: Path) -> Path:
    """Make the folder (0700) and the database file (0600), if they are not there; where the file is.

    SQLite gives its other files the database's permissions.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = data_dir / FILE
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    return path


def open_writer(path: Path) -> sqlite3.Connection:
    """The one connection that writes and checkpoints. Raises SchemaError if the file is no database."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=STATEMENTS_MAX)
    try:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA journal_mode = WAL")
        # FULL, not NORMAL: NORMAL loses commits that were answered when the power goes.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        # What is redacted must be gone from the file, too.
        connection.execute("PRAGMA secure_delete = ON")
    except sqlite3.DatabaseError as error:
        connection.close()
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise SchemaError(f"{path} is not a SQLite database; restore a backup") from None
        raise
    return connection


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Raises SchemaError, with what to do, where SQLite says that the file at `path` is damaged."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        # The low byte is the code that the finer ones belong to.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE:
            raise SchemaError(f"{path} is damaged ({error}); restore a backup") from None
        raise


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that can only read."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA query_only = ON")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    return connection


def fold_wal(connection: sqlite3.Connection) -> bool:
    """Fold the write-ahead log into the database and empty it, so that what was erased is in neither.

    False if a reader was in the way; it is waited for only briefly, because the writer does nothing else meanwhile.
    """
    connection.execute(f"PRAGMA busy_timeout = {FOLD_TIMEOUT_MS}")
    try:
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    return not busy


async def on_thread(connector: Callable[[], sqlite3.Connection]) -> Connection:
    """The connection that `connector` opens, on a thread of its own."""
    connection = Connection(connector, iter_chunk_size=64)
    try:
        await connection
    except BaseException:
        if connection.stopped is not None:
            await connection.stopped
        raise
    return connection


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Readers:
    """A few reading connections; who asks gets an idle one or waits for it."""

    def __init__(self, connections: list[Connection]) -> None:
        self._idle = asyncio.LifoQueue[Connection]()
        for connection in connections:
            self._idle.put_nowait(connection)

    async def run(self, function: Callable[..., _T], *args: object) -> _T:
        """Run `function(connection, *args)` on one of them."""
        connection = await self._idle.get()
        try:
            return await connection.run(function, *args)
        finally:
            self._idle.put_nowait(connection)
