"""Reading requests strictly, knowing nothing of the log: headers, bodies, query strings, paths."""

import asyncio
import difflib
import re
from collections.abc import Awaitable, Iterable
from contextlib import nullcontext
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive, Scope

from eventlog.errors import BadContentType, BadRequest, NotFound, TooLarge
from eventlog.event import ID_MAX, check_name, decode_json

#: How much of a body over the limit is read and thrown away, in multiples of the limit, so that its sender gets to
#: see the answer instead of a broken connection.
DRAIN_TIMES = 16
#: Parameters of one query string.
PARAMETERS_MAX = 1000

#: The codes of fields whose mistakes have one of their own; all others are `bad_field`.
_CODES = {
    "cursor": "bad_cursor",
    "agent": "bad_name",
    "from_agent": "bad_name",
    "to_agent": "bad_name",
    "watcher": "bad_name",
    "node": "bad_name",
    "name": "bad_name",
    "agents": "bad_name",
    "peer": "bad_name",
}
_PLACE = re.compile(r"(?P<said>.*?)(?: - at `\$\.?(?P<place>.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(\w+)`")

_Body = TypeVar("_Body", bound=msgspec.Struct)
_T = TypeVar("_T")


#: Where a request's scope keeps its headers by name, once one was asked for: half a dozen are.
_BY_NAME = "eventlog.headers"


def by_name(scope: Scope) -> dict[bytes, str | list[str]]:
    """The headers' values by their names, in a list where there are several; kept in the scope."""
    several: dict[bytes, list[str]] = {}
    for key, value in scope["headers"]:
        several.setdefault(key, []).append(value.decode("latin-1").strip())
    known = {key: values[0] if len(values) == 1 else values for key, values in several.items()}
    scope[_BY_NAME] = known
    return known


def header(scope: Scope, name: bytes) -> str | None:
    """The value of a header, None if it is not there. Raises BadRequest if it is there twice."""
    known: dict[bytes, str | list[str]] | None = scope.get(_BY_NAME)
    if known is None:
        known = by_name(scope)
    value = known.get(name)
    if isinstance(value, list):
        times = f"the header {name.decode()} is there {len(value)} times"
        raise BadRequest(f"{times}; send it once", field=name.decode())
    return value


def not_here(what: str) -> NotFound:
    """The error for something that is not there, or that the caller may not know of."""
    return NotFound(f"there is no such {what}, or this token may not see it")


# ---- bodies ---------------------------------------------------------------------------------------------------------


#: Where eventlog.protocol leaves what writes a part of an answer that has begun, and says whether it could at once.
WRITE = "eventlog.write"
#: Where eventlog.protocol says that all of a request has arrived: reading its body waits for nothing.
WHOLE = "eventlog.whole"
#: Where it leaves the body itself, of a request that came whole in one piece.
BODY = "eventlog.body"


async def read_body(scope: Scope, receive: Receive, *, limit_bytes: int, timeout_s: float) -> bytes:
    """The whole body. Raises TooLarge over the limit, BadRequest if it does not arrive in time, ClientGone."""
    parts: list[bytes] = []
    size = 0
    try:
        # Nearly every request is whole before its handler runs, and a timer is a twentieth of what an append costs.
        async with nullcontext() if WHOLE in scope else asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                part = message.get("body", b"")
                size += len(part)
                if size <= limit_bytes:
                    parts.append(part)
                elif not message.get("more_body") or size > DRAIN_TIMES * limit_bytes:
                    raise too_large(limit_bytes)
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        if size > limit_bytes:
            raise too_large(limit_bytes) from None
        raise BadRequest(f"the body did not arrive within {timeout_s:g} s; send it again", code="bad_json") from None


def too_large(limit_bytes: int) -> TooLarge:
    """The error for a body over the limit."""
    return TooLarge(f"the body is over {limit_bytes} bytes; send less, or keep the data elsewhere and send where it is")


def require_json(scope: Scope) -> None:
    """Raises BadContentType if the body is declared as something other than JSON; undeclared is taken as JSON."""
    declared = header(scope, b"content-type")
    if declared is not None and not _is_json(declared):
        raise BadContentType("the body must be JSON in UTF-8; send the header Content-Type: application/json")


@lru_cache(maxsize=256)
def _is_json(declared: str) -> bool:
    kind, _, parameters = declared.partition(";")
    kind = kind.strip().lower()
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    json = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    return json and charset in ("", "utf-8", "utf8")


def read_object(body: bytes, kind: type[_Body]) -> _Body:
    """`body` as one JSON object of the shape `kind`. Raises BadRequest."""
    return to_struct(decode_json(body), kind)


def to_struct(value: Any, kind: type[_Body], where: str = "") -> _Body:
    """A decoded JSON value as a `kind`; `where` is the place to name before a field. Raises BadRequest."""
    if not isinstance(value, dict):
        raise BadRequest(f"{where.rstrip('.') or 'the body'} must be a JSON object", field=where.rstrip(".") or None)
    fields = kind.__struct_fields__
    for name in value:
        if name not in fields:
            raise unknown_field(name, fields, where)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _bad_value(str(error), where) from None


def unknown_field(name: str, known: Iterable[str], where: str = "") -> BadRequest:
    """The error for a field that nobody asked for: it names the nearest one."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    mend = f"did you mean {near[0]!r}?" if near else "it may have " + (", ".join(known) or "none")
    return BadRequest(f"unknown field {name[:64]!r}; {mend}", code="unknown_field", field=f"{where}{name[:64]}")


def _bad_value(said: str, where: str) -> BadRequest:
    """The error for a value of the wrong type, from msgspec's words."""
    parts = _PLACE.fullmatch(said)
    assert parts is not None
    place = parts["place"] or ""
    if (missing := _MISSING.match(said)) is not None:
        place = f"{place}.{missing[1]}".lstrip(".")
        detail = f"{where}{place} is missing; it must be there"
    else:
        detail = f"{where}{place}: {parts['said'].replace('`', '')}"
    root = re.split(r"[.\[]", place, maxsplit=1)[0]
    return BadRequest(detail, code=_CODES.get(root, "bad_field"), field=f"{where}{place}")


# ---- query strings and paths ----------------------------------------------------------------------------------------


class Query:
    """A request's parameters, each known by name; asking for one checks its value."""

    def __init__(self, scope: Scope, known: Iterable[str]) -> None:
        known = tuple(known)
        self._values: dict[str, list[str]] = {}
        try:
            pairs = parse_qsl(
                scope["query_string"].decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=PARAMETERS_MAX,
            )
        except (UnicodeDecodeError, ValueError):
            raise BadRequest(
                f"the query string must be URL-encoded UTF-8 of at most {PARAMETERS_MAX} parameters"
            ) from None
        for name, value in pairs:
            if name not in known:
                raise unknown_field(name, known)
            self._values.setdefault(name, []).append(value)

    def all(self, name: str) -> list[str]:
        """Every value given for `name`."""
        return self._values.get(name, [])

    def one(self, name: str) -> str | None:
        """The value of `name`, None if it is not there. Raises BadRequest if it is there twice."""
        values = self.all(name)
        if len(values) > 1:
            raise BadRequest(f"{name} is there {len(values)} times; give it once", field=name)
        return values[0] if values else None

    def agent(self, name: str = "agent") -> str | None:
        """An agent's name; those that are reserved have messages, too."""
        value = self.one(name)
        return None if value is None else check_name(value, name, reserved=True)

    def agents(self, name: str = "agent") -> list[str]:
        """Agents' names, as often as given."""
        return [check_name(value, name, reserved=True) for value in self.all(name)]

    def watcher(self, name: str = "watcher") -> str | None:
        """A watcher's name."""
        value = self.one(name)
        return None if value is None else check_name(value, name)

    def cursor(self, name: str) -> int | None:
        """A cursor."""
        value = self.one(name)
        return None if value is None else cursor(value, name)

    def integer(self, name: str, most: int, code: str = "bad_field") -> int | None:
        """An integer from 1 to `most`."""
        value = self.one(name)
        if value is None:
            return None
        number = _decimal(value)
        if number is None or not 1 <= number <= most:
            raise BadRequest(f"{name} must be a whole number from 1 to {most}", code=code, field=name)
        return number

    def flag(self, name: str) -> bool:
        """Whether `name` is there, as `true` or bare."""
        value = self.one(name)
        if value not in (None, "", "true", "false"):
            raise BadRequest(f"{name} must be true or false", field=name)
        return value in ("", "true")

    def seconds(self, name: str, least: float, most: float, default: float) -> float:
        """A number of seconds."""
        value = self.one(name)
        if value is None:
            return default
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value) or not least <= float(value) <= most:
            raise BadRequest(f"{name} must be a number of seconds from {least:g} to {most:g}", field=name)
        return float(value)


def cursor(value: str, field: str) -> int:
    """A cursor in text. Raises BadRequest `bad_cursor`."""
    number = _decimal(value)
    if number is None:
        raise BadRequest(f"{field} must be an event's id: a whole number from 0 up", code="bad_cursor", field=field)
    return number


def check_cursor(value: int, field: str) -> int:
    """A cursor from JSON. Raises BadRequest `bad_cursor`."""
    if not 0 <= value <= ID_MAX:
        raise BadRequest(f"{field} must be an event's id: a whole number from 0 up", code="bad_cursor", field=field)
    return value


def check_visible(value: str, field: str, most: int = 64) -> str:
    """A word of visible ASCII characters, such as a node's identity. Raises BadRequest `bad_name`."""
    if not re.fullmatch(r"[\x21-\x7e]+", value) or len(value) > most:
        raise BadRequest(f"{field} must be 1 to {most} visible ASCII characters", code="bad_name", field=field)
    return value


def _decimal(value: str) -> int | None:
    """A plain decimal that an id can be; None for anything else."""
    if not (value.isascii() and value.isdecimal() and len(value) <= 16):
        return None
    number = int(value)
    return number if number <= ID_MAX else None


# ---- waiting --------------------------------------------------------------------------------------------------------


class ClientGone(Exception):
    """The client has closed its connection: nobody would hear an answer."""


async def unless_gone(receive: Receive, work: Awaitable[_T]) -> _T:
    """What `work` gives; it is cancelled, and ClientGone raised, as soon as the client is gone."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
