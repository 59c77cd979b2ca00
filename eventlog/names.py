"""Names: which agents are known, how each is spelled, and which known ones are like one that is not."""

import difflib

from eventlog.agents import EVERYONE
from eventlog.event import RESERVED, fold
from eventlog.presence import Presence
from eventlog.store import Store

#: How many names like an unknown recipient's a sender is told.
NEAREST_MAX = 3
#: The most unknown names whose nearest are kept.
KEPT_MAX = 1000


class Names:
    """An agent is known once a token, a watcher or a message from it named it. Names are taken folded."""

    def __init__(self, store: Store, presence: Presence) -> None:
        self._store = store
        self._presence = presence
        self._near: dict[str, tuple[str, ...]] = {}
        self._version = (0, 0)

    def knows(self, name: str) -> bool:
        """Whether this agent is known."""
        return self._store.known(name) or self._presence.knows(name)

    def known(self) -> set[str]:
        """All known agents but those that are reserved, folded."""
        return ({fold(name) for name in self._store.names()} | set(self._presence.named())) - {EVERYONE} - RESERVED

    def spelled(self, name: str) -> str:
        """The name as first spelled."""
        stored = self._store.agent(name).name
        return self._presence.named().get(name, stored) if not self._store.known(name) else stored

    def nearest(self, name: str) -> tuple[str, ...]:
        """Known names like this one; looked for once, until there are other known names."""
        version = self._store.names_version, self._presence.names_version
        if version != self._version or len(self._near) >= KEPT_MAX:
            self._near.clear()
            self._version = version
        if name not in self._near:
            near = difflib.get_close_matches(name, self.known(), n=NEAREST_MAX)
            self._near[name] = tuple(self.spelled(one) for one in near)
        return self._near[name]
