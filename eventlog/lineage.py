"""Lineage: which log this is and which ones it descends from; how a restored copy becomes a log of its own."""

import itertools
import secrets
import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from eventlog import reads
from eventlog.crashpoint import reached
from eventlog.event import GENESIS, Draft
from eventlog.projections import Projector, load_agents
from eventlog.queries import SQL, Write, run_each
from eventlog.seal import seal, utc_now

#: How far past the head a restored log's first own id is at least: no id of the log that went on meanwhile.
ID_GAP = 1_000_000


class Log(msgspec.Struct, frozen=True):
    """A log in the line. Up to the id `restored_at` it is its parent's; its own events begin at `first_new_id`."""

    log_id: str
    restored_at: int = 0
    first_new_id: int = 1


def resolve_cursor(lineage: Sequence[Log], head: int, log_id: str | None, cursor: int) -> tuple[int, str | None]:
    """Where a reader with this cursor goes on in the log at the end of `lineage`, and why that is elsewhere, if it is.

    `log_id` is the log that the cursor is of, if the reader knows. The reason is `other_log`, `past_head` or `skipped`
    (the cursor is in a range of ids that this log left out when it was restored); None if the cursor stands.
    """
    own = lineage[-1]
    place, reason = cursor, None
    if log_id is not None and log_id != own.log_id:
        # What the logs have in common ends where the first of its descendants in this line was restored.
        common = (child.restored_at for parent, child in itertools.pairwise(lineage) if parent.log_id == log_id)
        place, reason = min(cursor, next(common, 0)), "other_log"
    elif cursor > head:
        # A cursor that does not say its log is taken to be of the one that this one was restored from.
        place, reason = min(cursor, own.restored_at), "past_head"
    kept = min((log.restored_at for log in lineage if log.restored_at < place < log.first_new_id), default=place)
    return kept, reason or ("skipped" if kept < place else None)


def load(connection: sqlite3.Connection) -> tuple[Log, ...]:
    """The logs in the line, this one last; empty for a database that never was served."""
    return tuple(Log(*row) for row in connection.execute(SQL["logs"]))


def get(connection: sqlite3.Connection, name: str) -> str | None:
    """A note on this copy of the log: `marked`, or `quiet` with how long it kept quiet since its restore, seconds."""
    row = connection.execute(SQL["get_meta"], {"name": name}).fetchone()
    return str(row[0]) if row else None


def put(connection: sqlite3.Connection, name: str, value: str | None) -> None:
    """Set such a note, or with None remove it."""
    if value is None:
        connection.execute(SQL["drop_meta"], (name,))
    else:
        connection.execute(SQL["put_meta"], (name, value))


def adopt(connection: sqlite3.Connection, now: float) -> None:
    """Make a new database a log, and a backup's copy another log than the one it was taken from; else do nothing.

    In a copy every wake in flight is closed: its watcher may have been told of another end that this log does not know
    of [R16a]. `now` is seconds since 1970; the first new id is never smaller than that in microseconds [R21a].
    """
    lineage = load(connection)
    marked = get(connection, "marked") is not None
    if lineage and not marked:
        return
    newest = reads.head(connection)
    head, hash_ = newest if newest is not None else (0, GENESIS)
    log = Log(secrets.token_hex(16), head, max(head + ID_GAP, int(now * 1e6))) if marked else Log(secrets.token_hex(16))
    reached("bus.adopt.decided")
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(SQL["put_log"], msgspec.structs.astuple(log))
        if marked:
            put(connection, "marked", None)
            put(connection, "quiet", "0")
            _close_wakes(connection, log.first_new_id, hash_, utc_now(now))
        reached("bus.adopt.written")
        connection.execute("COMMIT")
        reached("bus.adopt.committed")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _close_wakes(connection: sqlite3.Connection, next_id: int, previous: bytes, time: str) -> None:
    agents = load_agents(connection)
    projector = Projector(agents.get)
    rows: list[Write] = []
    for agent in agents.values():
        wake = agent.state.in_flight
        if wake is None:
            continue
        fields: dict[str, Any] = {
            "wake": wake.id,
            "agent": agent.state.name,
            "outcome": "interrupted",
            "by": "bus",
            "detail": "restored from a backup",
        }
        event, row = seal(Draft("wake.finished", fields), next_id + len(rows), time, previous, None, 0, b"")
        previous = event.hash
        projector.apply(event)
        rows.append(row)
    run_each(connection, rows)
    projector.write(connection)
