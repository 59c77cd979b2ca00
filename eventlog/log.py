"""EventLog: the log as everything above it sees it; append, read, follow, and the policy of all three."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from eventlog.config import Config
from eventlog.engine import Append, Engine, Stale
from eventlog.errors import BadRequest, NotFound, Unavailable
from eventlog.event import Draft, Event, Message, fold, kinds_of
from eventlog.follow import Follower, Hub
from eventlog.history import History
from eventlog.leases import Leases
from eventlog.letters import Letters
from eventlog.mail import TRIES_MAX, Mail, Visible
from eventlog.names import Names
from eventlog.notices import Notices
from eventlog.overview import Overview
from eventlog.presence import Presence
from eventlog.receipts import Receipts
from eventlog.roster import Roster
from eventlog.sqlite_engine import SqliteEngine
from eventlog.stops import LoopLimits, Stops
from eventlog.store import Store, TokenRow
from eventlog.views import AgentView, EventsPage, InboxPage, Sent, Thread
from eventlog.window import Filter

__all__ = ["EventLog", "Visible"]


class EventLog:
    """The log: one for each process, made by `EventLog.open`.

    Names are taken in any spelling. `visible` is what the caller may see: an event is visible if its recipient (or the
    agent it is about) or its sender is one of these; what is not is treated as if it were not there.
    All methods that append raise Unavailable and TooManyRequests as `Engine.append` does.
    """

    @classmethod
    @asynccontextmanager
    async def open(cls, config: Config) -> AsyncIterator["EventLog"]:
        """The log in `config.data_dir` until the block ends; for the process that holds the folder's lock.

        What is due is done while somebody awaits `sweep()`. Raises SchemaError if the log is of another version.
        """
        async with (
            Store.open(config.data_dir, readers=config.readers) as store,
            SqliteEngine.open(store, group_max=config.group_max, append_queue_max=config.append_queue_max) as engine,
        ):
            log = cls(store, engine, await store.tokens(), await store.stops(), config)
            log.failed = engine.failed
            engine.listeners.append(log.took)
            try:
                yield log
            finally:
                log.end_followers()

    def __init__(
        self,
        store: Store,
        engine: Engine,
        tokens: Iterable[TokenRow],
        stops: tuple[Iterable[Event], int],
        config: Config,
    ) -> None:
        self.store = store
        self.engine = engine
        #: Set once the outcome of an append is not known; the process must then stop.
        self.failed = asyncio.Event()
        self.presence = Presence()
        self.stops = Stops(store, engine, _loop_limits(config), *stops)
        self.leases = Leases(
            store,
            engine,
            self.stops,
            quiet_s=config.quiet_after_restore_s,
        )
        self.notices = Notices(
            store, engine, self.leases, self.presence, unreachable_after_s=config.unreachable_after_s
        )
        self._sweep_interval_s = config.sweep_interval_s
        self._hub = Hub(engine.head, store, events_max=config.window_events, bytes_max=config.window_bytes)
        #: Which agents are known.
        self.names = Names(store, self.presence)
        self._mail = Mail(
            store,
            engine,
            self._hub,
            self.presence,
            self.names,
            self.stops,
            cause=self.leases.cause,
            recipients_max=config.recipients_max,
            batch_max=config.batch_max,
        )
        #: The dead letters, as an administrator deals with them.
        self.letters = Letters(store, engine, self._mail)
        self._history = History(store, engine.head, self._mail, Receipts(store, self._hub), self.stops)
        self._overview = Overview(store, self.leases, self.presence, self.names, self.stops)
        self._roster = Roster(tokens)
        self._token_turn = asyncio.Lock()

    def took(self, events: Sequence[Event]) -> None:
        """Take in what has just become durable, in order; the engine says so in the step in which its head moves."""
        self.leases.saw(events)
        self.notices.saw(events)
        self.stops.saw(events)
        if not kinds_of(events).isdisjoint(("token.created", "token.revoked")):
            for event in events:
                self._roster.apply(event)
                if event.event == "token.revoked":
                    self._hub.end(fold(event.fields["name"]))
        self._hub.add(events)

    async def sweep(self) -> None:
        """For as long as the bus runs: close leases that ran out, bury what has used up its wakes, tell senders."""
        while True:
            await asyncio.sleep(self._sweep_interval_s)
            await self.leases.sweep()
            await self.notices.sweep()

    # ---- what the log is --------------------------------------------------------------------------------------------

    @property
    def log_id(self) -> str:
        """The log's identity; a restored backup is another log."""
        return self.store.log_id

    @property
    def head(self) -> int:
        """The id of the newest event."""
        return self.engine.head.value

    # ---- mail -------------------------------------------------------------------------------------------------------

    def send(
        self, messages: Sequence[Message], *, sender: str, key: str | None, request: bytes, visible: Visible = None
    ) -> Awaitable[Sent]:
        """Append messages from `sender`, all or none; `to_agent` "*" is every known agent but the sender.

        `key` makes repeating harmless; `request` is the request's canonical bytes, by which a repeat is recognised.
        Raises BadRequest (unknown_parent, bad_field, no_recipient), KeyReused, and TooManyRequests (loop) where agents
        would talk for ever.
        """
        return self._mail.send(messages, sender=sender, key=key, request=request, visible=visible)

    async def inbox(self, agent: str, *, after: int | None = None, limit: int = 100, wait_s: float = 0) -> InboxPage:
        """Messages to `agent` after `after` (None: its acked cursor); waits up to `wait_s` for the first one.

        Raises Conflict (cursor_past_head). A wait ends early, and empty, when the bus stops.
        """
        return await self._mail.inbox(agent, after=after, limit=limit, wait_s=wait_s)

    async def ack(self, agent: str, cursor: int) -> int:
        """Move the agent's cursor to `cursor`, if that is further; answers where it now stands.

        Raises Conflict (cursor_past_head).
        """
        return await self._mail.ack(agent, cursor)

    async def message(self, message_id: int, *, visible: Visible = None) -> bytes:
        """The message's flat JSON object with a `receipt` (views.Receipt). Raises NotFound."""
        return await self._history.message(message_id, visible=visible)

    async def message_once(
        self,
        message_id: int,
        wanted: str,
        *,
        timeout_s: float,
        check: Callable[[], Awaitable[object]],
        visible: Visible = None,
    ) -> bytes:
        """The same, as soon as its receipt has what is `wanted` (receipts.WAITS), and after `timeout_s` at the latest.

        Before that if the message is dead or has expired, or the bus stops. `check` is called with every look at the
        receipt; what it raises ends the wait. Raises NotFound.
        """
        return await self._history.message_once(message_id, wanted, timeout_s=timeout_s, check=check, visible=visible)

    async def thread(self, thread_id: int, *, visible: Visible = None) -> Thread:
        """The conversation that message `thread_id` began; all of it to whoever is part of it. Raises NotFound."""
        return await self._history.thread(thread_id, visible=visible)

    async def thread_resume(self, thread_id: int, *, by: str) -> None:
        """Lift what is stopped in a thread; its limits count from here on. Nothing changes if nothing is stopped.

        Raises NotFound if no message began such a thread.
        """
        await self._history.first(thread_id)
        await self.stops.resume(thread_id, by=by)

    async def redact(self, message_id: int, *, reason: str) -> None:
        """Erase a message's payload; doing it again changes nothing. Raises NotFound."""
        await self._mail.redact(message_id, reason=reason)

    # ---- history ----------------------------------------------------------------------------------------------------

    async def events(
        self,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int = 100,
        agent: str | None = None,
        event: str | None = None,
        thread: int | None = None,
    ) -> EventsPage:
        """One page of the log. Raises Conflict (cursor_past_head) if `after` is past the head."""
        return await self._history.events(
            after=after, before=before, limit=limit, agent=agent, event=event, thread=thread
        )

    def export(
        self,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int | None = None,
        agent: str | None = None,
        event: str | None = None,
        thread: int | None = None,
    ) -> AsyncIterator[bytes]:
        """The same events up to the head as it stands now, as NDJSON in chunks of many whole lines."""
        return self._history.export(after=after, before=before, limit=limit, agent=agent, event=event, thread=thread)

    # ---- following --------------------------------------------------------------------------------------------------

    def follow(
        self,
        wanted: Filter,
        *,
        after: int | str = "latest",
        log_id: str | None = None,
        heartbeat_s: float = 5,
        token: str = "",
        watcher: str | None = None,
        node: str | None = None,
        reader: bool = False,
    ) -> Follower:
        """A stream of frames strictly after `after` (a cursor, "earliest" or "latest"); see follow.Follower.

        `log_id` is the log that the cursor is of, if the caller knows. The stream ends when the log closes, and when
        `token` (a token's name) is revoked. With `watcher` and `node` the bus knows, while it lasts, who serves
        `wanted.agents`; with `reader`, that these agents themselves read.
        """
        start, reset = self._start(after, log_id)
        presence = self.presence.following(tuple(sorted(wanted.agents))) if reader else None
        if watcher is not None and node is not None:
            presence = self.presence.serving(watcher, node, tuple(sorted(wanted.agents)))
        return Follower(
            self._hub,
            wanted,
            start,
            log_id=self.log_id,
            heartbeat_s=heartbeat_s,
            reset=reset,
            token=fold(token),
            presence=presence,
        )

    def _start(self, after: int | str, log_id: str | None) -> tuple[int, str | None]:
        """Where a follower begins, and why that is not where it asked to."""
        if after == "latest":
            return self.head, None
        if after == "earliest":
            return 0, None
        assert isinstance(after, int)
        return self.store.resolve_cursor(log_id, after)

    def end_followers(self) -> None:
        """End every follower and every waiting inbox request at its next whole frame; new ones end at once."""
        self._hub.end()

    # ---- agents -----------------------------------------------------------------------------------------------------

    async def agents(self, *, visible: Visible = None) -> list[AgentView]:
        """Every agent that anything ever named, by name."""
        return await self._overview.agents(visible=visible)

    async def agent(self, name: str, *, visible: Visible = None) -> AgentView:
        """One agent. Raises NotFound if nothing ever named it or the caller may not see it."""
        return await self._overview.agent(name, visible=visible)

    async def pause(self, agent: str, *, by: str) -> None:
        """No wake is granted to `agent` ("*": to anyone) until it is resumed; pausing again changes nothing."""
        await self._set_paused(agent, by, paused=True)

    async def resume(self, agent: str, *, by: str) -> None:
        """Wakes are granted again; resuming again changes nothing."""
        await self._set_paused(agent, by, paused=False)

    async def _set_paused(self, agent: str, by: str, *, paused: bool) -> None:
        for _ in range(TRIES_MAX):
            state = self.store.agent(agent)
            if state.paused == paused:
                return
            draft = Draft("agent.paused" if paused else "agent.resumed", {"agent": state.name, "by": by})
            done = await self.engine.append(Append((draft,), expect={fold(agent): state.version}))
            if not isinstance(done, Stale):
                return
        raise Unavailable("the agent's state keeps moving; try again", retry_after_s=1)

    # ---- tokens -----------------------------------------------------------------------------------------------------

    def token(self, sha256: str) -> TokenRow | None:
        """The good token with this hexadecimal SHA-256; None if there is none (any more)."""
        return self._roster.by_digest(sha256)

    def tokens(self) -> list[TokenRow]:
        """Every token that is good, oldest first."""
        return self._roster.rows()

    async def token_created(
        self, name: str, *, kind: str, agents: Sequence[str], sha256: str, peer: str | None = None
    ) -> Event:
        """Record a token by its hexadecimal SHA-256. Raises BadRequest (bad_field) if the name is taken."""
        fields = {"name": name, "kind": kind, "agents": list(agents), "peer": peer, "sha256": sha256}
        async with self._token_turn:
            if self._roster.by_name(name) is not None:
                raise BadRequest(
                    f"there is a token {name!r}; `eventlog token revoke {name}` ends it, or take another name",
                    field="name",
                )
            return await self._append("token.created", {k: v for k, v in fields.items() if v is not None})

    async def token_revoked(self, name: str) -> None:
        """Record that a token is no longer good, and end the streams opened with it. Raises NotFound."""
        async with self._token_turn:
            row = self._roster.by_name(name)
            if row is None:
                raise NotFound(f"there is no token {name!r}", field="name")
            await self._append("token.revoked", {"name": row.name})

    async def _append(self, event: str, fields: dict[str, Any]) -> Event:
        """Append one event that depends on no agent's state."""
        done = await self.engine.append(Append((Draft(event, fields),)))
        assert not isinstance(done, Stale)
        return done.events[0]


def _loop_limits(config: Config) -> LoopLimits:
    return LoopLimits(
        max_hops=config.max_hops,
        pair_rate_max=config.pair_rate_max,
        cycle_steps_max=config.cycle_steps_max,
        thread_messages_max=config.thread_messages_max,
        thread_wakes_max=config.thread_wakes_max,
    )
