"""EventLog: the log as everything above it sees it; append, read, follow, and the policy of all three."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from eventlog.engine import Engine
from eventlog.event import Event, Message
from eventlog.follow import Filter, Follower
from eventlog.presence import Presence
from eventlog.store import Store
from eventlog.views import AgentView, EventsPage, InboxPage, Sent, Thread

#: The (folded) agents that a caller may see; None sees everything.
Visible = frozenset[str] | None


class EventLog:
    """The log: one for each process, made by `EventLog.open`.

    Names are taken in any spelling. `visible` is what the caller may see: an event is visible if its recipient (or the
    agent it is about) or its sender is one of these; what is not is treated as if it were not there.
    All methods that append raise Unavailable and TooManyRequests as `Engine.append` does.
    """

    store: Store
    engine: Engine
    presence: Presence
    leases: "Leases"

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: "Settings") -> AsyncIterator["EventLog"]:
        """The log in `settings.data_dir`, owned by this process until the block ends; `end_followers` comes first.

        Raises Locked if another process owns it, SchemaError if it is of another version.
        """

    # ---- what the log is ----

    @property
    def log_id(self) -> str: ...

    @property
    def head(self) -> int:
        """The id of the newest event."""

    # ---- mail ----

    async def send(
        self, messages: Sequence[Message], *, sender: str, key: str | None, request: bytes, visible: Visible = None
    ) -> Sent:
        """Append messages from `sender`, all or none; `to_agent` "*" is every known agent but the sender.

        `key` makes repeating harmless; `request` is the request's canonical bytes, by which a repeat is recognised.
        Raises BadRequest (unknown_parent, bad_field, bad_name, no_recipient) and KeyReused.
        """

    async def inbox(
        self, agent: str, *, after: int | None = None, limit: int = 100, wait_s: float = 0
    ) -> InboxPage:
        """Messages to `agent` after `after` (None: its acked cursor); waits up to `wait_s` for the first one.

        Raises Conflict (cursor_past_head). A wait ends early, and empty, when the bus stops.
        """

    async def ack(self, agent: str, cursor: int) -> int:
        """Move the agent's cursor to `cursor`, if that is further; where it now stands. Raises Conflict (cursor_past_head)."""

    async def message(self, message_id: int, *, visible: Visible = None) -> bytes:
        """The message's flat JSON object with a `receipt` (views.Receipt). Raises NotFound."""

    async def thread(self, thread_id: int, *, visible: Visible = None) -> Thread:
        """The conversation that message `thread_id` began; all of it to whoever is part of it. Raises NotFound."""

    async def redact(self, message_id: int, *, reason: str) -> None:
        """Erase a message's payload; doing it again changes nothing. Raises NotFound."""

    # ---- history ----

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

    # ---- following ----

    def follow(
        self,
        filter: Filter,
        *,
        after: int | str = "latest",
        log_id: str | None = None,
        heartbeat_s: float = 5,
        token: str = "",
        watcher: str | None = None,
        node: str | None = None,
    ) -> Follower:
        """A stream of frames strictly after `after` (a cursor, "earliest" or "latest"); see follow.Follower.

        `log_id` is the log that the cursor is of, if the caller knows. It ends when the log closes, and when `token`
        (a token's name) is revoked. With `watcher` and `node` the bus knows, while it lasts, who serves
        `filter.agents`.
        """

    def end_followers(self) -> None:
        """End every follower and every waiting inbox request at its next whole frame; new ones end at once."""

    # ---- agents ----

    async def agents(self, *, visible: Visible = None) -> list[AgentView]:
        """Every known agent, by name."""

    async def agent(self, name: str, *, visible: Visible = None) -> AgentView:
        """One agent. Raises NotFound if nothing ever named it or the caller may not see it."""

    async def pause(self, agent: str, *, by: str) -> None:
        """No wake is granted to `agent` ("*": to anyone) until it is resumed; pausing again changes nothing."""

    async def resume(self, agent: str, *, by: str) -> None:
        """Wakes are granted again."""

    # ---- tokens ----

    async def token_created(
        self, name: str, *, kind: str, agents: Sequence[str], sha256: str, peer: str | None = None
    ) -> Event:
        """Record a token by its hexadecimal SHA-256. Raises BadRequest (bad_field) if the name is taken."""

    async def token_revoked(self, name: str) -> None:
        """Record that a token is no longer good, and end the streams opened with it. Raises NotFound."""
