"""Broken logs: the bus's own pure decisions with one rule of WAKES.md left out, to see that the rule is needed."""

import math
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from eventlog.agents import AgentState, Limits, Segment, apply
from eventlog.event import Event
from eventlog.wakes import Clock, Decision, Grant
from tests.pure_log import PureLog


class WithoutR8(PureLog):
    """A wake that ended ok does not count as an attempt."""

    def apply(self, state: AgentState, event: Event) -> AgentState:
        changed = apply(state, event)
        if event.event != "wake.finished" or event.fields["outcome"] != "ok" or changed is state:
            return changed
        return _with_attempts(changed, lambda segment, _: max(0, segment.attempts - 1))


class WithoutR9(PureLog):
    """Nobody remembers that a message is a dead letter."""

    def apply(self, state: AgentState, event: Event) -> AgentState:
        return state if event.event == "dead_letter" else apply(state, event)

    def dead(self) -> list[int]:
        return []


class WithoutR9a(PureLog):
    """A wake covers everything that is unread, whoever's ack deadline still runs."""

    def decide(self, limits: Limits, agent: str = "mel", **more: Any) -> Decision:
        decision = super().decide(limits, agent, **more)
        if not isinstance(decision, Grant):
            return decision
        spans = self.spans(agent)
        return Grant(spans[0].before, spans[-1].last, decision.attempt)


class WithoutR11(PureLog):
    """Attempts are counted for the agent: what a wake covers has as many as the message that has most."""

    def apply(self, state: AgentState, event: Event) -> AgentState:
        changed = apply(state, event)
        if event.event != "wake.started":
            return changed
        return _with_attempts(changed, lambda _, most: most)


class WithoutR14(PureLog):
    """After a restart every lease that was in flight is taken to be over."""

    class Times(Clock):
        def at(self, state: AgentState, event_id: int) -> float:
            return super().at(state, event_id) if event_id in self._seen.get(state.name, {}) else -math.inf

    def restart(self) -> None:
        self.clock = self.Times(self.now, self.wall())


class WithoutR14a(PureLog):
    """After a restart a lease that was in flight never ends."""

    class Times(Clock):
        def at(self, state: AgentState, event_id: int) -> float:
            lost = state.in_flight is not None and event_id not in self._seen.get(state.name, {})
            return math.inf if lost else super().at(state, event_id)

    def restart(self) -> None:
        self.clock = self.Times(self.now, self.wall())


#: The log without this rule; without any other rule it is the real one.
LOGS: dict[str, type[PureLog]] = {
    "R8": WithoutR8,
    "R9": WithoutR9,
    "R9a": WithoutR9a,
    "R11": WithoutR11,
    "R14": WithoutR14,
    "R14a": WithoutR14a,
}


def log_without(rules: Collection[str]) -> PureLog:
    """A log that keeps all rules but these."""
    kinds = [LOGS[rule] for rule in rules if rule in LOGS]
    return kinds[0]() if kinds else PureLog()


def _with_attempts(state: AgentState, attempts: Callable[[Segment, int], int]) -> AgentState:
    """The state with other attempts for what its latest wake covered."""
    wake = state.wake
    assert wake is not None
    covered = [s for s in state.segments if wake.after <= s.after and s.through <= wake.through]
    most = max((s.attempts for s in covered), default=0)
    changed = tuple(
        msgspec.structs.replace(s, attempts=attempts(s, most)) if s in covered and not s.dead else s
        for s in state.segments
    )
    return msgspec.structs.replace(state, segments=changed)
