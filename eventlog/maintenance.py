"""Maintenance: what can be done with a data folder that no bus has open; each takes the folder's lock meanwhile."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from eventlog import database, reads
from eventlog.backups import Backup, Restored, backup, lenient, restore
from eventlog.engine import Append
from eventlog.errors import BadRequest, ConfigError, NotFound
from eventlog.event import GENESIS, Draft, fold
from eventlog.lock import DataLock
from eventlog.migrate import migrate
from eventlog.projections import TABLES, Agent, Projector
from eventlog.reads import TokenRow
from eventlog.sqlite_engine import SqliteEngine
from eventlog.store import Store
from eventlog.tokens import check_token, new_token
from eventlog.verify import UNREADABLE, Report, check

__all__ = [
    "Backup",
    "Report",
    "Restored",
    "anchor",
    "backup",
    "rebuild",
    "replay",
    "restore",
    "token_create",
    "token_revoke",
    "tokens",
    "verify",
]

#: Events that are read at once.
PAGE_EVENTS = 1000


@contextmanager
def _owned(data_dir: Path) -> Iterator[sqlite3.Connection]:
    """The database of a data folder, with the folder's lock. Raises ConfigError if there is none, and Locked."""
    path = data_dir / database.FILE
    if not path.exists():
        raise ConfigError(f"there is no log in {data_dir}; start one with `eventlog serve`", field="data_dir")
    with DataLock(data_dir), closing(database.open_writer(path)) as connection:
        yield connection


def verify(where: Path, anchor: tuple[int, str] | None = None) -> Report:
    """Check the log in a data folder, or in a backup's file; `anchor` is an (id, hash) that was given out earlier.

    Raises ConfigError if there is none, SchemaError if it is of another version, Locked.
    """
    if where.is_file():
        if where.with_name(f"{where.name}-wal").exists():
            raise ConfigError(f"{where} is no backup but the log of a bus; name its folder", field="data_dir")
        # A backup is one closed file: opened so, nothing is written beside it.
        name = f"{where.absolute().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(name, uri=True, isolation_level=None)) as copy:
            copy.text_factory = lenient
            return check(copy, anchor)
    try:
        with _owned(where) as connection:
            connection.text_factory = lenient
            return check(connection, anchor)
    except UNREADABLE as error:
        return Report(False, 0, 0, GENESIS.hex(), 1, f"cannot be read: {error}")


def anchor(data_dir: Path) -> tuple[int, str]:
    """The newest event's id and hash in hexadecimal; (0, 64 zeros) of an empty log. Keep it to verify against later."""
    with _owned(data_dir) as connection:
        id_, hash_ = reads.head(connection) or (0, GENESIS)
        return id_, hash_.hex()


def rebuild(data_dir: Path) -> int:
    """Drop everything that is derived from the events and make it anew, in one transaction; how many events there are.

    Raises ConfigError, SchemaError, Locked.
    """
    with _owned(data_dir) as connection:
        migrate(connection)
        connection.execute("BEGIN IMMEDIATE")
        try:
            for table in TABLES:
                _recreate(connection, table)
            count = _project(connection)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        return count


def _recreate(connection: sqlite3.Connection, table: str) -> None:
    """Drop a table with its indexes and make it again, empty."""
    query = "SELECT sql FROM sqlite_schema WHERE tbl_name = ? AND sql IS NOT NULL ORDER BY type = 'index'"
    made = [sql for (sql,) in connection.execute(query, (table,))]
    connection.execute(f"DROP TABLE {table}")
    for sql in made:
        connection.execute(sql)


def _project(connection: sqlite3.Connection) -> int:
    agents: dict[str, Agent] = {}
    count = after = 0
    while page := reads.page(connection, after, PAGE_EVENTS):
        projector = Projector(agents.get)
        for event in page:
            projector.apply(event)
        projector.write(connection)
        agents.update(projector.agents)
        count, after = count + len(page), page[-1].id
    return count


def replay(
    data_dir: Path,
    *,
    agent: str | None = None,
    event: str | None = None,
    thread: int | None = None,
    after: int | None = None,
    before: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Every event strictly between the cursors, oldest first, each with its `hash`; `agent`: for or about it.

    Raises ConfigError, SchemaError, Locked.
    """
    agents = None if agent is None else (agent,)
    kinds = None if event is None else (event,)
    cursor = after or 0
    with _owned(data_dir) as connection:
        migrate(connection)
        while page := reads.page(connection, cursor, PAGE_EVENTS, before, agents, kinds, thread):
            for one in page:
                yield one.as_dict(hash=one.hash.hex())
            cursor = page[-1].id


def token_create(
    data_dir: Path, name: str, *, kind: str, agents: Sequence[str] = (), peer: str | None = None
) -> dict[str, Any]:
    """Make a token; `token` of the answer is kept nowhere else. Raises BadRequest if it cannot be made, Locked."""
    named = check_token(name, kind, agents, peer)
    token, sha256 = new_token()
    fields: dict[str, Any] = {"name": name, "kind": kind, "agents": list(named)}
    if peer is not None:
        fields["peer"] = peer

    def decide(good: dict[str, TokenRow]) -> Draft:
        if fold(name) in good:
            raise BadRequest(
                f"there is a token {name!r}; `eventlog token revoke {name}` ends it, or take another name", field="name"
            )
        return Draft("token.created", {**fields, "sha256": sha256})

    asyncio.run(_append(data_dir, decide))
    return {**fields, "token": token}


def token_revoke(data_dir: Path, name: str) -> None:
    """End a token. Raises NotFound if there is none of this name, Locked."""

    def decide(good: dict[str, TokenRow]) -> Draft:
        row = good.get(fold(name))
        if row is None:
            raise NotFound(f"there is no token {name!r}", field="name")
        return Draft("token.revoked", {"name": row.name})

    asyncio.run(_append(data_dir, decide))


def tokens(data_dir: Path) -> list[dict[str, Any]]:
    """The tokens that are good, oldest first. Raises ConfigError, SchemaError, Locked."""
    with _owned(data_dir) as connection:
        migrate(connection)
        rows = [row for row in reads.tokens(connection) if row.revoked is None]
    told = [{"name": row.name, "kind": row.kind, "agents": list(row.agents), "peer": row.peer} for row in rows]
    return [{name: value for name, value in row.items() if value is not None} for row in told]


async def _append(data_dir: Path, decide: Callable[[dict[str, TokenRow]], Draft]) -> None:
    """Append what `decide` makes of the good tokens, by folded name. Makes the log if there is none."""
    with DataLock(data_dir):
        async with Store.open(data_dir, readers=1) as store, SqliteEngine.open(store) as engine:
            good = {fold(row.name): row for row in await store.tokens() if row.revoked is None}
            await engine.append(Append((decide(good),)))
