"""Routes of agents and their wakes: what is known of them, asking for a wake, reporting one, pause and resume."""

import re
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta
from starlette.types import ASGIApp

from eventlog.agents import EVERYONE, Limits
from eventlog.answers import json_response
from eventlog.call import Call
from eventlog.errors import BadRequest, NotFound
from eventlog.event import ID_MAX, check_name, compact
from eventlog.starts import STARTS_MAX
from eventlog.wakes import Ask, Granted, Report
from eventlog.web import check_visible

#: Bounds of what a watcher may ask for, seconds.
TIMEOUT_S_MAX = 7 * 86_400
START_WITHIN_S_MAX = 86_400
ACK_WITHIN_S_MAX = 30 * 86_400
MIN_INTERVAL_S_MAX = 7 * 86_400
#: And how many wakes an agent may have in an hour, where that is limited.
WAKES_PER_HOUR_MAX = STARTS_MAX
#: And how many wakes one message may have.
MAX_ATTEMPTS_MAX = 1000
#: How much of a wake's `detail` is kept, characters.
DETAIL_MAX = 2000

OUTCOMES = ("ok", "failed", "timeout", "interrupted", "not_started")

_Exit = Annotated[int, Meta(ge=-(2**31), le=2**32)]
_Milliseconds = Annotated[float, Meta(ge=0, le=ID_MAX)]
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class Asked(msgspec.Struct):
    """An ask for a wake; what is left out is as in DESIGN section 8."""

    key: str
    agent: str
    watcher: str | None = None
    node: str | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=TIMEOUT_S_MAX)] = 300
    start_within_s: Annotated[float, Meta(ge=0, le=START_WITHIN_S_MAX)] = 30
    ack: str = "agent"
    ack_within_s: Annotated[float, Meta(ge=0, le=ACK_WITHIN_S_MAX)] = 600
    max_attempts: Annotated[int, Meta(ge=1, le=MAX_ATTEMPTS_MAX)] = 10
    min_interval_s: Annotated[float, Meta(ge=0, le=MIN_INTERVAL_S_MAX)] = 0
    deliver: str = "all"
    max_wakes_per_hour: Annotated[int, Meta(ge=0, le=WAKES_PER_HOUR_MAX)] = 0


class Reported(msgspec.Struct):
    """How a wake ended. `reply`, any JSON, is sent to the sender of the newest message that the wake covered."""

    key: str
    outcome: str
    exit_code: _Exit | None = None
    duration_ms: _Milliseconds | None = None
    detail: str | None = None
    reply: Any = UNSET


async def agents(call: Call) -> ASGIApp:
    """GET /api/agents."""
    return json_response({"agents": await call.bus.agents(visible=call.caller.visible)})


async def agent(call: Call) -> ASGIApp:
    """GET /api/agents/{name}."""
    name = check_name(call.path("name"), "name", reserved=True)
    return json_response(await call.bus.agent(name, visible=call.caller.visible))


async def ask(call: Call) -> ASGIApp:
    """POST /api/wakes."""
    asked = await call.read(Asked)
    name = call.caller.require(check_name(asked.agent, "agent"))
    key = _key(asked.key)
    watcher = check_name(asked.watcher, "watcher") if asked.watcher is not None else call.caller.name
    node = watcher if asked.node is None else check_visible(asked.node, "node")
    limits = Limits(
        timeout_s=_number(asked.timeout_s, "timeout_s"),
        start_within_s=_number(asked.start_within_s, "start_within_s"),
        ack=_one_of(asked.ack, ("agent", "exit", "none"), "ack"),
        ack_within_s=_number(asked.ack_within_s, "ack_within_s"),
        max_attempts=asked.max_attempts,
        min_interval_s=_number(asked.min_interval_s, "min_interval_s"),
        deliver=_one_of(asked.deliver, ("all", "each"), "deliver"),
        max_wakes_per_hour=asked.max_wakes_per_hour,
    )
    call.bus.presence.watcher_seen(watcher, node)
    answer = await call.bus.leases.ask(Ask(agent=name, key=key, watcher=watcher, node=node, limits=limits))
    if not isinstance(answer, Granted):
        return json_response({"wake": None, "why": answer.why, "retry_after_s": _plain(answer.retry_after_s)})
    return json_response(await _granted(call, answer), 200 if answer.again else 201)


async def report(call: Call) -> ASGIApp:
    """PATCH /api/wakes/{id}."""
    reported = await call.read(Reported)
    outcome = _one_of(reported.outcome, OUTCOMES, "outcome")
    try:
        wake_id = call.path_id("wake")
    except NotFound:
        raise _unknown_wake() from None
    row = await call.bus.store.wake(wake_id)
    if row is None or not call.caller.covers(row.agent):
        raise _unknown_wake()
    told = Report(
        key=reported.key,
        outcome=outcome,
        exit_code=reported.exit_code,
        duration_ms=None if reported.duration_ms is None else round(reported.duration_ms),
        detail=None if reported.detail is None else reported.detail[:DETAIL_MAX],
        reply=None if reported.reply is UNSET or reported.reply is None else compact(reported.reply),
    )
    wake = await call.bus.leases.report(wake_id, told)
    return json_response({"id": wake.id, "agent": wake.agent, "outcome": wake.outcome})


async def pause(call: Call) -> ASGIApp:
    """POST /api/agents/{name}/pause."""
    await call.read_nothing()
    name = _agent_or_everyone(call)
    await call.bus.pause(name, by=call.caller.name)
    return json_response({"agent": name, "paused": True, "known": _known(call, name)})


async def resume(call: Call) -> ASGIApp:
    """POST /api/agents/{name}/resume."""
    await call.read_nothing()
    name = _agent_or_everyone(call)
    await call.bus.resume(name, by=call.caller.name)
    return json_response({"agent": name, "paused": False, "known": _known(call, name)})


async def _granted(call: Call, answer: Granted) -> dict[str, Any]:
    """The wake as its holder is told of it, with a token for its command; a run with one for its answer, too."""
    wake, guard = answer.wake, call.desk.guard
    reply = {}
    row = await call.bus.store.wake(wake.id) if wake.limits.deliver == "each" else None
    if row is not None and answer.messages:
        reply = {"reply_token": guard.reply_token(answer.messages[0], row.time)}
    return {
        "wake": {
            "id": wake.id,
            "key": wake.key,
            "agent": answer.agent,
            "after": wake.after,
            "through": wake.through,
            "attempt": wake.attempt,
            "timeout_s": _plain(wake.limits.timeout_s),
            "token": guard.wake_token(wake.id),
            **reply,
            "messages": [msgspec.Raw(message.json()) for message in answer.messages],
            "truncated": answer.truncated,
        },
        "age_s": _plain(answer.age_s),
    }


def _key(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise BadRequest("key must be 1 to 255 visible ASCII characters; take a UUID", field="key")
    return key


def _number(value: float, field: str) -> float:
    """A number of seconds, as it stands in the log: at most three places, and whole ones without a point."""
    if round(value, 3) != value:
        raise BadRequest(f"{field} may have at most 3 decimal places", field=field)
    return _plain(value)


def _plain(value: float) -> float:
    """A whole number as such: 300, not 300.0."""
    return int(value) if value == int(value) else value


def _one_of(value: str, choices: tuple[str, ...], field: str) -> str:
    if value not in choices:
        raise BadRequest(f"{field} must be one of {', '.join(choices)}", field=field)
    return value


def _agent_or_everyone(call: Call) -> str:
    name = call.path("name")
    return name if name == EVERYONE else check_name(name, "name")


def _known(call: Call, name: str) -> bool:
    return name == EVERYONE or call.bus.names.knows(name)


def _unknown_wake() -> NotFound:
    return NotFound("no wake with this id and key; drop what you hold of it and ask again", code="unknown_wake")
