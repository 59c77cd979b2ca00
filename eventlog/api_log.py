"""Routes of the log itself: the stream that followers hold, and the history that auditors read."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from sse_starlette.sse import EventSourceResponse
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from eventlog.answers import json_response
from eventlog.call import Call
from eventlog.errors import BadRequest, Forbidden
from eventlog.event import KINDS, fold
from eventlog.follow import Follower
from eventlog.web import WRITE, check_visible, cursor
from eventlog.window import Filter

#: Kinds of event that say nothing of an agent: an auditor's business alone.
_AUDITED = frozenset({"token.created", "token.revoked"})


async def stream(call: Call) -> ASGIApp:
    """GET /api/stream."""
    query = call.query
    watcher, node = _watcher(call)
    heartbeat_s = query.seconds("heartbeat", 1, 60, call.config.heartbeat_s)
    after = _start(call)
    follower = call.bus.follow(
        Filter(agents=_agents(call), events=_events(call), visible=call.caller.visible),
        after=after,
        log_id=query.one("log"),
        heartbeat_s=heartbeat_s,
        token=call.caller.name if call.caller.wake is None else "",
        watcher=watcher,
        node=node,
        reader=call.caller.kind == "agent",
    )
    headers = {
        "Eventlog-Id": follower.log_id,
        "Eventlog-Head": str(follower.head),
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",
    }

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        # The follower makes its own signs of life.
        response = EventSourceResponse(_sent(call, follower, send), headers=headers, ping=0, sep="\n")
        await response(scope, receive, send)

    return _seated(call, respond)


async def events(call: Call) -> ASGIApp:
    """GET /api/events."""
    query, config = call.query, call.config
    after = query.cursor("after") or 0
    before = query.cursor("before")
    limit = query.integer("limit", config.page_limit_max, "bad_limit")
    agent, kind, thread = query.agent(), query.one("event"), query.cursor("thread")
    if kind == "*":
        kind = None
    elif kind is not None and kind not in KINDS:
        raise _unknown_kind(kind)
    headers = {"Eventlog-Id": call.bus.log_id, "Eventlog-Head": str(call.bus.head)}
    if "application/x-ndjson" in (call.header(b"accept") or ""):
        lines = call.bus.export(after=after, before=before, limit=limit, agent=agent, event=kind, thread=thread)
        chunks = StreamingResponse(
            lines, headers={"cache-control": "no-store", **headers}, media_type="application/x-ndjson"
        )
        return _seated(call, chunks)
    page = await call.bus.events(
        after=after, before=before, limit=limit or config.page_limit, agent=agent, event=kind, thread=thread
    )
    return json_response(page, headers=headers)


async def _sent(call: Call, follower: Follower, send: Send) -> AsyncIterator[bytes]:
    """What the follower gives: the opening to the library, which begins the answer with it and ends all of this when
    the client goes; the rest straight to the server, as the library's own way costs as much as all else of a delivery,
    and most of it straight to the connection, without a task in between.

    A wake's stream ends when its token is over; that is looked at with each chunk, signs of life among them.
    """
    wake_id = call.caller.wake
    async with aclosing(aiter(follower)) as chunks:
        yield await anext(chunks)
        if wake_id is None:
            follower.write = call.scope.get(WRITE)
        async for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if wake_id is not None and await call.bus.leases.token_agent(wake_id) is None:
                return


def _watcher(call: Call) -> tuple[str | None, str | None]:
    """The watcher and the node that this stream is of; one that is not named is taken from the other or the token."""
    watcher, node = call.query.watcher(), call.query.one("node")
    if watcher is None and node is None:
        return None, None
    if call.caller.kind not in ("watcher", "admin"):
        raise Forbidden("only a watcher's token may follow as a watcher; leave watcher and node out", field="watcher")
    watcher = watcher or call.caller.name
    return watcher, watcher if node is None else check_visible(node, "node")


def _start(call: Call) -> int | str:
    """Where the stream begins: the header that a reconnecting browser sends wins."""
    last = call.header(b"last-event-id")
    if last:
        return cursor(last, "Last-Event-ID")
    after = call.query.one("after")
    if after is None or after in ("latest", "earliest"):
        return after or "latest"
    return cursor(after, "after")


def _agents(call: Call) -> frozenset[str]:
    """The agents whose events are asked for; a token for some agents asks for those unless it says which."""
    asked = call.query.agents()
    for name in asked:
        call.caller.require(name)
    return frozenset(map(fold, asked)) or call.caller.visible or frozenset()


def _events(call: Call) -> frozenset[str]:
    """The kinds of event that are asked for, as far as the token may see them."""
    asked = frozenset(call.query.all("event") or ("message",))
    for kind in asked - {"*", *KINDS}:
        raise _unknown_kind(kind)
    if call.caller.kind in ("auditor", "admin"):
        return frozenset() if "*" in asked else asked
    if asked & _AUDITED:
        raise Forbidden("only an auditor's token may follow events about tokens", field="event")
    return frozenset(KINDS) - _AUDITED if "*" in asked else asked


def _unknown_kind(kind: str) -> BadRequest:
    return BadRequest(f"there is no event {kind[:64]!r}; there are {', '.join(KINDS)} and *", field="event")


def _seated(call: Call, response: ASGIApp) -> ASGIApp:
    """`response`, holding a seat for as long as it lasts.

    Raises TooManyRequests if there is no seat.
    """

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await response(scope, receive, send)
        finally:
            call.desk.seats.leave()

    call.desk.seats.take()
    return respond
