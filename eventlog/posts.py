"""Posts: messages as their senders post them, checked field by field; nothing here knows the log."""

import itertools
import re
import time
from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta

from eventlog.errors import BadRequest
from eventlog.event import ID_MAX, Message, check_depth, check_name, compact, decode_json, is_name
from eventlog.seal import instant, utc_now
from eventlog.web import to_struct

#: What may be awaited by a deadline.
AWAITS = ("read", "replied")
#: The longest time from now that may be given, seconds.
IN_S_MAX = 10 * 365 * 86_400

_Seconds = Annotated[float, Meta(gt=0, le=IN_S_MAX)]
_TYPE_MAX = 64
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


#: What few posts have: looked at in one call, because one for each of them would be a tenth of what a post takes.
_SELDOM = attrgetter("thread_id", "reply_to", "expires", "expires_in", "deadline", "deadline_in", "awaits")
_NONE_OF_THEM = (None,) * 7
_KEY = attrgetter("key")

#: Decodes a body at once, as nearly every one can be; it says less of one that is wrong.
_BODY = msgspec.json.Decoder(Post | list[Post])


def posts_of(body: bytes) -> tuple[list[tuple[str, Post]], bool]:
    """Each message of the body, with the place to name before its fields; and whether the body is an array."""
    try:
        decoded = _BODY.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        decoded = _told_apart(body)
    if isinstance(decoded, Post):
        return [("", decoded)], False
    if not decoded:
        raise BadRequest("the array is empty; put messages into it")
    posts = list(zip(map("[{}].".format, itertools.count()), decoded, strict=False))
    if set(map(_KEY, decoded)) != {None}:
        where = next(where for where, post in posts if post.key is not None)
        raise BadRequest("an array has one key for all; send it as the header Idempotency-Key", field=f"{where}key")
    return posts, True


def _told_apart(body: bytes) -> Post | list[Post]:
    """The same in two steps, which can say what is wrong. Raises BadRequest."""
    decoded = decode_json(body)
    if not isinstance(decoded, list):
        return to_struct(decoded, Post)
    return [to_struct(one, Post, f"[{i}].") for i, one in enumerate(decoded)]


def messages_of(where: str, post: Post) -> list[Message]:
    """The messages that one post makes, one for each recipient named."""
    text = post.payload
    if post.message is not UNSET:
        if text is not UNSET:
            raise BadRequest("the text stands in payload and in message; send one of them", field=f"{where}message")
        text = post.message
    payload = b"null" if text is UNSET else compact(text)
    if payload.find(b"{", 1) > 0 or payload.find(b"[", 1) > 0:  # there is something in it that may nest
        check_depth(payload, within=2 if where else 1)
    kind = post.type
    check_type(kind, where)
    to_agent = post.to_agent
    if isinstance(to_agent, str) and is_name(to_agent) and _SELDOM(post) == _NONE_OF_THEM:
        return [Message(to_agent=to_agent, payload=payload, type=kind)]  # as most are: nothing else is looked at
    thread_id, reply_to = post.thread_id, post.reply_to
    names = _recipients(to_agent, where)
    _check_parent(thread_id, where, "thread_id")
    _check_parent(reply_to, where, "reply_to")
    expires = _moment(post.expires, post.expires_in, where, "expires")
    deadline = _moment(post.deadline, post.deadline_in, where, "deadline")
    awaits = "read" if post.awaits is None else _check_awaits(post.awaits, deadline, where)
    return [
        Message(
            to_agent=name,
            payload=payload,
            type=kind,
            thread_id=thread_id,
            reply_to=reply_to,
            expires=expires,
            deadline=deadline,
            awaits=awaits,
        )
        for name in names
    ]


def _recipients(to_agent: str | list[str] | None, where: str) -> Sequence[str]:
    if isinstance(to_agent, str):
        return (to_agent if to_agent == "*" else check_name(to_agent, f"{where}to_agent", reserved=True),)
    if not to_agent:
        raise BadRequest("say in to_agent whom the message is for", code="no_recipient", field=f"{where}to_agent")
    names = [check_name(name, f"{where}to_agent[{i}]", reserved=True) for i, name in enumerate(to_agent)]
    if len({name.lower() for name in names}) != len(names):
        raise BadRequest(f"{where}to_agent names one agent twice; name it once", field=f"{where}to_agent")
    return names


@lru_cache(maxsize=1024)
def _is_type(kind: str) -> bool:
    return 1 <= len(kind) <= _TYPE_MAX and kind.isprintable() and " " not in kind


def check_type(kind: str, where: str) -> str:
    """`kind`, if a message's type can be called so; raises BadRequest otherwise."""
    if not _is_type(kind):
        raise BadRequest(
            f"{where}type must be 1 to {_TYPE_MAX} visible characters without spaces", field=f"{where}type"
        )
    return kind


def _check_parent(message_id: int | None, where: str, name: str) -> None:
    """Refuses what can be no message's id at all; whether there is one, the log knows."""
    if message_id is not None and not 1 <= message_id <= ID_MAX:
        field = f"{where}{name}"
        raise BadRequest(f"{field}: there is no such message", code="unknown_parent", field=field)


def _moment(time_: str | None, in_s: float | None, where: str, name: str) -> str | None:
    """A time that may be given in one of two ways, in UTC; None if it is not given."""
    if time_ is not None and in_s is not None:
        field = f"{where}{name}"
        raise BadRequest(f"{field} and {field}_in are both there; send one of them", field=f"{field}_in")
    if in_s is not None:
        return utc_now(time.time() + in_s)
    return None if time_ is None else _utc(time_, f"{where}{name}")


def _check_awaits(given: str, deadline: str | None, where: str) -> str:
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
