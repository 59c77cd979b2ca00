"""Lock: one process owns a data folder; the lock file says which, and under which address it serves."""

import contextlib
import fcntl
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from eventlog.errors import ConfigError, Locked

#: The lock's name in the data folder. The file stays; what counts is whether a process has it locked.
FILE = "lock"
#: How often and how far apart, seconds, the lock is tried: `read_holder` holds it for an instant, too.
TRIES = 10
TRY_INTERVAL_S = 0.02


class Holder(msgspec.Struct, frozen=True):
    """Who owns a data folder: process id (0 if it has not said yet), address if it serves, RFC 3339 start time."""

    pid: int = 0
    url: str | None = None
    started: str = ""


class DataLock:
    """Owns `data_dir` for as long as the block lasts, or the process lives.

    Entering raises Locked, naming the holder, if another process owns it, and ConfigError if the folder cannot be used.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._file: int | None = None

    def __enter__(self) -> "DataLock":
        try:
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(self._data_dir / FILE, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            mend = "make it writable for you, or choose another with --data-dir"
            raise ConfigError(f"the data folder cannot be used: {error}; {mend}", field="data_dir") from None
        for left in reversed(range(TRIES)):
            if _take(file, fcntl.LOCK_EX):
                self._file = file
                self.publish(None)
                return self
            if left:
                time.sleep(TRY_INTERVAL_S)
        holder = _read(file)
        os.close(file)
        where = f", which serves {holder.url}" if holder.url else ""
        who = f"process {holder.pid}" if holder.pid else "another process"
        raise Locked(f"{self._data_dir} is owned by {who}{where}; use that one, or stop it first")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # of a disk that fails; why the process ends is said elsewhere
                os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None

    def publish(self, url: str | None) -> None:
        """Say under which address this process serves."""
        assert self._file is not None
        content = json.dumps({"pid": os.getpid(), "url": url, "started": self._started}).encode() + b"\n"
        os.pwrite(self._file, content, 0)
        os.ftruncate(self._file, len(content))


def read_holder(data_dir: Path) -> Holder | None:
    """Who owns `data_dir`; None if nobody does."""
    try:
        file = os.open(data_dir / FILE, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return None if _take(file, fcntl.LOCK_SH) else _read(file)
    finally:
        os.close(file)


def _take(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(file: int) -> Holder:
    try:
        content: Any = os.pread(file, 4096, 0)
        return msgspec.json.decode(content, type=Holder)
    except msgspec.MsgspecError:
        # Taken just now, and not said yet by whom.
        return Holder()
