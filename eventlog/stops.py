"""Stops: which messages are refused because agents would talk for ever; the limits, what stands, and its record."""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import attrgetter

import msgspec
import structlog

from eventlog.engine import Append, Appended, Engine, Key
from eventlog.errors import TooManyRequests
from eventlog.event import RESERVED, Draft, Event, fold
from eventlog.loops import Pairs, Rings
from eventlog.store import Store, ThreadCount
from eventlog.views import Stopped

#: The scope of the keys of stops; no sender's name holds a colon.
KEY_SCOPE = "stop:"
#: How many messages back along their causes are looked at for the agents that a stopped thread concerns.
CAUSES_LOOKED_AT = 8
#: How soon a refused message is worth another try: a person has to look first, seconds.
RETRY_AFTER_S = 60

#: Each reason: the setting that is its limit, and what it says of the thread or of the agents.
REASONS = {
    "max_hops": ("max_hops", "its messages came {limit} hops far, each from the one before"),
    "thread_messages": ("thread_messages_max", "it has had {limit} messages"),
    "thread_wakes": ("thread_wakes_max", "it has had {limit} wakes"),
    "pair_rate": ("pair_rate_max", "they answered each other more than {limit} times a minute"),
    "cycle": ("cycle_steps_max", "they went round and round for {limit} messages in one rhythm"),
}

#: What events must share to be taken in together.
_WAY = attrgetter("event", "sender", "agent")
#: What messages of one request must share to be looked at together.
_FIELDS = attrgetter("draft.fields")

_log = structlog.get_logger()


class LoopLimits(msgspec.Struct, frozen=True):
    """The limits of threads, pairs and rings, as in Config; 0 for none."""

    max_hops: int = 0
    pair_rate_max: int = 0
    cycle_steps_max: int = 0
    thread_messages_max: int = 0
    thread_wakes_max: int = 0


#: No limit at all.
UNLIMITED = LoopLimits()


class Placed(msgspec.Struct, frozen=True):
    """A message to be appended, the thread that it goes into (None: it begins one), and the thread of its cause."""

    draft: Draft
    thread: ThreadCount | None = None
    cause: ThreadCount | None = None


class Refusal(msgspec.Struct, frozen=True):
    """Why a message is not taken. `key` is what recording it is done under; None where it stands already."""

    reason: str
    limit: int
    thread: int
    agents: tuple[str, ...]
    key: str | None = None
    cause: int | None = None

    @property
    def error(self) -> TooManyRequests:
        """What the sender is told."""
        setting, said = REASONS[self.reason]
        who = f"thread {self.thread} is" if self.reason not in ("pair_rate", "cycle") else f"{_list(self.agents)} are"
        return TooManyRequests(
            f"{who} stopped: {said.format(limit=self.limit)} ({setting}); "
            f"a person lets it go on with `eventlog thread resume {self.thread}`",
            code="loop",
            retry_after_s=RETRY_AFTER_S,
        )


class Stops:
    """What is stopped, in memory as the log tells it, and the detectors that stop more.

    `standing` are the `thread.stopped` events that stand, `resumed` is the id of the newest `thread.resumed`.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        limits: LoopLimits = UNLIMITED,
        standing: Iterable[Event] = (),
        resumed: int = 0,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._engine = engine
        self._limits = limits
        self._now = monotonic
        self._pairs = Pairs(limits.pair_rate_max)
        self._rings = Rings(limits.cycle_steps_max)
        self._standing = {event.id: _stopped(event) for event in standing}
        # Messages that these stop: into a thread, or from one agent to another.
        self._threads: dict[int, Stopped] = {}
        self._ways: dict[tuple[str, str], Stopped] = {}
        self._index()
        # What tells one stop from the next one of the same thread or agents.
        self._resumed = resumed

    # ---- what is known ----------------------------------------------------------------------------------------------

    def saw(self, events: Iterable[Event]) -> None:
        """Take in events that have just become durable, in order."""
        now = self._now()
        for (kind, sender, recipient), run in groupby(events, _WAY):
            if kind == "message":
                self._saw_messages(list(run), sender, recipient, now)
            elif kind == "thread.stopped":
                self._standing |= {event.id: _stopped(event) for event in run}
                self._index()
            elif kind == "thread.resumed":
                for event in run:
                    self._resume(event)

    def of_agent(self, name: str) -> tuple[Stopped, ...]:
        """The stops that concern an agent, oldest first."""
        return tuple(stop for stop in self._standing.values() if fold(name) in map(fold, stop.agents))

    def of_thread(self, thread: int) -> tuple[Stopped, ...]:
        """The stops that resuming this thread lifts, oldest first."""
        return tuple(stop for stop in self._standing.values() if stop.thread == thread)

    async def resume(self, thread: int, *, by: str) -> None:
        """Lift the stops of a thread; one that is not stopped is left as it is."""
        newest = max((id_ for id_, stop in self._standing.items() if stop.thread == thread), default=None)
        if newest is not None:
            draft = Draft("thread.resumed", {"thread": thread, "by": by})
            await self._engine.append(Append((draft,), key=_key(f"resumed {newest}")))

    def _saw_messages(self, events: Sequence[Event], sender: str, recipient: str, now: float) -> None:
        """Take in messages of one way, with nothing in between."""
        if sender in RESERVED:
            self._rings.began(recipient)
        elif recipient not in RESERVED and recipient != sender:
            told = [event.fields for event in events]
            self._pairs.saw(sender, recipient, [(one.get("hops", 0), one["thread_id"]) for one in told], now)
            # A path is that of the newest message, whatever came before it on the same way.
            self._rings.saw(sender, recipient, told[-1]["thread_id"], now)

    def _resume(self, event: Event) -> None:
        thread = event.fields["thread"]
        for stop in self.of_thread(thread):
            names = [fold(name) for name in stop.agents]
            self._pairs.forget(names)
            self._rings.forget(names)
        self._standing = {id_: stop for id_, stop in self._standing.items() if stop.thread != thread}
        self._resumed = event.id
        self._index()

    def _index(self) -> None:
        self._threads.clear()
        self._ways.clear()
        for stop in self._standing.values():
            if stop.reason == "pair_rate":
                one, other = map(fold, stop.agents)
                self._ways[one, other] = self._ways[other, one] = stop
            elif stop.reason == "cycle":
                names = [fold(name) for name in stop.agents]
                self._ways.update(
                    ((name, after), stop) for name, after in zip(names, names[1:] + names[:1], strict=True)
                )
            else:
                self._threads[stop.thread] = stop

    # ---- refusing ---------------------------------------------------------------------------------------------------

    def refusal(self, messages: Sequence[Placed]) -> Refusal | None:
        """Why these messages, all of one sender, are not taken; None if they are. Those of `admin` and `bus` are."""
        sender = fold(messages[0].draft.fields["from_agent"])
        if sender in RESERVED:
            return None
        into: dict[int, int] = {}
        #: How many messages there are of each way: to whom, and of how many hops (0, 1 or more); and the last one.
        ways: dict[tuple[str, int], tuple[int, Placed]] = {}
        for fields, run in groupby(messages, _FIELDS):
            alike = list(run)
            placed, count = alike[-1], len(alike)
            recipient, thread = fold(fields["to_agent"]), placed.thread
            found = self._stands(placed, sender, recipient) if self._standing else None
            if found is None and (thread is not None or placed.cause is not None):
                if thread is not None:
                    into[thread.id] = into.get(thread.id, 0) + count
                found = self._over_thread(placed, into)
            if found is not None:
                return found
            way = recipient, min(fields["hops"], 2)
            ways[way] = count + (ways[way][0] if way in ways else 0), placed
        now = self._now()
        for (recipient, _), (count, placed) in ways.items():
            found = self._over_pair(placed, sender, recipient, count, now)
            if found is not None:
                return found
        return None

    async def refuse(self, refusal: Refusal) -> None:
        """Record a stop that does not stand yet, once however many messages meet it."""
        if refusal.key is None:
            return
        agents = list(refusal.agents)
        if refusal.cause is not None:
            agents = await self._chain(refusal.cause, agents)
        told = {
            "thread": refusal.thread,
            "agents": agents,
            "reason": refusal.reason,
            "limit": refusal.limit,
            "by": "bus",
        }
        done = await self._engine.append(Append((Draft("thread.stopped", told),), key=_key(refusal.key)))
        if isinstance(done, Appended):
            _log.warning("a loop was stopped", thread=refusal.thread, agents=agents, reason=refusal.reason)

    def _stands(self, placed: Placed, sender: str, recipient: str) -> Refusal | None:
        """What is stopped already."""
        stop = self._threads.get(placed.thread.id) if self._threads and placed.thread is not None else None
        if stop is None and self._ways:
            stop = self._ways.get((sender, recipient))
        return None if stop is None else Refusal(stop.reason, stop.limit, stop.thread, stop.agents)

    def _over_thread(self, placed: Placed, into: dict[int, int]) -> Refusal | None:
        """A thread that is at its end: of hops along causes, of messages, of wakes."""
        limits, fields, cause, thread = self._limits, placed.draft.fields, placed.cause, placed.thread
        if cause is not None and 0 < limits.max_hops < fields["hops"] - fields.get("hops_from", 0):
            return self._of_thread("max_hops", limits.max_hops, cause.id, placed)
        if thread is None:
            return None
        if 0 < limits.thread_messages_max < thread.messages + into[thread.id]:
            return self._of_thread("thread_messages", limits.thread_messages_max, thread.id, placed)
        if 0 < limits.thread_wakes_max <= thread.wakes:
            return self._of_thread("thread_wakes", limits.thread_wakes_max, thread.id, placed)
        return None

    def _of_thread(self, reason: str, limit: int, thread: int, placed: Placed) -> Refusal:
        stop = self._threads.get(thread)
        if stop is not None:  # the message comes from it, and begins a thread of its own
            return Refusal(stop.reason, stop.limit, thread, stop.agents)
        fields = placed.draft.fields
        agents = (fields["from_agent"], fields["to_agent"])
        key = f"thread {thread} {reason} {self._resumed}"
        return Refusal(reason, limit, thread, agents, key, fields.get("cause"))

    def _over_pair(self, placed: Placed, sender: str, recipient: str, more: int, now: float) -> Refusal | None:
        """Two agents that answer each other too often, or a ring of them that keeps its rhythm."""
        if recipient in RESERVED or recipient == sender:
            return None
        fields, limits = placed.draft.fields, self._limits
        if self._pairs.too_many(sender, recipient, fields["hops"], more, now):
            thread = self._pairs.thread(sender, recipient)
            agents = (fields["from_agent"], fields["to_agent"])
            return self._of_ways("pair_rate", limits.pair_rate_max, thread, agents)
        ring = self._rings.ring(sender, recipient, now)
        if ring is None:
            return None
        names, thread = ring
        return self._of_ways("cycle", limits.cycle_steps_max, thread, [self._store.agent(name).name for name in names])

    def _of_ways(self, reason: str, limit: int, thread: int | None, agents: Sequence[str]) -> Refusal:
        assert thread is not None
        key = f"{reason} {' '.join(sorted(map(fold, agents)))} {self._resumed}"
        return Refusal(reason, limit, thread, tuple(agents), key)

    async def _chain(self, cause: int, agents: list[str]) -> list[str]:
        """`agents`, and those who sent the messages that this one came from."""
        folded = {fold(name) for name in agents} | RESERVED
        for _ in range(CAUSES_LOOKED_AT):
            message = await self._store.message(cause)
            if message is None:
                break
            if message.sender not in folded:
                folded.add(message.sender)
                agents.append(message.fields["from_agent"])
            if message.fields.get("cause") is None:
                break
            cause = message.fields["cause"]
        return agents


def _stopped(event: Event) -> Stopped:
    return msgspec.convert(event.fields, Stopped)


def _key(key: str) -> Key:
    return Key(KEY_SCOPE, key, hashlib.sha256(key.encode()).digest())


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1]
