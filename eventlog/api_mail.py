"""Routes of mail: send, the pair's two, inbox, ack, messages, threads."""

import re
import time
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta
from starlette.types import ASGIApp

from eventlog.call import Call
from eventlog.capability import check_within
from eventlog.errors import BadRequest, TooLarge
from eventlog.event import ID_MAX, Event, Message, canonical, check_depth, check_name, compact, decode_json, is_name
from eventlog.mail import check_batch
from eventlog.receipts import WAITS
from eventlog.seal import instant, utc_now
from eventlog.views import Sent
from eventlog.web import check_cursor, json_response, to_struct, unless_gone

#: What the messages of one request may come to, in multiples of the limit of a body.
BODIES_MAX = 16

#: What may be awaited by a deadline.
AWAITS = ("read", "replied")
#: The longest time from now that may be given, seconds.
IN_S_MAX = 10 * 365 * 86_400

_Seconds = Annotated[float, Meta(gt=0, le=IN_S_MAX)]
_TYPE_MAX = 64
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)


class Post(msgspec.Struct, forbid_unknown_fields=True):
    """A message as posted to /api/send. `to_agent` may be a list, or "*" for every known agent but the sender; the
    text stands in `payload` or in `message`; `key` does what the header Idempotency-Key does. Times are RFC 3339, or
    (`..._in`) seconds from now; `awaits` is `read` or `replied`."""

    to_agent: str | list[str] | None = None
    from_agent: str | None = None
    type: str = "MESSAGE"
    payload: Any = UNSET
    message: Any = UNSET
    thread_id: int | None = None
    reply_to: int | None = None
    expires: str | None = None
    expires_in: _Seconds | None = None
    deadline: str | None = None
    deadline_in: _Seconds | None = None
    awaits: str | None = None
    key: str | None = None


class PairPost(msgspec.Struct):
    """A message as the pair posts it; further fields are kept with the payload."""

    type: str
    payload: Any = UNSET
    to_agent: str | None = None
    from_agent: str | None = None


class Acked(msgspec.Struct):
    """A cursor to acknowledge through, it included, and where the agent's stands."""

    cursor: int
    agent: str | None = None


#: Decodes a body at once, as nearly every one can be; it says less of one that is wrong.
_BODY = msgspec.json.Decoder(Post | list[Post])


async def send(call: Call) -> ASGIApp:
    """POST /api/send."""
    body = await call.body()
    posts, batch = _posts(body)
    check_batch(len(posts), call.config.batch_max)  # before anything is looked up for each of them
    if call.caller.answers is not None:
        posts = [(where, await _answering(call, call.caller.answers, where, post)) for where, post in posts]
    messages = [message for where, post in posts for message in _messages(where, post)]
    sender = _one_sender(call, posts)
    first = posts[0][1]
    key = _key(call.header(b"idempotency-key"), None if batch else first.key)
    _check_size(call, messages)
    sent = await _sent(call, messages, sender, key, body)
    one = not batch and isinstance(first.to_agent, str) and first.to_agent != "*"
    return _answer(sent, sent.answers[0] if one else sent.answers, 200 if sent.replayed else 201)


async def receive_message(call: Call) -> ASGIApp:
    """POST /message, the pair's."""
    return await _pair(call, "received")


async def send_message(call: Call) -> ASGIApp:
    """POST /send, the pair's."""
    return await _pair(call, "sent")


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


async def _answering(call: Call, answers: Event, where: str, post: Post) -> Post:
    """The post of a caller who may answer one message: what it leaves out is as an answer has it. Raises Forbidden."""
    to_agent = answers.fields["from_agent"] if post.to_agent is None else post.to_agent
    reply_to = answers.id if post.reply_to is None else post.reply_to
    names = [to_agent] if isinstance(to_agent, str) else to_agent
    await check_within(call.bus, answers, to_agents=names, reply_to=reply_to, thread_id=post.thread_id, where=where)
    return msgspec.structs.replace(post, to_agent=to_agent, reply_to=reply_to)


def _posts(body: bytes) -> tuple[list[tuple[str, Post]], bool]:
    """Each message of the body, with the place to name before its fields; and whether the body is an array."""
    try:
        decoded = _BODY.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        decoded = _told_apart(body)
    if isinstance(decoded, Post):
        return [("", decoded)], False
    if not decoded:
        raise BadRequest("the array is empty; put messages into it")
    posts = [(f"[{i}].", post) for i, post in enumerate(decoded)]
    for where, post in posts:
        if post.key is not None:
            raise BadRequest("an array has one key for all; send it as the header Idempotency-Key", field=f"{where}key")
    return posts, True


def _told_apart(body: bytes) -> Post | list[Post]:
    """The same in two steps, which can say what is wrong. Raises BadRequest."""
    decoded = decode_json(body)
    if not isinstance(decoded, list):
        return to_struct(decoded, Post)
    return [to_struct(one, Post, f"[{i}].") for i, one in enumerate(decoded)]


def _messages(where: str, post: Post) -> list[Message]:
    """The messages that one post makes, one for each recipient named."""
    if post.payload is not UNSET and post.message is not UNSET:
        raise BadRequest("the text stands in payload and in message; send one of them", field=f"{where}message")
    text: Any = post.message if post.payload is UNSET else post.payload
    payload = b"null" if text is UNSET else compact(text)
    if _nests(text):
        check_depth(payload, within=2 if where else 1)
    expires = _moment(post.expires, post.expires_in, where, "expires")
    deadline = _moment(post.deadline, post.deadline_in, where, "deadline")
    one = Message(
        to_agent="",
        payload=payload,
        type=_check_type(post.type, where),
        thread_id=_check_parent(post.thread_id, where, "thread_id"),
        reply_to=_check_parent(post.reply_to, where, "reply_to"),
        expires=expires,
        deadline=deadline,
        awaits=_awaits(post.awaits, deadline, where),
    )
    return [msgspec.structs.replace(one, to_agent=name) for name in _recipients(post.to_agent, where)]


def _nests(value: Any) -> bool:
    """Whether a decoded value holds others that hold others; nearly none does."""
    kinds = set(map(type, value.values() if type(value) is dict else value)) if type(value) in (dict, list) else ()
    return dict in kinds or list in kinds


def _recipients(to_agent: str | list[str] | None, where: str) -> Sequence[str]:
    if isinstance(to_agent, str):
        return (to_agent if to_agent == "*" or is_name(to_agent) else check_name(to_agent, f"{where}to_agent"),)
    if not to_agent:
        raise BadRequest("say in to_agent whom the message is for", code="no_recipient", field=f"{where}to_agent")
    names = [check_name(name, f"{where}to_agent[{i}]", reserved=True) for i, name in enumerate(to_agent)]
    if len({name.lower() for name in names}) != len(names):
        raise BadRequest(f"{where}to_agent names one agent twice; name it once", field=f"{where}to_agent")
    return names


def _one_sender(call: Call, posts: Sequence[tuple[str, Post]]) -> str:
    """Who sends: all messages of one request have one sender."""
    sender = call.caller.sender(posts[0][1].from_agent)
    others = {post.from_agent for _, post in posts[1:]}
    if any(call.caller.sender(other).lower() != sender.lower() for other in others):
        raise BadRequest("one request has one sender; send each sender's messages by themselves", field="from_agent")
    return sender


def _check_size(call: Call, messages: Sequence[Message]) -> None:
    """Bounds what one small body can grow to by naming many recipients."""
    size = sum([len(message.payload) for message in messages])
    if any(message.to_agent == "*" for message in messages):
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


async def _sent(call: Call, messages: Sequence[Message], sender: str, key: str | None, body: bytes) -> Sent:
    """The messages sent. A repeat is recognised by what is asked for, however it is written, without its key; with a
    reply capability also by the message that it answers, of which the body alone says nothing."""
    request = b""
    if key is not None:
        asked = msgspec.json.decode(body)  # it was read and checked before
        if isinstance(asked, dict):
            asked.pop("key", None)
        answers = {} if call.caller.answers is None else {"answers": call.caller.answers.id}
        request = canonical({"send": asked, **answers})
    return await call.bus.send(messages, sender=sender, key=key, request=request, visible=call.caller.visible)


def _check_type(kind: str, where: str) -> str:
    if not 1 <= len(kind) <= _TYPE_MAX or not kind.isprintable() or " " in kind:
        raise BadRequest(
            f"{where}type must be 1 to {_TYPE_MAX} visible characters without spaces", field=f"{where}type"
        )
    return kind


def _check_parent(message_id: int | None, where: str, name: str) -> int | None:
    """Refuses what can be no message's id at all; whether there is one, the log knows."""
    if message_id is not None and not 1 <= message_id <= ID_MAX:
        field = f"{where}{name}"
        raise BadRequest(f"{field}: there is no such message", code="unknown_parent", field=field)
    return message_id


def _moment(time_: str | None, in_s: float | None, where: str, name: str) -> str | None:
    """A time that may be given in one of two ways, in UTC; None if it is not given."""
    if time_ is not None and in_s is not None:
        field = f"{where}{name}"
        raise BadRequest(f"{field} and {field}_in are both there; send one of them", field=f"{field}_in")
    if in_s is not None:
        return utc_now(time.time() + in_s)
    return None if time_ is None else _utc(time_, f"{where}{name}")


def _awaits(given: str | None, deadline: str | None, where: str) -> str:
    if given is None:
        return "read"
    if given not in AWAITS or deadline is None:
        field = f"{where}awaits"
        raise BadRequest(f"{field} must be one of {', '.join(AWAITS)}, and is for a deadline", field=field)
    return given


def _utc(text: str, field: str) -> str:
    """An RFC 3339 time, in UTC and with microseconds."""
    try:
        if not _TIME.fullmatch(text):
            raise ValueError
        return instant(re.sub(r"(\.[0-9]{6})[0-9]+", r"\1", text.upper()))
    except (ValueError, OverflowError):
        raise BadRequest(
            f"{field} must be a time as in 2030-01-31T12:00:00Z (RFC 3339, with its offset)", field=field
        ) from None


def _answer(sent: Sent, value: Any, status: int) -> ASGIApp:
    return json_response(value, status, {"idempotent-replayed": "true"} if sent.replayed else None)


async def _pair(call: Call, status: str) -> ASGIApp:
    """The pair's message: type and payload, and further fields, which are kept."""
    body = await call.body()
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
        type=_check_type(kind, ""),
        reply_to=None if answers is None else answers.id,
    )
    if answers is not None:
        await check_within(call.bus, answers, to_agents=[one.to_agent], reply_to=answers.id, thread_id=None)
    key = _key(call.header(b"idempotency-key"), None)
    sent = await _sent(call, [one], sender, key, body)
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
