"""Mail: the policy of sending, reading an inbox, and taking messages over."""

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from eventlog.agents import EVERYONE
from eventlog.engine import Append, Engine, Key, Replayed, Stale
from eventlog.errors import BadRequest, Conflict, KeyReused, NotFound, Unavailable
from eventlog.event import Draft, Event, Message, fold
from eventlog.follow import Hub
from eventlog.names import Names
from eventlog.presence import Presence
from eventlog.seal import wall_now
from eventlog.stops import Placed, Refusal, Stops
from eventlog.store import Store, ThreadCount
from eventlog.views import Accepted, InboxPage, Sent
from eventlog.window import Filter

#: The (folded) agents that a caller may see; None sees everything.
Visible = frozenset[str] | None

#: For how many unknown recipients of one request: each is compared with every known name, while all others wait.
NEAREST_FOR_MAX = 10
#: How often an append is tried anew because the agent's state moved, before it is given up.
TRIES_MAX = 100

#: A condition that never holds: what is asked for with it is appended by nobody, but a repeat is recognised.
NEVER = {EVERYONE: -1}

#: All of a message but its payload.
_ALIKE = attrgetter(*(name for name in Message.__struct_fields__ if name != "payload"))
_DRAFT = attrgetter("draft")
_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")


def sees(visible: Visible, event: Event) -> bool:
    """Whether the event is to, about or from one of these agents."""
    return visible is None or event.agent in visible or event.sender in visible


def check_batch(count: int, most: int) -> None:
    """Raises BadRequest if one request holds more than `most` messages."""
    if count > most:
        raise BadRequest(f"a request may hold {most} messages, not {count}; send several")


class Mail:
    """Sends, reads and acknowledges messages. `cause` tells what a sender's message comes from (Leases.cause)."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        hub: Hub,
        presence: Presence,
        names: Names,
        stops: Stops,
        *,
        cause: Callable[[str], int | None],
        recipients_max: int,
        batch_max: int,
    ) -> None:
        self._store = store
        self._engine = engine
        self._hub = hub
        self._presence = presence
        self._stops = stops
        self._cause = cause
        self._recipients_max = recipients_max
        self._batch_max = batch_max
        self._names = names

    # ---- sending ----------------------------------------------------------------------------------------------------

    async def send(
        self, messages: Sequence[Message], *, sender: str, key: str | None, request: bytes, visible: Visible
    ) -> Sent:
        """See EventLog.send."""
        once = None
        if key is not None:
            if not _KEY.match(key):
                raise BadRequest("a key is 1 to 255 visible ASCII characters", field="Idempotency-Key")
            once = Key(fold(sender), key, hashlib.sha256(request).digest())
        placed = await self._placed(messages, sender, key, visible)
        refusal = self._stops.refusal(placed)
        if refusal is None:
            done = await self._engine.append(Append(tuple(map(_DRAFT, placed)), key=once))
        else:
            done = await self._repeated(refusal, once)
        if isinstance(done, Stale):
            raise Unavailable("the log could not place these messages; send them again", retry_after_s=1)
        replayed = isinstance(done, Replayed)
        if isinstance(done, Replayed) and once is not None and done.request != once.request:
            raise KeyReused(
                f"the key {key!r} was used before, with another body; take a new key for a new message",
                field="Idempotency-Key",
            )
        # What is told of a recipient is looked up once.
        told: dict[str, _Told] = {}
        unknown = 0
        for event in done.events:
            if event.agent not in told:
                told[event.agent] = self._told_of(event.agent, looked_for=unknown < NEAREST_FOR_MAX)
                unknown += not told[event.agent][0]
        return Sent(_accepted(done.events, told), replayed)

    async def _repeated(self, refusal: Refusal, once: Key | None) -> Replayed:
        """What this key made before. Raises TooManyRequests (loop) if it is new, and would go on for ever.

        A repeat is no new message, so it is looked for first; behind whatever still waits to be appended.
        """
        if once is not None:
            earlier = await self._engine.append(Append((), expect=NEVER, key=once))
            if isinstance(earlier, Replayed):
                return earlier
        await self._stops.refuse(refusal)
        raise refusal.error

    async def _placed(
        self, messages: Sequence[Message], sender: str, key: str | None, visible: Visible
    ) -> Sequence[Placed]:
        """The messages, each to one recipient, with what the bus stamps on them."""
        if not messages:
            raise BadRequest("there is no message in this request")
        check_batch(len(messages), self._batch_max)
        cause = self._cause(sender)
        caused = _UNCAUSED if cause is None else await self._caused(cause)
        parents: dict[tuple[int | None, int | None], _Parent] = {(None, None): caused}
        from_agent = self._store.agent(sender).name
        placed: list[Placed] = []
        add = placed.append
        # What those that are alike but for their payloads become, one for each recipient, is made once for all of them.
        known: dict[tuple[Any, ...], tuple[_Parent, list[dict[str, Any]]]] = {}
        for message in messages:
            alike = _ALIKE(message)
            found = known.get(alike)
            if found is None:
                place = (message.reply_to, message.thread_id)
                parent = parents.get(place)
                if parent is None:
                    parent = parents[place] = await self._parent(message, caused, visible)
                fields = {"from_agent": from_agent, "type": message.type, **parent.stamped}
                if message.expires is not None:
                    fields["expires"] = message.expires
                if message.deadline is not None:
                    fields |= {"deadline": message.deadline, "awaits": message.awaits}
                if key is not None:
                    fields["key"] = key
                recipients = self._recipients(message.to_agent, sender)
                found = known[alike] = parent, [{**fields, "to_agent": name} for name in recipients]
            parent, made = found
            if len(placed) + len(made) > self._recipients_max:
                raise BadRequest(f"a request may make {self._recipients_max} messages; send several", field="to_agent")
            for fields in made:
                add(Placed(Draft("message", fields, message.payload), parent.thread, parent.cause))
        return placed

    def _recipients(self, to_agent: str, sender: str) -> list[str]:
        if to_agent != EVERYONE:
            return [self._store.agent(to_agent).name]
        names = self._names.known() - {fold(sender)}
        if not names:
            raise BadRequest("no other agent is known yet; name the recipient", code="no_recipient", field="to_agent")
        return [self._names.spelled(name) for name in sorted(names)]

    async def _parent(self, message: Message, caused: "_Parent", visible: Visible) -> "_Parent":
        """What a message that names either takes from the one it replies to, or from its thread and its cause.

        Raises BadRequest.
        """
        if message.reply_to is not None:
            found = await self._store.message_in_thread(message.reply_to)
            if found is None or not sees(visible, found[0]):
                raise _unknown_parent("reply_to", message.reply_to)
            parent, thread = found
            thread_id = parent.fields["thread_id"]
            if message.thread_id not in (None, thread_id):
                raise BadRequest(
                    f"reply_to is in thread {thread_id}, not {message.thread_id}; leave thread_id out",
                    field="thread_id",
                )
            further = _further(_stamped(parent, thread), caused, thread)
            return _Parent({"thread_id": thread_id, "reply_to": parent.id, **further}, thread, thread)
        assert message.thread_id is not None
        found = await self._store.message_in_thread(message.thread_id)
        if found is None:
            raise _unknown_parent("thread_id", message.thread_id)
        first, thread = found
        if thread.id != first.id or not await self.takes_part(visible, first):
            raise _unknown_parent("thread_id", message.thread_id)
        return _Parent({**caused.stamped, "thread_id": first.id}, thread, caused.cause)

    async def takes_part(self, visible: Visible, first: Event) -> bool:
        """Whether one of these agents sent or was sent a message of the thread that `first` began."""
        return visible is None or sees(visible, first) or await self._store.takes_part(first.id, visible)

    async def _caused(self, cause_id: int) -> "_Parent":
        """What the bus stamps on a message that comes from the sender's latest wake."""
        found = await self._store.message_in_thread(cause_id)
        if found is None:
            return _UNCAUSED
        cause, thread = found
        return _Parent(_stamped(cause, thread), cause=thread)

    def accepted(self, event: Event) -> Accepted:
        """What a sender is told of a message that was appended."""
        return _accepted((event,), {event.agent: self._told_of(event.agent, looked_for=False)})[0]

    def _told_of(self, name: str, *, looked_for: bool) -> "_Told":
        """Of a recipient: whether it is known, whether it is watched, and, if they are `looked_for`, names like it."""
        known = self._names.knows(name)
        return known, self._presence.watched(name), self._names.nearest(name) if looked_for and not known else ()

    # ---- reading and taking over ------------------------------------------------------------------------------------

    async def inbox(self, agent: str, *, after: int | None, limit: int, wait_s: float) -> InboxPage:
        """See EventLog.inbox."""
        state = self._store.agent(agent)
        head = self._hub.head
        start = state.cursor if after is None else after
        self._check_cursor(start, "after")
        loop = asyncio.get_running_loop()
        give_up = loop.time() + wait_s
        looked = start
        while True:
            # The head is taken before looking: whatever comes after it is looked for in the next turn.
            seen = head.value
            messages = await self._look(agent, looked, limit + 1)
            left_s = give_up - loop.time()
            if messages or left_s <= 0 or self._hub.closing:
                break
            looked = max(looked, seen)
            await self._hub.wait(Filter(agents=frozenset({fold(agent)})), looked, left_s)
        shown = messages[:limit]
        return InboxPage(
            agent=state.name,
            messages=await self._marked(shown),
            cursor=shown[-1].id if shown else start,
            has_more=len(messages) > limit,
        )

    async def _look(self, agent: str, after: int, limit: int) -> list[Event]:
        """The agent's messages after `after`; a look that finds nothing in the window costs no query."""
        if self._hub.window.holds(after, "message", fold(agent)) is False:
            return []
        return await self._store.inbox(agent, after, limit)

    async def _marked(self, messages: Sequence[Event]) -> tuple[msgspec.Raw, ...]:
        """Messages as flat JSON, marked where they are dead or expired."""
        if not messages:
            return ()
        dead = await self._store.dead([event.id for event in messages])
        wall = wall_now()
        return tuple(msgspec.Raw(event.json(**_marks(event, dead, wall))) for event in messages)

    async def ack(self, agent: str, cursor: int) -> int:
        """See EventLog.ack."""
        for _ in range(TRIES_MAX):
            self._check_cursor(cursor, "cursor")
            state = self._store.agent(agent)
            if cursor <= state.cursor:
                return state.cursor
            moved = Draft("ack", {"agent": state.name, "cursor": cursor})
            done = await self._engine.append(Append((moved,), expect={fold(agent): state.version}))
            if not isinstance(done, Stale):
                return cursor
        raise Unavailable("the agent's state keeps moving; acknowledge again", retry_after_s=1)

    def _check_cursor(self, cursor: int, field: str) -> None:
        head = self._hub.head.value
        if cursor > head:
            raise Conflict(f"{field} is {cursor}, past the newest id, {head}; is it of another log?", field=field)

    async def redact(self, message_id: int, *, reason: str) -> None:
        """See EventLog.redact."""
        message = await self._store.message(message_id)
        if message is None:
            raise NotFound(f"there is no message {message_id}")
        if message.payload is not None:
            await self._engine.append(Append((Draft("redacted", {"message_id": message_id, "reason": reason}),)))


#: What a sender is told of a recipient: whether it is known, whether it is watched, and names like it.
_Told = tuple[bool, bool, tuple[str, ...]]


def _accepted(events: Iterable[Event], told: Mapping[str, _Told]) -> tuple[Accepted, ...]:
    answers = [
        Accepted(event.id, event.hash.hex(), event.fields["thread_id"], "accepted", *told[event.agent])
        for event in events
    ]
    return tuple(answers)


def expired(event: Event, wall: str) -> bool:
    """Whether the message was to be read before now."""
    until = event.fields.get("expires")
    return until is not None and until <= wall


def _marks(event: Event, dead: Iterable[int], wall: str) -> dict[str, bool]:
    marks = {"dead": event.id in set(dead), "expired": expired(event, wall)}
    return {name: True for name, marked in marks.items() if marked}


class _Parent(msgspec.Struct, frozen=True):
    """What a message takes from where it comes from: fields, the thread that it goes into, and its cause's thread."""

    stamped: dict[str, Any]
    thread: ThreadCount | None = None
    cause: ThreadCount | None = None


#: What is stamped on a message that comes of nothing.
_UNCAUSED = _Parent({"hops": 0})


def _stamped(cause: Event, thread: ThreadCount) -> dict[str, int]:
    """What the bus stamps on a message that comes of `cause`, which is in `thread`."""
    hops = {"hops": cause.fields["hops"] + 1, "cause": cause.id}
    # What a person let go on counts from there, and so does all that comes of it.
    hops_from = max(cause.fields.get("hops_from", 0), thread.hops_from)
    return {**hops, "hops_from": hops_from} if hops_from else hops


def _further(stamped: dict[str, int], caused: _Parent, thread: ThreadCount) -> dict[str, int]:
    """What is stamped on a reply: that of the sender's wake instead, where its message is of the same thread and came
    further. Else agents that answer the first message of a thread each time would talk for ever."""
    within = caused.cause is not None and caused.cause.id == thread.id
    return caused.stamped if within and caused.stamped["hops"] > stamped["hops"] else stamped


def _unknown_parent(field: str, message_id: int) -> BadRequest:
    return BadRequest(f"{field}: there is no message {message_id} that you can see", code="unknown_parent", field=field)
