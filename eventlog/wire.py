"""Wire: one HTTP connection pool to one bus; requests, answers and streams, and what their failures mean."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec

from eventlog import errors, tcp
from eventlog.sse import RETRY_MS, Decoder, Frame

if TYPE_CHECKING:
    import httpx2

#: A stream that is silent for this many heartbeats is taken for dead.
SILENT_HEARTBEATS = 2.5
#: A connection that does not stand after so long, the look-up of its address included, is tried anew, seconds: the
#: pauses between a kernel's own tries grow. A resolver needs 5 s to turn from a dead name server to the next one.
CONNECT_S_MAX = 5.5

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

    def __init__(self, response: "httpx2.Response", last_id: str) -> None:
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
        import httpx2

        try:
            async for chunk in self._response.aiter_bytes():
                for frame in self._decoder.feed(chunk):
                    yield frame
        except httpx2.HTTPError as exc:
            raise errors.Unreachable(f"the stream broke: {_reason(exc)}", sent=True) from exc


class Wire:
    """Requests to one bus, with one token. `timeout_s` bounds each wait for the answer, or more of it.

    Proxy settings of the environment are not used: the token goes to `url` alone.
    Raises `ConfigError` if the address or the token cannot be one.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout_s: float = 10.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise errors.ConfigError(f"the bus's address {url!r} must begin with http:// or https://", field="url")
        if token is not None and not _TOKEN.fullmatch(token):
            raise errors.ConfigError(
                "the token holds characters that no token has; was its file cut or edited?", field="token"
            )
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._token = token
        self._http: httpx2.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        self._client()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections; the object can be used again and then opens new ones."""
        client, self._http = self._http, None
        if client is not None:
            await client.aclose()

    def _client(self) -> "httpx2.AsyncClient":
        if self._http is None:
            import httpx2

            headers = {"Accept": "application/json", "User-Agent": "eventlog"}
            if self._token is not None:
                headers["Authorization"] = f"Bearer {self._token}"
            try:
                # A proxy of the environment is not used where a transport is given.
                self._http = httpx2.AsyncClient(
                    base_url=self.url,
                    headers=headers,
                    timeout=self.timeout_s,
                    trust_env=False,
                    follow_redirects=False,
                    transport=httpx2.AsyncHTTPTransport(trust_env=False, socket_options=tcp.options()),
                )
            except (httpx2.InvalidURL, ValueError) as exc:
                raise errors.ConfigError(f"the bus's address {self.url!r} is not a URL: {exc}", field="url") from exc
        return self._http

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
            body, sent["Content-Type"] = msgspec.json.encode(json), "application/json"
        async with self._open(
            method, path, params, sent, body, self.timeout_s if timeout_s is None else timeout_s
        ) as response:
            content = await _read(response)
        if not content:
            return Answer(response.status_code, None, response.headers)
        try:
            return Answer(response.status_code, msgspec.json.decode(content), response.headers)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise errors.Unreachable(f"what answers at {self.url} is not an event log: no JSON", sent=True) from exc

    async def lines(self, path: str, params: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        """The lines of an NDJSON answer, as they come. Raises as `request` does, also between two lines."""
        import httpx2

        headers = {"Accept": "application/x-ndjson"}
        async with self._open("GET", path, params, headers, None, self.timeout_s) as response:
            rest = b""
            try:
                # Not httpx2's own lines: it also ends one at U+2028 and the like, which JSON may hold.
                async for chunk in response.aiter_bytes():
                    *whole, rest = (rest + chunk).split(b"\n")
                    for line in whole:
                        yield line
            except httpx2.HTTPError as exc:
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
    ) -> AsyncIterator["httpx2.Response"]:
        """An answer of status 2xx whose body is still to be read; anything else is raised."""
        import httpx2

        client = self._client()
        timeout = httpx2.Timeout(self.timeout_s, connect=min(CONNECT_S_MAX, self.timeout_s), read=read_timeout_s)
        query = {name: value for name, value in (params or {}).items() if value is not None}
        request = client.build_request(method, path, params=query, headers=headers, content=body, timeout=timeout)
        try:
            response = await client.send(request, stream=True)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol) as exc:
            raise errors.Unreachable(f"no bus answers at {self.url}: {_reason(exc)}", sent=False) from exc
        except httpx2.HTTPError as exc:
            raise errors.Unreachable(f"the bus at {self.url} did not answer: {_reason(exc)}", sent=True) from exc
        try:
            if not response.is_success:
                raise _problem(self.url, response, await _read(response))
            yield response
        finally:
            await response.aclose()

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


async def _read(response: "httpx2.Response") -> bytes:
    """The whole body. Raises `Unreachable` if the connection breaks or stalls before its end."""
    import httpx2

    try:
        return await response.aread()
    except httpx2.HTTPError as exc:
        raise errors.Unreachable(f"the answer broke off: {_reason(exc)}", sent=True) from exc


def _problem(url: str, response: "httpx2.Response", content: bytes) -> errors.EventlogError:
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
        f"what answers at {url} is not an event log, or a proxy before it: status {response.status_code}",
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
    """A failure in words: some of httpx2's say nothing themselves."""
    return str(exc) or type(exc).__name__
