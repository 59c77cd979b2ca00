"""History: reading what is stored; a message with its receipt, a thread, a page of the log, an export of it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from eventlog.errors import Conflict, NotFound
from eventlog.event import Event, fold
from eventlog.head import Head
from eventlog.mail import Mail, Visible, sees
from eventlog.receipts import Receipts
from eventlog.stops import Stops
from eventlog.store import Store
from eventlog.views import EventsPage, Thread

#: How many events an export reads at once.
PAGE_EVENTS = 500


class History:
    """Reads the log for whoever wants to know what happened."""

    def __init__(self, store: Store, head: Head, mail: Mail, receipts: Receipts, stops: Stops) -> None:
        self._store = store
        self._head = head
        self._mail = mail
        self._receipts = receipts
        self._stops = stops

    async def message(self, message_id: int, *, visible: Visible) -> bytes:
        """See EventLog.message."""
        message = await self._message(message_id, visible)
        return message.json(receipt=await self._receipts.of(message))

    async def message_once(
        self,
        message_id: int,
        wanted: str,
        *,
        timeout_s: float,
        check: Callable[[], Awaitable[object]],
        visible: Visible,
    ) -> bytes:
        """See EventLog.message_once."""
        message = await self._message(message_id, visible)
        receipt = await self._receipts.once(message, wanted, timeout_s=timeout_s, check=check)
        # Looked up again: it may have been redacted meanwhile.
        return (await self._message(message_id, visible)).json(receipt=receipt)

    async def _message(self, message_id: int, visible: Visible) -> Event:
        message = await self._store.message(message_id)
        if message is None or not sees(visible, message):
            raise NotFound(f"there is no message {message_id} that you can see")
        return message

    async def thread(self, thread_id: int, *, visible: Visible) -> Thread:
        """See EventLog.thread."""
        first = await self.first(thread_id)
        if not await self._mail.takes_part(visible, first):
            raise _no_thread(thread_id)
        messages = await self._store.thread(thread_id)
        stopped = self._stops.of_thread(thread_id)
        return Thread(thread_id, tuple(msgspec.Raw(message.json()) for message in messages), stopped)

    async def first(self, thread_id: int) -> Event:
        """The message that began a thread. Raises NotFound."""
        first = await self._store.message(thread_id)
        if first is None or first.fields["thread_id"] != thread_id:
            raise _no_thread(thread_id)
        return first

    async def events(
        self,
        *,
        after: int,
        before: int | None,
        limit: int,
        agent: str | None,
        event: str | None,
        thread: int | None,
    ) -> EventsPage:
        """See EventLog.events."""
        head = self._head.value
        if after > head:
            raise Conflict(f"after is {after}, past the newest id, {head}; is it of another log?", field="after")
        upto = head + 1 if before is None else min(before, head + 1)
        found = await self._page(after, limit + 1, upto, agent, event, thread)
        shown = found[:limit]
        return EventsPage(
            events=tuple(msgspec.Raw(_anchored(one)) for one in shown),
            cursor=shown[-1].id if shown else after,
            has_more=len(found) > limit,
            head=head,
        )

    async def export(
        self,
        *,
        after: int,
        before: int | None,
        limit: int | None,
        agent: str | None,
        event: str | None,
        thread: int | None,
    ) -> AsyncIterator[bytes]:
        """See EventLog.export."""
        head = self._head.value
        upto = head + 1 if before is None else min(before, head + 1)
        left = limit
        while left is None or left > 0:
            size = PAGE_EVENTS if left is None else min(PAGE_EVENTS, left)
            found = await self._page(after, size, upto, agent, event, thread)
            if found:
                yield b"".join(_anchored(one) + b"\n" for one in found)
                after = found[-1].id
            if len(found) < size:
                return
            left = None if left is None else left - len(found)

    async def _page(
        self, after: int, limit: int, before: int, agent: str | None, event: str | None, thread: int | None
    ) -> list[Event]:
        asked: dict[str, Any] = {
            "agents": None if agent is None else [fold(agent)],
            "events": None if event is None else [event],
            "thread": thread,
        }
        return await self._store.page(after, limit, before=before, **asked)


def _anchored(event: Event) -> bytes:
    """The event as one flat object with its hash: with the id, an anchor of the chain."""
    return event.json(hash=event.hash.hex())


def _no_thread(thread_id: int) -> NotFound:
    return NotFound(f"there is no thread {thread_id} that you can see")
