"""Wire: one HTTP connection pool to one bus; requests, answers and streams, and what their failures mean."""

import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode, urlsplit

import msgspec

from eventlog import errors, http1
from eventlog.sse import RETRY_MS, Decoder, Frame

#: Connections that are kept for the next request.
IDLE_MAX = 8
#: A stream that is silent for this many heartbeats is taken for dead.
SILENT_HEARTBEATS = 2.5
#: A connection that does not stand after so long, the look-up of its address included, is tried anew, seconds: the
#: pauses between a kernel's own tries grow. A resolver needs 5 s to turn from a dead name server to the next one.
CONNECT_S_MAX = 5.5

_NOT_TEXT = "what is sent is not Unicode text: it holds bytes that are no UTF-8, or half a character; convert it first"
_TOKEN = re.compile(r"[\x21-\x7e]+")


class Answer(NamedTuple):
    """What the bus answered: `body` is the decoded JSON, None if there was none."""

    status: int
    body: Any
    headers: Mapping[str, str]


class Stream:
    """One connection of a follower: iterate it for every frame, those that only show life included.

    `log_id` names the log, `head` is its newest id at the start. Iterating ends when the bus ends the stream; it
    raises `Unreachable` if the connection breaks or stays silent for 2.5 heartbeats.
    """

    def __init__(self, response: http1.Response, last_id: str) -> None:
        self.log_id = response.headers.get("eventlog-id", "")
        head = response.headers.get("eventlog-head", "")
        self.head = int(head) if head.isdecimal() else 0
        self._response = response
        self._decoder = Decoder(last_id)

    @property
    def retry_s(self) -> float:
        """How long the bus asks its followers to wait before they come back."""
        asked_ms = self._decoder.retry_ms
        return (RETRY_MS if asked_ms is None else asked_ms) / 1000

    async def __aiter__(self) -> AsyncIterator[Frame]:
        try:
            async for chunk in self._response.chunks():
                for frame in self._decoder.feed(chunk):
                    yield frame
        except OSError as exc:
            raise errors.Unreachable(f"the stream broke: {_reason(exc)}", sent=True) from exc


class Wire:
    """Requests to one bus, with one token. `timeout_s` bounds each wait for the answer, or more of it.

    Proxy settings of the environment are not used: the token goes to `url` alone. `blocking` is for programs without an
    event loop (see blocking.py). Raises `ConfigError` if the address or the token cannot be one.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout_s: float = 10.0, blocking: bool = False) -> None:
        if not url.startswith(("http://", "https://")):
            raise errors.ConfigError(f"the bus's address {url!r} must begin with http:// or https://", field="url")
        if token is not None and not _TOKEN.fullmatch(token):
            raise errors.ConfigError(
                "the token holds characters that no token has; was its file cut or edited?", field="token"
            )
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self.net = _net(blocking=blocking)
        self._tls, self._host, self._port, self._prefix, name = _parts(self.url)
        self._headers = {"Host": name, "Accept": "application/json", "User-Agent": "eventlog"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._idle: list[http1.Connection] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections; the object can be used again and then opens new ones."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        await self.net.sleep(0)  # a loop closes them in its next turn, if it has one

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """One request and its answer. Parameters that are None are left out; a list is repeated.

        Raises the error that the answer's `code` stands for, or `Unreachable`.
        """
        sent = dict(headers or {})
        body = None
        if json is not None:
            body, sent["Content-Type"] = _encoded(json), "application/json"
        read_timeout_s = self.timeout_s if timeout_s is None else timeout_s
        async with self._open(method, path, params, sent, body, read_timeout_s) as response:
            content = await _read(response)
        if not content:
            return Answer(response.status, None, response.headers)
        try:
            return Answer(response.status, msgspec.json.decode(content), response.headers)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise errors.Unreachable(f"what answers at {self.url} is not an event log: no JSON", sent=True) from exc

    async def lines(self, path: str, params: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        """The lines of an NDJSON answer, as they come. Raises as `request` does, also between two lines."""
        headers = {"Accept": "application/x-ndjson"}
        async with self._open("GET", path, params, headers, None, self.timeout_s) as response:
            rest = b""
            try:
                async for chunk in response.chunks():
                    *whole, rest = (rest + chunk).split(b"\n")
                    for line in whole:
                        yield line
            except OSError as exc:
                raise errors.Unreachable(f"the answer broke off: {_reason(exc)}", sent=True) from exc
            if rest:
                raise errors.Unreachable("the answer broke off within a line", sent=True)

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        body: bytes | None,
        read_timeout_s: float,
    ) -> AsyncIterator[http1.Response]:
        """An answer of status 2xx whose body is still to be read; anything else is raised."""
        try:
            query = urlencode({name: value for name, value in (params or {}).items() if value is not None}, doseq=True)
        except UnicodeEncodeError as exc:
            raise errors.BadRequest(_NOT_TEXT) from exc
        target = f"{self._prefix}{path}?{query}" if query else f"{self._prefix}{path}"
        request = http1.encode_request(method, target, {**self._headers, **headers}, body)
        idle = self._idle
        connection = await self._connected()
        response = None
        try:
            try:
                response = await http1.exchange(
                    connection, request, write_timeout_s=self.timeout_s, timeout_s=read_timeout_s
                )
            except OSError as exc:
                raise errors.Unreachable(f"the bus at {self.url} did not answer: {_reason(exc)}", sent=True) from exc
            if not 200 <= response.status < 300:
                raise _problem(self.url, response, await _read(response))
            yield response
        finally:
            if response is not None and response.reusable and idle is self._idle and len(idle) < IDLE_MAX:
                idle.append(connection)
            else:
                connection.close()

    async def _connected(self) -> http1.Connection:
        """A connection that rests, else a new one. Raises `Unreachable`."""
        while self._idle:
            connection = self._idle.pop()
            if connection.rests():
                return connection
            connection.close()
        timeout_s = min(CONNECT_S_MAX, self.timeout_s)
        try:
            return await self.net.connect(self._host, self._port, tls=self._tls, timeout_s=timeout_s)
        except (OSError, UnicodeError) as exc:  # the latter of a name that cannot be one
            raise errors.Unreachable(f"no bus answers at {self.url}: {_reason(exc)}", sent=False) from exc

    @asynccontextmanager
    async def follow_once(
        self,
        *,
        after: int | str | None = None,
        last_event_id: int | None = None,
        agents: Sequence[str] = (),
        events: Sequence[str] = (),
        heartbeat_s: float = 5,
        watcher: str | None = None,
        node: str | None = None,
        log: str | None = None,
    ) -> AsyncIterator[Stream]:
        """One connection to the stream, without reconnecting.

        `after` is a cursor, 'earliest' or 'latest' (the bus's default); `last_event_id` wins over it. `log` is the log
        id that the cursor is of. Without `agents` everything that the token may see comes; without `events`, messages.
        """
        params = {
            "after": after,
            "agent": list(agents) or None,
            "event": list(events) or None,
            "heartbeat": heartbeat_s,
            "watcher": watcher,
            "node": node,
            "log": log or None,
        }
        last_id = "" if last_event_id is None else str(last_event_id)
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Cache-Control": "no-store"}
        if last_id:
            headers["Last-Event-ID"] = last_id
        async with self._open("GET", "/api/stream", params, headers, None, SILENT_HEARTBEATS * heartbeat_s) as response:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise errors.Unreachable(f"what answers at {self.url} is not an event log: no event stream", sent=True)
            yield Stream(response, last_id)


def _encoded(value: Any) -> bytes:
    """`value` as JSON. Raises `BadRequest` (bad_json) for what JSON cannot say, which the encoder makes null of."""
    try:
        if not _is_finite(value):
            raise errors.BadRequest("a number is not finite, and JSON has none such; send it as text", code="bad_json")
        return msgspec.json.encode(value)
    except UnicodeEncodeError as exc:
        raise errors.BadRequest(_NOT_TEXT, code="bad_json") from exc


def _is_finite(value: Any) -> bool:
    """Whether no number in `value` is infinite, or none at all."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _net(*, blocking: bool) -> http1.Net:
    """How connections are made; only the one that is wanted is loaded."""
    if blocking:
        from eventlog import blocking as without_loop

        return without_loop
    from eventlog import looping

    return looping


def _parts(url: str) -> tuple[bool, str, int, str, str]:
    """Whether an address wants TLS, its host, port, path, and what the header `Host` says. Raises `ConfigError`."""
    try:
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        name = parts.netloc.rpartition("@")[2]
        name.encode("ascii"), parts.path.encode("ascii")
    except ValueError as exc:
        raise errors.ConfigError(f"the bus's address {url!r} is not a URL: {exc}", field="url") from exc
    if not parts.hostname:
        raise errors.ConfigError(f"the bus's address {url!r} is not a URL: it names no host", field="url")
    return tls, parts.hostname, port, parts.path, name


async def _read(response: http1.Response) -> bytes:
    """The whole body. Raises `Unreachable` if the connection breaks or stalls before its end."""
    try:
        return await response.read()
    except OSError as exc:
        raise errors.Unreachable(f"the answer broke off: {_reason(exc)}", sent=True) from exc


def _problem(url: str, response: http1.Response, content: bytes) -> errors.EventlogError:
    """The error that an answer other than 2xx stands for. Only problem+json with a code is the bus's own."""
    retry_after_s = _seconds(response.headers.get("retry-after", ""))
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        try:
            said = msgspec.json.decode(content, type=_Problem)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
        else:
            return errors.from_code(said.code, said.detail, field=said.field, retry_after_s=retry_after_s)
    return errors.Unreachable(
        f"what answers at {url} is not an event log, or a proxy before it: status {response.status}",
        sent=True,
        retry_after_s=retry_after_s,
    )


class _Problem(msgspec.Struct):
    """A problem+json body, as far as a client needs it."""

    code: str
    detail: str = ""
    field: str | None = None


def _seconds(retry_after: str) -> float | None:
    return float(retry_after) if retry_after.isascii() and retry_after.isdecimal() else None


def _reason(exc: Exception) -> str:
    """A failure in words: some say nothing themselves."""
    return str(exc) or type(exc).__name__
