"""Leases: carries out what wakes.py decides, at an ask, at a report and at the bus's own sweep, as events."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from operator import attrgetter
from weakref import WeakValueDictionary

import msgspec

from eventlog.agents import EVERYONE, AgentState, Limits, Segment, Wake, concerned
from eventlog.covered import FIRST_MAX, MESSAGES_MAX, among, fitting
from eventlog.crashpoint import reached
from eventlog.drafts import acked, answer, finished, last_words, ran_out
from eventlog.engine import Append, Appended, Engine, Key
from eventlog.errors import Conflict, NotFound, Unavailable
from eventlog.event import RESERVED, Draft, Event, fold, kinds_of
from eventlog.seal import wall_now
from eventlog.starts import STARTS_MAX, Starts
from eventlog.stops import Placed, Stops
from eventlog.store import Store, WakeRow
from eventlog.wakes import (
    ACK_WITHIN_TIMES,
    Ask,
    Clock,
    Dead,
    Decision,
    Grant,
    Granted,
    Nothing,
    RanOut,
    Report,
    ack_deadline,
    decide,
    lease_over,
)

#: The scope of the keys of asks; no sender's name holds a colon.
KEY_SCOPE = "wake:"
#: The most dead letters in one transaction; the rest follow in the next.
DEAD_LETTERS_MAX = 200
#: How often one ask decides anew because the agent's state moved, before it gives up.
DECISIONS_MAX = 10_000
#: After a restore, nothing is granted for at least so long, seconds [R16].
QUIET_S = 600

_SENDER = attrgetter("sender")


class Leases:
    """One agent, one wake at a time: decides by the log and appends what it decided under that condition."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        stops: Stops,
        *,
        quiet_s: float = QUIET_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._engine = engine
        self._stops = stops
        self._now = monotonic
        self._quiet_s = quiet_s if store.quiet_kept_s is not None else 0.0
        self._asked_lease_s = 0.0
        wall = datetime.now(UTC)
        self._clock = Clock(monotonic(), wall)
        self._starts = Starts(self._clock.boot, wall)
        self._quiet_since = self._clock.boot - (store.quiet_kept_s or 0.0)
        self._token_ends: dict[int, float] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def saw(self, events: Sequence[Event]) -> None:
        """Note when these events were appended; called once for each, after the store has moved on by them."""
        now = self._now()
        states = self._store.states()
        if kinds_of(events) == {"message"}:
            senders = [states.get(name) for name in set(map(_SENDER, events))]
            if all(state is None or state.version < events[0].id for state in senders):
                return  # as nearly always: they changed nobody
        for event in events:
            agent = concerned(event)
            state = None if agent is None else states.get(agent)
            if state is None or (event.event == "message" and state.version < event.id):
                continue  # it changed nothing, so nothing will ask when it was
            self._clock.saw(state, event.id, now)
            self._starts.saw(event, now)
            if event.event == "wake.started" and state.wake is not None:
                self._token_ends[event.id] = now + _token_life_s(state.wake.limits)

    async def ask(self, ask: Ask) -> Granted | Nothing:
        """A wake for the asker, or why there is none now. Durable before it answers.

        `Nothing.why` is `in_flight`, `nothing_unread`, `ack_pending`, `paused`, `quiet`, `backoff`, `min_interval`,
        `wakes_per_hour`, or `closed`: this key's wake is over, take a new key.
        """
        if self._quiet_s:
            self._asked_lease_s = max(self._asked_lease_s, ask.limits.lease_s)
        async with self._turn(ask.agent):
            for _ in range(DECISIONS_MAX):
                state, decision, first = await self._settled(ask.agent, ask.limits)
                if isinstance(decision, Grant):
                    reached("bus.ask.decided")
                    # Looked up before the wake is granted: it stays so as long as the agent's state does.
                    covered = among(first, ask.limits, decision) or await self._covered(
                        state, ask.limits, decision.after, decision.through
                    )
                    if await self._start(ask, state, decision, covered):
                        reached("bus.ask.granted")
                        state = self._store.agent(ask.agent)
                        assert state.wake is not None
                        return self._granted(state, state.wake, covered, again=False)
                # Looked for last: nothing is appended under a key that was used, and each look at the log is a way to
                # another thread and back.
                used = await self._store.wake_by_key(ask.key)
                if used is not None:
                    state = self._store.agent(ask.agent)
                    wake = state.in_flight
                    if wake is None or wake.id != used.id:
                        return Nothing("closed", 0)
                    covered = await self._covered(state, wake.limits, wake.after, wake.through)
                    return self._granted(state, wake, covered, again=True)
                if isinstance(decision, Nothing):
                    return decision
        raise Unavailable("the agent's state keeps moving; ask again", retry_after_s=1)

    async def report(self, wake_id: int, report: Report) -> WakeRow:
        """Record how a wake ended, with its reply and, for `ack = "exit"`, its ack, all or nothing.

        The outcome reported first stands [R7]. Raises NotFound `unknown_wake` (a wrong key too), Conflict
        `already_finished` when another outcome was reported first, and `superseded` when a newer wake of the agent has
        started [R12].
        """
        row = await self._store.wake(wake_id)
        if row is None or row.key != report.key:
            raise NotFound("no wake with this id and key; drop what you hold of it and ask again", code="unknown_wake")
        async with self._turn(row.agent):
            for _ in range(DECISIONS_MAX):
                state = self._store.agent(row.agent)
                latest = state.wake is not None and state.wake.id == wake_id
                row = await self._store.wake(wake_id) or row
                if row.outcome == report.outcome and (row.reported or not latest):
                    return row
                if row.reported:
                    raise Conflict(f"this wake was reported {row.outcome} before; that stands", code="already_finished")
                if not latest:
                    raise Conflict("a newer wake of this agent has started; ask again", code="superseded")
                reply, told = await self._reply(row, report)
                drafts = [finished(row, told), *reply, *acked(state, row, report)]
                reached("bus.report.decided")
                if await self._append(state, drafts):
                    reached("bus.report.recorded")
                    return await self._store.wake(wake_id) or row
        raise Unavailable("the agent's state keeps moving; report again", retry_after_s=1)

    async def preview(self, agent: str) -> Decision:
        """What an ask with the agent's last limits would be told; appends nothing."""
        state = self._store.agent(agent)
        decision, _ = await self._decide(state, state.limits)
        return decision

    def cause(self, sender: str) -> int | None:
        """The id of the message that what `sender` sends now comes from: the newest that its latest wake covered, if
        that is in flight, or ended ok and the message's ack deadline still runs."""
        state = self._store.agent(sender)
        wake = state.wake
        if wake is None:
            return None
        if wake.outcome is None:
            return wake.through
        if wake.outcome != "ok" or wake.limits.ack == "none":
            return None
        covered = Segment(wake.after, wake.through, ok=wake.finished)
        return wake.through if self._now() < ack_deadline(state, covered, wake.limits, self._clock) else None

    async def token_agent(self, wake_id: int) -> str | None:
        """The agent that this wake's token speaks for; None once it is over, or while the wake stands closed as
        interrupted: a process that was given up must not ack or answer."""
        row = await self._store.wake(wake_id)
        if row is None or row.outcome == "interrupted":
            return None
        end = self._token_ends.get(wake_id)
        if end is not None:
            return row.agent if self._now() < end else None
        life_s = _token_life_s(row.limits)
        wake = self._store.agent(row.agent).wake
        if wake is not None and wake.id == wake_id and row.id <= self._store.head_at_open:
            return row.agent if self._now() < self._clock.boot + life_s else None
        # An older wake, of an earlier process: nothing of it counts anew, so the wall clock has to do.
        gone = (datetime.now(UTC) - datetime.fromisoformat(row.time)).total_seconds()
        return row.agent if gone < life_s else None

    @property
    def quiet(self) -> bool:
        """Whether this log was restored so recently that it keeps quiet: what it shows may be long past."""
        return self._now() < self._quiet_since + self._quiet_s

    async def sweep(self) -> None:
        """Close what ran out and bury what is dead, for every agent, by its last limits; grants nothing."""
        now = self._now()
        for name, state in list(self._store.states().items()):
            if self._overdue(state, now):
                async with self._turn(name):
                    await self._settled(name, state.limits)
        self._token_ends = {i: end for i, end in self._token_ends.items() if end > now}
        kept_s, noted_s = now - self._quiet_since, self._store.quiet_kept_s
        # Never over for good: an agent that nobody asked for yet may have a lease that is longer than this.
        known = (state.lease_max_s for state in self._store.states().values())
        if noted_s is not None and kept_s > max(2 * noted_s, self._quiet_s, self._asked_lease_s, *known):
            await self._store.note_quiet(kept_s)

    def _overdue(self, state: AgentState, now: float) -> bool:
        """Whether the sweep may have something to do for the agent; cheap, and right whenever it says no."""
        wake = state.in_flight
        if wake is not None:
            return lease_over(state, wake, self._clock) <= now
        limits = state.limits
        return any(
            s.attempts >= limits.max_attempts and not s.dead and ack_deadline(state, s, limits, self._clock) <= now
            for s in state.segments
        )

    async def _settled(self, agent: str, limits: Limits) -> tuple[AgentState, Grant | Nothing, Sequence[Event]]:
        """Close what ran out and bury what is dead, until it is known whether a wake is due; with the agent's first
        living messages, FIRST_MAX at most."""
        for _ in range(DECISIONS_MAX):
            state = self._store.agent(agent)
            decision, first = await self._decide(state, limits)
            if isinstance(decision, RanOut):
                reached("bus.lease.ran_out")
                await self._append(state, [ran_out(state, decision.wake)])
                reached("bus.lease.closed")
            elif isinstance(decision, Dead):
                letters = await self._letters(state, decision)
                if letters:  # none, when all of them expired since they were counted
                    reached("bus.letters.decided")
                    await self._append(state, letters)
                    reached("bus.letters.appended")
            else:
                return state, decision, first
        raise Unavailable("the agent's state keeps moving; ask again", retry_after_s=1)

    async def _decide(self, state: AgentState, limits: Limits) -> tuple[Decision, Sequence[Event]]:
        spans, first = ((), ()) if state.in_flight else await self._store.unread_of(state, wall_now(), FIRST_MAX)
        paused = self._store.agent(EVERYONE).paused
        quiet = {"quiet_s": self._quiet_s, "quiet_since": self._quiet_since}
        starts = await self._latest_starts(state.name) if limits.max_wakes_per_hour else ()
        return decide(state, spans, limits, self._now(), self._clock, paused=paused, starts=starts, **quiet), first

    async def _latest_starts(self, agent: str) -> tuple[float, ...]:
        """When the agent's latest wakes started, those of before this process too."""
        name = fold(agent)
        if not self._starts.recalled(name):
            before = await self._store.starts_before_open(name, STARTS_MAX)
            if not self._starts.recalled(name):
                self._starts.recall(name, before)
        return self._starts.of(name)

    async def _start(self, ask: Ask, state: AgentState, grant: Grant, covered: Sequence[Event]) -> bool:
        """Append the wake; False if the agent's state or the key moved meanwhile: decide again."""
        newest = covered[-1] if covered and covered[-1].id == grant.through else None
        if newest is None:
            newest = await self._store.message(grant.through)
        draft = Draft(
            "wake.started",
            {
                "agent": state.name,
                "key": ask.key,
                "after": grant.after,
                "through": grant.through,
                "attempt": grant.attempt,
                "watcher": ask.watcher,
                "node": ask.node,
                **({} if newest is None else {"thread": newest.fields["thread_id"]}),
                **ask.limits.kept,
            },
        )
        key = Key(KEY_SCOPE, ask.key, hashlib.sha256(ask.key.encode()).digest())
        return await self._append(state, [draft], key)

    async def _covered(self, state: AgentState, limits: Limits, after: int, through: int) -> Sequence[Event]:
        """The messages that a wake is about, oldest first, MESSAGES_MAX at most; a run's one whatever became of it."""
        if limits.deliver == "each":
            message = await self._store.message(through)
            return (message,) if message else ()
        return await self._store.living(state.name, max(after, state.cursor), through, MESSAGES_MAX, wall_now())

    def _granted(self, state: AgentState, wake: Wake, covered: Sequence[Event], *, again: bool) -> Granted:
        """The wake with as many of its messages as may go along."""
        age_s = round(max(0.0, self._now() - self._clock.at(state, wake.id)), 3) if again else 0.0
        messages, truncated = fitting(covered, wake.limits)
        return Granted(state.name, wake, messages, truncated, age_s, again)

    async def _reply(self, row: WakeRow, report: Report) -> tuple[list[Draft], Report]:
        """The reply that an ok brings along, and the report: a reply that would go on for ever is left out, and the
        report says so."""
        found = None
        if report.outcome == "ok" and report.reply is not None:
            found = await self._store.message_in_thread(row.through)
        if found is None or found[0].sender == "bus":  # which reads no answers
            return [], report
        newest, thread = found
        reply = answer(newest, newest.fields["to_agent"], "MESSAGE", report.reply or b"null", thread.hops_from)
        refusal = self._stops.refusal([Placed(reply, thread, thread)])
        if refusal is None:
            return [reply], report
        await self._stops.refuse(refusal)
        return [], msgspec.structs.replace(report, detail=f"the reply was not sent: {refusal.error.detail}")

    async def _letters(self, state: AgentState, dead: Dead) -> list[Draft]:
        """Dead letters for the messages, each with a notice to its sender."""
        drafts: list[Draft] = []
        for message in await self._store.living(state.name, dead.first - 1, dead.last, DEAD_LETTERS_MAX, wall_now()):
            letter = {
                "message_id": message.id,
                "agent": state.name,
                "reason": "max_attempts",
                "attempts": dead.attempts,
            }
            drafts.append(Draft("dead_letter", letter))
            if message.sender not in RESERVED:
                row = await self._store.last_wake_covering(state.name, message.id)
                payload = msgspec.json.encode({**letter, "detail": "" if row is None else last_words(row)})
                drafts.append(answer(message, "bus", "DEAD_LETTER", payload))
        return drafts

    async def _append(self, state: AgentState, drafts: list[Draft], key: Key | None = None) -> bool:
        """Append under the condition that the agent's state is still this one; False if nothing was appended."""
        request = Append(tuple(drafts), expect={fold(state.name): state.version}, key=key)
        return isinstance(await self._engine.append(request), Appended)

    @asynccontextmanager
    async def _turn(self, agent: str) -> AsyncIterator[None]:
        """One decision at a time for each agent in this process; the append's condition guards against all others."""
        lock = self._turns.setdefault(fold(agent), asyncio.Lock())
        async with lock:
            yield


def _token_life_s(limits: Limits) -> float:
    return limits.lease_s + ACK_WITHIN_TIMES * limits.ack_within_s
