"""Starting shims: what they inherit, and that waiting for one never ends it."""

import asyncio
import threading
from pathlib import Path

import pytest

from tests.watcher.support import alive, end, make_folder, pids_in, shell, until
from watcher.spawn import apart, inheritable, run_shim

pytestmark = pytest.mark.anyio


def test_the_watchers_credentials_and_its_own_wake_are_not_inherited() -> None:
    withheld = ["EVENTLOG_TOKEN", "EVENTLOG_TOKEN_FILE", "EVENTLOG_URL", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET"]
    withheld += ["LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC", "WATCHDOG_PID", "WAKE_ID", "WAKE_AGENT"]
    kept = {"PATH": "/bin", "HOME": "/home/mel", "LANG": "C", "INVOCATION_ID": "1", "EVENTLOG_DATA_DIR": "/data"}
    assert inheritable({**dict.fromkeys(withheld, "x"), **kept}) == kept


async def test_a_shim_runs_to_its_end(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, shell("exit 3"))
    assert await run_shim(folder.path) == 0
    assert folder.outcome["exit_code"] == 3


async def test_a_shim_has_a_session_of_its_own_and_nothing_of_our_streams(tmp_path: Path) -> None:
    folder = make_folder(
        tmp_path, shell("cat /proc/$PPID/stat | cut -d' ' -f1,6 > ids; readlink /proc/$PPID/fd/2 > err")
    )
    await run_shim(folder.path)
    pid, session = (tmp_path / "ids").read_text().split()
    assert pid == session
    assert (tmp_path / "err").read_text() == "/dev/null\n"


async def test_a_wait_that_is_given_up_leaves_the_command_running(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, shell("echo $$ > pids; while [ ! -e go ]; do sleep 0.02; done"))
    waiting = asyncio.ensure_future(run_shim(folder.path))
    (pid,) = await until(lambda: pids_in(tmp_path / "pids"))
    waiting.cancel()
    await asyncio.wait([waiting])
    assert alive(pid)
    (tmp_path / "go").touch()
    await until(lambda: folder.outcome)
    assert folder.outcome["outcome"] == "ok"
    end(pid)


async def test_what_blocks_apart_gives_its_result_or_its_error() -> None:
    assert await apart(lambda: 3) == 3
    with pytest.raises(OSError, match="gone"):
        await apart(lambda: (_ for _ in ()).throw(OSError("gone")))


async def test_what_blocks_apart_can_be_given_up() -> None:
    release = threading.Event()
    waiting = asyncio.ensure_future(apart(release.wait))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    release.set()
