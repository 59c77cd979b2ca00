"""Message (as posted), Draft (to be appended) and Event (as stored): names, JSON, hash."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import Any

import msgspec

from eventlog.errors import BadRequest

#: The grammar of agents', watchers' and tokens' names; compared without regard to case, kept as first spelled.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
#: Names that no token, agent or watcher may take.
RESERVED = frozenset({"admin", "bus"})
#: How deep the arrays and objects of one JSON body may nest; far below what the decoder's stack carries.
DEPTH_MAX = 100
#: The largest id and cursor: what a JSON number holds exactly everywhere (RFC 8259 section 6).
ID_MAX = 2**53 - 1
#: The kinds of event (DESIGN section 5).
KINDS = (
    "message",
    "ack",
    "wake.started",
    "wake.finished",
    "dead_letter",
    "dead_letter.closed",
    "token.created",
    "token.revoked",
    "redacted",
    "agent.paused",
    "agent.resumed",
    "thread.stopped",
    "thread.resumed",
)
#: The hash before the first event.
GENESIS = bytes(32)

_KIND = attrgetter("event")

# Sorted keys and no white space: for flat fields with ASCII keys this is RFC 8785, but for the spelling of some floats;
# a property test holds it against a reference implementation.
_CANONICAL = msgspec.json.Encoder(order="sorted")


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message as its sender posted it, checked field by field but not yet against the log.

    `payload` is compact JSON. `expires` and `deadline` are RFC 3339 in UTC. `thread_id` and `reply_to` are ids.
    `awaits` (`read` or `replied`) says what is to have happened by the deadline.
    """

    to_agent: str
    payload: bytes = b"null"
    type: str = "MESSAGE"
    thread_id: int | None = None
    reply_to: int | None = None
    expires: str | None = None
    deadline: str | None = None
    awaits: str = "read"


class Draft(msgspec.Struct, frozen=True):
    """An event that has no id yet: its kind, its fields (those without a value left out) and a message's payload.

    A `message` draft without `thread_id` starts a thread: whoever gives it its id puts that id there.
    """

    event: str
    fields: Mapping[str, Any]
    payload: bytes | None = None


class Event(msgspec.Struct, frozen=True, dict=True):
    """A stored event. `header` is RFC 8785 JSON of everything but the payload; `payload` is compact JSON, or None
    where this kind has none or it was redacted; `hash` is the chain's hash up to and with this event.

    `agent` is whom it is for (a message's recipient, else the agent it is about), `sender` a message's sender; both
    folded to lower case, "" where there is none.
    """

    id: int
    event: str
    agent: str
    sender: str
    header: bytes
    payload: bytes | None
    hash: bytes

    @cached_property
    def fields(self) -> dict[str, Any]:
        """Everything but the payload, `id`, `event` and `time` included."""
        fields: dict[str, Any] = msgspec.json.decode(self.header)
        return fields

    def json(self, **extra: Any) -> bytes:
        """One flat JSON object on one line; `extra` fields are put at its end."""
        parts = [self.header[:-1]]
        if self.payload is not None:
            parts += (b',"payload":', self.payload)
        elif self.event == "message":
            parts.append(b',"redacted":true')
        if extra:
            parts += (b",", msgspec.json.encode(extra)[1:-1])
        parts.append(b"}")
        return b"".join(parts)

    def as_dict(self, **extra: Any) -> dict[str, Any]:
        """The same object as `json`, decoded."""
        decoded: dict[str, Any] = msgspec.json.decode(self.json(**extra))
        return decoded


def kinds_of(events: Iterable[Event]) -> set[str]:
    """The kinds that are among these events."""
    return set(map(_KIND, events))


#: The form in which names are compared. The method itself, because a function around it would take twice as long.
fold = str.lower


@lru_cache(maxsize=4096)
def is_name(name: str) -> bool:
    """Whether an agent, a watcher or a token can be called so, or what is reserved."""
    return NAME.match(name) is not None


def check_name(name: Any, field: str, *, reserved: bool = False) -> str:
    """`name`, if it is one; raises BadRequest `bad_name` otherwise. `reserved` allows `admin` and `bus`."""
    if not isinstance(name, str) or not is_name(name):
        raise BadRequest(
            f"{field} must be 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit",
            code="bad_name",
            field=field,
        )
    if not reserved and fold(name) in RESERVED:
        raise BadRequest(f"{field}: {name!r} is reserved; take another name", code="bad_name", field=field)
    return name


def canonical(fields: Mapping[str, Any]) -> bytes:
    """`fields` as RFC 8785 JSON; they are flat, but for lists of names.

    Raises ValueError for a float that is not finite, or so large that it stands for no number in particular.
    """
    if float in map(type, fields.values()):
        fields = {name: _number(name, value) if type(value) is float else value for name, value in fields.items()}
    return _CANONICAL.encode(fields)


def _number(name: str, value: float) -> float | msgspec.Raw:
    """A number as RFC 8785 writes it, which is as ECMAScript does: 300, never 300.0; 0.000001, never 1e-6."""
    if not -ID_MAX <= value <= ID_MAX:
        raise ValueError(f"{name} is out of range: {value}")
    if 1e-6 <= abs(value) < 1e-5:  # here the encoder is of another mind
        digits = repr(abs(value)).partition("e")[0].replace(".", "")
        return msgspec.Raw(f"{'-' if value < 0 else ''}0.00000{digits}".encode())
    return int(value) if value.is_integer() else value


def payload_digest(salt: bytes, payload: bytes | None) -> bytes:
    """What stands for a payload in the chain; an event without a payload has an empty one."""
    return hashlib.sha256(salt + (payload or b"")).digest()


def chain(previous: bytes, header: bytes, digest: bytes) -> bytes:
    """The hash of an event: SHA-256(previous hash, header, SHA-256(salt, payload))."""
    return hashlib.sha256(previous + header + digest).digest()


def decode_json(body: bytes, *, what: str = "body") -> Any:
    """`body` as strict JSON; raises BadRequest `bad_json` for anything else (RFC 8259: UTF-8, no NaN, no 1e999)."""
    check_depth(body, what=what)
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"{what} is not JSON: {error}", code="bad_json") from None
    return decoded


def check_depth(body: bytes, *, what: str = "body", within: int = 0) -> None:
    """Raises BadRequest `bad_json` if arrays and objects nest too deep in `body`, which is `within` so many others."""
    most = DEPTH_MAX - within
    if body.count(b"[") + body.count(b"{") > most and _depth(body) > most:
        raise BadRequest(f"{what}: nested more than {DEPTH_MAX} deep; flatten it", code="bad_json")


def compact(value: Any) -> bytes:
    """A decoded JSON value as compact JSON on one line."""
    return msgspec.json.encode(value)


# A string's plain stretches are taken whole: one alternative for each of its bytes is ten times slower.
_MARK = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)


def _depth(body: bytes) -> int:
    """How deep arrays and objects nest, strings left out; right for JSON, and for broken JSON it does not matter."""
    deepest = depth = 0
    for mark in _marks(body):
        if mark in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest


def _marks(body: bytes) -> Iterator[bytes]:
    """Each bracket that is not inside a string. A string without an end takes all the rest: were it no match, every
    quote in it would be looked at anew, in quadratic time."""
    for match in _MARK.finditer(body):
        if not match.group().startswith(b'"'):
            yield match.group()
