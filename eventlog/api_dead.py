"""Routes of dead letters: listing and showing them, for auditors; trying them again and dropping them."""

import msgspec
from starlette.types import ASGIApp

from eventlog.answers import json_response
from eventlog.call import Call
from eventlog.errors import BadRequest
from eventlog.letters import with_message

#: How much of a reason is taken, characters.
REASON_MAX = 1000


class Dropped(msgspec.Struct):
    """Why a dead letter is dropped."""

    reason: str | None = None


async def letters(call: Call) -> ASGIApp:
    """GET /api/dead."""
    query, config = call.query, call.config
    page = await call.bus.letters.page(
        agent=query.agent(),
        after=query.cursor("after") or 0,
        limit=query.integer("limit", config.page_limit_max, "bad_limit") or config.page_limit,
        closed=query.flag("all"),
    )
    return json_response(page)


async def letter(call: Call) -> ASGIApp:
    """GET /api/dead/{id}."""
    found = await call.bus.letters.one(call.path_id("dead letter"))
    return json_response(with_message(found, await call.bus.message(found.message_id)))


async def retry(call: Call) -> ASGIApp:
    """POST /api/dead/{id}/retry."""
    await call.read_nothing()
    sent = await call.bus.letters.retry(call.path_id("dead letter"), by=call.caller.name)
    headers = {"idempotent-replayed": "true"} if sent.replayed else None
    return json_response(sent.answers[0], 200 if sent.replayed else 201, headers)


async def drop(call: Call) -> ASGIApp:
    """POST /api/dead/{id}/drop."""
    dropped = await call.read(Dropped)
    if dropped.reason is not None and len(dropped.reason) > REASON_MAX:
        raise BadRequest(f"reason may have {REASON_MAX} characters", field="reason")
    message_id = call.path_id("dead letter")
    return json_response(await call.bus.letters.drop(message_id, by=call.caller.name, reason=dropped.reason))
