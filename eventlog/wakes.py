"""Whether a wake is due: a pure decision from (agent's state, its unread messages, limits, now).

The rules and their order are DESIGN section 8's; the marks [Rn] name the run in WAKES.md that goes wrong without each.
"""

import hashlib
import itertools
import math
from collections.abc import Sequence
from datetime import datetime

import msgspec

from eventlog.agents import AgentState, Limits, Segment, Wake
from eventlog.event import Event, fold

#: The first pause after a wake that did not end ok, seconds; it doubles with each further one.
BACKOFF_FIRST_S = 10
#: The longest such pause, seconds.
BACKOFF_MAX_S = 900
#: How far a pause may be from its nominal length, so that agents that failed together do not come back together.
BACKOFF_JITTER = 0.1
#: The longest that a watcher may wait before it asks again: no lost hint leaves an agent asleep for longer.
RETRY_AFTER_MAX_S = 300
#: How soon it is worth asking again while all agents are paused: that they are resumed is told to no agent's follower.
ALL_PAUSED_RETRY_S = 15
#: How long a start counts for `max_wakes_per_hour`, seconds.
HOUR_S = 3600
#: How far activity can move an ack deadline, in multiples of `ack_within_s` after the wake ended.
ACK_WITHIN_TIMES = 4


class Span(msgspec.Struct, frozen=True):
    """A stretch of an agent's messages past its cursor that one segment says the same of (None: never covered).

    `first` and `last` are the ids of its first and last message that is neither expired nor dead; `before` is the id of
    the agent's message before `first`, or its cursor if that is greater. A stretch without such a message is no span.
    """

    segment: Segment | None
    first: int
    last: int
    before: int


class Grant(msgspec.Struct, frozen=True):
    """A wake is due, covering the agent's messages in (after, through]."""

    after: int
    through: int
    attempt: int


class Nothing(msgspec.Struct, frozen=True):
    """Nothing now, and why; worth asking again in `retry_after_s`."""

    why: str
    retry_after_s: float


class RanOut(msgspec.Struct, frozen=True):
    """The wake in flight is to be closed as interrupted: its lease has run out."""

    wake: Wake


class Dead(msgspec.Struct, frozen=True):
    """The agent's unread messages with ids from `first` to `last` have used up their wakes, each of them."""

    first: int
    last: int
    attempts: int


Decision = Grant | Nothing | RanOut | Dead


class Ask(msgspec.Struct, frozen=True):
    """A watcher's ask: wake this agent, under these limits, as `key`."""

    agent: str
    key: str
    watcher: str
    node: str
    limits: Limits = Limits()


class Granted(msgspec.Struct, frozen=True):
    """A wake that is the asker's: newly, or `again` because the first answer may have been lost.

    `messages` are the unread ones it covers, oldest first; `truncated` tells that there are more than fit.
    """

    agent: str
    wake: Wake
    messages: tuple[Event, ...]
    truncated: bool
    age_s: float
    again: bool


class Report(msgspec.Struct, frozen=True):
    """What a watcher says of a wake that is over; `reply` is a payload for the sender of its newest message."""

    key: str
    outcome: str
    exit_code: int | None = None
    duration_ms: int | None = None
    detail: str | None = None
    reply: bytes | None = None


class Clock:
    """When, in this process's life, an event was seen: by a monotonic clock, so that no jump of the wall clock ends a
    lease early [R15]. What happened before this process counts as seen at its start, so leases and deadlines in flight
    count anew in full [R14].
    """

    def __init__(self, now: float, wall: datetime) -> None:
        self._boot = now
        self._boot_wall = wall
        self._seen: dict[str, dict[int, float]] = {}

    def saw(self, state: AgentState, event_id: int, now: float) -> None:
        """Note that `event_id` was appended at `now` and led to `state`; forget what no longer matters for it."""
        kept = state.clock_ids()
        name = fold(state.name)
        seen = {i: at for i, at in self._seen.get(name, {}).items() if i in kept}
        if event_id in kept:
            seen[event_id] = now
        if seen:
            self._seen[name] = seen
        else:
            self._seen.pop(name, None)

    def at(self, state: AgentState, event_id: int) -> float:
        """When `event_id`, one of `state`'s, was seen."""
        return self._seen.get(fold(state.name), {}).get(event_id, self._boot)

    def backoff_over(self, state: AgentState) -> float:
        """When the pause after the agent's last failure is over; it goes on by the wall clock over a restart."""
        length = backoff_s(state)
        seen = self._seen.get(fold(state.name), {}).get(state.failed)
        if seen is not None:
            return seen + length
        gone = (self._boot_wall - datetime.fromisoformat(state.failed_time)).total_seconds()
        return self._boot + min(max(length - gone, 0), length)

    @property
    def boot(self) -> float:
        """When this process started."""
        return self._boot


def backoff_s(state: AgentState) -> float:
    """The length of the pause after the agent's last failure, seconds; jitter comes from the event's id, so that
    deciding again gives the same."""
    nominal = min(BACKOFF_FIRST_S * 2.0 ** min(state.failures - 1, 30), BACKOFF_MAX_S)
    draw = int.from_bytes(hashlib.sha256(b"%d" % state.failed).digest()[:4]) / 2**32
    return nominal * (1 + BACKOFF_JITTER * (2 * draw - 1))


def lease_over(state: AgentState, wake: Wake, clock: Clock) -> float:
    """When the lease of the agent's wake runs out."""
    return clock.at(state, wake.id) + wake.limits.lease_s


def ack_deadline(state: AgentState, segment: Segment, limits: Limits, clock: Clock) -> float:
    """When messages of this segment may be covered again: infinity if an ok wake settled them for good; minus infinity
    if none covered them."""
    if segment.settled:
        return math.inf
    if not segment.ok:
        return -math.inf
    ended = clock.at(state, segment.ok)
    moved = clock.at(state, state.activity) if state.activity > segment.ok else ended
    return min(moved + limits.ack_within_s, ended + ACK_WITHIN_TIMES * limits.ack_within_s)


def decide(
    state: AgentState,
    spans: Sequence[Span],
    limits: Limits,
    now: float,
    clock: Clock,
    *,
    paused: bool = False,
    quiet_s: float = 0,
    quiet_since: float | None = None,
    starts: Sequence[float] = (),
) -> Decision:
    """What is to be done for the agent now; the first rule that fits (DESIGN section 8, "Deciding").

    `paused` says that all agents are; `quiet_s` is how long nothing may be granted because this log was restored from a
    backup (0: it was not) [R16], counted from `quiet_since` (None: this process's start). `starts` is when the agent's
    latest wakes started, oldest first; the wakes of the last hour suffice.
    """
    wake = state.in_flight
    if wake is not None:
        left = lease_over(state, wake, clock) - now
        return RanOut(wake) if left <= 0 else _nothing("in_flight", left)
    if not spans:
        return _nothing("nothing_unread", RETRY_AFTER_MAX_S)
    deadlines = [_deadline(state, span, limits, clock) for span in spans]
    ready = [i for i, deadline in enumerate(deadlines) if deadline <= now]
    if limits.deliver == "each" and limits.ack == "exit":
        # An ok run acknowledges through its message: it must not pass one by whose own time has not come.
        first = next((i for i, deadline in enumerate(deadlines) if deadline != math.inf), None)
        ready = [i for i in ready if i == first]
    if not ready:
        return _nothing("ack_pending", min(deadline for deadline in deadlines if deadline > now) - now)
    quiet_until = (clock.boot if quiet_since is None else quiet_since) + _quiet_s(state, limits, quiet_s)
    held = _held_back(state, limits, now, clock, paused=paused, quiet_until=quiet_until)
    held = held or _hourly(limits, now, starts)
    if held is not None:
        return held
    for i in ready:
        attempts = _attempts(spans[i])
        if attempts >= limits.max_attempts:
            return Dead(spans[i].first, spans[i].last, attempts)
    return _grant(spans, ready, limits)


def _held_back(
    state: AgentState, limits: Limits, now: float, clock: Clock, *, paused: bool, quiet_until: float
) -> Nothing | None:
    """Why nothing happens although a message is ready, if so."""
    if state.paused:
        return _nothing("paused", RETRY_AFTER_MAX_S)
    if paused:
        return _nothing("paused", ALL_PAUSED_RETRY_S)
    if quiet_until > now:
        return _nothing("quiet", quiet_until - now)
    if state.failures:
        left = clock.backoff_over(state) - now
        if left > 0:
            return _nothing("backoff", left)
    if state.started and limits.min_interval_s:
        left = clock.at(state, state.started) + limits.min_interval_s - now
        if left > 0:
            return _nothing("min_interval", left)
    return None


def _hourly(limits: Limits, now: float, starts: Sequence[float]) -> Nothing | None:
    """That nothing happens because the agent was woken as often as is allowed in an hour, if so."""
    most = limits.max_wakes_per_hour
    if not most or len(starts) < most:
        return None
    left = starts[-most] + HOUR_S - now
    return _nothing("wakes_per_hour", left) if left > 0 else None


def _quiet_s(state: AgentState, limits: Limits, least_s: float) -> float:
    """How long the agent's quiet time after a restore is: no shorter than any lease it may have, known or not."""
    return max(least_s, state.lease_max_s, limits.lease_s) if least_s else 0.0


def _grant(spans: Sequence[Span], ready: Sequence[int], limits: Limits) -> Grant:
    """The wake for the first run of ready spans: nothing that is not ready lies between them [R9a]."""
    first = spans[ready[0]]
    if limits.deliver == "each":
        return Grant(first.before, first.first, 1 + _attempts(first))
    run = [first]
    for i, follower in itertools.pairwise(ready):
        if follower != i + 1:
            break
        run.append(spans[follower])
    return Grant(first.before, run[-1].last, 1 + max(_attempts(span) for span in run))


def _deadline(state: AgentState, span: Span, limits: Limits, clock: Clock) -> float:
    return -math.inf if span.segment is None else ack_deadline(state, span.segment, limits, clock)


def _attempts(span: Span) -> int:
    return 0 if span.segment is None else span.segment.attempts


def _nothing(why: str, left_s: float) -> Nothing:
    """Rounded up to milliseconds, so that asking again at that time is never a moment too early."""
    return Nothing(why, math.ceil(min(left_s, RETRY_AFTER_MAX_S) * 1000) / 1000)
