"""One request as the routes see it: who calls, what was asked, what the bus has at hand; and a route's description."""

from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import TypeVar

import msgspec
from starlette.types import ASGIApp, Receive, Scope

from eventlog.answers import problem
from eventlog.auth import NOBODY, Guard
from eventlog.config import Config
from eventlog.errors import BadRequest, TooManyRequests
from eventlog.event import ID_MAX
from eventlog.log import EventLog
from eventlog.web import BODY, WHOLE, Query, header, not_here, read_body, read_object, require_json, too_large

_Body = TypeVar("_Body", bound=msgspec.Struct)

#: The kinds of token by what they may do.
ADMIN = frozenset({"admin"})
SENDERS = frozenset({"agent", "admin"})
ANSWERERS = SENDERS | {"reply"}
WATCHERS = frozenset({"watcher", "admin"})
AUDITORS = frozenset({"auditor", "admin"})
READERS = frozenset({"agent", "auditor", "admin"})
EVERYONE = frozenset({"agent", "watcher", "auditor", "admin"})


class Nothing(msgspec.Struct):
    """A body that says nothing."""


class Route(msgspec.Struct, frozen=True):
    """One route: what it answers to, who may use it (None: anyone, without a token), and what it takes.

    `params` are the query's parameters, by their names in openapi.PARAMETERS; `repeated` are those that may be there
    more than once; `headers` the request headers that mean something here. `body` is the shape of the request's
    body, `answers` the statuses of good answers with what they mean. `streams` marks those that answer piece by piece,
    `sends` those that take one of Desk.sends, `pair` the routes of the pair, where an error says what their own server
    said.
    """

    method: str
    path: str
    handler: "Callable[[Call], Awaitable[ASGIApp]]"
    kinds: frozenset[str] | None
    summary: str
    params: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    body: type[msgspec.Struct] | None = None
    answers: tuple[tuple[int, str], ...] = ((200, "done"),)
    streams: bool = False
    sends: bool = False
    pair: bool = False


class Seats:
    """How many of some kind of request there are, and may be; `said` is what one too many is told."""

    def __init__(self, most: int, said: str, retry_after_s: float) -> None:
        self._most = most
        self._said = said
        self._retry_after_s = retry_after_s
        self.taken = 0
        #: What one too many is answered.
        self.refusal = problem(self._error())

    @property
    def full(self) -> bool:
        """Whether there is none to be taken."""
        return self.taken >= self._most

    def take(self) -> None:
        """Takes a seat, to be left. Raises TooManyRequests if there is none."""
        if self.full:
            raise self._error()
        self.taken += 1

    def _error(self) -> TooManyRequests:
        return TooManyRequests(self._said.format(self._most), retry_after_s=self._retry_after_s)

    def leave(self) -> None:
        """Leaves a seat."""
        self.taken -= 1


class Desk:
    """What all requests share."""

    def __init__(self, bus: EventLog, guard: Guard, config: Config) -> None:
        self.bus = bus
        self.guard = guard
        self.config = config
        #: Of streams and of requests that wait for something to come.
        self.seats = Seats(
            config.followers_max,
            "{} streams and waiting requests are open, the limit (followers_max); come back later",
            retry_after_s=5,
        )
        #: Of requests to send: each waits for those before it, so what bounds them bounds how long any waits.
        self.sends = Seats(
            config.sends_max, "{} sends are under way at once, the limit (sends_max); send it again", retry_after_s=1
        )
        #: Set when the bus stops, or cannot append any more: it is then not ready.
        self.stopping = False


class Call:
    """One request. `caller` is nobody until the token was looked at."""

    def __init__(self, desk: Desk, route: Route, scope: Scope, receive: Receive) -> None:
        self.desk = desk
        self.bus = desk.bus
        self.config = desk.config
        self.route = route
        self.caller = NOBODY
        self.scope = scope
        self.receive = receive

    @cached_property
    def query(self) -> Query:
        """The query's parameters; one that the route does not know is an error."""
        return Query(self.scope, self.route.params)

    def header(self, name: bytes) -> str | None:
        """The value of a header, whose name is in lower case; None if it is not there."""
        return header(self.scope, name)

    def path(self, name: str) -> str:
        """A part of the path."""
        value: str = self.scope["path_params"][name]
        return value

    def path_id(self, what: str) -> int:
        """The event's id in the path. Raises NotFound if it cannot be one."""
        value = self.path("id")
        if not (value.isascii() and value.isdecimal() and len(value) <= 16 and int(value) <= ID_MAX):
            raise not_here(what)
        return int(value)

    async def check_token(self) -> None:
        """Raises Unauthorized if the token was ended since it was looked at: a request that waits can outlive it."""
        await self.desk.guard.caller(self.scope)

    async def body(self) -> bytes:
        """The body, declared as JSON and within the limits."""
        require_json(self.scope)
        return await self._read()

    def body_here(self) -> bytes:
        """The same, of a request that came whole in one piece: nothing of it is waited for."""
        require_json(self.scope)
        return self._here()

    async def read(self, kind: type[_Body]) -> _Body:
        """The body as one JSON object of the shape `kind`."""
        return read_object(await self.body(), kind)

    async def read_nothing(self) -> None:
        """Takes no body, or an empty object."""
        body = await self._read()
        if body:
            require_json(self.scope)
            read_object(body, Nothing)

    async def _read(self) -> bytes:
        if BODY in self.scope:
            return self._here()
        waits = WHOLE not in self.scope
        body = await read_body(
            self.scope,
            self.receive,
            limit_bytes=self.config.body_limit_bytes,
            timeout_s=self.config.body_timeout_s,
        )
        if waits:
            await self.check_token()  # a client takes its time to send a body
        return body

    def _here(self) -> bytes:
        body: bytes = self.scope[BODY]
        if len(body) > self.config.body_limit_bytes:
            raise too_large(self.config.body_limit_bytes)
        return body

    def seen(self, agent: str) -> None:
        """Note that the agent was at its inbox: with a token of its own, or whoever it was on a bus without tokens."""
        if self.caller.kind == "agent" or self.config.no_auth:
            self.bus.presence.agent_seen(agent)

    def own_agent(self, given: str | None) -> str:
        """The agent that this is about: the one that is given, if the token is for it, else the token's only one."""
        if given is not None:
            return self.caller.require(given)
        agents = self.caller.agents
        if agents is None or len(agents) != 1:
            raise BadRequest("say which agent", code="bad_name", field="agent")
        return next(iter(agents.values()))
