"""Routes: HTTP <-> EventLog, nothing else. ROUTES is the one list of them; Application serves it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import structlog
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route as Place
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from eventlog import api_admin, api_agents, api_dead, api_log, api_mail, api_send, posts
from eventlog.answers import json_response, problem
from eventlog.call import (
    ADMIN,
    ANSWERERS,
    AUDITORS,
    EVERYONE,
    READERS,
    SENDERS,
    WATCHERS,
    Call,
    Desk,
    Nothing,
    Route,
    Seats,
)
from eventlog.errors import EventlogError, Forbidden, MethodNotAllowed, NotFound, Unauthorized, Unavailable
from eventlog.gate import Gate, own_names
from eventlog.openapi import document
from eventlog.web import ClientGone

#: Answers a request.
Respond = Callable[[Scope, Receive], Awaitable[ASGIApp | None]]

_log = structlog.get_logger()

_SENT = ((201, "accepted: durable"), (200, "a repeat: accepted before"))
_WAKE = ((201, "granted"), (200, "granted before to this key; or nothing now, and why"))


async def openapi(call: Call) -> ASGIApp:
    """GET /openapi.json."""
    return json_response(document(ROUTES, api_admin.program_version()))


#: Every route; those that are asked most come first.
ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        "/api/send",
        api_send.send,
        ANSWERERS,
        "Send a message, an array of them, or one to many recipients",
        headers=("Idempotency-Key",),
        body=posts.Post,
        answers=_SENT,
        sends=True,
    ),
    Route(
        "GET",
        "/api/inbox",
        api_mail.inbox,
        READERS,
        "An agent's messages after a cursor",
        params=("agent", "after", "limit", "wait"),
    ),
    Route("POST", "/api/inbox/ack", api_mail.ack, SENDERS, "Acknowledge through a cursor", body=api_mail.Acked),
    Route(
        "GET",
        "/api/stream",
        api_log.stream,
        EVERYONE,
        "Follow events as server-sent events",
        params=("agent", "event", "after", "heartbeat", "watcher", "node", "log", "token"),
        repeated=("agent", "event"),
        headers=("Last-Event-ID",),
        streams=True,
    ),
    Route("POST", "/api/wakes", api_agents.ask, WATCHERS, "Ask for a wake", body=api_agents.Asked, answers=_WAKE),
    Route("PATCH", "/api/wakes/{id}", api_agents.report, WATCHERS, "Report how a wake ended", body=api_agents.Reported),
    Route(
        "GET",
        "/api/messages/{id}",
        api_mail.message,
        READERS,
        "A message and its receipt; waits until it has come so far",
        params=("wait", "timeout"),
    ),
    Route("GET", "/api/threads/{id}", api_mail.thread, READERS, "A conversation in order"),
    Route(
        "POST",
        "/api/threads/{id}/resume",
        api_mail.thread_resume,
        ADMIN,
        "Let a stopped thread, or the agents stopped in it, go on",
        body=Nothing,
    ),
    Route(
        "GET",
        "/api/events",
        api_log.events,
        AUDITORS,
        "A page of the log, or all of it as NDJSON",
        params=("after", "before", "limit", "agent", "event", "thread"),
        streams=True,
    ),
    Route(
        "GET",
        "/api/dead",
        api_dead.letters,
        AUDITORS,
        "Dead letters in the order of their messages",
        params=("agent", "after", "limit", "all"),
    ),
    Route("GET", "/api/dead/{id}", api_dead.letter, AUDITORS, "A dead letter with its message"),
    Route(
        "POST",
        "/api/dead/{id}/retry",
        api_dead.retry,
        ADMIN,
        "Send a dead message anew",
        body=Nothing,
        answers=((201, "accepted: durable"), (200, "a repeat: sent anew before")),
    ),
    Route("POST", "/api/dead/{id}/drop", api_dead.drop, ADMIN, "Close a dead letter", body=api_dead.Dropped),
    Route("GET", "/api/agents", api_agents.agents, EVERYONE, "Every agent: inbox, wakes, watchers"),
    Route("GET", "/api/agents/{name}", api_agents.agent, EVERYONE, "One agent: inbox, wakes, watchers"),
    Route("POST", "/api/agents/{name}/pause", api_agents.pause, ADMIN, "Grant no more wakes (* for all)", body=Nothing),
    Route("POST", "/api/agents/{name}/resume", api_agents.resume, ADMIN, "Grant wakes again (* for all)", body=Nothing),
    Route("GET", "/api/tokens", api_admin.tokens, ADMIN, "The tokens that are good, without the tokens themselves"),
    Route(
        "POST",
        "/api/tokens",
        api_admin.token_create,
        ADMIN,
        "Make a token; it is told this once",
        body=api_admin.TokenAsked,
        answers=((201, "made"),),
    ),
    Route("DELETE", "/api/tokens/{name}", api_admin.token_revoke, ADMIN, "End a token and the streams opened with it"),
    Route(
        "POST",
        "/api/messages/{id}/redact",
        api_admin.redact,
        ADMIN,
        "Erase a message's payload",
        body=api_admin.Redaction,
    ),
    Route(
        "POST",
        "/api/verify",
        api_admin.verify,
        AUDITORS,
        "Check the whole log: chain of hashes, payloads, projections",
        body=api_admin.VerifyAsked,
    ),
    Route("POST", "/api/backup", api_admin.backup, ADMIN, "Write a marked copy of the log", body=api_admin.BackupAsked),
    Route(
        "POST",
        "/message",
        api_send.receive_message,
        ANSWERERS,
        "The pair's: a message to the token's peer",
        headers=("Idempotency-Key",),
        body=api_send.PairPost,
        sends=True,
        pair=True,
    ),
    Route(
        "POST",
        "/send",
        api_send.send_message,
        ANSWERERS,
        "The pair's: a message to the token's peer",
        headers=("Idempotency-Key",),
        body=api_send.PairPost,
        sends=True,
        pair=True,
    ),
    Route("GET", "/healthz", api_admin.healthz, None, "The process answers"),
    Route("GET", "/readyz", api_admin.readyz, None, "The log takes appends"),
    Route("GET", "/openapi.json", openapi, None, "This contract as OpenAPI"),
)


class Application:
    """The whole application: the gate, and behind it the routes.

    It speaks ASGI. Beside that it has a short way for a request that is here whole and has a whole answer (`direct`).
    """

    def __init__(self, desk: Desk) -> None:
        by_path: dict[str, dict[str, Route]] = {}
        for route in ROUTES:
            by_path.setdefault(route.path, {})[route.method] = route
        endpoints = {path: _Endpoint(desk, routes) for path, routes in by_path.items()}
        self._router = Router(
            [Place(path, endpoint) for path, endpoint in endpoints.items()], redirect_slashes=False, default=_nowhere
        )
        # A path without parts to fill in needs no pattern: a look-up finds what the router would.
        self._fixed = {path: endpoint for path, endpoint in endpoints.items() if "{" not in path}
        config = desk.config
        hosts, origins = (config.host, *own_names(), *config.allowed_hosts), config.allowed_origins
        self._shared = bool(origins)
        self._gate = Gate(_shared_with(self._route, origins), hosts=hosts, origins=origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI has it."""
        await self._gate(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._fixed.get(scope.get("path", ""), self._router))(scope, receive, send)

    def direct(self, scope: Scope) -> tuple[Respond, Seats | None] | None:
        """What answers all requests with the header of this one, its body left in web.BODY, and the seats that each
        must have one of; None: they take ASGI.

        The gate was passed then: it looks at nothing but the header.
        """
        endpoint = self._fixed.get(scope["path"])
        if endpoint is None or self._shared or not self._gate.passes(scope):
            return None
        return endpoint.direct(scope["method"])


def _shared_with(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """`app`, telling browsers that pages of these origins may read its answers, too."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=sorted({route.method for route in ROUTES}),
        allow_headers=["Authorization", "X-Shared-Secret", "Content-Type", "Idempotency-Key", "Last-Event-ID"],
        expose_headers=["Eventlog-Id", "Eventlog-Head", "Idempotent-Replayed", "Retry-After"],
    )


class _Endpoint:
    """What answers at one path, by method."""

    def __init__(self, desk: Desk, routes: Mapping[str, Route]) -> None:
        self._desk = desk
        self._routes = {**routes, **({"HEAD": routes["GET"]} if "GET" in routes else {})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._respond(self._routes.get(scope["method"]), scope, receive)
        if response is not None:
            await response(scope, receive, send)

    def direct(self, method: str) -> tuple[Respond, Seats | None] | None:
        """What answers requests of this method, if its answers are whole, and the seats that they take."""
        route = self._routes.get(method)
        if route is None or route.method != method or route.streams:
            return None
        return partial(self._respond, route), self._desk.sends if route.sends else None

    async def _respond(self, route: Route | None, scope: Scope, receive: Receive) -> ASGIApp | None:
        """The answer to a request, whatever goes wrong; None if nobody is there any more to hear one."""
        try:
            if route is None:
                raise MethodNotAllowed(f"{scope['path']} answers to {', '.join(sorted(self._routes))} alone")
            call = Call(self._desk, route, scope, receive)
            kinds = route.kinds
            if kinds is not None:
                token = call.query.one("token") if "token" in route.params else None
                caller = call.caller = await self._desk.guard.caller(scope, token)
                if caller.kind not in kinds:
                    raise _not_of(caller.kind, kinds)
            return await route.handler(call)
        except ClientGone:
            return None
        except EventlogError as error:
            if error.status == 401 and route is not None and route.pair:
                error = Unauthorized("unauthorized")
            return problem(error, self._allow(error))
        except Exception:
            _log.exception("a request failed", method=scope["method"], path=scope["path"])
            return problem(Unavailable("the bus could not do this; its log says why"))

    def _allow(self, error: EventlogError) -> dict[str, str]:
        return {"allow": ", ".join(sorted(self._routes))} if error.status == 405 else {}


def _not_of(kind: str, kinds: frozenset[str]) -> Forbidden:
    return Forbidden(f"a token of kind {kind} may not do this; it takes one of {', '.join(sorted(kinds))}")


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    """What answers where no route is."""
    if scope["type"] != "http":
        raise RuntimeError(f"this application serves http, not {scope['type']}")
    error = NotFound("there is no such route; /openapi.json lists them")
    await problem(error)(scope, receive, send)
