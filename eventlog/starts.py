"""Starts: when each agent's wakes of the last hour began, by the bus's monotonic clock."""

from collections import deque
from collections.abc import Iterable
from datetime import datetime

from eventlog.event import Event
from eventlog.wakes import HOUR_S

#: The most starts of an agent that are kept: no limit on an hour's wakes may be larger.
STARTS_MAX = 1000


class Starts:
    """The starts of wakes in the last hour. A wake that is reported as `not_started` is none.

    What happened before this process is told by `recall`, once for each agent, from the log and by the wall clock.
    """

    def __init__(self, now: float, wall: datetime) -> None:
        self._boot = now
        self._boot_wall = wall
        self._starts: dict[str, deque[tuple[int, float]]] = {}
        self._recalled: set[str] = set()

    def saw(self, event: Event, now: float) -> None:
        """Note an event that was appended at `now`."""
        if event.event == "wake.started":
            starts = self._starts.setdefault(event.agent, deque(maxlen=STARTS_MAX))
            starts.append((event.id, now))
            while starts[0][1] <= now - HOUR_S:
                starts.popleft()
        elif event.event == "wake.finished" and event.fields["outcome"] == "not_started":
            kept = [start for start in self._starts.get(event.agent, ()) if start[0] != event.fields["wake"]]
            self._starts[event.agent] = deque(kept, maxlen=STARTS_MAX)

    def recalled(self, agent: str) -> bool:
        """Whether the agent's (folded) starts of before this process are known."""
        return agent in self._recalled

    def recall(self, agent: str, wakes: Iterable[tuple[int, str]]) -> None:
        """Take in the ids and times (RFC 3339) of the agent's wakes of before this process, oldest first."""
        before = [(id_, self._boot - self._gone_s(time)) for id_, time in wakes]
        self._starts[agent] = deque([*before, *self._starts.get(agent, ())], maxlen=STARTS_MAX)
        self._recalled.add(agent)

    def of(self, agent: str) -> tuple[float, ...]:
        """When the agent's latest wakes started, oldest first."""
        return tuple(at for _, at in self._starts.get(agent, ()))

    def _gone_s(self, time: str) -> float:
        """How long before this process that was: never in its future, whatever the wall clock said since."""
        return max(0.0, (self._boot_wall - datetime.fromisoformat(time)).total_seconds())
