"""Notices: what senders are told, once, of messages that nobody takes: a deadline passed, an agent cannot be woken.

Each notice is one append with a key of its message's, which makes it one for all times: nothing has to be remembered
between looking and telling, and a bus that was killed in between looks again.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import msgspec

from eventlog.agents import EVERYONE, AgentState
from eventlog.drafts import answer, last_words
from eventlog.engine import Append, Engine, Key, Stale
from eventlog.errors import TooManyRequests
from eventlog.event import RESERVED, Event, fold
from eventlog.leases import Leases
from eventlog.presence import Presence
from eventlog.projections import DEADLINE
from eventlog.seal import utc_now
from eventlog.store import Store, Unreached
from eventlog.wakes import Grant, Nothing

#: The type of the message that tells of an agent that could not be woken.
UNREACHABLE = "UNREACHABLE"
#: The scopes of the notices' keys; no sender's name holds a colon.
DEADLINE_SCOPE = "deadline:"
UNREACHABLE_SCOPE = "unreachable:"
#: The most notices of each kind, and agents that are looked at, in one sweep; the rest follow in the next.
NOTICES_MAX = 100
#: How many of an agent's messages are looked at in one sweep.
MESSAGES_MAX = 100
#: How many of an agent's latest wakes are looked at for the last one that began.
WAKES_LOOKED_AT = 100
#: A bus must have been up for so long before it calls an agent unreachable: watchers need time to come back, seconds.
UP_FOR_S = 300
#: When an agent that cannot be told about now is looked at again, seconds.
AGAIN_S = 60


class Notices:
    """Tells senders. Agents wait here from the arrival of a message that may turn out to reach nobody.

    `_waiting` holds, for each agent that has messages which were not looked at yet, when the oldest of them will have
    waited long enough; `_looked` how far each agent's messages were looked at, for good. So a sweep with nothing to do
    compares a few numbers, and a full mailbox is read once, in small steps, whatever becomes of its messages. Neither
    is kept: a bus that starts looks at each mailbox once more, and the keys of what was told keep that from repeats.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        leases: Leases,
        presence: Presence,
        *,
        unreachable_after_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._engine = engine
        self._leases = leases
        self._presence = presence
        self._after_s = unreachable_after_s
        self._now = monotonic
        self._wall = wall
        self._looking_from = monotonic() + min(unreachable_after_s, UP_FOR_S)
        self._waiting = dict.fromkeys(store.states() if unreachable_after_s else (), 0.0)
        self._looked: dict[str, int] = {}

    def saw(self, events: Iterable[Event]) -> None:
        """Note whom these events, which were just appended, are for."""
        late = self._wall() + self._after_s
        if self._after_s:
            for name in dict.fromkeys([event.agent for event in events if event.event == "message"]):
                self._waiting.setdefault(name, late)

    async def sweep(self) -> None:
        """Tell what is due. After a restore, only once the log need not keep quiet any more."""
        if self._leases.quiet:
            return
        try:
            await self._tell_deadlines()
            if self._after_s and self._now() >= self._looking_from:
                await self._tell_unreachable()
        except TooManyRequests:
            return  # the next sweep finds all of it again

    # ---- deadlines --------------------------------------------------------------------------------------------------

    async def _tell_deadlines(self) -> None:
        """Tell of each deadline that has passed. It had passed before it was looked at, so what comes between looking
        and telling makes no notice wrong."""
        due = await self._store.deadlines_due(utc_now(self._wall()), NOTICES_MAX)
        await asyncio.gather(*map(self._tell_deadline, due))  # so that they share a commit

    async def _tell_deadline(self, message_id: int) -> None:
        message = await self._store.message(message_id)
        assert message is not None
        told = {"deadline": message.fields["deadline"], "awaited": message.fields["awaits"]}
        await self._tell(message, DEADLINE, DEADLINE_SCOPE, told)

    async def _tell(
        self, message: Event, kind: str, scope: str, told: dict[str, Any], state: AgentState | None = None
    ) -> bool:
        """One notice to the message's sender, unless it was told before; with `state`, only while that is its agent's.
        False if it is not."""
        payload = msgspec.json.encode({"message_id": message.id, "agent": message.fields["to_agent"], **told})
        number = str(message.id)
        done = await self._engine.append(
            Append(
                (answer(message, "bus", kind, payload),),
                expect={} if state is None else {message.agent: state.version},
                key=Key(scope, number, hashlib.sha256(number.encode()).digest()),
            )
        )
        return not isinstance(done, Stale)

    # ---- agents that cannot be woken --------------------------------------------------------------------------------

    async def _tell_unreachable(self) -> None:
        now, left = self._wall(), NOTICES_MAX
        if self._store.agent(EVERYONE).paused:
            return
        due = [name for name, at in self._waiting.items() if at <= now]
        for name in due[:NOTICES_MAX]:
            # Out of it first: a message that comes while it is looked at puts it in again.
            del self._waiting[name]
            if left <= 0:
                self._wait(name, now)
            elif name not in RESERVED and name != EVERYONE:
                left -= await self._look(name, now, left)

    def _wait(self, name: str, until: float) -> None:
        self._waiting[name] = min(until, self._waiting.get(name, until))

    async def _look(self, name: str, now: float, most: int) -> int:
        """Tell of at most `most` of the agent's messages that have waited long enough; how many it told."""
        state = self._store.agent(name)
        decision = await self._leases.preview(name)
        if isinstance(decision, Nothing) and decision.why == "nothing_unread":
            return 0
        # Not its turn is not out of reach: only a wake that is due and not asked for, or that did not begin.
        if not (isinstance(decision, Grant) or (isinstance(decision, Nothing) and decision.why == "backoff")):
            self._wait(name, now + min(AGAIN_S, self._after_s))
            return 0
        turn_s = await self._last_turn_s(name)
        after = max(state.cursor, self._looked.get(name, 0))
        page = await self._store.unreached(name, after, MESSAGES_MAX)
        told = 0
        for one in page:
            since_s = max(_seconds(one.time), turn_s)
            if since_s + self._after_s > now:
                self._wait(name, since_s + self._after_s)
                return told
            if not self._reached(name, one, now):
                if told == most:
                    self._wait(name, now)
                    return told
                if not await self._tell_one(state, one, since_s):
                    self._wait(name, now + min(AGAIN_S, self._after_s))
                    return told
                told += 1
            self._looked[name] = one.id
        if len(page) == MESSAGES_MAX:
            self._wait(name, now)
        return told

    def _reached(self, name: str, one: Unreached, now: float) -> bool:
        """Whether there is nothing to tell of this message, now and later."""
        seen = self._presence.agent_last_seen(name)
        return (
            one.sender in RESERVED
            or one.dead
            or one.woken
            or (one.expires is not None and one.expires <= utc_now(now))
            or (seen is not None and seen >= one.time)
        )

    async def _tell_one(self, state: AgentState, one: Unreached, since_s: float) -> bool:
        """Tell the sender, unless something was done for the agent meanwhile."""
        message = await self._store.message(one.id)
        assert message is not None
        row = await self._store.wake(one.missed) if one.missed else None
        connected = self._presence.watched(state.name)
        nobody = "a watcher that serves it is connected, and asks for no wake" if connected else "no watcher serves it"
        told = {
            "why": "no_watcher" if row is None else "not_started",
            "since": utc_now(since_s),
            "detail": nobody if row is None else last_words(row),
        }
        return await self._tell(message, UNREACHABLE, UNREACHABLE_SCOPE, told, state)

    async def _last_turn_s(self, name: str) -> float:
        """When the agent's last wake that began was over, seconds since 1970; 0 if there was none."""
        rows = await self._store.wakes_of(fold(name), WAKES_LOOKED_AT)
        ended = next((row.finished_time for row in rows if row.outcome not in (None, "not_started")), None)
        return 0.0 if ended is None else _seconds(ended)


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
