"""Migrations are applied once, in order, each as a whole; what this program cannot know is refused."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from eventlog import database, maintenance, migrate
from eventlog.agents import Limits
from eventlog.engine import Append
from eventlog.errors import SchemaError
from eventlog.event import Draft
from eventlog.migrate import applied, available, check
from eventlog.sqlite_engine import SqliteEngine
from eventlog.store import Store, ThreadCount
from tests.appends import ack, finished, message, started

#: What all migrations together make, in one look.
SCHEMA = Path(__file__).parent / "schema.sql"


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    opened = sqlite3.connect(":memory:", isolation_level=None)
    yield opened
    opened.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two migrations."""
    (tmp_path / "0001_first.sql").write_text("-- one\nCREATE TABLE one (x);")
    (tmp_path / "0002_second.sql").write_text(
        "CREATE TABLE two (x); INSERT INTO two VALUES ('a;b');"
        "CREATE TRIGGER kept BEFORE DELETE ON two BEGIN SELECT raise(ABORT, 'no; never'); END;"
    )
    return tmp_path


def tables(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}


def declared(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    return connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' AND name <> 'migrations' "
        "ORDER BY type, name"
    ).fetchall()


def test_the_migrations_make_the_declared_schema(connection: sqlite3.Connection) -> None:
    migrate.migrate(connection)
    other = sqlite3.connect(":memory:")
    other.executescript(SCHEMA.read_text())
    assert declared(connection) == declared(other)
    other.close()


def test_each_is_applied_once_and_remembered(connection: sqlite3.Connection, source: Path) -> None:
    migrate.migrate(connection, source)
    migrate.migrate(connection, source)
    assert tables(connection) == {"one", "two", "migrations"}
    assert [(version, name) for version, name, _ in applied(connection)] == [
        (1, "0001_first.sql"),
        (2, "0002_second.sql"),
    ]
    assert check(connection, source) == []


def test_a_later_one_is_applied_to_what_is_there(connection: sqlite3.Connection, source: Path) -> None:
    second = (source / "0002_second.sql").rename(source / "later")
    migrate.migrate(connection, source)
    connection.execute("INSERT INTO one VALUES (1)")
    second.rename(source / "0002_second.sql")
    assert [migration.version for migration in check(connection, source)] == [2]
    migrate.migrate(connection, source)
    assert connection.execute("SELECT x FROM one").fetchall() == [(1,)]
    assert connection.execute("SELECT x FROM two").fetchall() == [("a;b",)]


def test_one_that_fails_leaves_nothing_of_itself(connection: sqlite3.Connection, source: Path) -> None:
    (source / "0003_third.sql").write_text("CREATE TABLE three (x); INSERT INTO three VALUES (1); SELECT nonsense;")
    with pytest.raises(sqlite3.OperationalError, match="nonsense"):
        migrate.migrate(connection, source)
    assert not connection.in_transaction
    assert tables(connection) == {"one", "two", "migrations"}
    assert len(applied(connection)) == 2


def test_a_newer_database_is_refused(connection: sqlite3.Connection, source: Path) -> None:
    migrate.migrate(connection, source)
    (source / "0002_second.sql").unlink()
    with pytest.raises(SchemaError, match="version 2, this program knows 1; install a newer"):
        migrate.migrate(connection, source)


def test_a_changed_migration_is_refused(connection: sqlite3.Connection, source: Path) -> None:
    migrate.migrate(connection, source)
    (source / "0001_first.sql").write_text("-- one, changed\nCREATE TABLE one (x);")
    with pytest.raises(SchemaError, match=r"0001_first\.sql is not the one"):
        migrate.migrate(connection, source)


def test_a_database_of_something_else_is_refused(connection: sqlite3.Connection, source: Path) -> None:
    connection.execute("CREATE TABLE photos (x)")
    with pytest.raises(SchemaError, match="not an eventlog's"):
        migrate.migrate(connection, source)
    assert tables(connection) == {"photos"}


@pytest.mark.parametrize("missing", ["0001_first.sql", "0002_second.sql"])
def test_a_gap_is_refused(connection: sqlite3.Connection, source: Path, missing: str) -> None:
    (source / "0003_third.sql").write_text("CREATE TABLE three (x);")
    (source / missing).unlink()
    with pytest.raises(SchemaError, match="incomplete"):
        migrate.migrate(connection, source)
    assert tables(connection) == set()


def test_a_number_that_is_there_twice_is_refused(source: Path) -> None:
    (source / "0002_other.sql").write_text("CREATE TABLE three (x);")
    with pytest.raises(SchemaError, match="incomplete"):
        available(source)


def test_other_files_in_the_folder_are_none(source: Path) -> None:
    for name in ("README.md", "0003_x.sql~", "3_x.sql", "0003-x.sql"):
        (source / name).write_text("nonsense")
    assert [migration.name for migration in available(source)] == ["0001_first.sql", "0002_second.sql"]


def test_the_folder_is_found_in_a_package_and_beside_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "eventlog"
    package.mkdir()
    monkeypatch.setattr(migrate, "__file__", str(package / "migrate.py"))
    with pytest.raises(SchemaError, match="missing"):
        migrate.folder()
    (tmp_path / "migrations").mkdir()
    assert migrate.folder() == tmp_path / "migrations"
    (package / "migrations").mkdir()
    assert migrate.folder() == package / "migrations"


#: What makes a log of this program's version one of the first.
BACK_TO_FIRST = """
CREATE TABLE before AS SELECT id, messages, last FROM threads;
DROP TABLE threads;
DROP TABLE stops;
CREATE TABLE threads (
    id       INTEGER PRIMARY KEY,
    messages INTEGER NOT NULL,
    last     INTEGER NOT NULL
) STRICT;
INSERT INTO threads SELECT * FROM before;
DROP TABLE before;
UPDATE wakes SET limits = json_remove(limits, '$.max_wakes_per_hour');
UPDATE agents SET state = json_remove(state, '$.wake.limits.max_wakes_per_hour');
DROP TABLE deadlines;
DROP INDEX dead_letters_open;
ALTER TABLE dead_letters DROP COLUMN closed;
ALTER TABLE dead_letters DROP COLUMN how;
DELETE FROM migrations WHERE version > 1;
"""


@pytest.mark.anyio
async def test_a_log_of_the_first_version_becomes_one_of_this(tmp_path: Path) -> None:
    """What is derived then is what follows from its events today."""
    limits = Limits(timeout_s=0.5)
    wakes = [started(1, limits=limits), started(2, agent="tony", key="k2")]
    old = [Draft(wake.event, {k: v for k, v in wake.fields.items() if k != "thread"}) for wake in wakes]
    answer = message("tony", "mel", thread_id=1, reply_to=1, hops=1)
    async with Store.open(tmp_path) as store, SqliteEngine.open(store) as engine:
        await engine.append(Append((message(), answer, message("Ann", "bo"), old[0], finished(4), ack(1), old[1])))
    with closing(sqlite3.connect(tmp_path / database.FILE)) as connection:
        connection.executescript(BACK_TO_FIRST)
    with pytest.raises(SchemaError, match="older version"):
        maintenance.verify(tmp_path)
    async with Store.open(tmp_path) as store:
        assert store.agent("mel").limits == limits
        found = await store.message_in_thread(2)
        assert found is not None
        assert found[1] == ThreadCount(1, messages=2, hops_from=0, wakes=0)
    report = maintenance.verify(tmp_path)
    assert report.ok, report.detail
