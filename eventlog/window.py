"""Window: the newest events in memory, each encoded once and shared by all followers; a cache, never the truth."""

from bisect import bisect_right
from collections.abc import Callable, Sequence

import msgspec

from eventlog.event import Event
from eventlog.sse import encode_event

#: The most bytes of one chunk of frames, unless a single frame is larger.
CHUNK_BYTES_MAX = 256 * 1024
#: The most events that one slice looks at.
SLICE_EVENTS_MAX = 1000
#: About how many bytes a frame has beside its event's header and payload.
FRAME_BYTES = 64
#: The most bytes of slices that are kept for followers which ask for the same one.
SHARED_BYTES_MAX = 4 * 1024 * 1024


class Filter(msgspec.Struct, frozen=True):
    """What a follower is shown. Agents are folded names.

    `agents`: events addressed to one of these, or about one (empty: any). `events`: of these kinds (empty: any kind).
    `visible`: to, about or from one of these (None: everyone).
    """

    agents: frozenset[str] = frozenset()
    events: frozenset[str] = frozenset({"message"})
    visible: frozenset[str] | None = None

    def shows(self, kind: str, agent: str, sender: str) -> bool:
        """Whether an event of this kind, to or about `agent` and from `sender`, is shown."""
        if self.events and kind not in self.events:
            return False
        if self.agents and agent not in self.agents:
            return False
        return self.visible is None or agent in self.visible or sender in self.visible


class Slice(msgspec.Struct, frozen=True):
    """What a filter shows of the events after a cursor, up to and with `cursor`: whole frames, joined.

    `shown` is the id of the last one shown (0: none), `hidden` how many were hidden after that.
    """

    data: bytes
    cursor: int
    shown: int
    hidden: int


class Entry(msgspec.Struct, gc=False):
    """One event, with what filters ask for. Its frame is made for the first who is shown it: many are for nobody here.

    `size` is about how many bytes it holds, before and after that: header and payload are let go of then. It does not
    hold the event itself, which has its fields decoded, too.
    """

    id: int
    kind: str
    agent: str
    sender: str
    header: bytes
    payload: bytes | None
    size: int
    made: bytes = b""

    @property
    def frame(self) -> bytes:
        """The event as its frame."""
        if not self.made:
            event = Event(self.id, self.kind, self.agent, self.sender, self.header, self.payload, b"")
            self.made = encode_event(self.id, event.json(), self.kind)
            self.header, self.payload = b"", None
        return self.made


def _cut(entries: Sequence[Entry], shows: Callable[[str, str, str], bool], after: int) -> Slice:
    """The slice of `entries`, all of which come after `after`; it ends early when the chunk is full."""
    frames: list[bytes] = []
    size, cursor, shown, hidden = 0, after, 0, 0
    for one in entries:
        if shows(one.kind, one.agent, one.sender):
            size += len(one.frame)
            if size > CHUNK_BYTES_MAX and frames:
                break
            frames.append(one.frame)
            shown, hidden = one.id, 0
        else:
            hidden += 1
        cursor = one.id
    return Slice(b"".join(frames), cursor, shown, hidden)


class Window:
    """Every event after `floor`, at most `events_max` of them and about `bytes_max` bytes."""

    def __init__(self, floor: int, *, events_max: int, bytes_max: int) -> None:
        self.floor = floor
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._ids: list[int] = []
        self._entries: list[Entry] = []
        self._bytes = 0
        self._shared: dict[tuple[Filter, int], Slice] = {}
        self._shared_bytes = 0

    def add(self, events: Sequence[Event]) -> None:
        """Take in what was just appended, in order; let go of the oldest."""
        self._share_anew()
        ids, entries = self._ids, self._entries
        for event in events:
            id_, kind, header, payload = event.id, event.event, event.header, event.payload
            if kind == "redacted":
                # Any frame may hold the payload that is gone now; the store has what may still be shown.
                self._drop(len(ids), id_)
                continue
            size = FRAME_BYTES + len(header) + (len(payload) if payload else 0)
            ids.append(id_)
            entries.append(Entry(id_, kind, event.agent, event.sender, header, payload, size))
            self._bytes += size
        surplus = max(0, len(ids) - self._events_max)
        if not surplus and self._bytes <= self._bytes_max:
            return
        over = self._bytes - sum([one.size for one in entries[:surplus]]) - self._bytes_max
        while over > 0:
            over -= entries[surplus].size
            surplus += 1
        self._drop(surplus, ids[surplus - 1])

    def slice(self, wanted: Filter, after: int) -> Slice | None:
        """What `wanted` shows after `after`; None if the window does not know it all, or nothing after it."""
        if after < self.floor or not self._ids or after >= self._ids[-1]:
            return None
        place = (wanted, after)
        known = self._shared.get(place)
        if known is None:
            first = bisect_right(self._ids, after)
            known = _cut(self._entries[first : first + SLICE_EVENTS_MAX], wanted.shows, after)
            if self._shared_bytes + len(known.data) > SHARED_BYTES_MAX:
                self._share_anew()
            self._shared[place] = known
            self._shared_bytes += len(known.data)
        return known

    def holds(self, after: int, kind: str, agent: str) -> bool | None:
        """Whether an event of this kind to `agent` came after `after`; None if the window does not know it all."""
        if after < self.floor:
            return None
        first = bisect_right(self._ids, after)
        return any(one.agent == agent and one.kind == kind for one in self._entries[first:])

    def _drop(self, count: int, floor: int) -> None:
        self._bytes -= sum(one.size for one in self._entries[:count])
        del self._ids[:count], self._entries[:count]
        self.floor = floor

    def _share_anew(self) -> None:
        self._shared.clear()
        self._shared_bytes = 0
