"""Projections: what follows from one event, as a pure `changes`; and Projector, which follows many and writes the rows.

Nothing here knows where events come from: the engine applies them as they are appended, a rebuild as they are read.
"""

import sqlite3
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from eventlog.agents import AgentState, Limits, apply, concerned
from eventlog.event import NAME, RESERVED, Event, fold
from eventlog.queries import SQL, Write, run_all, run_each
from eventlog.seal import Id, instant

#: The tables that can be dropped and rebuilt.
TABLES = ("agents", "wakes", "threads", "stops", "tokens", "dead_letters", "deadlines", "redactions")

#: The type of the bus's message that tells of a deadline that has passed.
DEADLINE = "DEADLINE"

_Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Agent(msgspec.Struct, frozen=True):
    """An agent that some event named. `state.name` is its name as first spelled; `known` tells whether a token, a
    watcher or a message from it named it."""

    state: AgentState
    known: bool = False


#: Finds an agent by its folded name.
Find = Callable[[str], Agent | None]


class _Ack(msgspec.Struct, frozen=True):
    cursor: Id


class _WakeStarted(msgspec.Struct, frozen=True):
    agent: str
    key: str
    after: Id
    through: Id
    attempt: Id
    watcher: str
    node: str
    time: str
    thread: Id | None = None


class _ThreadStopped(msgspec.Struct, frozen=True):
    thread: Id
    reason: str
    agents: tuple[str, ...]
    limit: Id
    time: str


class _ThreadResumed(msgspec.Struct, frozen=True):
    thread: Id


class _WakeFinished(msgspec.Struct, frozen=True):
    wake: Id
    outcome: str
    time: str
    by: str = "watcher"
    exit_code: _Int | None = None
    duration_ms: _Int | float | None = None
    detail: str | None = None


class _TokenCreated(msgspec.Struct, frozen=True):
    name: str
    kind: str
    sha256: str
    agents: tuple[str, ...] = ()
    peer: str | None = None


class _TokenRevoked(msgspec.Struct, frozen=True):
    name: str


class _DeadLetter(msgspec.Struct, frozen=True):
    message_id: Id
    agent: str
    reason: str
    attempts: Id


class _DeadLetterClosed(msgspec.Struct, frozen=True):
    message_id: Id
    agent: str
    how: str


class _Deadline(msgspec.Struct, frozen=True):
    deadline: str
    awaits: str = "read"


class _Redacted(msgspec.Struct, frozen=True):
    message_id: Id
    reason: str


def changes(event: Event, find: Find) -> tuple[list[Agent], list[Write]]:
    """The agents that are another after `event`, and the rows to write for it in the other tables. Pure.

    Raises KeyError or msgspec.ValidationError if a field that its kind needs is missing or wrong.
    """
    return _agents(event, find), _writes(event)


def _agents(event: Event, find: Find) -> list[Agent]:
    if event.event == "message" and find(event.agent) is not None:
        sender = find(event.sender)
        if sender is not None and (sender.known or event.sender in RESERVED) and not sender.state.awaited:
            return []  # as nearly always: both are known already, and the sender has no ack due
    changed: dict[str, Agent] = {}
    for name, folded, known in _named(event):
        agent = changed.get(folded) or find(folded)
        if agent is None:
            changed[folded] = Agent(AgentState(name=name), known)
        elif known and not agent.known:
            changed[folded] = msgspec.structs.replace(agent, known=True)
    who = concerned(event)
    if who:
        agent = changed.get(who) or find(who)
        if agent is not None:
            state = apply(agent.state, event)
            if state is not agent.state:
                changed[who] = msgspec.structs.replace(agent, state=state)
    return list(changed.values())


def _named(event: Event) -> list[tuple[str, str, bool]]:
    """The agents that the event names: as spelled there, folded, and whether that makes each a known one."""
    fields = event.fields
    if event.event == "message":
        to_agent, from_agent = fields["to_agent"], fields["from_agent"]
        return [(to_agent, event.agent, False), (from_agent, event.sender, event.sender not in RESERVED)]
    if event.event == "token.created":
        # A token for every agent names none: "*" is no name.
        named = [(name, fold(name), True) for name in fields.get("agents", ()) if NAME.match(name)]
        return [one for one in named if one[1] not in RESERVED]
    if not event.agent:
        return []
    return [(fields["agent"], event.agent, event.event == "wake.started")]


def _writes(event: Event) -> list[Write]:
    kind, fields = event.event, event.fields
    if kind == "message":
        placed: Write = ("put_thread", (fields["thread_id"], event.id, fields.get("hops", 0)))
        return [placed, *_deadline(event)] if "reply_to" in fields or "deadline" in fields else [placed]
    if kind == "ack":
        return [("read_deadlines", (event.agent, msgspec.convert(fields, _Ack).cursor))]
    if kind == "wake.started":
        wake = msgspec.convert(fields, _WakeStarted)
        limits = msgspec.json.encode(msgspec.convert(fields, Limits))
        place = (wake.agent, wake.after, wake.through, wake.attempt, wake.watcher, wake.node)
        counted: list[Write] = [] if wake.thread is None else [("put_thread_wake", (wake.thread,))]
        return [("put_wake", (event.id, wake.key, *place, limits, wake.time)), *counted]
    if kind == "wake.finished":
        end = msgspec.convert(fields, _WakeFinished)
        told = (end.exit_code, end.duration_ms, end.detail)
        return [("end_wake", (end.outcome, end.by != "bus", event.id, end.time, *told, end.wake))]
    if kind == "dead_letter":
        letter = msgspec.convert(fields, _DeadLetter)
        died = (letter.message_id, event.id, letter.agent, letter.reason, letter.attempts)
        return [("put_dead_letter", died), ("drop_deadline", (letter.message_id,))]
    if kind == "dead_letter.closed":
        closed = msgspec.convert(fields, _DeadLetterClosed)
        return [("close_dead_letter", (event.id, closed.how, closed.message_id))]
    if kind == "thread.stopped":
        return [("put_stop", (event.id, msgspec.convert(fields, _ThreadStopped).thread))]
    if kind == "thread.resumed":
        thread = msgspec.convert(fields, _ThreadResumed).thread
        return [("end_stops", (thread,)), ("count_thread_anew", (thread,))]
    if kind == "token.created":
        token = msgspec.convert(fields, _TokenCreated)
        agents = msgspec.json.encode(token.agents)
        good = (token.kind, agents, token.peer, token.sha256, event.id)
        return [("put_token", (fold(token.name), token.name, *good))]
    if kind == "token.revoked":
        return [("end_token", (event.id, fold(msgspec.convert(fields, _TokenRevoked).name)))]
    if kind == "redacted":
        redacted = msgspec.convert(fields, _Redacted)
        if redacted.message_id >= event.id:
            return []  # it cannot be of a message that did not exist yet
        return [
            ("put_redaction", (redacted.message_id, event.id, redacted.reason)),
            ("erase", (redacted.message_id,)),
        ]
    return []


def _deadline(event: Event) -> list[Write]:
    """What a message says of deadlines: its own, and that of the message which it answers, or is the notice of."""
    fields = event.fields
    writes: list[Write] = []
    if "deadline" in fields and event.sender not in RESERVED:
        told = msgspec.convert(fields, _Deadline)
        writes.append(("put_deadline", (event.id, event.agent, event.sender, instant(told.deadline), told.awaits)))
    answered = fields.get("reply_to")
    if answered is not None and event.sender == "bus" and fields.get("type") == DEADLINE:
        writes.append(("drop_deadline", (answered,)))
    elif answered is not None:
        writes.append(("answer_deadline", (answered, event.sender, event.agent)))
    return writes


class Projector:
    """Follows events one after another and gathers what is to be written, once for each agent that changed.

    `find` looks up the agents as they were before; it is asked only for those that did not change since.
    """

    def __init__(self, find: Find) -> None:
        self._before = find
        self.agents: dict[str, Agent] = {}
        self.writes: list[Write] = []
        # Messages from one agent to another that change no agent, as long as none changes: nearly all do not.
        self._settled: set[tuple[str, str]] = set()

    def find(self, name: str) -> Agent | None:
        """The agent with this folded name, as it is now."""
        return self.agents.get(name) or self._before(name)

    def apply(self, event: Event) -> None:
        """Follow one event. Raises as `changes` does, and then has followed nothing of it."""
        way = None
        if event.event == "message":
            way = event.sender, event.agent
            if way in self._settled:
                self.writes += _writes(event)
                return
        agents, writes = changes(event, self.find)
        self.writes += writes
        if agents:
            self._settled.clear()
            for agent in agents:
                self.agents[fold(agent.state.name)] = agent
        elif way is not None:
            self._settled.add(way)

    def take(self, other: "Projector") -> None:
        """Follow what `other` followed, whose `find` was this one's."""
        if other.agents:
            self._settled.clear()
            self.agents.update(other.agents)
        self.writes += other.writes

    def write(self, connection: sqlite3.Connection) -> None:
        """Write the rows, in the order of the events; inside the caller's transaction."""
        run_each(connection, self.writes)
        run_all(connection, "put_agent", [_row(name, agent) for name, agent in self.agents.items()])


def _row(name: str, agent: Agent) -> tuple[Any, ...]:
    state = agent.state
    return name, state.name, agent.known, state.version, state.cursor, msgspec.json.encode(state)


def load_agents(connection: sqlite3.Connection) -> dict[str, Agent]:
    """Every agent in the database, by folded name."""
    decode = msgspec.json.Decoder(AgentState).decode
    rows = connection.execute(SQL["agents"])
    return {fold(spelled): Agent(decode(state), bool(known)) for spelled, known, state in rows}
