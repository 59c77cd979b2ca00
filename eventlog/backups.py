"""Backups: a copy of the log while it is being written, and a data folder made from such a copy."""

import os
import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from eventlog import database, lineage, migrate, reads
from eventlog.errors import BadRequest, ConfigError, SchemaError
from eventlog.event import GENESIS
from eventlog.lock import DataLock
from eventlog.store import Store
from eventlog.verify import Report, check

#: Pages copied in one step; between steps the copying thread lets others go on.
STEP_PAGES = 256
STEP_SLEEP_S = 0.001


class Backup(msgspec.Struct, frozen=True):
    """A copy that was made: where, and the newest event in it with its hash (hexadecimal)."""

    path: str
    head: int
    hash: str


class Restored(msgspec.Struct, frozen=True):
    """A data folder that was made from a backup; `moved` is where its earlier database was put, if it had one."""

    path: str
    head: int
    hash: str
    moved: str | None


async def backup(store: Store, target: Path) -> Backup:
    """Copy the log as it stands now to the new file `target`, durably; appends go on meanwhile.

    The copy is marked: who serves it makes it another log. Raises BadRequest if `target` is there already or cannot be
    written.
    """
    if target.exists():
        raise BadRequest(f"{target} is there already; name a new file", field="path")
    partial = target.with_name(target.name + ".partial")
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        reader = await database.on_thread(lambda: database.open_reader(store.path))
        try:
            newest = await reader.run(_copy, partial)
        finally:
            await reader.close()
        _into_place(partial, target)
    except (OSError, sqlite3.Error) as error:
        partial.unlink(missing_ok=True)
        raise BadRequest(f"the backup cannot be written: {error}", field="path") from None
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return Backup(str(target), newest[0], newest[1].hex())


def restore(source: Path, data_dir: Path, *, replace: bool = False) -> Restored:
    """Make the backup `source` the log of `data_dir`; the next `serve` there makes it a log of its own.

    With `replace` a database that is there is moved aside, under a name that says so. Raises ConfigError if there is
    one without `replace`, or if the backup is damaged; SchemaError if it is newer than this program; Locked.
    """
    with DataLock(data_dir):
        present = data_dir / database.FILE
        if present.exists() and not replace:
            raise ConfigError(f"{present} is there already; restore with --replace moves it aside", field="data_dir")
        partial = data_dir / f"{database.FILE}.partial"
        try:
            shutil.copyfile(source, partial)
            partial.chmod(0o600)
            report = _mark_checked(partial)
        except (OSError, sqlite3.Error) as error:
            partial.unlink(missing_ok=True)
            raise ConfigError(f"the backup {source} cannot be used: {error}") from None
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        moved = _move_aside(present)
        _into_place(partial, present)
        return Restored(str(present), report.head, report.hash, str(moved) if moved else None)


def _copy(source: sqlite3.Connection, target: Path) -> tuple[int, bytes]:
    """Copy the database as one moment's, and mark the copy; the newest event in it."""
    # One read transaction for the whole copy: without it every commit would start the copying anew.
    with reads.snapshot(source):
        newest = reads.head(source)
        copy = sqlite3.connect(target, isolation_level=None)
        try:
            source.backup(copy, pages=STEP_PAGES, sleep=STEP_SLEEP_S)
            _mark(copy)
        finally:
            copy.close()
    return newest or (0, GENESIS)


def _mark(copy: sqlite3.Connection) -> None:
    # One file, without a write-ahead log beside it, is what people copy around.
    copy.execute("PRAGMA journal_mode = DELETE")
    lineage.put(copy, "marked", "1")


def _mark_checked(path: Path) -> Report:
    """Check the copy, mark it even if it was copied by other means, and bring it to this program's version."""
    copy = sqlite3.connect(path, isolation_level=None)
    try:
        copy.text_factory = lenient
        if not migrate.applied(copy):
            raise SchemaError(f"{path} is not an eventlog's backup")
        migrate.migrate(copy)
        report = check(copy)
        if not report.ok:
            raise ConfigError(f"the backup is damaged at id {report.id}: {report.detail}")
        _mark(copy)
    finally:
        copy.close()
    return report


def lenient(text: bytes) -> str:
    """Text of a database that may be damaged."""
    return text.decode(errors="replace")


def _move_aside(present: Path) -> Path | None:
    """Rename a database and what belongs to it; the new name says when. None if there is none.

    A write-ahead log goes along, also one that was left behind alone: SQLite would take it for the new database's.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = present.with_name(f"{present.name}.before-restore-{stamp}")
    moved = None
    for suffix in ("-wal", "-shm", ""):
        part = present.with_name(present.name + suffix)
        if part.exists():
            moved = part.rename(aside.with_name(aside.name + suffix))
    return moved


def _into_place(partial: Path, target: Path) -> None:
    """Give a finished file its name, durably, and only if no other has it."""
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    # A link fails where a rename would overwrite.
    os.link(partial, target)
    partial.unlink()
    database.fsync_folder(target.parent)
