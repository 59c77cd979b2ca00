"""Answers: whole ones, as JSON or problem+json (RFC 9457), and their form on the wire; they know nothing of the log."""

import http
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from eventlog.errors import EventlogError

#: What a client is told to wait after an answer that says "later", unless the error knows better.
RETRY_AFTER_S = 1

#: Headers as they are sent, their names in lower case.
Headers = tuple[tuple[bytes, bytes], ...]


class Answer(msgspec.Struct, frozen=True):
    """A whole answer; `headers` are those besides its length. An application of its own, for whoever speaks ASGI."""

    status: int
    headers: Headers
    body: bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        headers = [*self.headers, (b"content-length", b"%d" % len(self.body))]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


_CLOSE = (b"connection", b"close")
_JSON: Headers = ((b"cache-control", b"no-store"), (b"content-type", b"application/json"))


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """`value` (anything msgspec encodes, or ready bytes) as a JSON answer."""
    content = value if isinstance(value, bytes) else msgspec.json.encode(value)
    return Answer(status, (*_JSON, *_encoded(headers)) if headers else _JSON, content)


def problem(error: EventlogError, headers: Mapping[str, str] | None = None) -> Answer:
    """`error` as RFC 9457 problem+json, with the headers that go with its status."""
    return Answer(error.status, _encoded(_problem_headers(error) | dict(headers or {})), problem_json(error))


def _encoded(headers: Mapping[str, str]) -> Headers:
    return tuple((name.lower().encode("ascii"), value.encode("latin-1")) for name, value in headers.items())


def problem_json(error: EventlogError) -> bytes:
    """The body of a problem+json answer."""
    told: dict[str, Any] = {
        "type": "about:blank",
        "title": http.HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
    }
    if error.field is not None:
        told["field"] = error.field
    return msgspec.json.encode(told)


def _problem_headers(error: EventlogError) -> dict[str, str]:
    headers = {"content-type": "application/problem+json", "cache-control": "no-store"}
    if error.status == 401:
        headers["www-authenticate"] = 'Bearer realm="eventlog"'
    elif error.status == 413:
        headers["connection"] = "close"  # what is left of the body is not worth reading
    elif error.status in (429, 503):
        wait_s = RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
        headers["retry-after"] = str(max(1, math.ceil(wait_s)))
    return headers


@lru_cache(maxsize=4)
def chunk(part: bytes) -> bytes:
    """A part of an answer as it goes over the wire (RFC 9112 section 7.1); many clients are sent the same."""
    return b"%x\r\n%b\r\n" % (len(part), part)


@lru_cache(maxsize=256)
def header_lines(always: Headers, more: Headers, keep_alive: bool) -> tuple[bytes, bool]:
    """An answer's headers as they go over the wire, and whether the connection is kept after it."""
    headers = (*always, *more)
    if not keep_alive and _CLOSE not in headers:
        headers = (*headers, _CLOSE)
    return b"".join(b"%b: %b\r\n" % header for header in headers), _CLOSE not in headers
