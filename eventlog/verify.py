"""Verify: whether a log is what it was: its chain, its columns, its file and its projections."""

import re
import sqlite3
from collections.abc import Iterator
from typing import Any

import msgspec

from eventlog import lineage, migrate
from eventlog.engine import Key
from eventlog.errors import SchemaError
from eventlog.event import GENESIS, Event, canonical, chain, payload_digest
from eventlog.projections import TABLES, Agent, Projector
from eventlog.queries import SQL
from eventlog.seal import CHECKSUM_BYTES, Columns, keyed

#: Events that are read at once.
PAGE_EVENTS = 1000
#: Findings of SQLite's own check that are looked at.
INTEGRITY_MAX = 100

#: What reading a damaged file raises; the second where SQLite's own message quotes what it found there.
UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)

_ROW_OF_EVENTS = re.compile(r"(?:row (\d+) (?:missing from|values differ).*index events_|in events.*rowid (\d+))")


class Report(msgspec.Struct, frozen=True):
    """What a check found. Up to `head`, `events` events are as they were written, and `hash` (hexadecimal) is the last
    one's; if not `ok`, `id` is the first event that is not, or that wrong derived data is about, and `detail` says what
    is wrong (`id` 0: nothing that belongs to one event)."""

    ok: bool
    events: int
    head: int
    hash: str
    id: int | None = None
    detail: str = ""


class _Bad(Exception):
    """Something is not as it was written."""

    def __init__(self, id_: int, detail: str) -> None:
        super().__init__(detail)
        self.id = id_
        self.detail = detail


class _Walk:
    """Goes over all events once, in order: checks each, and follows them for the projections."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.agents: dict[str, Agent] = {}
        self.events = 0
        self.head = 0
        self.hash = GENESIS

    def run(self, anchor: tuple[int, str] | None, fresh: sqlite3.Connection) -> None:
        """Check every event and write the projections that follow from them to `fresh`. Raises _Bad."""
        gone: set[int] = set()
        while rows := self._page():
            projector = Projector(self.agents.get)
            for row in rows:
                event = _checked(row, self.hash)
                if anchor is not None and self.head < anchor[0] < event.id:
                    raise _Bad(anchor[0], "the anchor's event is not in the log")
                self.events, self.head, self.hash = self.events + 1, event.id, event.hash
                if anchor is not None and event.id == anchor[0] and event.hash.hex() != anchor[1]:
                    raise _Bad(event.id, "the log up to here is not the one that the anchor was taken from")
                try:
                    projector.apply(event)
                except (KeyError, ValueError, TypeError) as error:
                    raise _Bad(event.id, f"it is no event that this program wrote: {error}") from None
                if event.event == "message" and event.payload is None:
                    gone.add(event.id)
                elif event.event == "redacted":
                    gone.discard(event.fields["message_id"])
            projector.write(fresh)
            self.agents.update(projector.agents)
        if gone:
            raise _Bad(min(gone), "its payload is gone, and it was not redacted")
        if anchor is not None and self.head < anchor[0]:
            raise _Bad(self.head + 1, f"the log ends before the anchor's event {anchor[0]}")

    def _page(self) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(SQL["walk"], (self.head, PAGE_EVENTS)).fetchall()
        except UNREADABLE as error:
            # Which of them cannot be read: one at a time, up to where it fails.
            self._last_readable()
            raise _Bad(self.head + 1, f"cannot be read: {error}") from None

    def _last_readable(self) -> None:
        try:
            while row := self._connection.execute(SQL["walk"], (self.head, 1)).fetchone():
                event = _checked(row, self.hash)
                self.events, self.head, self.hash = self.events + 1, event.id, event.hash
        except UNREADABLE:
            return


def check(connection: sqlite3.Connection, anchor: tuple[int, str] | None = None) -> Report:
    """Check the log behind `connection` (autocommit, `text_factory` lenient) from its first event to its last.

    `anchor` is an (id, hexadecimal hash) given out earlier: nothing up to it may have changed. Raises SchemaError if
    the database is of another version.
    """
    walk = _Walk(connection)
    try:
        if migrate.check(connection):
            raise SchemaError("the database is of an older version; start the bus once, or use its own program")
        fresh = sqlite3.connect(":memory:", isolation_level=None)
        try:
            migrate.migrate(fresh)
            _same_schema(connection, fresh)
            walk.run(anchor, fresh)
            _integrity(connection)
            _same_projections(connection, fresh)
        finally:
            fresh.close()
    except _Bad as bad:
        return Report(False, walk.events, walk.head, walk.hash.hex(), bad.id, bad.detail)
    except UNREADABLE as error:
        return Report(False, walk.events, walk.head, walk.hash.hex(), walk.head + 1, f"cannot be read: {error}")
    return Report(True, walk.events, walk.head, walk.hash.hex())


def _checked(row: tuple[Any, ...], previous: bytes) -> Event:
    """The event in a row of `walk`, if it is as it was written after the one with hash `previous`. Raises _Bad.

    A message may lack payload and salt; whether it was redacted is not looked at here.
    """
    id_, *columns, scope, key, part, request, header, salt, digest, hash_, payload = row
    if chain(previous, header or b"", digest or b"") != hash_:
        raise _Bad(id_, "its hash does not follow from it and the event before it")
    try:
        fields = msgspec.json.decode(header)
        same = fields["id"] == id_ and canonical(fields) == header
        same = same and list(msgspec.convert(fields, Columns).values()) == columns
    except (KeyError, ValueError, TypeError) as error:
        raise _Bad(id_, f"its header cannot be read: {error}") from None
    if not same or (key is not None and fields.get("key", key) != key):
        raise _Bad(id_, "its columns are not what its header says")
    if not _whole_key(scope, key, part, request):
        raise _Bad(id_, "its key is not the one that it was sent with")
    gone = payload is None and salt is None and fields["event"] == "message"
    if not gone and payload_digest(salt or b"", payload) != digest:
        raise _Bad(id_, "its payload is not the one that was sent")
    return Event(id_, columns[0], columns[2] or "", columns[3] or "", header, payload, hash_)


def _whole_key(scope: Any, key: Any, part: Any, request: Any) -> bool:
    """Whether these columns are as `seal.keyed` made them."""
    stored = (scope, key, part, request)
    if stored == (None, None, None, None):
        return True
    if None in stored or not isinstance(request, bytes):
        return False
    return keyed(Key(scope, key, request[:-CHECKSUM_BYTES]), part) == stored


def _integrity(connection: sqlite3.Connection) -> None:
    """SQLite's own check of the file: indexes, pages, types."""
    for (finding,) in connection.execute(f"PRAGMA integrity_check({INTEGRITY_MAX})"):
        if finding != "ok":
            match = _ROW_OF_EVENTS.search(finding)
            raise _Bad(int(match[1] or match[2]) if match else 0, f"the file is damaged: {finding}")


def _same_schema(connection: sqlite3.Connection, fresh: sqlite3.Connection) -> None:
    """Whether tables, indexes and triggers are those that the migrations make."""
    query = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
    if connection.execute(query).fetchall() != fresh.execute(query).fetchall():
        raise _Bad(0, "tables, indexes or triggers are not those that this program made")


def _same_projections(connection: sqlite3.Connection, fresh: sqlite3.Connection) -> None:
    for table in TABLES:
        detail = f"{table} is not what follows from the events; `eventlog rebuild` mends it"
        try:
            for stored, derived in _side_by_side(connection, fresh, table):
                if stored != derived:
                    about = (derived or stored or ("",))[0]
                    raise _Bad(about if isinstance(about, int) else 0, detail)
        except UNREADABLE as error:
            raise _Bad(0, f"{detail} ({error})") from None
    if not lineage.load(connection) and connection.execute(SQL["head"]).fetchone():
        raise _Bad(0, "the log has no identity")


def _side_by_side(
    connection: sqlite3.Connection, fresh: sqlite3.Connection, table: str
) -> Iterator[tuple[tuple[Any, ...] | None, tuple[Any, ...] | None]]:
    """The rows of a table in both databases, in the order of its primary key; None where one has no more."""
    query = f"SELECT * FROM {table} ORDER BY 1"  # noqa: S608 - one of our own tables' names
    stored, derived = connection.execute(query), fresh.execute(query)
    while True:
        pair = stored.fetchone(), derived.fetchone()
        if pair == (None, None):
            return
        yield pair
