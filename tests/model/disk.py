"""Disk: a node's state folder, with what of it a power cut would take, and its copy for another machine."""

import copy
from dataclasses import dataclass, field, replace

from watcher.machine import Machine


@dataclass(frozen=True)
class Grant:
    """What a key's folder says of the wake; `latest_start` by the clock since boot."""

    wake: int
    number: int
    through: int
    latest_start: float
    timeout_s: float


@dataclass(eq=False)
class Folder:
    """The folder of one key. `holder` is the process that holds its lock; locks do not outlive a process."""

    key: str
    made_at: Machine
    grant: Grant | None = None
    started: bool = False
    outcome: str | None = None
    lock_made: bool = True
    unsynced: set[str] = field(default_factory=set)
    holder: object | None = None

    def cut(self) -> None:
        """The power fails: what was not synced is gone, and so is every lock."""
        if "started" in self.unsynced:
            self.started = False
        if "outcome" in self.unsynced:
            self.outcome = None
        self.unsynced.clear()
        self.holder = None


@dataclass
class Disk:
    """A machine's disk: the watcher's state folder, and the machine id that a copy takes along."""

    machine_id: str
    node: str
    folders: list[Folder] = field(default_factory=list)
    removed: list[Folder] = field(default_factory=list)
    nodes_made: int = 0

    def granted(self) -> Folder | None:
        """The first folder with a grant."""
        return next((folder for folder in self.folders if folder.grant is not None), None)

    def unused(self) -> Folder | None:
        """The key that was not granted yet."""
        return next((folder for folder in self.folders if folder.grant is None), None)

    def holds(self, folder: Folder) -> bool:
        """Whether this folder is in its place."""
        return any(one is folder for one in self.folders)

    def remove(self, folder: Folder, *, synced: bool = True) -> None:
        """Rename a folder out of the way; if that is not synced, a power cut brings it back."""
        if self.holds(folder):
            self.folders = [one for one in self.folders if one is not folder]
            if not synced:
                self.removed.append(folder)

    def sync(self) -> None:
        """What was removed stays so."""
        self.removed.clear()

    def cut(self, *, kept: bool) -> None:
        """The power fails; `kept` says that by luck everything had been written."""
        if not kept:
            self.folders += self.removed
        self.removed.clear()
        for folder in self.folders:
            if kept:
                folder.unsynced.clear()
            folder.cut()

    def copied(self) -> "Disk":
        """A copy, as it would be found after a power cut."""
        folders = [replace(folder, unsynced=set(folder.unsynced), holder=None) for folder in self.folders]
        other = Disk(self.machine_id, self.node, folders, copy.copy(self.removed), self.nodes_made)
        other.cut(kept=True)
        return other

    def renew_node(self) -> None:
        """Take a new id, as no other node has."""
        self.nodes_made += 1
        self.node = f"{self.node}'"
