"""Reads: what is asked of a log, as plain functions over a SQLite connection; each leaves no statement unfinished.

Functions that ask more than one thing do so in one read transaction, so that an event appended meanwhile is seen by all
of the questions or by none: otherwise a reader could see an id before a smaller one.
"""

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import msgspec

from eventlog.agents import AgentState, Limits, Segment
from eventlog.event import ID_MAX, KINDS, Event, fold
from eventlog.queries import SQL
from eventlog.wakes import Span
from eventlog.window import CHUNK_BYTES_MAX, Filter, Slice


class WakeRow(msgspec.Struct, frozen=True):
    """A wake as the log tells it. `agent` is spelled as in its event; `limits` are those it was granted under.

    `outcome` is None while it is in flight; `reported` tells whether a watcher said it; `finished` and `finished_time`
    are the id and the time of the event that did. `request` is the SHA-256 given with the key, b"" without.
    """

    id: int
    key: str
    agent: str
    after: int
    through: int
    attempt: int
    watcher: str
    node: str
    limits: Limits
    time: str
    outcome: str | None = None
    reported: bool = False
    finished: int = 0
    finished_time: str | None = None
    exit_code: int | None = None
    duration_ms: int | float | None = None
    detail: str | None = None
    request: bytes = b""


class ThreadCount(msgspec.Struct, frozen=True):
    """What is counted of a thread: its messages and wakes since it was last let go on, and the hops it had then."""

    id: int
    messages: int
    hops_from: int
    wakes: int


class TokenRow(msgspec.Struct, frozen=True):
    """A token as the log tells it: `sha256` of the token in hexadecimal; `revoked` is the event that ended it."""

    name: str
    kind: str
    agents: tuple[str, ...]
    peer: str | None
    sha256: str
    created: int
    revoked: int | None


class DeadLetter(msgspec.Struct, frozen=True):
    """A message whose wakes are used up; `id` is the event that said so. `closed` is the event that closed it, None
    while it is open; `how` is then `retried` or `dropped`.
    """

    message_id: int
    id: int
    agent: str
    reason: str
    attempts: int
    closed: int | None = None
    how: str | None = None


class Unreached(msgspec.Struct, frozen=True):
    """What decides whether a message's sender is told that its agent cannot be woken. `time` and `expires` are RFC 3339
    in UTC; `woken`: a wake covered it that began, or may have; `missed` is the latest that covered it (0: none).
    """

    id: int
    sender: str
    time: str
    expires: str | None
    dead: bool
    woken: bool
    missed: int


_LIMITS = msgspec.json.Decoder(Limits)
_IDS = msgspec.json.Decoder(list[int])
_NAMES = msgspec.json.Decoder(tuple[str, ...])


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """One read transaction."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("COMMIT")


def head(connection: sqlite3.Connection) -> tuple[int, bytes] | None:
    """The newest event's id and hash; None for an empty log."""
    row: tuple[int, bytes] | None = connection.execute(SQL["head"]).fetchone()
    return row


def event(connection: sqlite3.Connection, id_: int) -> Event | None:
    """The event with this id."""
    row = connection.execute(SQL["event"], {"id": id_}).fetchone()
    return Event(*row) if row else None


def message_in_thread(connection: sqlite3.Connection, id_: int) -> tuple[Event, ThreadCount] | None:
    """The message with this id, and what is counted of its thread."""
    row = connection.execute(SQL["message_in_thread"], {"id": id_}).fetchone()
    return (Event(*row[:7]), ThreadCount(*row[7:])) if row else None


def stops(connection: sqlite3.Connection) -> tuple[list[Event], int]:
    """The `thread.stopped` events that stand, oldest first; and the id of the newest `thread.resumed`, 0 for none."""
    with snapshot(connection):
        standing = [Event(*row) for row in connection.execute(SQL["stops"])]
        resumed = connection.execute(SQL["last_resumed"]).fetchone()[0]
    return standing, resumed or 0


def starts(connection: sqlite3.Connection, agent: str, through: int, limit: int) -> list[tuple[int, str]]:
    """Ids and times (RFC 3339) of the agent's latest wakes up to `through` that began a turn or may have, at most
    `limit`, oldest first."""
    values = {"agent": agent, "through": through, "limit": limit}
    return connection.execute(SQL["starts"], values).fetchall()[::-1]


def page(
    connection: sqlite3.Connection,
    after: int,
    limit: int,
    before: int | None = None,
    agents: Collection[str] | None = None,
    events: Collection[str] | None = None,
    thread: int | None = None,
) -> list[Event]:
    """The first `limit` events with after < id < before, in order, for or about one of `agents`, of the kinds `events`,
    of the thread `thread`; None for any. Every combination is answered from an index."""
    place = {"after": after, "before": ID_MAX + 1 if before is None else before, "limit": limit}
    sources = list(_sources(agents, events, thread))
    if len(sources) == 1:
        name, values = sources[0]
        return [Event(*row) for row in connection.execute(SQL[name], place | values)]
    found: list[Event] = []
    with snapshot(connection):
        for name, values in sources:
            found += (Event(*row) for row in connection.execute(SQL[name], place | values))
    found.sort(key=lambda e: e.id)
    return found[:limit]


def _sources(
    agents: Collection[str] | None, events: Collection[str] | None, thread: int | None
) -> Iterator[tuple[str, dict[str, object]]]:
    """The statements whose events, put together in order, are what was asked for."""
    kinds = None if events is None or set(events) >= set(KINDS) else sorted(set(events))
    names = None if agents is None else sorted({fold(a) for a in agents})
    if thread is not None:
        if kinds is None or "message" in kinds:
            yield "page_thread", {"thread": thread, "agents": _json(names)}
    elif names is not None:
        for name in names:
            yield "page_agent", {"agent": name, "kinds": _json(kinds)}
    elif kinds is not None:
        for kind in kinds:
            yield ("page_messages", {}) if kind == "message" else ("page_kind", {"kind": kind})
    else:
        yield "page_all", {}


def frames(connection: sqlite3.Connection, wanted: Filter, after: int, before: int, limit: int) -> Slice:
    """The slice of what `wanted` shows of at most `limit` events with after < id < before, all of which are there.

    Of fewer, if one chunk does not hold their frames: SQLite itself gives up there, whatever their sizes are.
    """
    while limit > 1:
        most = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, CHUNK_BYTES_MAX)
        try:
            return _frames(connection, wanted, after, before, limit)
        except sqlite3.DataError:
            limit //= 2
        finally:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, most)
    return _frames(connection, wanted, after, before, 1)


def _frames(connection: sqlite3.Connection, wanted: Filter, after: int, before: int, limit: int) -> Slice:
    kinds = _json(sorted(wanted.events) or None)
    place = {"after": after, "before": before, "limit": limit, "kinds": kinds}
    ids: str | None = None
    if wanted.agents:
        # What their index says is all that is looked at, so that long stretches of others' events cost nothing.
        rows = [connection.execute(SQL["ids_agent"], place | {"agent": name}).fetchone() for name in wanted.agents]
        ids = json_array(sorted(id_ for row in rows for id_ in _IDS.decode(row[0]))[:limit])
    visible = None if wanted.visible is None else _json(sorted(wanted.visible))
    data, last, looked, shown = connection.execute(SQL["frames"], place | {"ids": ids, "visible": visible}).fetchone()
    end = before - 1 if looked < limit else last
    if shown is None:
        return Slice(b"", end, 0, looked)
    # What is hidden behind the last one shown is looked at again, and counted, with the next slice.
    return Slice(data, end if shown == last else shown, shown, 0)


def inbox(connection: sqlite3.Connection, agent: str, after: int, limit: int, through: int | None) -> list[Event]:
    """Messages to `agent` with after < id <= through, oldest first."""
    values = {"agent": fold(agent), "after": after, "through": ID_MAX if through is None else through, "limit": limit}
    return [Event(*row) for row in connection.execute(SQL["inbox"], values)]


def living(connection: sqlite3.Connection, agent: str, after: int, through: int, limit: int, wall: str) -> list[Event]:
    """Messages to `agent` with after < id <= through that are neither expired at `wall` nor dead, oldest first."""
    values = {"agent": fold(agent), "after": after, "through": through, "limit": limit, "wall": wall}
    return [Event(*row) for row in connection.execute(SQL["living"], values)]


def count_living(connection: sqlite3.Connection, agent: str, after: int, limit: int, wall: str) -> int:
    """How many such messages there are after `after`; counting stops at `limit`."""
    values = {"agent": fold(agent), "after": after, "limit": limit, "wall": wall}
    row = connection.execute(SQL["count_living"], values).fetchone()
    return int(row[0])


def unread_of(
    connection: sqlite3.Connection, state: AgentState, wall: str, limit: int
) -> tuple[tuple[Span, ...], list[Event]]:
    """The agent's messages past its cursor that are neither expired nor dead: as stretches that one segment says the
    same of (as many questions as there are segments, however many messages wait), and the first `limit` of them."""
    found = []
    values: dict[str, object] = {"agent": fold(state.name), "wall": wall}
    with snapshot(connection):
        for segment, after, through in _stretches(state):
            values |= {"after": after, "through": through}
            first = connection.execute(SQL["first_living"], values).fetchone()
            if first is None:
                continue
            last = connection.execute(SQL["last_living"], values).fetchone()
            previous = connection.execute(SQL["message_before"], values | {"id": first[0]}).fetchone()
            before = max(state.cursor, previous[0] if previous else 0)
            found.append(Span(segment, first[0], last[0], before))
        messages = living(connection, state.name, state.cursor, found[-1].last, limit, wall) if found else []
    return tuple(found), messages


def _stretches(state: AgentState) -> Iterator[tuple[Segment | None, int, int]]:
    """(segment, after, through) of everything past the cursor; None for what no segment speaks of."""
    place = state.cursor
    for segment in state.segments:
        if place < segment.after:
            yield None, place, segment.after
        if not segment.dead and segment.through > place:
            yield segment, max(place, segment.after), segment.through
        place = max(place, segment.through)
    yield None, place, ID_MAX


def ids(connection: sqlite3.Connection, name: str, **values: object) -> list[int]:
    """The ids that the statement `name` gives."""
    return [row[0] for row in connection.execute(SQL[name], values)]


def wakes(connection: sqlite3.Connection, name: str, **values: object) -> list[WakeRow]:
    """The wakes that the statement `name` gives."""
    found: list[WakeRow] = []
    for row in connection.execute(SQL[name], values):
        told = list(row)
        told[8], told[11], told[17] = _LIMITS.decode(row[8]), bool(row[11]), row[17] or b""
        found.append(WakeRow(*told))
    return found


def tokens(connection: sqlite3.Connection) -> list[TokenRow]:
    """Every token, oldest first; of a name that was taken again only the latest."""
    return [
        TokenRow(name, kind, _NAMES.decode(agents), *rest)
        for name, kind, agents, *rest in connection.execute(SQL["tokens"])
    ]


def dead_letter(connection: sqlite3.Connection, message_id: int) -> DeadLetter | None:
    """What is known of a dead message; None for one that is not dead."""
    row = connection.execute(SQL["dead_letter"], {"id": message_id}).fetchone()
    return DeadLetter(*row) if row else None


def dead_letters(
    connection: sqlite3.Connection, agent: str | None, after: int, limit: int, closed: bool
) -> list[DeadLetter]:
    """Dead letters with message ids after `after`, in order; those that are closed only if `closed` asks for them."""
    values = {"agent": agent, "after": after, "limit": limit, "all": int(closed)}
    return [DeadLetter(*row) for row in connection.execute(SQL["dead_letters"], values)]


def unreached(connection: sqlite3.Connection, agent: str, after: int, limit: int) -> list[Unreached]:
    """The agent's messages after `after`, oldest first."""
    values = {"agent": fold(agent), "after": after, "limit": limit}
    rows = connection.execute(SQL["unreached"], values)
    return [
        Unreached(id_, sender, time, expires, bool(dead), bool(woken), missed)
        for id_, sender, time, expires, dead, woken, missed in rows
    ]


def takes_part(connection: sqlite3.Connection, thread: int, agents: Collection[str]) -> bool:
    """Whether one of `agents` sent or was sent a message of the thread."""
    values = {"thread": thread, "agents": _json(sorted({fold(a) for a in agents}))}
    return connection.execute(SQL["takes_part"], values).fetchone() is not None


def json_array(values: Collection[int]) -> str:
    """Ids as the JSON array that a statement takes."""
    return msgspec.json.encode(sorted(values)).decode()


def _json(names: list[str] | None) -> str | None:
    return None if names is None else msgspec.json.encode(names).decode()
