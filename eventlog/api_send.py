"""Routes of sending: POST /api/send, and the pair's two."""

import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import chain, starmap
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import UNSET
from starlette.types import ASGIApp

from eventlog.answers import json_response
from eventlog.call import Call
from eventlog.capability import check_within
from eventlog.errors import BadRequest, TooLarge
from eventlog.event import Event, Message, canonical, check_name, compact, decode_json
from eventlog.mail import check_batch
from eventlog.posts import Post, check_type, messages_of, posts_of
from eventlog.views import Sent
from eventlog.web import BODY

#: What the messages of one request may come to, in multiples of the limit of a body.
BODIES_MAX = 16

_PAYLOAD, _TO_AGENT = attrgetter("payload"), attrgetter("to_agent")
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')


class PairPost(msgspec.Struct):
    """A message as the pair posts it; further fields are kept with the payload."""

    type: str
    payload: Any = UNSET
    to_agent: str | None = None
    from_agent: str | None = None


def send(call: Call) -> Awaitable[ASGIApp]:
    """POST /api/send."""
    return _in_turn(call, _send)


def receive_message(call: Call) -> Awaitable[ASGIApp]:
    """POST /message, the pair's."""
    return _in_turn(call, partial(_pair, "received"))


def send_message(call: Call) -> Awaitable[ASGIApp]:
    """POST /send, the pair's."""
    return _in_turn(call, partial(_pair, "sent"))


def _in_turn(call: Call, work: Callable[[Call, bytes], Awaitable[ASGIApp]]) -> Awaitable[ASGIApp]:
    """What `work` makes of the body, once it is here; refused before it is looked at while too many are at it.

    Refusing must cost much less than sending: most are refused where they arrive (eventlog/protocol.py), and those who
    are not have a seat. What agents and watchers append otherwise is let through: it makes their queues shorter.
    """
    return work(call, call.body_here()) if BODY in call.scope else _seated(call, work)


async def _seated(call: Call, work: Callable[[Call, bytes], Awaitable[ASGIApp]]) -> ASGIApp:
    body = await call.body()
    call.desk.sends.take()
    try:
        return await work(call, body)
    finally:
        call.desk.sends.leave()


async def _send(call: Call, body: bytes) -> ASGIApp:
    posts, batch = posts_of(body)
    check_batch(len(posts), call.config.batch_max)  # before anything is looked up for each of them
    if call.caller.answers is not None:
        posts = [(where, await _answering(call, call.caller.answers, where, post)) for where, post in posts]
    messages = list(chain.from_iterable(starmap(messages_of, posts)))
    sender = _one_sender(call, posts)
    first = posts[0][1]
    key = _key(call.header(b"idempotency-key"), None if batch else first.key)
    _check_size(call, messages)
    sent = await call.bus.send(
        messages, sender=sender, key=key, request=_request(call, key, body), visible=call.caller.visible
    )
    one = not batch and isinstance(first.to_agent, str) and first.to_agent != "*"
    return _answer(sent, sent.answers[0] if one else sent.answers, 200 if sent.replayed else 201)


async def _answering(call: Call, answers: Event, where: str, post: Post) -> Post:
    """The post of a caller who may answer one message: what it leaves out is as an answer has it. Raises Forbidden."""
    to_agent = answers.fields["from_agent"] if post.to_agent is None else post.to_agent
    reply_to = answers.id if post.reply_to is None else post.reply_to
    names = [to_agent] if isinstance(to_agent, str) else to_agent
    await check_within(call.bus, answers, to_agents=names, reply_to=reply_to, thread_id=post.thread_id, where=where)
    return msgspec.structs.replace(post, to_agent=to_agent, reply_to=reply_to)


def _one_sender(call: Call, posts: Sequence[tuple[str, Post]]) -> str:
    """Who sends: all messages of one request have one sender."""
    sender = call.caller.sender(posts[0][1].from_agent)
    if len(posts) > 1:
        others = {post.from_agent for _, post in posts[1:]}
        if any(call.caller.sender(other).lower() != sender.lower() for other in others):
            one = "one request has one sender; send each sender's messages by themselves"
            raise BadRequest(one, field="from_agent")
    return sender


def _check_size(call: Call, messages: Sequence[Message]) -> None:
    """Bounds what one small body can grow to by naming many recipients."""
    size = sum(map(len, map(_PAYLOAD, messages)))
    if "*" in map(_TO_AGENT, messages):
        size *= max(1, len(call.bus.store.names()))
    if size > BODIES_MAX * call.config.body_limit_bytes:
        raise TooLarge("the payload, once for each recipient, is too much for one request; send to fewer at once")


def _key(from_header: str | None, in_body: str | None) -> str | None:
    """The key of the request, from its header (bare or quoted) or, for a single message, from its body."""
    if from_header is None:
        return in_body
    quoted = _QUOTED.fullmatch(from_header)
    key = from_header if quoted is None else re.sub(r"\\(.)", r"\1", quoted[1])
    if in_body is not None and in_body != key:
        raise BadRequest("the key in the body is not the header's; send one of them", field="key")
    return key


def _request(call: Call, key: str | None, body: bytes) -> bytes:
    """What a repeat is recognised by, if there is a key: what is asked for, however it is written, without its key;
    with a reply capability also the message that it answers, of which the body alone says nothing."""
    if key is None:
        return b""
    asked = msgspec.json.decode(body)  # it was read and checked before
    if isinstance(asked, dict):
        asked.pop("key", None)
    answers = {} if call.caller.answers is None else {"answers": call.caller.answers.id}
    return canonical({"send": asked, **answers})


def _answer(sent: Sent, value: Any, status: int) -> ASGIApp:
    return json_response(value, status, {"idempotent-replayed": "true"} if sent.replayed else None)


async def _pair(status: str, call: Call, body: bytes) -> ASGIApp:
    """The pair's message: type and payload, and further fields, which are kept."""
    decoded = decode_json(body)
    if not isinstance(decoded, dict):
        raise BadRequest("the body must be a JSON object", code="bad_json")
    rest = dict(decoded)
    kind, payload = rest.pop("type", None), rest.pop("payload", UNSET)
    to_agent, from_agent = rest.pop("to_agent", None), rest.pop("from_agent", None)
    if kind is None or kind == "":
        raise BadRequest("missing type", code="missing_type", field="type")
    if not isinstance(kind, str):
        raise BadRequest("type must be text", field="type")
    sender = call.caller.sender(from_agent)
    answers = call.caller.answers
    peer = call.caller.peer if answers is None else answers.fields["from_agent"]
    recipient = peer if to_agent is None else to_agent
    if recipient is None:
        raise BadRequest(
            "say in to_agent whom the message is for, or use a token that has a peer",
            code="no_recipient",
            field="to_agent",
        )
    one = Message(
        to_agent=check_name(recipient, "to_agent", reserved=True),
        payload=compact(_kept(payload, rest)),
        type=check_type(kind, ""),
        reply_to=None if answers is None else answers.id,
    )
    if answers is not None:
        await check_within(call.bus, answers, to_agents=[one.to_agent], reply_to=answers.id, thread_id=None)
    key = _key(call.header(b"idempotency-key"), None)
    sent = await call.bus.send(
        [one], sender=sender, key=key, request=_request(call, key, body), visible=call.caller.visible
    )
    return _answer(sent, {"status": status}, 200)


def _kept(payload: Any, rest: dict[str, Any]) -> Any:
    """The payload with the further fields: in it if it is an object that has none of them, else beside it."""
    if not rest:
        return None if payload is UNSET else payload
    if payload is UNSET:
        return rest
    if isinstance(payload, dict) and not payload.keys() & rest.keys():
        return payload | rest
    return {"payload": payload, **rest}
