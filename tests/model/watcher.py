"""Watcher: the order of work of watcher/agent.py and watcher/daemon.py for one agent, with all that dies with it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from eventlog.wakes import Nothing
from tests.model.actions import Action, Kind
from tests.model.bus import Ask, Granted, Report
from tests.model.disk import Folder, Grant
from tests.model.harms import MISREPORTED, Harm
from tests.model.network import Request
from tests.model.shim import Shim
from watcher.agent import UNCONNECTED_ASK_S
from watcher.wake import RETRY_S_MAX

if TYPE_CHECKING:
    from tests.model.node import Node


class Watcher:
    """One watcher's process. `hinted` and `ask_at` say when it asks; `request` is the one it waits for."""

    def __init__(self, node: "Node") -> None:
        self.node = node
        self.standing = False
        self.hint_on_its_way = False
        self.hinted = "R17" in node.without
        self.begun = "R17" in node.without
        self.stopped = False
        self.ask_at: float | None = node.now + UNCONNECTED_ASK_S
        self.request: Request | None = None
        self.sent_at = 0.0
        self.asked_with: Folder | None = None
        self.shim: Shim | None = None
        self.over: Folder | None = None
        self.looked: Folder | None = None

    # ---- the stream -------------------------------------------------------------------------------------------------

    def subscribe(self) -> None:
        """The stream stands: ask."""
        self.standing = True
        self.hint_on_its_way = False
        if "R17" not in self.node.without:
            self._hint()

    def drop_stream(self) -> None:
        """The stream breaks; what was in it is lost."""
        self.standing = self.hint_on_its_way = False

    def _hint(self) -> None:
        self.hinted = self.begun = True

    def _get_hint(self) -> None:
        self.hint_on_its_way = False
        self._hint()

    # ---- what may happen next ---------------------------------------------------------------------------------------

    def actions(self) -> Iterator[Action]:
        """What it may do next."""
        name = self.node.name
        if not self.standing:
            yield Action(f"{name} watcher subscribes", Kind.WORK, self.node.subscribe)
        if self.hint_on_its_way:
            yield Action(f"{name} gets the hint", Kind.WORK, self._get_hint)
        if self.request is not None:
            yield from self._waiting()
            return
        folder = self.node.disk.granted()
        if self.over is not None:
            yield from self._removing(self.over)
        elif folder is not None:
            yield from self._carrying_out(folder)
        if self.over is None and (folder is None or "R21" in self.node.without) and self._due:
            yield Action(f"{name} asks", Kind.WORK, self._ask)

    def _waiting(self) -> Iterator[Action]:
        name = self.node.name
        answer = self.node.network.answer_to(self.request)
        yield Action(f"{name} gives up", Kind.FAULT, self.fail)
        if answer is None:
            return
        if isinstance(answer.reply, Granted):
            yield Action(f"{name} stores the grant", Kind.WORK, self._store_grant)
        elif isinstance(answer.reply, Nothing):
            yield Action(f"{name} reads 204", Kind.WORK, self._read_nothing)
        else:
            yield Action(f"{name} reads the answer to its report", Kind.WORK, self._read_report)

    @property
    def _due(self) -> bool:
        if self.stopped:
            return False
        return (self.hinted and self.begun) or (self.ask_at is not None and self.node.now >= self.ask_at)

    def fail(self) -> str:
        """A request came to nothing, as far as the watcher knows: it tries again."""
        asked = self.request is not None and isinstance(self.request.body, Ask)
        self.request = None
        if asked:
            self._hint()
        return "tries again"

    # ---- asking -----------------------------------------------------------------------------------------------------

    def _ask(self) -> str:
        disk = self.node.disk
        folder = disk.granted() if "R21" in self.node.without else None
        folder = folder or disk.unused() or self.node.new_key()
        self.hinted = False
        self.begun = True
        self.ask_at = None
        self.asked_with = folder
        self.sent_at = self.node.boottime
        self.request = self.node.network.send(self.node.name, Ask(folder.key, disk.node))
        return folder.key

    def _reply(self) -> Granted | Nothing | str:
        answer = self.node.network.answer_to(self.request)
        assert answer is not None
        self.node.network.forget_answers(self.node.name)
        self.request = None
        return answer.reply

    def _store_grant(self) -> str:
        granted, folder = self._reply(), self.asked_with
        assert isinstance(granted, Granted)
        assert folder is not None
        sent = self.node.boottime if "R1" in self.node.without else self.sent_at - granted.age_s
        latest = sent + self.node.limits.start_within_s
        if folder.grant is not None:  # only without R21: the folder is made anew
            self.node.disk.remove(folder)
            folder = self.node.new_key(folder.key)
        timeout_s = self.node.limits.timeout_s
        folder.grant = Grant(granted.wake, granted.number, granted.through, latest, timeout_s)
        self.shim = None
        if "R19" in self.node.without:
            self.hinted = False
        return f"may start for {(latest - self.node.boottime) / self.node.tick_s:g}"

    def _read_nothing(self) -> str:
        nothing = self._reply()
        assert isinstance(nothing, Nothing)
        if "R19" in self.node.without:
            self.hinted = False
        if nothing.why == "closed":
            assert self.asked_with is not None
            self.node.disk.remove(self.asked_with)
            self._hint()
        elif nothing.why != "nothing_unread" or "net" not in self.node.without:
            self.ask_at = self.node.now + min(nothing.retry_after_s, RETRY_S_MAX)
        return nothing.why

    # ---- carrying out -----------------------------------------------------------------------------------------------

    def _carrying_out(self, folder: Folder) -> Iterator[Action]:
        name, without = self.node.name, self.node.without
        if self.looked is folder:
            yield Action(f"{name} reports int", Kind.WORK, lambda: self._report(folder, "interrupted"))
        if folder.outcome is not None:
            yield Action(f"{name} reports", Kind.WORK, lambda: self._report(folder, folder.outcome))
            return
        if "R3" in without:
            yield Action(f"{name} looks: no outcome", Kind.FAULT, lambda: self._look(folder))
        if "shim judges" in without and folder.holder is None:
            label = f"{name} holds the lock, no outcome: writes interrupted"
            yield Action(label, Kind.FAULT, lambda: self._judge(folder))
        if self.shim is None or (not self.shim.lives and folder.holder is None):
            yield Action(f"{name} starts the shim", Kind.WORK, lambda: self._start_shim(folder))

    def _start_shim(self, folder: Folder) -> None:
        self.shim = self.node.start_shim(folder)

    def _look(self, folder: Folder) -> None:
        self.looked = folder

    def _judge(self, folder: Folder) -> None:
        folder.outcome = "interrupted"

    def _report(self, folder: Folder, outcome: str | None) -> str:
        assert folder.grant is not None
        assert outcome is not None
        if folder.outcome not in (None, outcome):
            raise Harm(MISREPORTED, f"{outcome}, and the folder has {folder.outcome}")
        report = Report(folder.grant.wake, folder.key, outcome)
        self.request = self.node.network.send(self.node.name, report)
        return outcome

    def _read_report(self) -> str:
        code = self._reply()
        assert isinstance(code, str)
        if code == "ok" or "R13" not in self.node.without:
            self.over = self.node.disk.granted()
        return code

    def _removing(self, folder: Folder) -> Iterator[Action]:
        name = self.node.name
        if "R7" in self.node.without and folder.outcome is not None:
            yield Action(f"{name} removes outcome", Kind.WORK, lambda: self._remove_outcome(folder))
            return
        if folder.holder is None:
            yield Action(f"{name} removes the folder", Kind.WORK, lambda: self._remove(folder, synced=True))
            label = f"{name} removes the folder, not yet synced"
            yield Action(label, Kind.HALF, lambda: self._remove(folder, synced=False))

    def _remove_outcome(self, folder: Folder) -> None:
        folder.outcome = None

    def _remove(self, folder: Folder, *, synced: bool) -> None:
        self.node.disk.remove(folder, synced=synced)
        self.over = None
        self.shim = None
        if "R18" not in self.node.without and self.begun:
            self._hint()
