"""Receipts: how far a message has come, read from the log; and waiting until it has come so far."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType

import msgspec

from eventlog.event import Event
from eventlog.follow import Hub
from eventlog.mail import expired
from eventlog.seal import wall_now
from eventlog.store import Store, WakeRow
from eventlog.views import Covered, Died, Passed, Receipt
from eventlog.window import Filter

#: The most wakes that a receipt lists (the newest), and replies that it looks at (the oldest).
RECEIPT_ENTRIES_MAX = 100
#: How many acks are looked at in one step for the one that passed a message.
PAGE_ACKS = 500

#: What can be waited for, and whether a receipt has it; an answer counts as read, also if no ack says so. Done is what
#: was read and is in no wake any more.
WAITS: Mapping[str, Callable[[Receipt], bool]] = MappingProxyType(
    {
        "woken": lambda receipt: receipt.woken is not None or _taken(receipt),
        "read": lambda receipt: _taken(receipt),
        "replied": lambda receipt: bool(receipt.replies),
        "done": lambda receipt: _taken(receipt) and all(wake.outcome is not None for wake in receipt.wakes),
    }
)

#: The kinds of event that can move a message on.
_MOVING = frozenset({"message", "ack", "wake.started", "wake.finished", "dead_letter"})


class Receipts:
    """Makes receipts, and waits on them by the hub: what is waited for is looked for only when something came."""

    def __init__(self, store: Store, hub: Hub) -> None:
        self._store = store
        self._hub = hub

    async def of(self, message: Event) -> Receipt:
        """The message's receipt as it stands."""
        wakes = await self._store.wakes_covering(message.agent, message.id, RECEIPT_ENTRIES_MAX)
        begun = [wake for wake in wakes if wake.outcome != "not_started"]
        running = [wake for wake in begun if wake.outcome is None and wake.limits.deliver == "each"]
        replies = await self._replies(message)
        dead = await self._dead(message.id)
        read = await self._read(message, dead=dead is not None)
        reached = {"woken": begun, "running": running, "dead": dead, "read": read, "replied": replies}
        return Receipt(
            status=next((status for status, what in reversed(reached.items()) if what), "accepted"),
            accepted=_passed(message),
            woken=Passed(begun[0].id, begun[0].time) if begun else None,
            running=Passed(running[-1].id, running[-1].time) if running else None,
            wakes=tuple(_covered(wake) for wake in wakes),
            read=read,
            replies=replies,
            dead=dead,
            expired=read is None and expired(message, wall_now()),
        )

    async def once(
        self, message: Event, wanted: str, *, timeout_s: float, check: Callable[[], Awaitable[object]]
    ) -> Receipt:
        """The receipt as soon as it has what is `wanted` (of WAITS); as it stands after `timeout_s` at the latest, and
        before if the message is dead or expired, or the log closes; `waited` says which. Raises what `check` raises: it
        is called with every look."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + timeout_s
        while True:
            # The head is taken before looking: whatever comes after it is looked for in the next turn.
            seen = self._hub.head.value
            receipt = await self.of(message)
            await check()
            left_s = give_up - loop.time()
            waited = self._over(receipt, wanted, left_s)
            if waited is not None:
                return msgspec.structs.replace(receipt, waited=waited)
            if receipt.read is None:
                left_s = min(left_s, _until_expired_s(message))
            await self._stirred(message, seen, left_s)

    def _over(self, receipt: Receipt, wanted: str, left_s: float) -> str | None:
        """Why there is nothing more to wait for; None as long as there is."""
        if WAITS[wanted](receipt):
            return "reached"
        if receipt.status == "dead":
            return "dead"
        if receipt.expired:
            return "expired"
        if left_s <= 0:
            return "time_over"
        return "stopping" if self._hub.closing else None

    async def _stirred(self, message: Event, cursor: int, timeout_s: float) -> None:
        """Until something after `cursor` may have moved the message on, the hub rings, or the time is over."""
        wanted = Filter(events=_MOVING, visible=frozenset({message.agent}))
        while self._hub.head.value > cursor:
            found = self._hub.window.slice(wanted, cursor)
            if found is None or found.shown:
                return
            cursor = found.cursor
        await self._hub.wait(wanted, cursor, timeout_s)

    async def _replies(self, message: Event) -> tuple[Passed, ...]:
        """What the message's recipient answered its sender; what it asked of others meanwhile is no answer, nor is the
        bus's own notice."""
        ids = await self._store.replies(message.id, RECEIPT_ENTRIES_MAX)
        replies = [await self._store.event(reply_id) for reply_id in ids]
        between = (message.agent, message.sender)
        return tuple(_passed(one) for one in replies if one is not None and (one.sender, one.agent) == between)

    async def _dead(self, message_id: int) -> Died | None:
        letter = await self._store.dead_letter(message_id)
        event = None if letter is None else await self._store.event(letter.id)
        if letter is None or event is None:
            return None
        return Died(event.id, event.fields["time"], letter.reason, letter.attempts)

    async def _read(self, message: Event, *, dead: bool) -> Passed | None:
        """The ack that passed the message; None if the agent's cursor has not, and for a dead message that only a later
        wake's exit code moved the cursor past: no wake was ever handed it again, so nobody read it."""
        ack = await self._passing(message)
        if ack is None or (dead and await self._by_exit(ack)):
            return None
        return _passed(ack)

    async def _passing(self, message: Event) -> Event | None:
        if self._store.agent(message.agent).cursor < message.id:
            return None
        after = message.id
        while acks := await self._store.page(after, PAGE_ACKS, agents=[message.agent], events=["ack"]):
            for ack in acks:
                if ack.fields["cursor"] >= message.id:
                    return ack
            after = acks[-1].id
        return None

    async def _by_exit(self, ack: Event) -> bool:
        """Whether the ack came with a wake's `ok`: after that wake's end no other ack can move the cursor to a message
        that it covered."""
        wakes = await self._store.wakes_covering(ack.agent, ack.fields["cursor"], RECEIPT_ENTRIES_MAX)
        return any(w.limits.ack == "exit" and w.outcome == "ok" and w.finished < ack.id for w in wakes)


def _taken(receipt: Receipt) -> bool:
    return receipt.read is not None or bool(receipt.replies)


def _until_expired_s(message: Event) -> float:
    """How long until the message expires, seconds; infinity if it does not."""
    until = message.fields.get("expires")
    if until is None:
        return float("inf")
    return max(0.001, (datetime.fromisoformat(until) - datetime.now(UTC)).total_seconds())


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
        finished=wake.finished_time,
    )
