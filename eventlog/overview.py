"""Overview: an agent at one glance; its inbox, its wakes, what the bus would do next and why, who serves it."""

from eventlog.agents import EVERYONE, AgentState
from eventlog.errors import NotFound
from eventlog.event import RESERVED, fold
from eventlog.leases import Leases
from eventlog.mail import Visible
from eventlog.names import Names
from eventlog.presence import Presence
from eventlog.seal import wall_now
from eventlog.stops import Stops
from eventlog.store import Store, WakeRow
from eventlog.views import AgentView, NextWake, WakeView
from eventlog.wakes import Decision, Grant, Nothing, RanOut

#: What the log keeps a state of although it is no agent.
NO_AGENTS = RESERVED | {EVERYONE}
#: How many of an agent's latest wakes are looked at for the last one that is over.
WAKES_LOOKED_AT = 2


class Overview:
    """Views of agents, put together from the log, the leases and presence."""

    def __init__(self, store: Store, leases: Leases, presence: Presence, names: Names, stops: Stops) -> None:
        self._store = store
        self._leases = leases
        self._presence = presence
        self._names = names
        self._stops = stops

    async def agents(self, *, visible: Visible) -> list[AgentView]:
        """See EventLog.agents."""
        named = dict.fromkeys(self._store.states()) | dict.fromkeys(self._presence.named())
        shown = [name for name in named if name not in NO_AGENTS and (visible is None or name in visible)]
        return [await self._view(name) for name in sorted(shown)]

    async def agent(self, name: str, *, visible: Visible) -> AgentView:
        """See EventLog.agent."""
        named = fold(name) in self._store.states() or self._presence.knows(name)
        if not named or fold(name) in NO_AGENTS or (visible is not None and fold(name) not in visible):
            raise NotFound(f"nothing ever named the agent {name!r}, or you may not see it")
        return await self._view(name)

    async def _view(self, name: str) -> AgentView:
        state = self._store.agent(self._presence.named().get(fold(name), name))
        rows = await self._store.wakes_of(name, WAKES_LOOKED_AT)
        wake = state.in_flight
        over = next((row for row in rows if row.outcome is not None), None)
        return AgentView(
            name=state.name,
            known=self._names.knows(name),
            unread=await self._store.unread(state, wall_now()),
            dead=await self._store.count_dead(name),
            cursor=state.cursor,
            paused=state.paused or self._store.agent(EVERYONE).paused,
            next_wake=_next(await self._leases.preview(name), state),
            watchers=self._presence.watchers(name),
            wake=next((_wake(row) for row in rows if wake is not None and row.id == wake.id), None),
            last_wake=None if over is None else _wake(over),
            last_seen=self._presence.agent_last_seen(name),
            stopped=self._stops.of_agent(name),
        )


def _next(decision: Decision, state: AgentState) -> NextWake:
    """A decision in the words of the view."""
    match decision:
        case Grant():
            return NextWake(due=True, why="ready")
        case Nothing(why="nothing_unread"):
            return NextWake(due=False, why="nothing_unread")
        case Nothing(why=why, retry_after_s=in_s):
            return NextWake(due=False, why=why, in_s=in_s)
        case RanOut():
            return NextWake(due=False, why="lease_over")
        case _:
            return NextWake(due=False, why="max_attempts")


def _wake(row: WakeRow) -> WakeView:
    return WakeView(
        id=row.id,
        after=row.after,
        through=row.through,
        attempt=row.attempt,
        watcher=row.watcher,
        node=row.node,
        time=row.time,
        outcome=row.outcome,
        finished=row.finished_time,
        exit_code=row.exit_code,
        detail=row.detail,
    )
