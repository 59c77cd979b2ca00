"""Migrations: applies migrations/NNNN_*.sql in order, each in one transaction, and remembers each one's checksum."""

import hashlib
import re
import sqlite3
from pathlib import Path

import msgspec

from eventlog.crashpoint import reached
from eventlog.errors import SchemaError

_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql\Z")
_RECORD = """
CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL) STRICT
"""


class Migration(msgspec.Struct, frozen=True):
    """One file of the folder. `version` counts from 1 without gaps; `sha256` is hexadecimal."""

    version: int
    name: str
    sql: str
    sha256: str


def folder() -> Path:
    """Where the migrations are: inside the package in an installed wheel, beside it in a checkout."""
    package = Path(__file__).parent
    for candidate in (package / "migrations", package.parent / "migrations"):
        if candidate.is_dir():
            return candidate
    raise SchemaError("the migrations are missing from this installation; install agent-eventlog again")


def available(source: Path | None = None) -> list[Migration]:
    """The migrations in `source` (default: this program's), in order.

    Raises SchemaError if a number is missing or is there twice.
    """
    found = []
    for path in sorted((source or folder()).iterdir()):
        match = _NAME.match(path.name)
        if match:
            body = path.read_bytes()
            found.append(Migration(int(match[1]), path.name, body.decode(), hashlib.sha256(body).hexdigest()))
    if not found or [m.version for m in found] != list(range(1, len(found) + 1)):
        raise SchemaError("the migrations of this installation are incomplete; install agent-eventlog again")
    return found


def applied(connection: sqlite3.Connection) -> list[tuple[int, str, str]]:
    """(version, name, sha256) of each migration that this database has had.

    Raises SchemaError if it is a database of something else.
    """
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if "migrations" in tables:
        return connection.execute("SELECT version, name, sha256 FROM migrations ORDER BY version").fetchall()
    if tables:
        raise SchemaError("this database is not an eventlog's; name another data folder")
    return []


def check(connection: sqlite3.Connection, source: Path | None = None) -> list[Migration]:
    """The migrations that this database still lacks.

    Raises SchemaError if it is newer than this program, or was made by migrations that read otherwise.
    """
    known = available(source)
    had = applied(connection)
    if len(had) > len(known):
        raise SchemaError(
            f"the database has version {len(had)}, this program knows {len(known)}; install a newer agent-eventlog"
        )
    for (version, name, sha256), migration in zip(had, known, strict=False):
        if (version, sha256) != (migration.version, migration.sha256):
            raise SchemaError(
                f"migration {name} is not the one that made this database; install the agent-eventlog that made it"
            )
    return known[len(had) :]


def migrate(connection: sqlite3.Connection, source: Path | None = None) -> None:
    """Bring the database to this program's version. `connection` must be in autocommit (isolation_level None).

    Raises SchemaError as `check` does. A migration that fails leaves the database as it was before that one.
    """
    for migration in check(connection, source):
        try:
            # One script with its own BEGIN: executescript() would commit a transaction that was open before it.
            reached("bus.migration.decided")
            connection.executescript(f"BEGIN IMMEDIATE;{_RECORD};{migration.sql}")
            reached("bus.migration.applied")
            connection.execute(
                "INSERT INTO migrations VALUES (?, ?, ?)", (migration.version, migration.name, migration.sha256)
            )
            connection.execute("COMMIT")
            reached("bus.migration.committed")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
