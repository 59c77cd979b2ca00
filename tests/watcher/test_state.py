"""The state folder: what an earlier watcher, another machine, or a damaged disk left there."""

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from eventlog.errors import ConfigError, Locked, Unavailable
from watcher.folder import Broken, KeyFolder
from watcher.machine import Machine
from watcher.state import FOLDERS, Cursor, State, watcher_runs

HERE = Machine("boot-2", "machine", ("aa",))
REBOOTED = Machine("boot-1", "machine", ("aa",))
ELSEWHERE = Machine("boot-1", "other", ("bb",))

GRANT = {"wake": {"id": 9}, "latest_start": 1.0, "argv": ["true"], "cwd": "/", "env": {}, "request": {}}


def key_of(tmp_path: Path, machine: Machine, *, granted: bool, agent: str = "mel") -> KeyFolder:
    """A key made by a watcher on `machine`."""
    with State(tmp_path, machine) as state:
        folder = state.unused_key(agent)
        if granted:
            folder.store_grant(GRANT)
    return folder


def test_it_is_readable_by_nobody_else(tmp_path: Path) -> None:
    with State(tmp_path / "state") as state:
        state.unused_key("mel")
        state.store_token(9, "the-token", 60)
        state.write_cursor(Cursor("log", 5))
        for path in [state.path, *state.path.rglob("*")]:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_second_watcher_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    with State(tmp_path), pytest.raises(Locked, match=f"process {os.getpid()}"):
        State(tmp_path).__enter__()
    assert not watcher_runs(tmp_path)


def test_it_tells_whether_a_watcher_runs(tmp_path: Path) -> None:
    assert not watcher_runs(tmp_path / "nowhere")
    with State(tmp_path):
        assert watcher_runs(tmp_path)


def test_a_folder_that_cannot_be_used_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="choose one that is yours"):
        State(tmp_path / "file").__enter__()


@pytest.mark.parametrize(
    ("number", "wanted"),
    [
        (errno.ENOSPC, Unavailable),
        (errno.EDQUOT, Unavailable),
        (errno.EIO, Unavailable),
        (errno.EACCES, ConfigError),
        (errno.EROFS, ConfigError),
    ],
    ids=lambda value: errno.errorcode.get(value, "") if isinstance(value, int) else value.__name__,
)
def test_a_disk_that_is_full_or_fails_is_no_wrong_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, wanted: type[Exception]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(wanted, match=os.strerror(number)):
        State(tmp_path / "state").__enter__()


def test_the_node_stays_the_same(tmp_path: Path) -> None:
    with State(tmp_path) as first:
        node = first.node
    with State(tmp_path) as second:
        assert second.node == node != ""


@pytest.mark.parametrize("text", ["", "{", "[]", '{"log": "a"}', '{"log": "a", "cursor": "x"}'])
def test_a_cursor_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    with State(tmp_path) as state:
        (tmp_path / "cursor").write_text(text)
        assert state.read_cursor() is None
        state.write_cursor(Cursor("log", 5))
        assert state.read_cursor() == Cursor("log", 5)


def test_a_key_is_kept_until_it_was_granted(tmp_path: Path) -> None:
    with State(tmp_path) as state:
        first = state.unused_key("mel")
        assert state.unused_key("mel") == first
    with State(tmp_path) as state:
        assert state.recover().agents == set()
        assert state.unused_key("mel") == first
        first.store_grant(GRANT)
        assert state.unused_key("mel") != first


def test_the_key_made_first_is_used_first(tmp_path: Path) -> None:
    """Its ask may have been granted, and the answer lost."""
    with State(tmp_path) as state:
        first = state.unused_key("mel")
        first.store_grant(GRANT)
        second = state.unused_key("mel")
        (first.path / "grant").unlink()
        os.utime(first.path / "key", (1, 1))
        assert state.unused_key("mel") == first
        os.utime(second.path / "key", (0, 0))
        assert state.unused_key("mel") == second


def test_a_half_made_key_and_a_half_removed_folder_are_cleared_away(tmp_path: Path) -> None:
    with State(tmp_path) as state:
        (tmp_path / "agents" / "mel" / ".new-1").mkdir(parents=True)
        (tmp_path / "agents" / "mel" / ".gone-2").mkdir()
        assert state.folders() == []
        state.recover()
        assert list((tmp_path / "agents" / "mel").iterdir()) == []


def test_an_ungranted_key_of_an_earlier_boot_is_removed_and_a_granted_one_kept(tmp_path: Path) -> None:
    ungranted = key_of(tmp_path, REBOOTED, granted=False)
    granted = key_of(tmp_path, REBOOTED, granted=True, agent="tony")
    with State(tmp_path, HERE) as state:
        node = state.node
        assert state.recover().agents == {"tony"}
        assert state.node == node
    assert not ungranted.path.exists()
    assert granted.path.exists()


@pytest.mark.parametrize("granted", [True, False])
def test_a_foreign_folder_is_removed_without_a_word_and_the_node_is_a_new_one(tmp_path: Path, granted: bool) -> None:
    """R22."""
    foreign = key_of(tmp_path, ELSEWHERE, granted=granted)
    with State(tmp_path, HERE) as state:
        node = state.node
        assert state.recover().agents == set()
        assert state.node != node
        renewed = state.node
    assert not foreign.path.exists()
    with State(tmp_path, HERE) as state:
        assert state.node == renewed


@pytest.mark.parametrize("name", ["key", "grant"])
@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"{}"])
def test_a_damaged_folder_is_set_aside_with_a_word(tmp_path: Path, name: str, text: bytes) -> None:
    folder = key_of(tmp_path, HERE, granted=True)
    (folder.path / name).write_bytes(text)
    with State(tmp_path, HERE) as state:
        recovered = state.recover()
        assert "broken" in recovered.said[0]
        assert state.folders() == []
        assert len(list((tmp_path / "broken").iterdir())) == 1
        assert state.recover().said == []


def test_a_granted_folder_without_a_lock_is_set_aside(tmp_path: Path) -> None:
    folder = key_of(tmp_path, HERE, granted=True)
    (folder.path / "lock").unlink()
    with State(tmp_path, HERE) as state:
        assert "has no lock" in state.recover().said[0]


def test_a_damaged_folder_whose_command_runs_is_left_until_it_has_ended(tmp_path: Path) -> None:
    folder = key_of(tmp_path, HERE, granted=True)
    (folder.path / "grant").write_text("")
    with State(tmp_path, HERE) as state, folder.locked():
        recovered = state.recover()
        assert recovered.agents == {"mel"}
        assert "still runs" in recovered.said[0]
        assert folder.path.exists()


def test_removing_waits_for_the_lock(tmp_path: Path) -> None:
    folder = key_of(tmp_path, HERE, granted=True)
    remover = threading.Thread(target=folder.remove)
    with (folder.path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remover.start()
        remover.join(0.1)
        assert folder.path.exists()
    remover.join(10)
    assert list(folder.path.parent.iterdir()) == []


def test_a_removed_folder_has_no_outcome(tmp_path: Path) -> None:
    folder = key_of(tmp_path, HERE, granted=True)
    assert folder.outcome() is None
    folder.remove()
    with pytest.raises(Broken, match="removed"):
        folder.outcome()


def test_tokens_that_have_ended_are_removed_but_not_that_of_a_wake_in_flight(tmp_path: Path) -> None:
    with State(tmp_path, HERE) as state:
        state.unused_key("mel").store_grant(GRANT)
        for wake_id, lasts_s in ((8, -1.0), (9, -1.0), (10, 60.0)):
            state.store_token(wake_id, "the-token", lasts_s)
        state.sweep_tokens()
        assert sorted(path.name for path in (tmp_path / "tokens").iterdir()) == ["10", "9"]


@pytest.mark.fault
def test_a_key_and_a_grant_are_on_the_disk_before_they_are_used(tmp_path: Path) -> None:
    """Each file is synced before its rename, and its folder after: seen in the calls to the system."""
    code = (
        "import os, sys; from pathlib import Path; from watcher.state import State\n"
        "calls = []\n"
        "def told(name, call):\n"
        "    def wrapped(*args): calls.append((name, args)); return call(*args)\n"
        "    return wrapped\n"
        "os.fsync, os.rename = map(told, ('sync', 'rename'), (os.fsync, os.rename))\n"
        f"state = State(Path({str(tmp_path)!r})).__enter__(); calls.clear()\n"
        "folder = state.unused_key('mel'); folder.store_grant({})\n"
        "print(*[name for name, _ in calls])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # agents/, then key: file, name, folder; the folder's own name; then grant: file, name, folder
    assert done.stdout.split() == ["sync", "sync", "rename", "sync", "rename", "sync", "sync", "rename", "sync"]


def test_a_folder_that_was_deleted_is_made_again_with_a_new_lock(tmp_path: Path) -> None:
    with State(tmp_path / "state") as state:
        before = state.unused_key("mel")
        shutil.rmtree(state.path)
        assert not watcher_runs(state.path)
        again = state.unused_key("mel")
        assert again.path.exists()
        assert again.key != before.key
        assert watcher_runs(state.path)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_part_that_was_deleted_is_made_again_under_the_same_lock(tmp_path: Path, name: str) -> None:
    with State(tmp_path / "state") as state:
        before = state.unused_key("mel")
        lock = (state.path / "run.lock").stat()
        shutil.rmtree(state.path / name)
        again = state.unused_key("mel")
        assert again.path.exists()
        assert (again.key != before.key) is (name == "agents")
        assert stat.S_IMODE((state.path / name).stat().st_mode) == 0o700
        assert os.path.samestat(lock, (state.path / "run.lock").stat())
        assert watcher_runs(state.path)


@pytest.mark.parametrize("name", [".", "agents"])
@pytest.mark.parametrize("call", ["ftruncate", "fsync"])
def test_a_folder_that_could_not_be_made_again_whole_is_made_at_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: str
) -> None:
    """No key in it is asked with until it is durable."""
    flushed: list[str] = []

    def flush(handle: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{handle}"))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with State(tmp_path / "state") as state:
        shutil.rmtree(state.path / name)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            if (name, call) != ("agents", "ftruncate"):  # that one's lock stands
                with pytest.raises(OSError, match="No space"):
                    state.unused_key("mel")
        monkeypatch.setattr(os, "fsync", flush)
        assert state.unused_key("mel").path.exists()
        assert str(state.path) in flushed
        assert watcher_runs(state.path)


def test_what_is_broken_is_set_aside_though_the_place_for_it_was_removed(tmp_path: Path) -> None:
    folder = key_of(tmp_path, HERE, granted=True)
    with State(tmp_path, HERE) as state:
        (tmp_path / "broken").rmdir()
        assert state.set_aside(folder).exists()
        assert stat.S_IMODE((tmp_path / "broken").stat().st_mode) == 0o700


def test_a_folder_that_another_watcher_made_again_is_left_to_it(tmp_path: Path) -> None:
    with State(tmp_path / "state") as state:
        shutil.rmtree(state.path)
        with State(state.path) as other:
            with pytest.raises(Locked):
                state.unused_key("mel")
            assert other.folders("mel") == []
        assert state.unused_key("mel").path.exists()


@pytest.mark.parametrize("flushes", [0, 1, 2, 3])
def test_a_key_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flushes: int
) -> None:
    with State(tmp_path) as state:
        left = iter(range(flushes))
        flush = os.fsync

        def fail_at_last(handle: int) -> None:
            if next(left, None) is None:
                raise OSError(5, "Input/output error")
            flush(handle)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail_at_last)
            with pytest.raises(OSError, match="Input/output"):
                state.unused_key("mel")
        assert list((tmp_path / "agents").iterdir()) == []
        assert state.unused_key("mel").path.exists()
