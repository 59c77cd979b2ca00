"""Shim: runs one wake's command and alone decides its outcome, step by step as watcher/shim.py does."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from tests.model.actions import Action, Kind
from tests.model.disk import Folder, Grant
from tests.model.harms import Commands
from watcher.processes import TERM_GRACE_S


class Machine(Protocol):
    """What a shim sees of the machine that it runs on."""

    name: str
    without: Collection[str]
    commands: Commands

    @property
    def boottime(self) -> float: ...
    @property
    def boot_id(self) -> str: ...
    def exists(self, folder: Folder) -> bool: ...
    def left_of(self, wake: int) -> list["Command"]: ...


@dataclass(eq=False)
class Command:
    """A wake's command: when it is told to end, and when it is made to; `ends` is how it ended."""

    grant: Grant
    term_at: float
    kill_at: float
    ends: str | None = None


class Shim:
    """One shim for one folder; `phase` is new, made, locked, started, running, ended, syncing or gone."""

    def __init__(self, machine: Machine, folder: Folder) -> None:
        self.machine = machine
        self.folder = folder
        self.phase = "new"
        self.command: Command | None = None

    @property
    def lives(self) -> bool:
        """Whether the process is there."""
        return self.phase != "gone"

    def actions(self) -> Iterator[Action]:
        """What it may do next."""
        name = self.machine.name
        if self.phase == "new" and "R4" in self.machine.without:
            yield Action(f"{name} shim creates lock (not yet locked)", Kind.WORK, self._create_lock)
        elif self.phase == "new":
            yield Action(f"{name} shim takes the lock", Kind.WORK, self._take_lock)
        elif self.phase == "made":
            yield Action(f"{name} shim locks lock", Kind.WORK, self._lock)
        elif self.phase == "locked" and not self.machine.exists(self.folder):
            yield Action(f"{name} shim finds its folder gone", Kind.WORK, self._leave)
        elif self.phase == "locked":
            yield self._checked()
            if self._may_start:
                yield Action(f"{name} shim stores started", Kind.HALF, self._store_started)
        elif self.phase == "started":
            yield self._checked()
        elif self.phase == "ended":
            yield Action(f"{name} shim writes outcome", Kind.WORK, self._write_verdict)
            yield Action(f"{name} shim writes outcome, not yet synced", Kind.HALF, self._write_unsynced)
        elif self.phase == "syncing":
            yield Action(f"{name} shim syncs outcome", Kind.WORK, self._leave)

    def _take_lock(self) -> str:
        folder = self.folder
        if folder.holder is not None:
            self.phase = "gone"
            return "taken"
        if folder.grant is None or folder.outcome is not None or not self.machine.exists(folder):
            self.phase = "gone"
            return "nothing to do"
        folder.holder = self
        self.phase = "locked"
        return "taken by it"

    def _create_lock(self) -> str:
        if self.folder.holder is not None or self.folder.outcome is not None:
            self.phase = "gone"
            return "taken"
        self.phase = "made"
        return "created"

    def _lock(self) -> str:
        if self.folder.holder is not None:
            self.phase = "gone"
            return "taken"
        self.folder.holder = self
        self.phase = "locked"
        return "taken by it"

    # ---- checks, then the command -----------------------------------------------------------------------------------

    @property
    def _grant(self) -> Grant:
        assert self.folder.grant is not None
        return self.folder.grant

    @property
    def _of_another_boot(self) -> bool:
        return self.folder.made_at.boot_id != self.machine.boot_id and "R23" not in self.machine.without

    @property
    def _died_before(self) -> bool:
        return self.folder.started and self.phase == "locked" and "started" not in self.machine.without

    @property
    def _late(self) -> bool:
        return self.machine.boottime > self._grant.latest_start and "R2" not in self.machine.without

    @property
    def _may_start(self) -> bool:
        return not (self._of_another_boot or self._died_before or self._late)

    def _checked(self) -> Action:
        name = self.machine.name
        if self._of_another_boot:
            return Action(
                f"{name} shim: earlier boot, outcome interrupted", Kind.WORK, lambda: self._end("interrupted")
            )
        if self._died_before:
            return Action(f"{name} shim: another died, outcome interrupted", Kind.WORK, self._end_left)
        if self._late:
            return Action(f"{name} shim: too late, outcome not_started", Kind.WORK, lambda: self._end("not_started"))
        return Action(f"{name} command starts", Kind.WORK, self._start)

    def _store_started(self) -> str:
        self.folder.started = True
        self.phase = "started"
        return "stored"

    def _start(self) -> str:
        grant, now = self._grant, self.machine.boottime
        self.folder.started = True
        term_at = now + grant.timeout_s
        if "cap" not in self.machine.without:
            term_at = min(term_at, grant.latest_start + grant.timeout_s)
        term_at = max(term_at, now)
        self.command = Command(grant, term_at, term_at + TERM_GRACE_S)
        self.phase = "running"
        self.machine.commands.start(self.command, ("key", self.folder.key), ("wake", grant.wake))
        return f"wake {grant.number}"

    def command_ended(self, how: str) -> str:
        """The command is over, by itself or made so."""
        assert self.command is not None
        self.command.ends = how
        self.machine.commands.end(self.command)
        self.phase = "ended"
        return how

    # ---- the outcome ------------------------------------------------------------------------------------------------

    def _end(self, outcome: str) -> str:
        if self.machine.exists(self.folder):
            self.folder.outcome = outcome
        return self._leave()

    def _end_left(self) -> str:
        for command in self.machine.left_of(self._grant.wake):
            command.ends = "killed"
            self.machine.commands.end(command)
        return self._end("interrupted")

    def _write_verdict(self) -> str:
        assert self.command is not None
        assert self.command.ends is not None
        return self._end(self.command.ends) or self.command.ends

    def _write_unsynced(self) -> str:
        assert self.command is not None
        if not self.machine.exists(self.folder):
            return self._leave()
        self.folder.outcome = self.command.ends
        self.folder.unsynced.add("outcome")
        self.phase = "syncing"
        return "visible"

    def _leave(self) -> str:
        self.folder.unsynced.clear()
        if self.folder.holder is self:
            self.folder.holder = None
        self.phase = "gone"
        return self.folder.outcome or "gone"

    def kill(self) -> None:
        """SIGKILL: its lock is free, and the command's group ends with it."""
        if self.folder.holder is self:
            self.folder.holder = None
        self.phase = "gone"
        if self.command is not None and self.command.ends is None and "R6" not in self.machine.without:
            self.command.ends = "killed"
            self.machine.commands.end(self.command)
