"""What can be done with a data folder that no bus has open."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from eventlog import database, maintenance
from eventlog.backups import backup
from eventlog.engine import Append
from eventlog.errors import BadRequest, ConfigError, Locked, NotFound, SchemaError
from eventlog.lock import DataLock
from eventlog.sqlite_engine import SqliteEngine
from eventlog.store import Store
from eventlog.tokens import digest_of
from tests.appends import ack, message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log with three messages and an ack."""

    async def fill() -> None:
        async with Store.open(tmp_path / "log") as store, SqliteEngine.open(store) as engine:
            drafts = (message(), message("bo"), message("bo", "mel", thread_id=1, reply_to=1), ack(1))
            await engine.append(Append(drafts))
            await backup(store, tmp_path / "copy")

    asyncio.run(fill())
    return tmp_path / "log"


COMMANDS: dict[str, Callable[[Path], object]] = {
    "verify": maintenance.verify,
    "anchor": maintenance.anchor,
    "rebuild": maintenance.rebuild,
    "replay": lambda folder: list(maintenance.replay(folder)),
    "tokens": maintenance.tokens,
    "token_create": lambda folder: maintenance.token_create(folder, "phone", kind="agent"),
    "token_revoke": lambda folder: maintenance.token_revoke(folder, "phone"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_never_beside_the_folder_s_owner(folder: Path, name: str) -> None:
    with DataLock(folder), pytest.raises(Locked, match="process"):
        COMMANDS[name](folder)


@pytest.mark.parametrize("name", ["verify", "anchor", "rebuild", "replay", "tokens"])
def test_a_folder_without_a_log_is_said_to_be_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no log"):
        COMMANDS[name](tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


class TestReplay:
    def test_all_of_it_in_order_with_hashes(self, folder: Path) -> None:
        events = list(maintenance.replay(folder))
        assert [event["id"] for event in events] == [1, 2, 3, 4]
        assert (events[-1]["id"], events[-1]["hash"]) == maintenance.anchor(folder)
        assert events[0]["payload"] == "hello"

    @pytest.mark.parametrize(
        ("chosen", "ids"),
        [
            ({"agent": "BO"}, [2, 3]),
            ({"event": "ack"}, [4]),
            ({"thread": 1}, [1, 3]),
            ({"after": 1, "before": 4}, [2, 3]),
            ({"agent": "mel", "event": "message"}, [1]),
            ({"agent": "nobody"}, []),
        ],
    )
    def test_only_what_was_asked_for(self, folder: Path, chosen: dict[str, str | int], ids: list[int]) -> None:
        assert [event["id"] for event in maintenance.replay(folder, **chosen)] == ids  # type: ignore[arg-type]

    def test_over_many_pages(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(maintenance, "PAGE_EVENTS", 1)
        assert [event["id"] for event in maintenance.replay(folder)] == [1, 2, 3, 4]

    def test_the_folder_is_free_again_after_half_of_it(self, folder: Path) -> None:
        events = maintenance.replay(folder)
        next(events)
        events.close()  # type: ignore[attr-defined]
        with DataLock(folder):
            pass


class TestTokens:
    def test_one_that_was_made_is_told_once_and_kept_as_its_digest(self, folder: Path) -> None:
        made = maintenance.token_create(folder, "Phone", kind="agent", agents=["mel", "Bo"], peer="tony")
        assert (made["name"], made["kind"], made["agents"], made["peer"]) == ("Phone", "agent", ["mel", "Bo"], "tony")
        event = list(maintenance.replay(folder, event="token.created"))[-1]
        assert event["sha256"] == digest_of(made["token"])
        files = b"".join(path.read_bytes() for path in folder.iterdir())
        assert made["token"].encode() not in files
        told = {name: value for name, value in made.items() if name != "token"}
        assert [msgspec.to_builtins(row) for row in maintenance.tokens(folder)] == [told]

    def test_a_name_is_taken_once_whatever_its_case_and_free_after_revoking(self, folder: Path) -> None:
        maintenance.token_create(folder, "Phone", kind="auditor")
        with pytest.raises(BadRequest, match="there is a token"):
            maintenance.token_create(folder, "phone", kind="auditor")
        maintenance.token_revoke(folder, "PHONE")
        assert maintenance.tokens(folder) == []
        with pytest.raises(NotFound):
            maintenance.token_revoke(folder, "phone")
        maintenance.token_create(folder, "phone", kind="auditor")
        assert maintenance.verify(folder).ok

    def test_before_the_bus_was_ever_started(self, tmp_path: Path) -> None:
        maintenance.token_create(tmp_path / "new", "root", kind="admin")
        assert [row["name"] for row in maintenance.tokens(tmp_path / "new")] == ["root"]

    def test_a_wrong_one_is_refused_before_anything_is_opened(self, tmp_path: Path) -> None:
        with pytest.raises(BadRequest):
            maintenance.token_create(tmp_path / "new", "no name", kind="admin")
        assert not (tmp_path / "new").exists()


class TestVerify:
    def test_a_backup_s_file_is_only_read(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        copy = folder.parent / "copy"
        before = copy.read_bytes(), sorted(folder.parent.iterdir())
        monkeypatch.chdir(folder.parent)
        assert maintenance.verify(Path("copy")).ok
        assert (copy.read_bytes(), sorted(folder.parent.iterdir())) == before

    def test_a_file_whose_newest_events_lie_beside_it_is_refused(self, folder: Path) -> None:
        (folder / f"{database.FILE}-wal").write_bytes(b"")
        with pytest.raises(ConfigError, match="name its folder"):
            maintenance.verify(folder / database.FILE)

    def test_a_log_that_is_no_database_any_more(self, folder: Path) -> None:
        (folder / database.FILE).write_bytes(b"\0" * 8192)
        with pytest.raises(SchemaError, match="not a SQLite database"):
            maintenance.verify(folder)


def test_an_empty_log_has_an_anchor(tmp_path: Path) -> None:
    async def make() -> None:
        async with Store.open(tmp_path):
            pass

    asyncio.run(make())
    assert maintenance.anchor(tmp_path) == (0, "0" * 64)
    assert maintenance.verify(tmp_path, (0, "0" * 64)).ok
    assert maintenance.rebuild(tmp_path) == 0
