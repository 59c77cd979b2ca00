"""HTTP as bytes, for tests of what no well-behaved client would send."""

import json
import socket
from typing import Any, NamedTuple
from urllib.parse import urlsplit

#: How long an answer may take on a busy machine.
DEADLINE_S = 30.0


class Raw(NamedTuple):
    """One answer; `headers` by lower-case name, `body` undecoded."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of a problem; checks that it is one, whole and consistent."""
        assert self.headers["content-type"] == "application/problem+json", self
        problem = self.json
        assert problem["status"] == self.status
        assert {"type", "title", "detail", "code"} <= problem.keys()
        assert problem["detail"]
        return str(problem["code"])


def connect(url: str, *, buffer_bytes: int | None = None) -> socket.socket:
    """A connection to the bus; the machine holds about `buffer_bytes` of what is not read from it."""
    place = urlsplit(url)
    assert place.hostname is not None
    assert place.port is not None
    sock = socket.socket()
    try:
        if buffer_bytes is not None:  # before it connects, when the window is agreed upon
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        sock.settimeout(DEADLINE_S)
        sock.connect((place.hostname, place.port))
    except BaseException:
        sock.close()
        raise
    return sock


def exchange(url: str, sent: bytes) -> Raw:
    """Sends bytes on a connection of their own and reads one answer."""
    with connect(url) as sock:
        sock.sendall(sent)
        return read_answer(sock)


def read_answer(sock: socket.socket) -> Raw:
    """One answer; of one without a Content-Length, as a stream's, the body is what came along with the head."""
    seen = b""
    while b"\r\n\r\n" not in seen:
        seen += receive(sock)
    head, _, body = seen.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += receive(sock)
    return Raw(int(status.split()[1]), headers, body)


def receive(sock: socket.socket) -> bytes:
    """Some more bytes; fails the test if the connection ends."""
    chunk = sock.recv(65536)
    assert chunk, "the connection ended"
    return chunk


def request(
    method: str,
    target: str,
    *,
    host: str,
    token: str | None = None,
    body: bytes | None = None,
    content_type: str | None = "application/json",
    headers: tuple[str, ...] = (),
) -> bytes:
    """The bytes of a request; a body is sent with its length."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *headers]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
        if content_type is not None:
            lines.append(f"Content-Type: {content_type}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def chunked(body: bytes, size: int = 65536) -> bytes:
    """A body in chunks, without a length."""
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
