"""Node: one machine with its disk, its watcher and the shims that outlive it; and what can happen to a machine."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

from eventlog.agents import Limits
from tests.model.actions import Action, Kind
from tests.model.bus import Bus
from tests.model.disk import Disk, Folder
from tests.model.harms import Commands
from tests.model.network import Network
from tests.model.shim import Command, Shim
from tests.model.watcher import Watcher
from watcher.machine import Machine, is_foreign


class Node:
    """One machine of a name of its own; what it has in common with others is told by `World`."""

    def __init__(
        self,
        name: str,
        *,
        bus: Bus,
        network: Network,
        commands: Commands,
        limits: Limits,
        without: Collection[str],
        tick_s: float,
        new_key: Callable[[], str],
        told_of_stream: Callable[["Node"], None],
    ) -> None:
        self.name = name
        self.bus = bus
        self.network = network
        self.commands = commands
        self.limits = limits
        self.without = without
        self.tick_s = tick_s
        self._next_key = new_key
        self._told_of_stream = told_of_stream
        self.disk = Disk(machine_id=f"m{name}", node=f"n{name}")
        self.boots = 1
        self.booted_at = -1000.0
        self.gone = False
        self.shims: list[Shim] = []
        self.orphans: list[Command] = []
        self.watcher: Watcher | None = None

    @property
    def now(self) -> float:
        """The true time."""
        return self.bus.true_now

    @property
    def boottime(self) -> float:
        """CLOCK_BOOTTIME."""
        return self.now - self.booted_at

    @property
    def boot_id(self) -> str:
        """The identity of this boot."""
        return f"{self.name}{self.boots}"

    @property
    def machine(self) -> Machine:
        """What a key's folder notes of this machine."""
        return Machine(self.boot_id, self.disk.machine_id, (f"hardware of {self.name}",))

    def exists(self, folder: Folder) -> bool:
        """Whether the folder is in its place."""
        return self.disk.holds(folder)

    def new_key(self, key: str | None = None) -> Folder:
        """A new folder of a new key (or of this one), durable."""
        folder = Folder(key or self._next_key(), self.machine, lock_made="R4" not in self.without)
        self.disk.folders.append(folder)
        self.disk.sync()
        return folder

    def start_shim(self, folder: Folder) -> Shim:
        """A shim begins."""
        shim = Shim(self, folder)
        self.shims.append(shim)
        return shim

    def left_of(self, wake: int) -> list[Command]:
        """The commands of a wake that run although their shim died."""
        return [command for command in self.orphans if command.grant.wake == wake and command.ends is None]

    # ---- what may happen next ---------------------------------------------------------------------------------------

    def actions(self) -> Iterator[Action]:
        """What this machine may do next."""
        if self.gone:
            return
        if self.watcher is None:
            yield Action(f"{self.name} watcher starts", Kind.WORK, self.start_watcher)
        else:
            yield from self.watcher.actions()
            yield Action(f"{self.name} watcher crashes", Kind.FAULT, self.stop_watcher)
        if self.watcher is not None and self.watcher.standing:
            yield Action(f"{self.name} loses the stream", Kind.FAULT, self.watcher.drop_stream)
        seen = set[str]()
        for shim in self.shims:
            for action in (*shim.actions(), *self._to_command(shim), *self._to_shim(shim)):
                if action.label not in seen:
                    seen.add(action.label)
                    yield action
        yield Action(f"{self.name} power cut", Kind.FAULT, lambda: self.power_cut(kept=False))
        yield Action(f"{self.name} power cut, all was written", Kind.FAULT, lambda: self.power_cut(kept=True))
        if self.watcher is None:
            yield Action(f"{self.name} loses its state folder", Kind.FAULT, self.lose_disk)

    def _to_command(self, shim: Shim) -> Iterator[Action]:
        command = shim.command
        if shim.phase != "running" or command is None:
            return
        yield Action(f"{self.name} command ends ok", Kind.COMMAND, lambda: shim.command_ended("ok"))
        yield Action(f"{self.name} command ends failed", Kind.COMMAND, lambda: shim.command_ended("failed"))
        yield Action(
            f"{self.name} command finds nothing to run", Kind.COMMAND, lambda: shim.command_ended("not_started")
        )
        if self.boottime >= command.term_at:
            label = f"{self.name} command ends as it is told to"
            yield Action(label, Kind.COMMAND, lambda: shim.command_ended("timeout"))
        if command.grant.through > self.bus.state.cursor and not self.bus.closed(command.grant.wake):
            yield Action(f"{self.name} command acks", Kind.COMMAND, lambda: self.bus.ack(command.grant.through))

    def _to_shim(self, shim: Shim) -> Iterator[Action]:
        if shim.lives:
            yield Action(f"{self.name} shim is killed", Kind.FAULT, lambda: self._kill(shim))
        if shim.phase == "running":
            label = f"{self.name} shim is told to stop"
            yield Action(label, Kind.FAULT, lambda: shim.command_ended("interrupted"))

    # ---- what happens -----------------------------------------------------------------------------------------------

    def start_watcher(self) -> str | None:
        """The watcher starts and looks at what an earlier one left."""
        foreign = False
        for folder in list(self.disk.folders):
            if is_foreign(folder.made_at, self.machine) and "R22" not in self.without:
                foreign = True
                self.disk.remove(folder)
            elif folder.grant is None and folder.made_at.boot_id != self.boot_id:
                self.disk.remove(folder)
        if foreign:
            self.disk.renew_node()
        self.watcher = Watcher(self)
        return "new node" if foreign else None

    def stop_watcher(self) -> None:
        """The watcher dies; shims live on."""
        self.watcher = None
        self.network.forget_answers(self.name)

    def subscribe(self) -> None:
        """The watcher's stream stands."""
        assert self.watcher is not None
        self.watcher.subscribe()
        self._told_of_stream(self)

    def _kill(self, shim: Shim) -> None:
        shim.kill()
        if shim.command is not None and shim.command.ends is None:
            self.orphans.append(shim.command)
        self.shims.remove(shim)

    def power_cut(self, *, kept: bool) -> None:
        """Everything that runs is gone, and what was not synced unless it is `kept`; the machine comes up again."""
        for command in [shim.command for shim in self.shims if shim.command] + self.orphans:
            if command.ends is None:
                command.ends = "cut"
                self.commands.end(command)
        self.shims, self.orphans = [], []
        self.stop_watcher()
        self.disk.cut(kept=kept)
        self.boots += 1
        self.booted_at = self.now

    def lose_disk(self) -> None:
        """The state folder is deleted."""
        self.disk.folders.clear()
        self.disk.removed.clear()
        self.disk.renew_node()

    def take_copy(self, other: "Node") -> None:
        """This machine is set up from a copy of the other one's disk."""
        self.power_cut(kept=True)
        self.disk = other.disk.copied()

    def leave(self) -> None:
        """This machine is gone for good."""
        self.power_cut(kept=True)
        self.gone = True

    def tick(self) -> None:
        """Time went on: commands that are past their last moment are dead; processes that are gone are forgotten."""
        for shim in self.shims:
            if shim.phase == "running" and shim.command is not None and self.boottime >= shim.command.kill_at:
                shim.command_ended("timeout")
        self.shims = [shim for shim in self.shims if shim.lives]

    def hint(self) -> None:
        """A message is in the watcher's stream."""
        if self.watcher is not None and self.watcher.standing:
            self.watcher.hint_on_its_way = True

    def memo(self) -> dict[str, Any]:
        """What a failing run shows of this node."""
        return {"folders": [(f.key, f.grant, f.started, f.outcome) for f in self.disk.folders], "boot": self.boot_id}
