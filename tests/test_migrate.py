"""Migrations are applied once, in order, each as a whole; what this program cannot know is refused."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventlog import migrate
from eventlog.errors import SchemaError
from eventlog.migrate import applied, available, check

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
