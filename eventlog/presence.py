"""Presence: who serves whom and who was heard when, as far as this process knows; nothing of it is in the log."""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from eventlog.event import fold
from eventlog.seal import wall_now
from eventlog.views import WatcherView

#: How many watchers, and how many agents, are remembered after they went away; the ones heard longest ago go first.
REMEMBERED_MAX = 10_000


class _Node(msgspec.Struct):
    """One watcher on one node."""

    watcher: str
    node: str
    last_seen: str
    streams: int = 0
    #: Folded name -> (name as first spelled, how many streams of this node serve it).
    serves: dict[str, tuple[str, int]] = {}


class Presence:
    """Watchers by name and node, and agents by name. Two nodes with one watcher name are two."""

    def __init__(self) -> None:
        self._nodes: OrderedDict[tuple[str, str], _Node] = OrderedDict()
        self._by_agent: dict[str, set[tuple[str, str]]] = {}
        self._named: OrderedDict[str, str] = OrderedDict()
        #: Another number each time that watchers name an agent which is new here.
        self.names_version = 0
        self._agents: OrderedDict[str, str] = OrderedDict()
        self._following: Counter[str] = Counter()

    @contextmanager
    def serving(self, watcher: str, node: str, agents: tuple[str, ...]) -> Iterator[None]:
        """While the block lasts, a stream of this watcher serves `agents`."""
        place = (fold(watcher), node)
        known = self._heard(place, watcher)
        known.streams += 1
        for name in agents:
            spelled, count = known.serves.get(fold(name), (name, 0))
            known.serves[fold(name)] = (spelled, count + 1)
            self._by_agent.setdefault(fold(name), set()).add(place)
            self.names_version += fold(name) not in self._named
            _remember(self._named, fold(name), name)
        try:
            yield
        finally:
            self._left(place, known, agents)

    @contextmanager
    def following(self, agents: tuple[str, ...]) -> Iterator[None]:
        """While the block lasts, these agents read a stream of their own."""
        names = tuple(map(fold, agents))
        self._following.update(names)
        try:
            yield
        finally:
            self._following.subtract(names)
            for name in names:
                self.agent_seen(name)
                if not self._following[name]:
                    del self._following[name]

    def watcher_seen(self, watcher: str, node: str) -> None:
        """This watcher has just made a request."""
        self._heard((fold(watcher), node), watcher)

    def agent_seen(self, agent: str) -> None:
        """This agent has just made a request."""
        _remember(self._agents, fold(agent), wall_now())

    def agent_last_seen(self, agent: str) -> str | None:
        """When the agent made its last request, RFC 3339: now, if it reads a stream; None if this process saw none."""
        return wall_now() if fold(agent) in self._following else self._agents.get(fold(agent))

    def watched(self, agent: str) -> bool:
        """Whether a connected watcher serves the agent."""
        return fold(agent) in self._by_agent

    def named(self) -> dict[str, str]:
        """The agents that a watcher named since this process began: folded name -> as first spelled."""
        return dict(self._named)

    def knows(self, agent: str) -> bool:
        """Whether a watcher named the agent since this process began."""
        return fold(agent) in self._named

    def watchers(self, agent: str | None = None) -> tuple[WatcherView, ...]:
        """The watchers whose streams serve `agent` now; without `agent`, all that were heard, connected or not."""
        nodes = self._nodes if agent is None else self._by_agent.get(fold(agent), ())
        return tuple(self._view(self._nodes[place]) for place in sorted(nodes))

    @staticmethod
    def _view(known: _Node) -> WatcherView:
        return WatcherView(
            watcher=known.watcher,
            node=known.node,
            connected=known.streams > 0,
            last_seen=wall_now() if known.streams else known.last_seen,
            agents=tuple(sorted(spelled for spelled, _ in known.serves.values())),
        )

    def _heard(self, place: tuple[str, str], watcher: str) -> _Node:
        known = self._nodes.get(place)
        if known is None:
            known = self._nodes[place] = _Node(watcher, place[1], wall_now())
            if len(self._nodes) > REMEMBERED_MAX:
                self._forget_one()
        known.last_seen = wall_now()
        self._nodes.move_to_end(place)
        return known

    def _forget_one(self) -> None:
        """Forget the watcher heard longest ago of those that hold no stream (how many do is limited elsewhere)."""
        gone = next((place for place, known in self._nodes.items() if not known.streams), None)
        if gone is not None:
            del self._nodes[gone]

    def _left(self, place: tuple[str, str], known: _Node, agents: tuple[str, ...]) -> None:
        known.streams -= 1
        known.last_seen = wall_now()
        for name in map(fold, agents):
            spelled, count = known.serves[name]
            if count > 1:
                known.serves[name] = (spelled, count - 1)
                continue
            del known.serves[name]
            serving = self._by_agent[name]
            serving.discard(place)
            if not serving:
                del self._by_agent[name]


def _remember(memory: OrderedDict[str, str], name: str, value: str) -> None:
    """Set and move to the end; the oldest entry goes when there are too many."""
    memory[name] = value
    memory.move_to_end(name)
    if len(memory) > REMEMBERED_MAX:
        memory.popitem(last=False)
