"""HTTP/1.1 as a client speaks it, over any connection: a request, and its answer as it comes.

It knows neither sockets nor event loops: those are a `Net`, of which there are two, blocking.py and looping.py.
"""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Protocol

#: A longer head of an answer, or a longer line within it, is nobody's.
HEAD_BYTES_MAX = 65_536
READ_BYTES = 65_536

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\r\n]*)?")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")


class Connection(Protocol):
    """A connection to a server; each wait of it is bounded. Its methods raise OSError."""

    async def read(self, timeout_s: float) -> bytes:
        """What has come, as soon as there is something; b"" at the end."""

    async def write(self, data: bytes, timeout_s: float) -> None:
        """Send all of it."""

    def rests(self) -> bool:
        """Whether it still stands, with nothing in it that nobody asked for."""

    def close(self) -> None:
        """Close it; what was not sent yet need not arrive."""


class Net(Protocol):
    """How connections are made, and time is let pass."""

    async def connect(self, host: str, port: int, *, tls: bool, timeout_s: float) -> Connection:
        """A connection that stands within so long. Raises OSError, also if the name or the certificate is bad."""

    async def sleep(self, seconds: float) -> None:
        """Let so long pass."""


class Broken(OSError):
    """The connection ended within an answer, or what came over it is none."""


def encode_request(method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """A request as it is sent. Raises ValueError if a header could not be one."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header holds a line end")
    return "\r\n".join([*lines, "", ""]).encode("ascii") + (body or b"")


async def exchange(connection: Connection, request: bytes, *, write_timeout_s: float, timeout_s: float) -> "Response":
    """Send a request; its answer as soon as its head is there. `timeout_s` bounds each wait for more of it.

    Raises OSError.
    """
    # A server that refuses a long body answers before it has read all of it.
    with suppress(BrokenPipeError, ConnectionResetError):
        await connection.write(request, write_timeout_s)
    data = bytearray()
    while True:
        status, again, headers = _head(await _line(connection, data, timeout_s, b"\r\n\r\n"))
        if status >= 200:
            return Response(connection, status, again, headers, data, timeout_s)


async def _line(connection: Connection, data: bytearray, timeout_s: float, end: bytes = b"\r\n") -> bytes:
    """What stands before the next `end`, taken out of `data` and the connection."""
    while (at := data.find(end)) < 0:
        if len(data) > HEAD_BYTES_MAX:
            raise Broken("what answers does not speak HTTP")
        await _more(connection, data, timeout_s)
    found = bytes(data[:at])
    del data[: at + len(end)]
    return found


async def _more(connection: Connection, data: bytearray, timeout_s: float) -> None:
    chunk = await connection.read(timeout_s)
    if not chunk:
        raise Broken("the connection was closed")
    data += chunk


def _head(head: bytes) -> tuple[int, bool, dict[str, str]]:
    """Status, whether the connection may be used again, and headers (names in lower case) of an answer."""
    first, *lines = head.split(b"\r\n")
    matched = _STATUS.fullmatch(first)
    if matched is None:
        raise Broken("what answers does not speak HTTP")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon:
            raise Broken("what answers does not speak HTTP")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    again = matched[1] == b"1" and "close" not in headers.get("connection", "").lower()
    return int(matched[2]), again, headers


class Response:
    """An answer whose body is still to be read. `headers` have their names in lower case."""

    def __init__(
        self,
        connection: Connection,
        status: int,
        again: bool,
        headers: dict[str, str],
        data: bytearray,
        timeout_s: float,
    ) -> None:
        self.status = status
        self.headers = headers
        #: Whether all of it was read, and the connection may be used again.
        self.reusable = False
        self._connection = connection
        self._again = again
        self._data = data
        self._timeout_s = timeout_s

    async def read(self) -> bytes:
        """The whole body. Raises OSError if it breaks off."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, in pieces as they come. Raises OSError if it breaks off."""
        length = self.headers.get("content-length", "")
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            while size := await self._size():
                async for part in self._parts(size):
                    yield part
                if await self._line():
                    raise Broken("what answers does not speak HTTP")
            while await self._line():
                pass
        elif length.isascii() and length.isdecimal():
            async for part in self._parts(int(length)):
                yield part
        elif self.status not in (204, 304):
            self._again = False
            yield bytes(self._data)
            while chunk := await self._connection.read(self._timeout_s):
                yield chunk
        self.reusable = self._again and not self._data

    async def _parts(self, left: int) -> AsyncIterator[bytes]:
        """The next `left` bytes."""
        while left:
            if not self._data:
                await _more(self._connection, self._data, self._timeout_s)
            part = bytes(self._data[:left])
            del self._data[:left]
            left -= len(part)
            yield part

    async def _size(self) -> int:
        matched = _SIZE.fullmatch(await self._line())
        if matched is None:
            raise Broken("what answers does not speak HTTP")
        return int(matched[1], 16)

    async def _line(self) -> bytes:
        return await _line(self._connection, self._data, self._timeout_s)
