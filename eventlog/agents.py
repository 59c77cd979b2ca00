"""AgentState: what the log says of one agent, and the pure `apply` that moves it on by one event.

Times are not kept here but the ids of the events that they belong to: the state is a function of the log alone, and
the bus's clock (eventlog/wakes.py) knows when, in its own life, it saw an id (WAKES.md R14, R15).
"""

from collections.abc import Callable
from typing import Any

import msgspec

from eventlog.event import Event

#: Seconds that a watcher gets to stop a command: SIGTERM, 10 s, SIGKILL, and a margin. Part of every lease.
STOP_S = 15
#: The name under which "all agents paused" is kept.
EVERYONE = "*"


class Limits(msgspec.Struct, frozen=True):
    """The limits that a wake was granted under; seconds. An ask's defaults are these. `max_wakes_per_hour` is kept in
    the event only if it is set (0: as many as it takes): older events know nothing of it."""

    timeout_s: float = 300
    start_within_s: float = 30
    ack: str = "agent"
    ack_within_s: float = 600
    max_attempts: int = 10
    min_interval_s: float = 0
    deliver: str = "all"
    max_wakes_per_hour: int = 0

    @property
    def kept(self) -> dict[str, Any]:
        """As the fields of `wake.started` that they are kept in."""
        fields = msgspec.structs.asdict(self)
        return fields if self.max_wakes_per_hour else {k: v for k, v in fields.items() if k != "max_wakes_per_hour"}

    @property
    def lease_s(self) -> float:
        """How long a wake is its holder's."""
        return self.start_within_s + self.timeout_s + STOP_S


class Segment(msgspec.Struct, frozen=True):
    """What all messages of an agent with ids in (after, through] have in common.

    `attempts`: the wakes that covered them since the cursor last moved. `ok`: the id of the `wake.finished` of the last
    ok wake that covered them, 0 if none did. `settled`: an ok wake covered them that wanted no ack. `dead`: they are
    dead letters.
    """

    after: int
    through: int
    attempts: int = 0
    ok: int = 0
    settled: bool = False
    dead: bool = False


class Wake(msgspec.Struct, frozen=True):
    """The agent's latest wake. `outcome` is None while it is in flight; `finished` is the id of the event that said
    so; `reported` tells whether a watcher said it (True) or the bus, closing a lease that ran out (False)."""

    id: int
    key: str
    after: int
    through: int
    attempt: int
    watcher: str
    node: str
    limits: Limits
    outcome: str | None = None
    finished: int = 0
    reported: bool = False


class AgentState(msgspec.Struct, frozen=True):
    """What decides about one agent's wakes; a function of the log.

    `version` is the id of the event that last changed it; `cursor` the acked one; `moved` the id of the ack that last
    moved it; `activity` the id of the last such ack or message sent while an ack was due; `segments` are in order and
    do not overlap, and what lies between them was never covered; `failures` counts wakes that ended other than ok since
    an ok or a moved cursor, `failed` is the id of the last one's end and `failed_time` its time (RFC 3339);
    `started` is the last wake that began a turn or may yet; `lease_max_s` the longest lease ever granted.
    """

    name: str
    version: int = 0
    cursor: int = 0
    moved: int = 0
    activity: int = 0
    segments: tuple[Segment, ...] = ()
    wake: Wake | None = None
    started: int = 0
    failures: int = 0
    failed: int = 0
    failed_time: str = ""
    paused: bool = False
    lease_max_s: float = 0.0

    @property
    def in_flight(self) -> Wake | None:
        """The wake in flight, if there is one."""
        return self.wake if self.wake is not None and self.wake.outcome is None else None

    @property
    def limits(self) -> Limits:
        """The limits of the last wake: what the bus's own sweep decides by."""
        return self.wake.limits if self.wake is not None else Limits()

    @property
    def awaited(self) -> bool:
        """Whether an ack may be due, so that a sign of life counts."""
        return any(s.ok for s in self.segments)

    def clock_ids(self) -> set[int]:
        """The ids whose times still matter for deciding."""
        ids = {self.activity, self.failed, self.started, *(s.ok for s in self.segments)}
        if self.wake is not None:
            ids |= {self.wake.id, self.wake.finished}
        return ids - {0}


def concerned(event: Event) -> str | None:
    """The folded name of the agent whose state `event` may change; None if it changes nobody's.

    A message changes its sender's (a sign of life moves ack deadlines on), never its recipient's: how many messages
    wait is read from the log.
    """
    if event.event == "message":
        return event.sender
    if event.event in _APPLY:
        return event.agent
    return None


def apply(state: AgentState, event: Event) -> AgentState:
    """`state` moved on by one event that concerns this agent; the same object if nothing changed. Pure."""
    changed = _APPLY[event.event](state, event)
    return state if changed is state else msgspec.structs.replace(changed, version=event.id)


def _message(state: AgentState, event: Event) -> AgentState:
    if not state.awaited:
        return state
    return msgspec.structs.replace(state, activity=event.id)


def _ack(state: AgentState, event: Event) -> AgentState:
    cursor = event.fields["cursor"]
    if cursor <= state.cursor:
        return state
    kept = tuple(
        msgspec.structs.replace(s, after=max(s.after, cursor), attempts=0)
        for s in state.segments
        if s.through > cursor and (s.ok or s.settled or s.dead)
    )
    return msgspec.structs.replace(
        state, cursor=cursor, moved=event.id, activity=event.id, segments=_merged(kept), failures=0
    )


def _started(state: AgentState, event: Event) -> AgentState:
    fields = event.fields
    limits = msgspec.convert(fields, Limits)
    wake = Wake(
        id=event.id,
        key=fields["key"],
        after=fields["after"],
        through=fields["through"],
        attempt=fields["attempt"],
        watcher=fields["watcher"],
        node=fields["node"],
        limits=limits,
    )
    return msgspec.structs.replace(
        state,
        wake=wake,
        started=event.id,
        segments=_covered(state, wake, lambda s: msgspec.structs.replace(s, attempts=s.attempts + 1)),
        lease_max_s=max(state.lease_max_s, limits.lease_s),
    )


def _finished(state: AgentState, event: Event) -> AgentState:
    fields = event.fields
    wake = state.wake
    if wake is None or wake.id != fields["wake"] or wake.reported:
        return state  # a report for an older wake is refused before it gets here: superseded
    outcome = fields["outcome"]
    ended = msgspec.structs.replace(wake, outcome=outcome, finished=event.id, reported=fields.get("by") != "bus")
    changes: dict[str, Any] = {"wake": ended}
    if outcome == "ok":
        changes["failures"] = 0
        changes["segments"] = _covered(state, wake, lambda s: _worked(s, event.id, wake.limits))
    elif wake.outcome is None:
        changes |= {"failures": state.failures + 1, "failed": event.id, "failed_time": fields["time"]}
    if outcome == "not_started":
        changes["started"] = 0 if state.started == wake.id else state.started
        if wake.id > state.moved:  # an ack since has zeroed the attempts, this one included
            changes["segments"] = _covered(
                state, wake, lambda s: msgspec.structs.replace(s, attempts=max(0, s.attempts - 1))
            )
    return msgspec.structs.replace(state, **changes)


def _dead(state: AgentState, event: Event) -> AgentState:
    # Letters of one segment are appended oldest first: everything from its start to this message is dead or gone.
    message_id = event.fields["message_id"]
    died = tuple(
        Segment(s.after, s.through, dead=True) if s.after < message_id <= s.through else s
        for s in _split(state.segments, message_id)
    )
    return msgspec.structs.replace(state, segments=_merged(died))


def _paused(state: AgentState, event: Event) -> AgentState:
    return state if state.paused else msgspec.structs.replace(state, paused=True)


def _resumed(state: AgentState, event: Event) -> AgentState:
    return msgspec.structs.replace(state, paused=False) if state.paused else state


_APPLY: dict[str, Callable[[AgentState, Event], AgentState]] = {
    "message": _message,
    "ack": _ack,
    "wake.started": _started,
    "wake.finished": _finished,
    "dead_letter": _dead,
    "agent.paused": _paused,
    "agent.resumed": _resumed,
}


def _worked(segment: Segment, finished: int, limits: Limits) -> Segment:
    """What becomes of a segment that an ok wake covered. With `ack = "none"` nothing more is due, ever."""
    if limits.ack == "none":
        return msgspec.structs.replace(segment, attempts=0, ok=0, settled=True)
    return msgspec.structs.replace(segment, ok=finished)


def _covered(state: AgentState, wake: Wake, change: Callable[[Segment], Segment]) -> tuple[Segment, ...]:
    """The agent's segments with `change` made to all that the wake covers past the cursor; gaps become segments.

    Settled and dead ones are left alone: they are nobody's to wake for.
    """
    place = after = max(wake.after, state.cursor)
    whole: list[Segment] = []
    for segment in _split(_split(state.segments, after), wake.through):
        if place < min(segment.after, wake.through):
            whole.append(Segment(place, min(segment.after, wake.through)))
        whole.append(segment)
        place = max(place, segment.through)
    if place < wake.through:
        whole.append(Segment(place, wake.through))
    return _merged(
        tuple(
            change(s) if after <= s.after and s.through <= wake.through and not (s.settled or s.dead) else s
            for s in whole
        )
    )


def _split(segments: tuple[Segment, ...], at: int) -> tuple[Segment, ...]:
    """`segments` with the one that `at` lies inside of cut in two."""
    parts: list[Segment] = []
    for segment in segments:
        if segment.after < at < segment.through:
            parts += (
                msgspec.structs.replace(segment, through=at),
                msgspec.structs.replace(segment, after=at),
            )
        else:
            parts.append(segment)
    return tuple(parts)


def _merged(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """`segments` with neighbours that say the same made one, and those that say nothing left out."""
    merged: list[Segment] = []
    for segment in segments:
        if not (segment.attempts or segment.ok or segment.settled or segment.dead):
            continue
        last = merged[-1] if merged else None
        if (
            last is not None
            and msgspec.structs.replace(last, after=segment.after, through=segment.through) == segment
            and last.through == segment.after
        ):
            merged[-1] = msgspec.structs.replace(last, through=segment.through)
        else:
            merged.append(segment)
    return tuple(merged)
