"""A WebSocket (RFC 6455), as far as a client of a gateway needs one: text messages over a blocking socket."""

import base64
import hashlib
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Self
from urllib.parse import SplitResult, urlsplit

#: A longer message than this ends the connection. The gateway's own limit is 25 MiB.
MESSAGE_BYTES_MAX: Final = 32 * 1024 * 1024
#: The header of an answer to the opening handshake is never longer.
HEADER_BYTES_MAX: Final = 16_384
#: Appended to the key of the opening handshake before it is hashed (RFC 6455, section 1.3).
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class Closed(OSError):
    """The other side ended the connection, or does not speak the protocol."""


class WebSocket:
    """One connection; a context manager. Its methods block and raise OSError (Closed, TimeoutError) when it is over."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        """Connect to a `ws`, `wss`, `http` or `https` address; `timeout_s` is for this and for each send."""
        parts = urlsplit(url)
        self._timeout_s = timeout_s
        self._rest = b""
        self._socket = _connected(parts, timeout_s)
        try:
            self._open(parts)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def _open(self, parts: SplitResult) -> None:
        key = base64.b64encode(os.urandom(16))
        host = parts.netloc.rpartition("@")[2]
        self._socket.sendall(
            f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key.decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self._rest:
            if len(self._rest) > HEADER_BYTES_MAX:
                raise Closed("the answer to the handshake is too long")
            self._rest += self._read_some()
        header, _, self._rest = self._rest.partition(b"\r\n\r\n")
        status, *lines = header.decode("latin-1").split("\r\n")
        if status.split()[1:2] != ["101"]:
            raise Closed(f"no WebSocket there: {status}")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        expected = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()  # noqa: S324 - the protocol's own
        if fields.get("sec-websocket-accept") != expected:
            raise Closed("what answers the handshake is not a WebSocket")

    def send(self, text: str) -> None:
        """Send one message."""
        self._send(_TEXT, text.encode())

    def receive(self, timeout_s: float) -> str:
        """The next message; TimeoutError if none begins or goes on for so long."""
        message = b""
        with self._waiting(timeout_s):
            while True:
                last, kind, data = self._frame()
                if kind == _PING:
                    self._send(_PONG, data)
                elif kind == _CLOSE:
                    code = int.from_bytes(data[:2], "big")
                    raise Closed(f"closed by the other side ({code} {data[2:].decode(errors='replace')})".rstrip())
                elif kind in (_TEXT, _BINARY, _CONTINUATION):
                    message += data
                    if len(message) > MESSAGE_BYTES_MAX:
                        raise Closed("a message is too long")
                    if last:
                        return message.decode(errors="replace")

    def _send(self, kind: int, data: bytes) -> None:
        mask = os.urandom(4)
        if len(data) < 126:
            size = bytes([0x80 | len(data)])
        elif len(data) < 65_536:
            size = bytes([0x80 | 126]) + len(data).to_bytes(2, "big")
        else:
            size = bytes([0x80 | 127]) + len(data).to_bytes(8, "big")
        with self._waiting(self._timeout_s):
            self._socket.sendall(bytes([0x80 | kind]) + size + mask + masked(data, mask))

    def _frame(self) -> tuple[bool, int, bytes]:
        """One frame: whether it ends its message, its kind, its data."""
        first, second = self._exactly(2)
        size = second & 0x7F
        if size >= 126:
            size = int.from_bytes(self._exactly(2 if size == 126 else 8), "big")
        if size > MESSAGE_BYTES_MAX:
            raise Closed("a message is too long")
        mask = self._exactly(4) if second & 0x80 else b""
        data = self._exactly(size)
        return bool(first & 0x80), first & 0x0F, masked(data, mask) if mask else data

    def _exactly(self, size: int) -> bytes:
        while len(self._rest) < size:
            self._rest += self._read_some()
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def _read_some(self) -> bytes:
        chunk = self._socket.recv(65_536)
        if not chunk:
            raise Closed("the connection was lost")
        return chunk

    @contextmanager
    def _waiting(self, timeout_s: float) -> Iterator[None]:
        before = self._socket.gettimeout()
        self._socket.settimeout(timeout_s)
        try:
            yield
        finally:
            self._socket.settimeout(before)


def masked(data: bytes, mask: bytes) -> bytes:
    """The data with its mask of four bytes put on, or taken off."""
    repeated = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(data), "big")


def _connected(parts: SplitResult, timeout_s: float) -> socket.socket:
    secure = parts.scheme in ("https", "wss")
    host = parts.hostname or ""
    connection = socket.create_connection((host, parts.port or (443 if secure else 80)), timeout_s)
    if not secure:
        return connection
    try:
        return ssl.create_default_context().wrap_socket(connection, server_hostname=host)
    except BaseException:
        connection.close()
        raise
