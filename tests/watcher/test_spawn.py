"""Starting shims: what they inherit, and that waiting for one never ends it."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.watcher.support import alive, end, make_folder, pids_in, shell, shim_alone, until, wait_until
from watcher import spawn, starter
from watcher.spawn import Shims, apart, inheritable

pytestmark = pytest.mark.anyio


@pytest.fixture
async def shims() -> AsyncIterator[Shims]:
    with Shims() as started:
        yield started


def test_the_watchers_credentials_and_its_own_wake_are_not_inherited() -> None:
    withheld = ["EVENTLOG_TOKEN", "EVENTLOG_TOKEN_FILE", "EVENTLOG_URL", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET"]
    withheld += ["LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC", "WATCHDOG_PID", "WAKE_ID", "WAKE_AGENT"]
    kept = {"PATH": "/bin", "HOME": "/home/mel", "LANG": "C", "INVOCATION_ID": "1", "EVENTLOG_DATA_DIR": "/data"}
    assert inheritable({**dict.fromkeys(withheld, "x"), **kept}) == kept


async def test_a_shim_runs_to_its_end(tmp_path: Path, shims: Shims) -> None:
    folder = make_folder(tmp_path, shell("exit 3"))
    assert await shims.run(folder.path) == 0
    assert folder.outcome["exit_code"] == 3


async def test_a_shim_that_fails_says_so(tmp_path: Path, shims: Shims) -> None:
    folder = make_folder(tmp_path)
    (folder.path / "grant").write_text("{")
    assert await shims.run(folder.path) == starter.EXIT_BROKEN


async def test_a_shim_has_a_session_of_its_own_and_nothing_that_is_not_its_own(tmp_path: Path, shims: Shims) -> None:
    """Not even while others run, whose ends the starter waits for."""
    other = make_folder(tmp_path, shell("touch up; read line < gate"), wake_id=8)
    os.mkfifo(tmp_path / "gate")
    waiting = asyncio.ensure_future(shims.run(other.path))
    await until((tmp_path / "up").exists)
    look = "cat /proc/$PPID/stat | cut -d' ' -f1,6 > ids; ls -lv /proc/$PPID/fd > held; ls -l /proc/$$/fd"
    folder = make_folder(tmp_path, shell(look))
    await shims.run(folder.path)
    pid, session = (tmp_path / "ids").read_text().split()
    assert pid == session
    held = [line.rpartition("-> ")[2] for line in (tmp_path / "held").read_text().splitlines()[1:]]
    assert held[:3] == ["/dev/null"] * 3
    # Its lock, and the ends of the pipes to its command and guard.
    others = sorted(what for what in held[3:] if not what.startswith("pipe:"))
    assert others == sorted([f"{folder.path}/lock", "anon_inode:[pidfd]"])
    assert "socket:" not in folder.outcome["stdout"]
    (tmp_path / "gate").write_text("go\n")
    assert await waiting == 0


async def test_what_the_watcher_was_started_with_is_not_passed_on(tmp_path: Path) -> None:
    """A file that is open for its children too, as a shell leaves a lock open around the watcher."""
    handle = os.open(tmp_path / "held-by-who-started-it", os.O_RDWR | os.O_CREAT)
    os.set_inheritable(handle, True)
    folder = make_folder(tmp_path, shell("ls -l /proc/$PPID/fd /proc/$$/fd"))
    try:
        with Shims() as shims:
            assert await shims.run(folder.path) == 0
    finally:
        os.close(handle)
    assert f"{folder.path}/lock" in folder.outcome["stdout"], "the shim's own is seen"
    assert "held-by-who-started-it" not in folder.outcome["stdout"]


async def test_a_wait_that_is_given_up_leaves_the_command_running(tmp_path: Path, shims: Shims) -> None:
    folder = make_folder(tmp_path, shell("echo $$ > pids; while [ ! -e go ]; do sleep 0.02; done"))
    waiting = asyncio.ensure_future(shims.run(folder.path))
    (pid,) = await until(lambda: pids_in(tmp_path / "pids"))
    waiting.cancel()
    await asyncio.wait([waiting])
    assert alive(pid)
    (tmp_path / "go").touch()
    await until(lambda: folder.outcome)
    assert folder.outcome["outcome"] == "ok"
    end(pid)


def children(pid: int) -> list[int]:
    """The processes that this one has forked."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def starters() -> list[int]:
    """The starters of this process."""
    return [pid for pid in children(os.getpid()) if b"starter.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]


class TestTheStarter:
    async def test_is_there_before_it_is_wanted_and_starts_many_shims_at_once(self, tmp_path: Path) -> None:
        with Shims() as shims:
            before = await until(starters)
            folders = [make_folder(tmp_path, shell("exit 4"), wake_id=number) for number in range(20)]
            assert await asyncio.gather(*(shims.run(folder.path) for folder in folders)) == [0] * 20
            assert starters() == before
        assert len(before) == 1
        assert starters() == []

    async def test_that_is_killed_takes_no_shim_with_it_and_is_started_again(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, shell("echo $$ > pids; while [ ! -e go ]; do sleep 0.02; done"))
        with Shims() as shims:
            waiting = asyncio.ensure_future(shims.run(folder.path))
            await until(lambda: pids_in(tmp_path / "pids"))
            (first,) = await until(starters)
            os.kill(first, signal.SIGKILL)
            assert await waiting is None
            assert await shims.run(make_folder(tmp_path, shell("exit 5"), wake_id=8).path) == 0
            assert starters() not in ([], [first])
            assert not folder.outcome
            (tmp_path / "go").touch()
            await until(lambda: folder.outcome)
        assert folder.outcome["outcome"] == "ok"

    async def test_has_the_next_shim_ahead_and_another_if_that_one_is_killed(self, tmp_path: Path) -> None:
        with Shims() as shims:
            (first,) = await until(starters)
            (ahead,) = await until(lambda: children(first))
            os.kill(ahead, signal.SIGKILL)
            await until(lambda: not alive(ahead))
            assert await shims.run(make_folder(tmp_path).path) == 0
            assert starters() == [first]
            (ahead,) = await until(lambda: [pid for pid in children(first) if alive(pid)])
        # It ends with the watcher, though it holds no pipe but the one it waits at.
        await until(lambda: not alive(ahead))

    async def test_leaves_nothing_of_what_waits_ahead_when_it_is_killed(self) -> None:
        with Shims():
            (first,) = await until(starters)
            waiting = await family_ahead(first)
            assert waiting
            assert all(map(alive, waiting))
            os.kill(first, signal.SIGKILL)
            await until(lambda: not any(map(alive, waiting)))

    async def test_whose_end_was_not_noticed_yet_is_started_again(self, tmp_path: Path) -> None:
        with Shims() as shims:
            (first,) = await until(starters)
            os.kill(first, signal.SIGKILL)
            wait_until(lambda: not alive(first))
            assert await shims.run(make_folder(tmp_path).path) == 0

    async def test_that_hangs_does_not_hold_up_the_watchers_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(spawn, "END_S", 0.01)
        with Shims():
            (first,) = await until(starters)
            os.kill(first, signal.SIGSTOP)
        assert not alive(first)

    async def test_cannot_be_started_and_whoever_wants_a_shim_hears_of_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as broken:
            broken.setattr(sys, "executable", str(tmp_path / "gone"))
            with Shims() as shims:
                with pytest.raises(FileNotFoundError):
                    await shims.run(make_folder(tmp_path).path)
                broken.undo()
                assert await shims.run(tmp_path / "key-7") == 0


async def family_ahead(starter_pid: int) -> list[int]:
    """The shim that waits for a folder, the process that is to be its command, and its guard."""
    (ahead,) = await until(lambda: [pid for pid in children(starter_pid) if alive(pid)])
    command, guard = await until(lambda: waiting if len(waiting := children(ahead)) == 2 else None)
    return [ahead, command, guard]


class TestTheCommandAndItsGuardAhead:
    async def test_end_with_their_shim(self, tmp_path: Path, shims: Shims) -> None:
        (first,) = await until(starters)
        ahead, command, guard = await family_ahead(first)
        os.kill(ahead, signal.SIGKILL)
        await until(lambda: not alive(command) and not alive(guard))
        folder = make_folder(tmp_path, shell("echo begun"))
        assert await shims.run(folder.path) == 0
        assert folder.outcome["stdout"] == "begun\n"

    async def test_end_with_a_shim_that_has_nothing_to_do(self, tmp_path: Path, shims: Shims) -> None:
        (first,) = await until(starters)
        waiting = await family_ahead(first)
        folder = make_folder(tmp_path, shell("touch ran"), late_s=1.0)
        assert await shims.run(folder.path) == 0
        await until(lambda: not any(map(alive, waiting)))
        assert folder.outcome["outcome"] == "not_started"
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("which", [1, 2], ids=["command", "guard"])
    async def test_are_replaced_if_one_was_killed(self, tmp_path: Path, shims: Shims, which: int) -> None:
        (first,) = await until(starters)
        waiting = await family_ahead(first)
        os.kill(waiting[which], signal.SIGKILL)
        await until(lambda: not alive(waiting[which]))
        folder = make_folder(tmp_path, shell("echo $$ > pids; exec sleep 60"))
        running = asyncio.ensure_future(shims.run(folder.path))
        (command,) = await until(lambda: pids_in(tmp_path / "pids"))
        os.kill(waiting[0], signal.SIGKILL)
        await running
        # Its guard is there, too (R6).
        await until(lambda: not alive(command))
        assert not any(map(alive, waiting))

    async def test_are_no_other_than_ones_that_are_forked_for_the_wake(self, tmp_path: Path, shims: Shims) -> None:
        look = (
            "env | sort | grep -v -e '^_=' -e '^PYTEST_'; pwd; umask;"
            "grep -E '^(SigBlk|SigIgn|SigCgt|Cap|NoNew|Seccomp|Uid|Gid|Groups)' /proc/self/status;"
            "cat /proc/$$/limits /proc/$$/oom_score_adj;"
            "set -- $(cat /proc/$$/stat); echo group $(($5 - $$)) session $(($6 - PPID)) terminal $7 nice ${19}"
        )
        (first,) = await until(starters)
        (_, waiting, _) = await family_ahead(first)
        folder = make_folder(tmp_path, shell(f"{look}; echo $$ > {tmp_path}/pid"), cwd=Path("."))
        await shims.run(folder.path)
        assert pids_in(tmp_path / "pid") == [waiting]
        said = folder.outcome["stdout"]
        (folder.path / "outcome").unlink()
        (folder.path / "started").unlink()
        alone = os.posix_spawn(sys.executable, shim_alone(folder.path), inheritable(os.environ), setsid=True)
        assert os.waitpid(alone, 0)[1] == 0
        assert pids_in(tmp_path / "pid") != [waiting]
        assert said.splitlines() == folder.outcome["stdout"].splitlines()
        assert "\n/\n" in said
        assert "group 0 session 0 " in said

    async def test_hold_nothing_of_what_came_before(self, tmp_path: Path, shims: Shims) -> None:
        (first,) = await until(starters)
        await family_ahead(first)
        of_starter = {os.readlink(handle) for handle in Path(f"/proc/{first}/fd").iterdir()}
        folder = make_folder(tmp_path, shell("for one in /proc/$$/fd/*; do readlink $one; done"))
        await shims.run(folder.path)
        # Its standard input and the two of its output; whatever the starter was given, every program inherits.
        held = [what for what in folder.outcome["stdout"].splitlines() if what not in of_starter]
        assert [what.partition(":")[0] for what in held] == ["/memfd", "pipe", "pipe"]


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


async def test_more_shims_at_once_than_the_starter_is_told_of_at_once_all_start(tmp_path: Path, shims: Shims) -> None:
    places = [tmp_path / f"{'no-folder-' * 8}{number}" for number in range(400)]
    ends = await asyncio.wait_for(asyncio.gather(*map(shims.run, places)), 60)
    # There is no folder, so each ends at once.
    assert len(ends) == len(places)
    assert set(ends) == {0}
