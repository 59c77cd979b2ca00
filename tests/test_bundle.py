"""Plain messages stored by one statement are stored as a transaction of several would, and what is not plain is not."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest

from eventlog.bundle import BUNDLE_BYTES_MAX, BUNDLE_MAX, prepare, run
from eventlog.database import STATEMENTS_MAX
from eventlog.engine import Key
from eventlog.event import GENESIS, Draft
from eventlog.migrate import migrate
from eventlog.projections import Projector
from eventlog.queries import Write, run_each
from eventlog.seal import SALT_BYTES, seal
from tests.appends import ack, message

KEY = Key("mel", "k1", b"r" * 32)


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(opened()) as connection:
        prepare(connection)
        yield connection


def opened() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    return connection


def sealed(drafts: Sequence[Draft], key: Key | None = None, first: int = 1) -> tuple[list[Write], list[Write]]:
    """The rows of these as events, and what follows from them in the other tables."""
    rows: list[Write] = []
    projector = Projector(lambda name: None)
    for part, draft in enumerate(drafts):
        event, row = seal(draft, first + part, "2026-11-29T10:00:00.000000Z", GENESIS, key, part, b"s" * SALT_BYTES)
        projector.apply(event)
        rows.append(row)
    return rows, projector.writes


def everything(connection: sqlite3.Connection) -> dict[str, list[tuple[Any, ...]]]:
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in sorted(there)}


PLAIN = {
    "one": ([message()], None),
    "new threads": ([message(), message(hops=3), message(payload=b"null")], None),
    "answers": ([message(thread_id=1, reply_to=1, hops=1), message(thread_id=1, reply_to=9)], None),
    "with a key": ([message(), message(thread_id=1, reply_to=1, hops=2)], KEY),
    "that expire": ([message(expires="2026-12-01T00:00:00Z"), message(expires="2027-01-01T00:00:00Z")], None),
    "as many as fit": ([message(hops=n) for n in range(BUNDLE_MAX)], None),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_a_plain_group_is_stored_as_several_statements_would(connection: sqlite3.Connection, kind: str) -> None:
    asked = sealed([message("Tony", "Mel", deadline="2026-12-01T00:00:00Z", awaits="reply")])
    drafts, key = PLAIN[kind]
    rows, writes = sealed(drafts, key, first=2)
    with closing(opened()) as other:
        for one in (connection, other):
            run_each(one, [*asked[0], *asked[1]])
        run_each(other, [*rows, *writes])
        assert run(connection, rows, writes)
        assert everything(connection) == everything(other)
        assert len(everything(connection)["deadlines"]) == (0 if kind in ("answers", "with a key") else 1)


@pytest.mark.parametrize(
    ("drafts", "more"),
    [
        pytest.param([message(deadline="2026-12-01T00:00:00Z")], [], id="a deadline of its own"),
        pytest.param([ack(0)], [], id="no message"),
        pytest.param([message(), Draft("agent.paused", {"agent": "mel", "by": "ada"})], [], id="not only messages"),
        pytest.param([message()], [message(expires="2026-12-01T00:00:00Z")], id="of two kinds"),
        pytest.param([message()] * (BUNDLE_MAX + 1), [], id="too many"),
        pytest.param([message(payload=b"1" * (BUNDLE_BYTES_MAX // 2))] * 2 + [message()], [], id="too large"),
        pytest.param([message(sender="bus", type="DEADLINE", reply_to=1)], [], id="a notice of a deadline"),
    ],
)
def test_what_is_not_plain_is_left_alone(
    connection: sqlite3.Connection, drafts: Sequence[Draft], more: Sequence[Draft]
) -> None:
    before = everything(connection)
    rows, writes = sealed([*drafts, *more])
    assert not run(connection, rows, writes)
    assert everything(connection) == before


def test_it_is_all_or_nothing(connection: sqlite3.Connection) -> None:
    rows, writes = sealed([message(), message()])
    before = everything(connection)
    with pytest.raises(sqlite3.IntegrityError):
        run(connection, [rows[0], rows[0]], writes)
    assert everything(connection) == before
    assert not connection.in_transaction


def test_it_is_one_statement(connection: sqlite3.Connection) -> None:
    ran: list[str] = []
    connection.set_trace_callback(ran.append)
    assert run(connection, *sealed([message(), message()]))
    connection.set_trace_callback(None)
    # It is told again with each step of its triggers.
    assert len(set(ran)) == 1


def test_what_prepared_statements_keep_is_little() -> None:
    kinds = 2
    assert kinds * BUNDLE_MAX <= STATEMENTS_MAX
    assert kinds * BUNDLE_MAX * BUNDLE_BYTES_MAX <= 8 * 1024 * 1024


def test_no_temporary_file_takes_the_payloads(connection: sqlite3.Connection) -> None:
    assert connection.execute("PRAGMA temp_store").fetchone() == (2,)
