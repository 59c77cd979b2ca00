"""History: reading what is stored; a message with its receipt, a thread, a page of the log, an export of it."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from eventlog.errors import Conflict, NotFound
from eventlog.event import Event, fold
from eventlog.head import Head
from eventlog.mail import Mail, Visible, expired, sees, wall_now
from eventlog.store import Store, WakeRow
from eventlog.views import Covered, EventsPage, Passed, Receipt, Thread

#: The most wakes that a receipt lists, and replies that it looks at.
RECEIPT_ENTRIES_MAX = 100
#: How many acks are looked at in one step for the one that passed a message, and how many events an export reads.
PAGE_EVENTS = 500


class History:
    """Reads the log for whoever wants to know what happened."""

    def __init__(self, store: Store, head: Head, mail: Mail) -> None:
        self._store = store
        self._head = head
        self._mail = mail

    async def message(self, message_id: int, *, visible: Visible) -> bytes:
        """See EventLog.message."""
        message = await self._store.message(message_id)
        if message is None or not sees(visible, message):
            raise NotFound(f"there is no message {message_id} that you can see")
        return message.json(receipt=await self._receipt(message))

    async def _receipt(self, message: Event) -> Receipt:
        wakes = await self._store.wakes_covering(message.agent, message.id, RECEIPT_ENTRIES_MAX)
        replies = await self._replies(message)
        read = await self._read(message)
        letter = await self._store.dead_letter(message.id)
        reached = {"woken": wakes, "dead": letter, "read": read, "replied": replies}
        return Receipt(
            status=next((status for status, what in reversed(reached.items()) if what), "accepted"),
            accepted=_passed(message),
            wakes=tuple(_covered(wake) for wake in wakes),
            read=read,
            replies=replies,
            dead=None if letter is None else await self._passed(letter.id),
            expired=read is None and expired(message, wall_now()),
        )

    async def _replies(self, message: Event) -> tuple[Passed, ...]:
        """What the message's recipient answered to it; the bus's own notice of a dead letter is no answer."""
        ids = await self._store.replies(message.id, RECEIPT_ENTRIES_MAX)
        replies = [await self._store.event(reply_id) for reply_id in ids]
        return tuple(_passed(reply) for reply in replies if reply is not None and reply.sender == message.agent)

    async def _read(self, message: Event) -> Passed | None:
        """The ack that passed the message; None if the agent's cursor has not."""
        if self._store.agent(message.agent).cursor < message.id:
            return None
        after = message.id
        while acks := await self._store.page(after, PAGE_EVENTS, agents=[message.agent], events=["ack"]):
            for ack in acks:
                if ack.fields["cursor"] >= message.id:
                    return _passed(ack)
            after = acks[-1].id
        return None

    async def _passed(self, event_id: int) -> Passed | None:
        event = await self._store.event(event_id)
        return None if event is None else _passed(event)

    async def thread(self, thread_id: int, *, visible: Visible) -> Thread:
        """See EventLog.thread."""
        first = await self._store.message(thread_id)
        if first is None or first.fields["thread_id"] != thread_id or not await self._mail.takes_part(visible, first):
            raise NotFound(f"there is no thread {thread_id} that you can see")
        messages = await self._store.thread(thread_id)
        return Thread(thread_id, tuple(msgspec.Raw(message.json()) for message in messages))

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


def _passed(event: Event) -> Passed:
    return Passed(event.id, event.fields["time"])


def _covered(wake: WakeRow) -> Covered:
    return Covered(
        wake=wake.id,
        time=wake.time,
        attempt=wake.attempt,
        watcher=wake.watcher,
        node=wake.node,
        outcome=wake.outcome,
    )
