"""Followers: reading history and following live as one loop of pulls, strictly after a cursor."""

import msgspec


class Filter(msgspec.Struct, frozen=True):
    """What a follower is shown. Agents are folded names.

    `agents`: events addressed to one of these, or about one (empty: any). `events`: of these kinds (empty: any kind).
    `visible`: to, about or from one of these (None: everyone).
    """

    agents: frozenset[str] = frozenset()
    events: frozenset[str] = frozenset({"message"})
    visible: frozenset[str] | None = None


class Follower:
    """One stream; iterate it for chunks of bytes, each of many whole frames. `start` is the cursor it begins at,
    `head` the newest id when it was made, `log_id` the log's identity."""

    start: int
    head: int
    log_id: str
