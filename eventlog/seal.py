"""Seal: a draft becomes an event with id, time and hash; what of its fields has a column of its own."""

import os
import struct
import time
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from eventlog.engine import Key
from eventlog.event import ID_MAX, Draft, Event, canonical, chain, fold, payload_digest
from eventlog.queries import Write

#: An id as it may stand in a field of an event.
Id = Annotated[int, msgspec.Meta(ge=0, le=ID_MAX)]
#: Bytes of random salt with each message; they keep a redacted payload from being guessed from its digest.
SALT_BYTES = 16
#: Bytes of the checksum that follows a stored request's SHA-256.
CHECKSUM_BYTES = 4


class Columns(msgspec.Struct, frozen=True):
    """What the log's table repeats of an event's fields, for its indexes; names folded, `expires` as `instant` gives.

    Decoding a header into this raises msgspec.ValidationError where a field is not what it must be.
    """

    event: str
    time: str
    to_agent: str | None = None
    agent: str | None = None
    from_agent: str | None = None
    thread_id: Id | None = None
    reply_to: Id | None = None
    expires: str | None = None

    def values(self) -> tuple[str, str, str | None, str | None, int | None, int | None, str | None]:
        """event, time, agent, sender, thread_id, reply_to, expires: as stored."""
        if self.event != "message":
            return self.event, self.time, fold(self.agent) if self.agent else None, None, None, None, None
        if not self.to_agent or not self.from_agent or self.thread_id is None:
            raise msgspec.ValidationError("a message has from_agent, to_agent and thread_id")
        return (
            self.event,
            self.time,
            fold(self.to_agent),
            fold(self.from_agent),
            self.thread_id,
            self.reply_to,
            instant(self.expires) if self.expires else None,
        )


# What queries.sql's `insert_event` takes for a row without a key: -1, "" and no bytes stand for NULL, and bytes are
# bytearrays. Python's driver stores these as they are, but looks for an adapter of every None and every bytes object,
# which took more time than all that SQLite does for a row.
_NO_KEY = ("", "", -1, bytearray())


def salts(count: int) -> Iterator[bytes]:
    """So many salts, from one call for all: each call lets go of Python's lock, which is long in coming back."""
    return iter(struct.unpack(f"{SALT_BYTES}s" * count, os.urandom(SALT_BYTES * count)))


def seal(
    draft: Draft, id_: int, time: str, previous: bytes, key: Key | None, part: int, salt: bytes
) -> tuple[Event, Write]:
    """The event that `draft` becomes under this id, after the event with hash `previous`, and what writes its row.

    `time` is RFC 3339 in UTC; `salt` is used for a message alone. Raises TypeError, ValueError or
    msgspec.ValidationError if the draft is none that can be stored.
    """
    kind = draft.event
    fields = {**draft.fields, "id": id_, "event": kind, "time": time}
    if kind != "message":
        payload, salt = None, b""
    else:
        payload = draft.payload or b"null"
        fields.setdefault("thread_id", id_)
    header = canonical(fields)
    _, _, agent, sender, thread_id, reply_to, expires = msgspec.convert(fields, Columns).values()
    digest = payload_digest(salt, payload)
    hash_ = chain(previous, header, digest)
    event = Event(id_, kind, agent or "", sender or "", header, payload, hash_)
    # What `fields` would decode from the header again; every event that is appended is read by several right away.
    event.__dict__["fields"] = fields
    answered = -1 if reply_to is None else reply_to
    values = map(bytearray, (header, salt, digest, hash_, payload or b""))
    if kind == "message" and key is None and expires is None:
        return event, ("insert_message", (id_, time, agent, sender, thread_id, answered, *values))
    place = (event.agent, event.sender, -1 if thread_id is None else thread_id, answered, expires or "")
    request = _NO_KEY if key is None else keyed(key, part)
    return event, ("insert_event", (id_, kind, time, *place, *request, *values))


def keyed(key: Key, part: int) -> tuple[str, str, int, bytearray]:
    """scope, key, part, request: as stored. They are not in the header, so the chain does not cover them: a checksum of
    all four at the end of `request` does."""
    checksum = zlib.crc32(msgspec.json.encode((key.scope, key.key, part)) + key.request)
    return key.scope, key.key, part, bytearray(key.request + checksum.to_bytes(CHECKSUM_BYTES))


def utc_now(now: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC with microseconds."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def wall_now() -> str:
    """The wall clock as events show it; of what is sent only `expires` and `deadline` are compared with it."""
    return utc_now(time.time())


def instant(time_: str) -> str:
    """An RFC 3339 time in the one spelling that compares as text: UTC, microseconds, Z. Raises ValueError if none."""
    moment = datetime.fromisoformat(time_)
    if moment.tzinfo is None:
        raise ValueError(f"{time_!r} names no time zone")
    # Not strftime: what it makes of a year before 1000 has fewer than four digits.
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
