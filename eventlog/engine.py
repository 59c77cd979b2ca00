"""Engine protocol: what orders events and makes them durable; nothing above it knows which engine it is.

The seam is one call and one stream. `append` takes drafts under an optional condition and an optional key, and answers
with the events as ordered, or with `Stale` (something moved: look again and decide again), or with the events that the
same key made earlier. `appended` wakes whoever follows what was appended, by this process or another.
"""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from eventlog.event import Draft, Event
from eventlog.head import Head


class Key(msgspec.Struct, frozen=True):
    """What makes repeating a request harmless: (scope, key) is unique in the log; `request` is the request's SHA-256.

    `scope` is the folded sender for messages, and "wake:" for wakes (a reserved scope: no name holds a colon).
    """

    scope: str
    key: str
    request: bytes


class Append(msgspec.Struct, frozen=True):
    """Drafts that become events together or not at all, in this order, with nothing in between.

    `expect` is the condition: for each (folded) agent named there, the version of its state must still be this one.
    """

    drafts: tuple[Draft, ...]
    expect: Mapping[str, int] = {}
    key: Key | None = None


class Appended(msgspec.Struct, frozen=True):
    """The events as ordered; durable."""

    events: tuple[Event, ...]


class Replayed(msgspec.Struct, frozen=True):
    """The events that this key made earlier; nothing was appended. `request` is that request's SHA-256."""

    events: tuple[Event, ...]
    request: bytes


class Stale(msgspec.Struct, frozen=True):
    """The condition no longer holds; nothing was appended."""


class Engine(Protocol):
    """What orders events and makes them durable."""

    @property
    def head(self) -> Head:
        """The id of the newest durable event, awaitable; moves for events that others appended, too."""
        ...

    async def append(self, request: Append) -> Appended | Replayed | Stale:
        """Append and answer once it is durable.

        Raises Unavailable when the outcome is not known (the process must then stop), and TooManyRequests when more
        appends wait than `append_queue_max`.
        """
        ...
