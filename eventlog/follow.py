"""Followers: reading history and following live are one loop of pulls, strictly after a cursor."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol
from weakref import WeakSet

from eventlog.bell import Bell, Bells
from eventlog.event import Event, kinds_of
from eventlog.head import Head
from eventlog.sse import encode_comment, encode_id, encode_opening, encode_reset
from eventlog.window import CHUNK_BYTES_MAX, Filter, Slice, Window

#: How many events a filter may hide before the follower is told a cursor past them.
HIDDEN_MAX = 1000
#: The most events of one page that is read behind the window; fewer where they are large.
PAGE_EVENTS_MAX = 1000
#: How many such a page has as long as it is not known how large they are.
PAGE_EVENTS_FIRST = 50
#: How large such a page should be, bytes: near to a chunk, and with room for events that are larger than those before.
PAGE_BYTES = CHUNK_BYTES_MAX * 3 // 4
#: How many of the pages that were read last are kept for followers that replay the same.
PAGES_MAX = 16
#: So many followers that ask for the same page at once get a whole one; more get smaller ones. An append goes in
#: between what two of them are sent, and waits for the kernel to copy it.
WHOLE_PAGES_MAX = 4
#: The smallest is this part of a whole one: with less in each turn the turns themselves would be what takes the time.
PARTS_MAX = 12


class Pages(Protocol):
    """Reads stored events as frames."""

    async def frames(self, wanted: Filter, after: int, before: int, limit: int) -> Slice:
        """What `wanted` shows of at most `limit` events with after < id < before; before: at most head + 1."""
        ...


class Hub:
    """What all followers of a log share: the window, the pages behind it, and the bells that wake them.

    A bell is only a hint: who waits looks at the head first, and reads after its own cursor afterwards.
    Followers whose filter shows nothing of what came are not rung; they catch up at their heartbeat.
    """

    def __init__(self, head: Head, pages: Pages, *, events_max: int, bytes_max: int) -> None:
        self.head = head
        self.closing = False
        self.window = Window(head.value, events_max=events_max, bytes_max=bytes_max)
        self._pages = pages
        self._turn = asyncio.Lock()
        #: The pages that were read last, oldest first, with the limits that they were read with.
        self._read: dict[tuple[Filter, int], tuple[Slice, int]] = {}
        #: How many ask for the same page now.
        self._asking: Counter[tuple[Filter, int]] = Counter()
        self._followers: WeakSet[Follower] = WeakSet()
        self.bells = Bells()

    def add(self, events: Sequence[Event]) -> None:
        """Take in what was just appended, in order. To be called in the same step as the head moves."""
        self.window.add(events)
        if "redacted" in kinds_of(events):
            self._read = {}  # a page that is being read now goes into the old one
        self.bells.heard(events)

    async def wait(self, wanted: Filter, cursor: int, timeout_s: float) -> None:
        """Until something came after `cursor` that `wanted` shows, the followers end, or the time is over."""
        with self.bells.hung(wanted) as bell:
            # Looked at only now that the bell would be heard: what came before is not waited for.
            if self.head.value > cursor or self.closing:
                return
            alarm = asyncio.get_running_loop().call_later(timeout_s, bell.ring)
            try:
                await bell.wait()
            finally:
                alarm.cancel()

    async def page(self, wanted: Filter, after: int, limit: int) -> tuple[Slice, int]:
        """What `wanted` shows of about `limit` events behind the window, and how many it took at most: fewer where many
        ask for the same. The head must be past `after`.

        Followers take turns, each read and each page being one: so reading leaves connections to others, what many
        replay is read once, and appends go in between.
        """
        place = (wanted, after)
        self._asking[place] += 1
        try:
            async with self._turn:
                read = self._read
                found = read.get(place)
                if found is None:
                    parts = min(PARTS_MAX, max(1, self._asking[place] // WHOLE_PAGES_MAX))
                    part = max(1, limit // parts)
                    page = await self._pages.frames(wanted, after, self.head.value + 1, part)
                    found = read[place] = page, part
                    if len(read) > PAGES_MAX:
                        del read[next(iter(read))]
                else:
                    await asyncio.sleep(0)
        finally:
            self._asking[place] -= 1
            if not self._asking[place]:
                del self._asking[place]
        return found

    def join(self, follower: "Follower") -> None:
        """Count this follower among those that end with the log."""
        self._followers.add(follower)

    def end(self, token: str | None = None) -> None:
        """End the followers that `token` opened; without `token` all of them, and all that come later."""
        self.closing = self.closing or token is None
        for follower in list(self._followers):
            if token is None or follower.token == token:
                follower.ended = True
        self.bells.ring_all()


class Follower:
    """One stream: iterate it, once, for chunks of whole frames.

    `start` is the cursor it begins at, `head` the newest id when it was made, `log_id` the log's identity.

    First comes an opening frame with `start` as its id, and the reset, if there was one. From then on every event that
    `wanted` shows, in order; a comment every heartbeat; and an id-only frame for what it hides: at a heartbeat, after
    1000 hidden events, and on reaching `head`. It ends, between frames, when the log closes or its token is revoked.
    A slow reader holds nothing but its cursor and one chunk.
    """

    def __init__(
        self,
        hub: Hub,
        wanted: Filter,
        start: int,
        *,
        log_id: str,
        heartbeat_s: float,
        reset: str | None = None,
        token: str = "",
        presence: AbstractContextManager[None] | None = None,
    ) -> None:
        self.start = start
        self.head = hub.head.value
        self.log_id = log_id
        self.token = token
        self.ended = hub.closing
        self._hub = hub
        self._wanted = wanted
        self._heartbeat_s = heartbeat_s
        self._reset = reset
        self._presence = presence or nullcontext()
        self._cursor = self._told = start
        self._hidden = 0
        self._beat_due = False
        self._caught_up = start >= self.head
        self._page_limit = PAGE_EVENTS_FIRST
        #: Sends a chunk at once, and says whether it could. With it, what came goes out without waking who iterates.
        self.write: Callable[[bytes], bool] | None = None
        hub.join(self)

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        with self._presence, self._hub.bells.hung(self._wanted, self._turn) as bell, self._beating(bell):
            yield self._opening()
            while not self.ended:
                chunk = b""
                if self._hub.head.value > self._cursor:
                    chunk = await self._pull()
                elif not self._beat_due:
                    await bell.wait()
                    continue
                if self._beat_due:
                    self._beat_due = False
                    chunk += self._id_only() + encode_comment()
                if chunk:
                    yield chunk
                else:
                    await asyncio.sleep(0)  # a long stretch of hidden events must not hold up everyone else

    def _turn(self) -> bool:
        """While the iterator waits: send what came, if that is all that there is to do."""
        hub, write = self._hub, self.write
        head = hub.head.value
        if self._cursor >= head:
            return True  # sent by a turn before this one
        if write is None or self.ended or self._beat_due or not self._caught_up:
            return False
        pulled = hub.window.slice(self._wanted, self._cursor)
        if pulled is None or not pulled.shown or not write(pulled.data):
            return False
        self._cursor = cursor = pulled.cursor
        self._told, self._hidden = pulled.shown, pulled.hidden
        return cursor >= head

    @contextmanager
    def _beating(self, bell: Bell) -> Iterator[None]:
        """While the block lasts, a heartbeat is due again and again: one timer for all chunks in between."""
        alarm: asyncio.TimerHandle

        def set_alarm() -> None:
            nonlocal alarm
            alarm = asyncio.get_running_loop().call_later(self._heartbeat_s, beat)

        def beat() -> None:
            self._beat_due = True
            bell.ring()
            set_alarm()

        set_alarm()
        try:
            yield
        finally:
            alarm.cancel()

    def _opening(self) -> bytes:
        opening = encode_opening(self.start)
        if self._reset is not None:
            opening += encode_reset(self.start, reason=self._reset, log_id=self.log_id)
        return opening

    async def _pull(self) -> bytes:
        """The next chunk of what is after the cursor; empty if all of it is hidden."""
        pulled = self._hub.window.slice(self._wanted, self._cursor)
        if pulled is None:
            pulled, limit = await self._hub.page(self._wanted, self._cursor, self._page_limit)
            self._learn_size(len(pulled.data), limit)
        self._cursor = pulled.cursor
        if pulled.shown:
            self._told, self._hidden = pulled.shown, pulled.hidden
        else:
            self._hidden += pulled.hidden
        reached = not self._caught_up and self._cursor >= self.head
        self._caught_up = self._caught_up or reached
        if reached or self._hidden >= HIDDEN_MAX:
            return pulled.data + self._id_only()
        return pulled.data

    def _learn_size(self, size: int, limit: int) -> None:
        """Ask for pages of about one chunk: of many small events, of few large ones."""
        fit = limit * PAGE_BYTES // max(1, size)
        self._page_limit = max(1, min(PAGE_EVENTS_MAX, 2 * self._page_limit, fit))

    def _id_only(self) -> bytes:
        """Move the follower's cursor past what was hidden since it was last told one."""
        self._hidden = 0
        if self._told >= self._cursor:
            return b""
        self._told = self._cursor
        return encode_id(self._cursor)
