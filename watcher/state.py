"""The state folder: node, cursor, tokens, and one folder per key, so that a wake in flight survives any restart.

run.lock             held while a watcher runs; names its process
node                 this node's random id
cursor               {"log", "cursor"}; losing it costs a longer replay, nothing else
status.json          what `bus-watcher status` shows
tokens/WAKE          a wake's token; its modification time is when the token ends
agents/AGENT/KEY/    one key: `key`, `lock`, then `grant`, `started`, `outcome` (see watcher/shim.py); of a run, the
                     folder `run` (see watcher/runs.py)
broken/              folders that could not be read, set aside
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from eventlog.errors import ConfigError, Locked, Unavailable
from watcher.crashpoint import reached
from watcher.folder import Broken, KeyFolder
from watcher.machine import Machine, is_foreign, this_machine
from watcher.shim import fsync_folder, read_json, write_durably

#: How long a watcher that starts waits for the lock: `bus-watcher status` holds it for a moment.
LOCK_WAIT_S: Final = 0.5
#: What a state folder is made of, besides files.
FOLDERS: Final = ("tokens", "agents", "broken")
#: What is wrong with a disk, not with a setting: it may be over when systemd starts the watcher again.
DISK_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})


class Cursor(NamedTuple):
    """A place in one log."""

    log: str
    cursor: int


class Recovered(NamedTuple):
    """What an earlier watcher left: the agents that have granted folders, and in words what was set aside."""

    agents: set[str]
    said: list[str]


class State:
    """A state folder in use by this process: `with State(path) as state`.

    Raises Locked naming the process that uses it already, ConfigError if the folder cannot be used, and Unavailable if
    its disk is full or fails.
    """

    def __init__(self, path: Path, machine: Machine | None = None) -> None:
        self.path = path
        self.machine = machine or this_machine()
        self.node = ""
        self._lock: int | None = None
        self._making = threading.Lock()
        self._durable = False

    def __enter__(self) -> Self:
        try:
            self._make()
        except OSError as error:
            if error.errno in DISK_ERRORS:
                raise Unavailable(f"cannot use the state folder {self.path}: {error}; mend its disk first") from error
            raise ConfigError(f"cannot use the state folder {self.path}: {error}; choose one that is yours") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def _make(self) -> None:
        self._durable = False
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path.chmod(0o700)
        for name in FOLDERS:
            (self.path / name).mkdir(exist_ok=True, mode=0o700)
        if self._lock is None:
            self._take_lock()
        reached("watcher.state.made")
        self.node = self._read_node() or self._new_node()
        fsync_folder(str(self.path))
        reached("watcher.state.flushed")
        with contextlib.suppress(PermissionError):  # what is above need not be ours
            fsync_folder(str(self.path.parent))
        reached("watcher.state.durable")
        self._durable = True

    def _make_again_if_gone(self) -> None:
        """A folder that is deleted under a running watcher costs what was in it, but no agent its wakes.

        Raises OSError, and Locked if another watcher made a folder there meanwhile.
        """
        with self._making:
            if not self._holds_lock():
                self._release()
            elif self._durable and all((self.path / name).is_dir() for name in FOLDERS):
                return
            self._make()

    def _holds_lock(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return self._lock is not None and os.path.samestat(os.stat(self.path / "run.lock"), os.fstat(self._lock))
        return False

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> None:
        handle = os.open(self.path / "run.lock", os.O_RDWR | os.O_CREAT, 0o600)
        give_up = time.monotonic() + LOCK_WAIT_S
        while not _try_lock(handle):
            if time.monotonic() > give_up:
                holder = os.read(handle, 100).decode(errors="replace").strip() or "unknown"
                os.close(handle)
                raise Locked(
                    f"another watcher (process {holder}) runs on {self.path}; stop it, or choose another --state-dir"
                )
            time.sleep(LOCK_WAIT_S / 10)
        self._lock = handle  # before what may fail: a lock that nobody knows of would keep us out, too
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())

    # ---- node and cursor --------------------------------------------------------------------------------------------

    def _read_node(self) -> str:
        try:
            node = (self.path / "node").read_text("ascii").strip()
        except (OSError, ValueError):
            return ""
        return node if node.isalnum() and len(node) <= 64 else ""

    def _new_node(self) -> str:
        node = os.urandom(8).hex()
        _replace(self.path / "node", f"{node}\n")
        reached("watcher.node.written")
        return node

    def read_cursor(self) -> Cursor | None:
        """The stored cursor; None if there is none that can be read."""
        try:
            stored = read_json(str(self.path / "cursor"))
            return Cursor(str(stored["log"]), int(stored["cursor"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write_cursor(self, cursor: Cursor) -> None:
        """Store the cursor, not durably: losing it costs a longer replay. Raises OSError."""
        _replace(self.path / "cursor", json.dumps(cursor._asdict()))
        reached("watcher.cursor.written")

    def write_status(self, status: dict[str, Any]) -> None:
        """Store what `bus-watcher status` shows. Raises OSError."""
        _replace(self.path / "status.json", json.dumps(status))
        reached("watcher.status.written")

    # ---- tokens -----------------------------------------------------------------------------------------------------

    def token_file(self, wake_id: int) -> Path:
        """Where the token of a wake is."""
        return self.path / "tokens" / str(wake_id)

    def store_token(self, wake_id: int, token: str, ends_in_s: float) -> Path:
        """Store a wake's token until it ends. Raises OSError."""
        path = self.token_file(wake_id)
        _replace(path, f"{token}\n")
        ends = time.time() + ends_in_s
        os.utime(path, (ends, ends))
        reached("watcher.token.stored")
        return path

    def sweep_tokens(self) -> None:
        """Remove the tokens that have ended, but none of a wake whose folder is still here."""
        kept = {grant["wake"]["id"] for grant in self._grants()}
        for path in (self.path / "tokens").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() and path.name not in map(str, kept):
                    path.unlink()
                    reached("watcher.token.removed")

    def _grants(self) -> Iterator[dict[str, Any]]:
        for folder in self.folders():
            with contextlib.suppress(Broken):
                if folder.granted:
                    yield folder.grant()

    # ---- folders of keys --------------------------------------------------------------------------------------------

    def folders(self, agent: str | None = None) -> list[KeyFolder]:
        """All folders of keys, or those of one agent (folded); the ones made first come first."""
        agents = [self.path / "agents" / agent] if agent else sorted((self.path / "agents").iterdir())
        found = [KeyFolder(path, at.name) for at in agents if at.is_dir() for path in at.iterdir()]
        whole = [folder for folder in found if not folder.key.startswith(".")]
        return sorted(whole, key=lambda folder: _modified(folder.path / "key"))

    def keys(self, agent: str) -> tuple[list[KeyFolder], KeyFolder | None]:
        """The agent's folders that were granted; if there is none, the key to ask with. Raises OSError, Locked."""
        granted = [folder for folder in self.folders(agent) if folder.granted]
        return granted, None if granted else self.unused_key(agent)

    def unused_key(self, agent: str) -> KeyFolder:
        """The agent's key that was not granted yet; it is made, durably, if there is none. Raises OSError, Locked."""
        self._make_again_if_gone()
        for folder in self.folders(agent):
            if not folder.granted:
                return folder
        return self._new_key(agent)

    def _new_key(self, agent: str) -> KeyFolder:
        home = self.path / "agents" / agent
        key = os.urandom(16).hex()
        scratch = home / f".new-{key}"
        try:
            self._store_key(home, scratch, key)
        except OSError:
            # What may not be durable must not be asked with, and a full disk must not fill up with halves of folders.
            for half in (scratch, home / key):
                shutil.rmtree(half, ignore_errors=True)
            with contextlib.suppress(OSError):
                home.rmdir()
            raise
        return KeyFolder(home / key, agent)

    def _store_key(self, home: Path, scratch: Path, key: str) -> None:
        if not home.exists():
            home.mkdir(mode=0o700)
            reached("watcher.home.made")
            fsync_folder(str(home.parent))
            reached("watcher.home.durable")
        scratch.mkdir(mode=0o700)
        reached("watcher.key.begun")
        (scratch / "lock").touch(0o600)
        reached("watcher.key.lockable")
        write_durably(str(scratch), "key", {"key": key, **self.machine._asdict()})
        scratch.rename(home / key)
        reached("watcher.key.named")
        fsync_folder(str(home))
        reached("watcher.key.made")

    def set_aside(self, folder: KeyFolder) -> Path:
        """Put away a folder that cannot be used, for a person to look at. BlockingIOError: a shim uses it."""
        target = self.path / "broken" / f"{folder.agent}-{folder.key}"
        target.parent.mkdir(exist_ok=True, mode=0o700)  # who has looked may have removed it
        folder.move_to(target, wait=False)
        return target

    def recover(self) -> Recovered:
        """What an earlier watcher left. Another machine's folders go without a word, and then the node is a new one."""
        for scratch in [*self.path.glob("agents/*/.new-*"), *self.path.glob("agents/*/.gone-*")]:
            shutil.rmtree(scratch, ignore_errors=True)
            reached("watcher.scratch.removed")
        agents: set[str] = set()
        said: list[str] = []
        foreign = False
        for folder in self.folders():
            try:
                made_at = folder.machine()
                if is_foreign(made_at, self.machine):
                    foreign = True
                    folder.remove()
                elif folder.granted:
                    folder.grant()
                    agents.add(folder.agent)
                elif made_at.boot_id != self.machine.boot_id:
                    folder.remove()
            except Broken as error:
                said.append(f"{error}; {self._put_away(folder)}")
                if folder.granted:
                    agents.add(folder.agent)
        if foreign:
            self.node = self._new_node()
            said.append("this state folder was copied from another machine: its wakes are left to that one")
        return Recovered(agents, said)

    def _put_away(self, folder: KeyFolder) -> str:
        try:
            return f"its folder is now {self.set_aside(folder)}"
        except BlockingIOError:
            return "its command still runs; its folder is set aside after that"


def watcher_runs(path: Path) -> bool:
    """Whether a watcher runs on this state folder; a folder that is not there has none."""
    try:
        handle = os.open(path / "run.lock", os.O_RDWR)
    except OSError:
        return False
    try:
        return not _try_lock(handle)
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _replace(path: Path, text: str) -> None:
    """Store a text so that a reader sees the old or the new one, readable by nobody else."""
    scratch = path.with_name(f".{path.name}.new")
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    scratch.replace(path)
