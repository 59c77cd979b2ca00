"""A backup is the log of one moment, taken while it is being written, and nothing is ever overwritten."""

import asyncio
import shutil
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from eventlog import backups, database
from eventlog.backups import backup, restore
from eventlog.errors import BadRequest, ConfigError, Locked, SchemaError
from eventlog.lock import DataLock
from eventlog.maintenance import verify
from eventlog.sqlite_engine import SqliteEngine
from eventlog.store import Store
from tests.appends import ack, message, one

pytestmark = pytest.mark.anyio

#: How long a test waits for what must come.
DEADLINE_S = 20


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[tuple[SqliteEngine, Store]]:
    async with Store.open(folder) as store, SqliteEngine.open(store) as engine:
        yield engine, store


async def copied(folder: Path, target: Path, messages: int = 3) -> None:
    """A backup of a new log with a few messages and an ack."""
    async with opened(folder) as (engine, store):
        for _ in range(messages):
            await engine.append(one(message()))
        await engine.append(one(ack(1)))
        await backup(store, target)


class TestBackup:
    async def test_it_is_the_log_and_says_how_far(self, tmp_path: Path) -> None:
        async with opened(tmp_path / "log") as (engine, store):
            for _ in range(5):
                await engine.append(one(message()))
            made = await backup(store, tmp_path / "copy")
            newest = await store.event(5)
        assert newest is not None
        assert (made.path, made.head, made.hash) == (str(tmp_path / "copy"), 5, newest.hash.hex())
        report = verify(tmp_path / "copy", (5, made.hash))
        assert (report.ok, report.head) == (True, 5)
        assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o600
        assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "log"]

    async def test_an_empty_log_can_be_backed_up(self, tmp_path: Path) -> None:
        async with opened(tmp_path / "log") as (_, store):
            assert (await backup(store, tmp_path / "copy")).head == 0
        assert verify(tmp_path / "copy").ok

    async def test_appends_go_on_meanwhile_and_the_copy_is_of_one_moment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Copied page by page while another sender never stops: without one snapshot it would begin anew for ever."""
        monkeypatch.setattr(backups, "STEP_PAGES", 1)
        stop = asyncio.Event()

        async def send(engine: SqliteEngine) -> int:
            count = 0
            while not stop.is_set():
                await engine.append(one(message(payload=b'"' + b"x" * 2000 + b'"')))
                count += 1
            return count

        async with opened(tmp_path / "log") as (engine, store):
            for _ in range(100):
                await engine.append(one(message(payload=b'"' + b"x" * 2000 + b'"')))
            sender = asyncio.create_task(send(engine))
            before = engine.head.value
            made = await asyncio.wait_for(backup(store, tmp_path / "copy"), DEADLINE_S)
            assert engine.head.value > made.head >= before, "appends went on while it was copied"
            stop.set()
            assert await sender > 0
        report = verify(tmp_path / "copy")
        assert (report.ok, report.head, report.events) == (True, made.head, made.head)

    async def test_nothing_is_overwritten(self, tmp_path: Path) -> None:
        (tmp_path / "copy").write_text("precious")
        async with opened(tmp_path / "log") as (_, store):
            with pytest.raises(BadRequest, match="there already"):
                await backup(store, tmp_path / "copy")
        assert (tmp_path / "copy").read_text() == "precious"

    async def test_where_nothing_can_be_written_is_said(self, tmp_path: Path) -> None:
        async with opened(tmp_path / "log") as (_, store):
            with pytest.raises(BadRequest, match="cannot be written") as caught:
                await backup(store, tmp_path / "missing" / "copy")
        assert caught.value.field == "path"

    async def test_one_that_fails_leaves_nothing_behind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise sqlite3.OperationalError("a fault")

        async with opened(tmp_path / "log") as (_, store):
            with monkeypatch.context() as patched, pytest.raises(BadRequest, match="a fault"):
                patched.setattr(backups, "_mark", fail)
                await backup(store, tmp_path / "copy")
            assert [path.name for path in tmp_path.iterdir()] == ["log"]
            await backup(store, tmp_path / "copy")


class TestRestore:
    async def test_the_log_is_there_again(self, tmp_path: Path) -> None:
        await copied(tmp_path / "log", tmp_path / "copy")
        restored = restore(tmp_path / "copy", tmp_path / "new")
        assert (restored.head, restored.moved) == (4, None)
        assert stat.S_IMODE((tmp_path / "new" / database.FILE).stat().st_mode) == 0o600
        async with opened(tmp_path / "new") as (engine, store):
            assert [event.event for event in await store.page(0, 10)] == ["message"] * 3 + ["ack"]
            assert store.agent("mel").cursor == 1
            await engine.append(one(message()))
        assert verify(tmp_path / "new").ok

    async def test_a_database_that_is_there_is_kept(self, tmp_path: Path) -> None:
        await copied(tmp_path / "log", tmp_path / "copy")
        async with opened(tmp_path / "other") as (engine, store):
            await engine.append(one(message(payload=b'"kept"')))
            kept = store.log_id
        before = (tmp_path / "other" / database.FILE).read_bytes()
        with pytest.raises(ConfigError, match="there already"):
            restore(tmp_path / "copy", tmp_path / "other")
        assert (tmp_path / "other" / database.FILE).read_bytes() == before
        restored = restore(tmp_path / "copy", tmp_path / "other", replace=True)
        assert restored.moved is not None
        assert "before-restore" in restored.moved
        (tmp_path / "again").mkdir()
        shutil.move(restored.moved, tmp_path / "again" / database.FILE)
        async with opened(tmp_path / "again") as (_, store):
            assert store.log_id == kept
            assert (await store.page(0, 10))[0].payload == b'"kept"'

    async def test_what_a_killed_bus_had_not_folded_in_is_kept_too(self, tmp_path: Path) -> None:
        await copied(tmp_path / "log", tmp_path / "copy")
        (tmp_path / "killed").mkdir()
        async with opened(tmp_path / "other") as (engine, _):
            await engine.append(one(message(payload=b'"in the write-ahead log"')))
            for path in (tmp_path / "other").iterdir():
                shutil.copy(path, tmp_path / "killed")
        restored = restore(tmp_path / "copy", tmp_path / "killed", replace=True)
        assert restored.moved is not None
        with closing(sqlite3.connect(restored.moved)) as connection:
            assert connection.execute("SELECT payload FROM events").fetchall() == [('"in the write-ahead log"',)]

    async def test_a_write_ahead_log_that_was_left_behind_is_not_taken_for_the_new_one(self, tmp_path: Path) -> None:
        await copied(tmp_path / "log", tmp_path / "copy")
        wal = f"{database.FILE}-wal"
        (tmp_path / "new").mkdir()
        async with opened(tmp_path / "other") as (engine, _):
            await engine.append(one(message(payload=b'"of another log"')))
            shutil.copy(tmp_path / "other" / wal, tmp_path / "new")
        restored = restore(tmp_path / "copy", tmp_path / "new")
        assert restored.moved is not None
        assert Path(restored.moved).exists()
        assert not (tmp_path / "new" / wal).exists()
        assert verify(tmp_path / "new").head == restored.head == 4

    async def test_a_damaged_backup_is_refused_and_changes_nothing(self, tmp_path: Path) -> None:
        await copied(tmp_path / "log", tmp_path / "copy")
        content = bytearray((tmp_path / "copy").read_bytes())
        content[content.index(b'"hello"') + 1] ^= 1
        (tmp_path / "copy").write_bytes(content)
        with pytest.raises(ConfigError, match="damaged at id"):
            restore(tmp_path / "copy", tmp_path / "new")
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["lock"]

    @pytest.mark.parametrize("content", [b"", b"not a database " * 500], ids=["empty", "something else"])
    async def test_what_is_no_backup_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "copy").write_bytes(content)
        with pytest.raises((ConfigError, SchemaError), match=r"cannot be used|not an eventlog's backup"):
            restore(tmp_path / "copy", tmp_path / "new")
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["lock"]

    async def test_a_backup_that_is_missing_is_said_to_be(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="No such file"):
            restore(tmp_path / "copy", tmp_path / "new")

    async def test_a_copy_made_by_other_means_becomes_a_log_of_its_own_too(self, tmp_path: Path) -> None:
        async with opened(tmp_path / "log") as (engine, store):
            await engine.append(one(message()))
            first = store.log_id
        restore(tmp_path / "log" / database.FILE, tmp_path / "new")
        async with opened(tmp_path / "new") as (_, store):
            assert [log.log_id for log in store.lineage] == [first, store.log_id]
            assert store.quiet_kept_s == 0

    async def test_not_under_a_bus_that_has_the_folder(self, tmp_path: Path) -> None:
        await copied(tmp_path / "log", tmp_path / "copy")
        with DataLock(tmp_path / "new"), pytest.raises(Locked):
            restore(tmp_path / "copy", tmp_path / "new")
