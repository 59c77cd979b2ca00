"""PureLog: one log in memory, without a database, for tests of pure decisions; it has the wake rules' own words."""

from datetime import UTC, datetime, timedelta
from typing import Any

from eventlog.agents import AgentState, Limits, Segment, apply, concerned
from eventlog.event import Event, canonical, fold
from eventlog.wakes import Clock, Dead, Decision, Grant, RanOut, Span, decide

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class PureLog:
    """A log and a bus's clock that moves only when told to; decides exactly as the bus does, without its I/O."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.states: dict[str, AgentState] = {}
        self.now = 1000.0
        self.wall_ahead = timedelta()
        #: How many ids this log left out, when it was restored from a backup.
        self.left_out = 0
        self.clock = Clock(self.now, self.wall())
        self._boot = (self.now, self.wall(), 0)
        self._started: dict[int, float] = {}

    def wall(self) -> datetime:
        """The wall clock; `wall_ahead` is by how far it was set forward."""
        return EPOCH + timedelta(seconds=self.now) + self.wall_ahead

    def restart(self) -> None:
        """The bus's process starts anew: what it knew of times is gone, the log is not."""
        self.clock = Clock(self.now, self.wall())
        self._boot = (self.now, self.wall(), self.events[-1].id if self.events else 0)

    def state(self, agent: str = "mel") -> AgentState:
        return self.states.get(fold(agent), AgentState(name=agent))

    def apply(self, state: AgentState, event: Event) -> AgentState:
        """The bus's own; a test of what goes wrong without a rule puts another in its place."""
        return apply(state, event)

    def append(self, event: str, **fields: Any) -> int:
        id_ = len(self.events) + 1 + self.left_out
        time = self.wall().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        header = canonical({"id": id_, "event": event, "time": time, **fields})
        agent = fold(fields.get("to_agent") or fields.get("agent") or "")
        stored = Event(id_, event, agent, fold(fields.get("from_agent", "")), header, None, b"")
        self.events.append(stored)
        if event == "wake.started":
            self._started[id_] = self.now
        who = concerned(stored)
        if who is not None:
            self.states[who] = self.apply(self.states.get(who, AgentState(name=who)), stored)
            self.clock.saw(self.states[who], id_, self.now)
        return id_

    def message(self, to: str = "mel", sender: str = "tony", **fields: Any) -> int:
        return self.append("message", from_agent=sender, to_agent=to, hops=0, **fields)

    def ack(self, cursor: int, agent: str = "mel") -> None:
        if cursor > self.state(agent).cursor:
            self.append("ack", agent=agent, cursor=cursor)

    def grant(self, grant: Grant, limits: Limits, key: str, agent: str = "mel", node: str = "n") -> int:
        newest = next((event for event in self.events if event.id == grant.through), None)
        thread = None if newest is None else newest.fields.get("thread_id")
        return self.append(
            "wake.started",
            agent=agent,
            key=key,
            after=grant.after,
            through=grant.through,
            attempt=grant.attempt,
            watcher="w",
            node=node,
            **({} if thread is None else {"thread": thread}),
            **limits.kept,
        )

    def finish(self, wake: int, outcome: str, by: str = "watcher", agent: str = "mel") -> None:
        self.append("wake.finished", wake=wake, agent=agent, outcome=outcome, by=by)

    def messages(self, agent: str = "mel") -> list[int]:
        return [e.id for e in self.events if e.event == "message" and e.agent == fold(agent)]

    def dead(self) -> list[int]:
        """The messages that became dead letters, one entry for each letter."""
        return [e.fields["message_id"] for e in self.events if e.event == "dead_letter"]

    def living(self, agent: str = "mel") -> list[int]:
        dead = set(self.dead())
        cursor = self.state(agent).cursor
        return [i for i in self.messages(agent) if i > cursor and i not in dead]

    def spans(self, agent: str = "mel") -> tuple[Span, ...]:
        """What the store's query gives, worked out message by message."""
        state, spans = self.state(agent), list[Span]()
        before: int = state.cursor
        for i in self.messages(agent):
            if i <= state.cursor:
                continue
            segment: Segment | None = next((s for s in state.segments if s.after < i <= s.through), None)
            if i in self.dead():
                before = i
                continue
            if spans and spans[-1].segment == segment and spans[-1].last == before:
                spans[-1] = Span(segment, spans[-1].first, i, spans[-1].before)
            else:
                spans.append(Span(segment, i, i, before))
            before = i
        return tuple(spans)

    def starts(self, agent: str = "mel") -> tuple[float, ...]:
        """When the agent's wakes started, as far as the bus knows: what was before it, by the wall clock."""
        boot, wall, head = self._boot
        none = {e.fields["wake"] for e in self.events if e.fields.get("outcome") == "not_started"}
        started = [e for e in self.events if e.event == "wake.started" and e.agent == fold(agent) and e.id not in none]
        gone_s = {e.id: (wall - datetime.fromisoformat(e.fields["time"])).total_seconds() for e in started}
        return tuple(self._started[e.id] if e.id > head else boot - max(0.0, gone_s[e.id]) for e in started)

    def decide(self, limits: Limits, agent: str = "mel", **more: Any) -> Decision:
        more["starts"] = self.starts(agent) if limits.max_wakes_per_hour else ()
        return decide(self.state(agent), self.spans(agent), limits, self.now, self.clock, **more)

    def settle(self, limits: Limits, agent: str = "mel", **more: Any) -> Decision:
        """Decide, closing what ran out and burying what is dead, as an ask and the bus's sweep do."""
        while True:
            decision = self.decide(limits, agent, **more)
            if isinstance(decision, RanOut):
                self.finish(decision.wake.id, "interrupted", by="bus", agent=agent)
            elif isinstance(decision, Dead):
                for i in self.living(agent):
                    if decision.first <= i <= decision.last:
                        self.append(
                            "dead_letter", message_id=i, agent=agent, reason="max_attempts", attempts=decision.attempts
                        )
            else:
                return decision

    def ask(self, limits: Limits, key: str, agent: str = "mel", **more: Any) -> int:
        """Ask, and expect a wake."""
        decision = self.settle(limits, agent, **more)
        assert isinstance(decision, Grant), decision
        return self.grant(decision, limits, key, agent)

    def why(self, limits: Limits, agent: str = "mel", **more: Any) -> str:
        """Ask, and expect none."""
        decision = self.settle(limits, agent, **more)
        assert not isinstance(decision, Grant | Dead | RanOut), decision
        return decision.why
