"""Routes of mail: inbox, ack, messages, threads."""

import msgspec
from starlette.types import ASGIApp

from eventlog.answers import json_response
from eventlog.call import Call
from eventlog.errors import BadRequest
from eventlog.event import check_name
from eventlog.receipts import WAITS
from eventlog.web import check_cursor, unless_gone


class Acked(msgspec.Struct):
    """A cursor to acknowledge through, it included, and where the agent's stands."""

    cursor: int
    agent: str | None = None


async def inbox(call: Call) -> ASGIApp:
    """GET /api/inbox."""
    query, config = call.query, call.config
    agent = call.own_agent(query.agent())
    after = query.cursor("after")
    limit = query.integer("limit", config.page_limit_max, "bad_limit") or config.page_limit
    wait_s = query.seconds("wait", 0, config.wait_max_s, 0)
    call.seen(agent)
    if not wait_s:
        return json_response(await call.bus.inbox(agent, after=after, limit=limit))
    call.desk.seats.take()
    try:
        waiting = call.bus.inbox(agent, after=after, limit=limit, wait_s=wait_s)
        page = await unless_gone(call.receive, waiting)
    finally:
        call.desk.seats.leave()
    await call.check_token()
    return json_response(page)


async def ack(call: Call) -> ASGIApp:
    """POST /api/inbox/ack."""
    acked = await call.read(Acked)
    agent = call.own_agent(None if acked.agent is None else check_name(acked.agent, "agent", reserved=True))
    cursor = check_cursor(acked.cursor, "cursor")
    call.seen(agent)
    return json_response({"agent": agent, "cursor": await call.bus.ack(agent, cursor)})


async def message(call: Call) -> ASGIApp:
    """GET /api/messages/{id}."""
    query, visible = call.query, call.caller.visible
    message_id, wanted = call.path_id("message"), query.one("wait")
    timeout_s = query.seconds("timeout", 0, call.config.wait_max_s, 0)
    if wanted is None:
        return json_response(await call.bus.message(message_id, visible=visible))
    if wanted not in WAITS:
        raise BadRequest(f"wait must be one of {', '.join(WAITS)}", field="wait")
    call.desk.seats.take()
    try:
        waiting = call.bus.message_once(
            message_id, wanted, timeout_s=timeout_s, check=call.check_token, visible=visible
        )
        return json_response(await unless_gone(call.receive, waiting))
    finally:
        call.desk.seats.leave()


async def thread(call: Call) -> ASGIApp:
    """GET /api/threads/{id}."""
    return json_response(await call.bus.thread(call.path_id("thread"), visible=call.caller.visible))


async def thread_resume(call: Call) -> ASGIApp:
    """POST /api/threads/{id}/resume."""
    await call.read_nothing()
    thread_id = call.path_id("thread")
    await call.bus.thread_resume(thread_id, by=call.caller.name)
    return json_response({"thread_id": thread_id, "stopped": False})
