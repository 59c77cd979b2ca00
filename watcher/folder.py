"""The folder of one key, as the watcher sees it: the grant that it stores there and the outcome that a shim left."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watcher.crashpoint import reached
from watcher.machine import Machine
from watcher.shim import fsync_folder, read_json, write_durably


class Broken(Exception):
    """A file of a key's folder cannot be read: its disk was damaged, or someone edited it."""


@dataclass(frozen=True)
class KeyFolder:
    """The folder of one key; `agent` is folded. Its methods block on the disk."""

    path: Path
    agent: str

    @property
    def key(self) -> str:
        """The key itself."""
        return self.path.name

    @property
    def granted(self) -> bool:
        """Whether the bus granted a wake to this key."""
        return (self.path / "grant").exists()

    def grant(self) -> dict[str, Any]:
        """The stored grant. Raises Broken, also if there is no lock, without which no shim works."""
        if not (self.path / "lock").exists():
            raise Broken(f"{self.path} has no lock")
        self.machine()  # without which no shim works either
        return self._read("grant", "wake", "latest_start", "argv", "cwd", "env", "request")

    def outcome(self) -> dict[str, Any] | None:
        """What the shim wrote; None if the wake has no outcome yet. Raises Broken, also if the folder is gone."""
        if not self.granted:
            raise Broken(f"{self.path} was removed")
        if not (self.path / "outcome").exists():
            return None
        return self._read("outcome", "outcome")

    def machine(self) -> Machine:
        """Where and in which boot the key was made. Raises Broken."""
        stored = self._read("key", "key", "boot_id", "machine_id", "hardware")
        return Machine(stored["boot_id"], stored["machine_id"], tuple(stored["hardware"]))

    def store_grant(self, grant: dict[str, Any]) -> None:
        """Make the grant durable; from then on the shim may start the command. Raises OSError."""
        write_durably(str(self.path), "grant", grant)

    def wait_unlocked(self) -> None:
        """Block until no shim works on this folder."""
        with self.locked():
            pass

    @contextlib.contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[None]:
        """Hold the folder's lock, as a shim does; a folder that is gone, or has no lock, needs none.

        Blocks while a shim works on the folder, or raises BlockingIOError if it is not to `wait`.
        """
        try:
            handle = os.open(self.path / "lock", os.O_RDWR)
        except FileNotFoundError:
            yield
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(handle)

    def move_to(self, target: Path, *, wait: bool = True) -> None:
        """Take the folder out of the shim's reach, durably. Raises BlockingIOError as `locked` does."""
        with self.locked(wait=wait):
            self.path.rename(target)
            reached("watcher.folder.renamed")
            fsync_folder(str(self.path.parent))
            reached("watcher.folder.gone")

    def remove(self) -> None:
        """End the folder: it is renamed first, so that no half of it is ever taken for a whole one."""
        target = self.path.with_name(f".gone-{self.key}")
        self.move_to(target)
        shutil.rmtree(target, ignore_errors=True)
        reached("watcher.folder.deleted")

    def _read(self, name: str, *fields: str) -> dict[str, Any]:
        try:
            value = read_json(str(self.path / name))
        except (OSError, ValueError) as error:
            raise Broken(f"{self.path / name} cannot be read: {error}") from error
        if not isinstance(value, dict) or any(field not in value for field in fields):
            raise Broken(f"{self.path / name} is not what was written there")
        return value
