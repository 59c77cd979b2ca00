"""World: a bus, a network and two nodes in virtual time, without threads, processes, sockets or database.

`actions` are what may happen next, `do` lets one of them happen, and harm is raised by the step that does it. Time goes
in ticks of 15 s: `start_within`, `timeout` and the time to stop a command are one tick each, a lease three.
"""

from collections.abc import Collection, Iterator
from functools import partial
from typing import Final

from eventlog.agents import STOP_S, Limits
from eventlog.event import Event
from tests.model.actions import Action, Kind
from tests.model.bus import AGENT, Ask, Bus, Granted
from tests.model.harms import ENDLESS, STUCK, Commands, Harm
from tests.model.network import Network, Request
from tests.model.node import Node

TICK_S: Final = float(STOP_S)
#: The wall clock's jump: further than any lease and any deadline.
JUMP_S: Final = 3600.0
#: A fair run that takes longer than this never ends; the longest waits are quiet times, 60 s and 300 s.
TICKS_MAX: Final = 400
#: Without any step but ticks for this long nothing more happens: no answer names a time more than 300 s away.
IDLE_TICKS_MAX: Final = 45
#: More steps than this within one tick never end.
STEPS_MAX: Final = 300

#: What commands do at the fair end, the first that is possible.
FAIR_COMMANDS: Final = {
    "reads": ("command acks", "command ends ok"),
    "ignores": ("command ends ok",),
    "fails": ("command ends failed",),
}

LIMITS: Final = Limits(timeout_s=TICK_S, start_within_s=TICK_S, ack_within_s=TICK_S, max_attempts=2)


class Impossible(Exception):
    """This step cannot happen now."""


class World:
    """All there is. `without` are the rules that are left out: those of WAKES.md by their names, and

    net             every answer to an ask names a time, at most 300 s away
    cap             a command is told to end at its latest start + timeout, whenever it started
    started         a shim looks whether another one started the command before
    shim judges     only a shim judges a folder that has no outcome
    """

    def __init__(
        self,
        without: Collection[str] = (),
        *,
        limits: Limits = LIMITS,
        quiet_s: float = TICK_S,
        messages_max: int = 3,
    ) -> None:
        self.without = frozenset(without)
        self.bus = Bus(limits, self.without, quiet_s)
        self.network = Network()
        self.commands = Commands()
        self.done: list[str] = []
        self._messages_max = messages_max
        self._keys = 0
        self.nodes = [
            Node(
                name,
                bus=self.bus,
                network=self.network,
                commands=self.commands,
                limits=limits,
                without=self.without,
                tick_s=TICK_S,
                new_key=self._new_key,
                told_of_stream=self._stream_stands,
            )
            for name in ("A", "B")
        ]
        for node in self.nodes:
            node.start_watcher()
            node.subscribe()

    def _new_key(self) -> str:
        self._keys += 1
        return f"k{self._keys}"

    # ---- steps ------------------------------------------------------------------------------------------------------

    def do(self, label: str) -> str:
        """Let it happen; what came of it, in a word. Raises Impossible, and Harm."""
        for action in self.actions():
            if action.label == label:
                return self.take(action)
        raise Impossible(f"{label}; possible are: {', '.join(action.label for action in self.actions())}")

    def take(self, action: Action) -> str:
        """Let this action happen. Raises Harm."""
        self.done.append(action.label)
        seen = len(self.bus.log.events)
        said = action.run() or ""
        if said:
            self.done[-1] += f": {said}"
        self._hints(self.bus.log.events[seen:])
        return said

    def _hints(self, events: list[Event]) -> None:
        """What watchers follow of what was appended is in their streams."""
        if any(e.event in ("message", "agent.resumed") and e.agent == AGENT for e in events):
            for node in self.nodes:
                node.hint()

    def actions(self) -> Iterator[Action]:
        """Everything that may happen now."""
        yield Action("bus sweeps", Kind.WORK, self.bus.sweep)
        yield from self._on_the_way()
        for node in self.nodes:
            yield from node.actions()
        yield Action("tick", Kind.TIME, self.tick)
        yield Action("wall clock of the bus jumps forward", Kind.TIME, lambda: self.bus.jump(JUMP_S))
        yield Action("wall clock of the bus jumps back", Kind.TIME, lambda: self.bus.jump(-JUMP_S))
        yield from self._inputs()
        yield from self._faults()

    def _on_the_way(self) -> Iterator[Action]:
        seen = set[str]()
        for request in self.network.requests:
            what = "ask" if isinstance(request.body, Ask) else "report"
            late = "" if self._waits_for(request) else "late "
            of = f"the {late}{what} of {request.sender}"
            if of not in seen:
                seen.add(of)
                label = f"bus answers {request.sender}" if of.startswith("the ask") else f"bus answers {of}"
                yield Action(label, Kind.WORK, partial(self._answer, request))
                yield Action(f"{of} is lost", Kind.FAULT, partial(self._lose_request, request))
                if self.network.requests.count(request) == 1:
                    repeat = partial(self.network.requests.append, request)
                    yield Action(f"{of} is repeated", Kind.FAULT, repeat)
        for node in self.nodes:
            if node.watcher is not None and self.network.answer_to(node.watcher.request) is not None:
                yield Action(f"answer to {node.name} is lost", Kind.FAULT, partial(self._lose_answer, node))

    def _inputs(self) -> Iterator[Action]:
        if self.bus.messages < self._messages_max:
            yield Action("message", Kind.INPUT, self.bus.message)
        for i in self.bus.log.messages(AGENT):
            if i > self.bus.state.cursor:
                yield Action(f"agent acks {i}", Kind.INPUT, partial(self.bus.ack, i))
        yield Action("agent sends a message", Kind.INPUT, lambda: self.bus.message(sender=AGENT, to="tony"))
        paused = self.bus.state.paused
        label = "agent is resumed" if paused else "agent is paused"
        yield Action(label, Kind.INPUT, lambda: self.bus.pause(not paused))

    def _faults(self) -> Iterator[Action]:
        yield Action("bus crashes, restarts", Kind.FAULT, self._restart)
        yield Action("bus crashes, restarts; watchers reconnect", Kind.FAULT, lambda: self._restart(reconnect=True))
        yield Action("backup taken", Kind.FAULT, self.bus.back_up)
        if self.bus.has_backup:
            yield Action("bus restored from the backup", Kind.FAULT, self._restore)
            label = "bus restored from the backup; watchers reconnect"
            yield Action(label, Kind.FAULT, lambda: self._restore(reconnect=True))
        a, b = self.nodes
        if not a.gone and not b.gone:
            yield Action("disk of A is copied to B", Kind.FAULT, lambda: b.take_copy(a))
            for node in self.nodes:
                yield Action(f"{node.name} is gone for good", Kind.FAULT, node.leave)

    # ---- what happens -----------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """A tick goes by, for everyone."""
        self.bus.tick(TICK_S)
        for node in self.nodes:
            node.tick()

    def _waits_for(self, request: Request) -> Node | None:
        for node in self.nodes:
            waited = node.watcher.request if node.watcher is not None else None
            if waited is not None and waited.number == request.number:
                return node
        return None

    def _answer(self, request: Request) -> str:
        reply = self.network.reach(self.bus, request)
        if self._waits_for(request) is None:
            self.network.answers.pop()
        if isinstance(reply, Granted):
            return f"wake {reply.number} again" if reply.again else f"wake {reply.number}"
        return reply if isinstance(reply, str) else reply.why

    def _lose_request(self, request: Request) -> None:
        self.network.requests.remove(request)
        node = self._waits_for(request)
        if node is not None and node.watcher is not None:
            node.watcher.fail()

    def _lose_answer(self, node: Node) -> None:
        self.network.forget_answers(node.name)
        assert node.watcher is not None
        node.watcher.fail()

    def _stream_stands(self, node: Node) -> None:
        """Without R20 a watcher whose node connects from elsewhere is told so, and stops."""
        for other in self.nodes:
            if "R20" in self.without and other is not node and other.disk.node == node.disk.node and other.watcher:
                other.watcher.stopped = True

    def _restart(self, *, reconnect: bool = False) -> None:
        self.bus.restart()
        self._streams_break(reconnect=reconnect)

    def _restore(self, *, reconnect: bool = False) -> None:
        self.bus.restore()
        self._streams_break(reconnect=reconnect)

    def _streams_break(self, *, reconnect: bool) -> None:
        for node in self.nodes:
            if node.watcher is not None:
                node.watcher.drop_stream()
                if reconnect:
                    node.subscribe()

    # ---- the fair end -----------------------------------------------------------------------------------------------

    def fair(self, agent: str) -> None:
        """Faults end; what is left alive goes on until every message is read or dead. Raises Harm if it never does.

        `agent` says what its commands do from here on: `reads`, `ignores` (ends ok all the same) or `fails`.
        """
        self.bus.pause(False)
        idle = 0
        for _ in range(TICKS_MAX):
            if self.bus.over:
                return
            idle = 0 if self._fair_steps(agent) else idle + 1
            if idle > IDLE_TICKS_MAX:
                raise Harm(STUCK)
            self.tick()
        raise Harm(ENDLESS)

    def _fair_steps(self, agent: str) -> int:
        """Everything that can be done before time goes on; how many steps that were."""
        self.bus.sweep()
        for n in range(STEPS_MAX):
            action = self._fair_step(agent)
            if action is None:
                return n
            self.take(action)
        raise Harm(ENDLESS)

    def _fair_step(self, agent: str) -> Action | None:
        """What commands do comes first; then bus, network, watchers and shims, in turn."""
        actions = list(self.actions())
        for wish in FAIR_COMMANDS[agent]:
            for action in actions:
                if action.kind is Kind.COMMAND and action.label.endswith(wish):
                    return action
        return next((one for one in actions if one.kind is Kind.WORK and one.label != "bus sweeps"), None)
