"""One process owns a data folder, and the others are told which."""

import fcntl
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eventlog import lock
from eventlog.errors import ConfigError, Locked
from eventlog.lock import DataLock, Holder, read_holder

HOLD = """
import sys
from pathlib import Path
from eventlog.lock import DataLock
with DataLock(Path(sys.argv[1])) as held:
    held.publish("http://127.0.0.1:8091")
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns `folder`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_error_names_the_holder(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as process:
        with pytest.raises(Locked, match=rf"process {process.pid}, which serves http://127\.0\.0\.1:8091"):
            DataLock(tmp_path).__enter__()
        holder = read_holder(tmp_path)
        assert holder is not None
        assert (holder.pid, holder.url) == (process.pid, "http://127.0.0.1:8091")
        assert holder.started


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as process:
        process.kill()
        process.wait()
        assert read_holder(tmp_path) is None
        with DataLock(tmp_path):
            pass


def test_within_one_process_too(tmp_path: Path) -> None:
    with DataLock(tmp_path), pytest.raises(Locked, match=f"process {os.getpid()}"):
        DataLock(tmp_path).__enter__()


def test_it_can_be_had_again_after_it_was_given_back(tmp_path: Path) -> None:
    for _ in range(2):
        with DataLock(tmp_path):
            assert read_holder(tmp_path) == Holder(os.getpid(), None, read_holder(tmp_path).started)  # type: ignore[union-attr]
        assert read_holder(tmp_path) is None


def test_looking_who_holds_it_takes_it_from_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks holds the lock for an instant; taking it at that instant is tried again."""
    with DataLock(tmp_path):
        pass
    file = os.open(tmp_path / lock.FILE, os.O_RDONLY)
    assert lock._take(file, fcntl.LOCK_SH)
    monkeypatch.setattr(time, "sleep", lambda _: os.close(file))
    with DataLock(tmp_path):
        pass


def test_nobody_holds_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert read_holder(tmp_path / "missing") is None


def test_a_holder_that_has_not_said_who_it_is(tmp_path: Path) -> None:
    with DataLock(tmp_path):
        (tmp_path / lock.FILE).write_text("")
        assert read_holder(tmp_path) == Holder()
        with pytest.raises(Locked, match="another process"):
            DataLock(tmp_path).__enter__()


def test_folder_and_file_are_the_owner_s_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with DataLock(folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / lock.FILE).stat().st_mode) == 0o600


def test_a_folder_that_cannot_be_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="data folder"):
        DataLock(tmp_path / "file").__enter__()


def test_a_command_that_is_started_meanwhile_does_not_keep_it(tmp_path: Path) -> None:
    with DataLock(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with child:
        assert read_holder(tmp_path) is None
        child.kill()
