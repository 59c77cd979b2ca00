"""Blocking: a Net for programs that do one thing at a time; its coroutines block instead of waiting for an event loop.

So `finish` runs a whole client call without one: loading asyncio would take longer than a short command does.
"""

import select
import socket
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from eventlog import tcp
from eventlog.http1 import READ_BYTES

T = TypeVar("T")


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end. Raises RuntimeError if it waits for an event loop."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise RuntimeError("this waits for an event loop")


async def connect(host: str, port: int, *, tls: bool, timeout_s: float) -> "_Connection":
    """See http1.Net. The look-up of a name takes as long as the machine's resolver allows for."""
    sock = socket.create_connection((host, port), timeout_s)
    try:
        for option in tcp.options():
            sock.setsockopt(*option)
        if tls:
            import ssl

            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise
    return _Connection(sock)


async def sleep(seconds: float) -> None:
    """See http1.Net."""
    time.sleep(seconds)  # noqa: ASYNC251 - that is what it is for


class _Connection:
    """See http1.Connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def read(self, timeout_s: float) -> bytes:
        self._sock.settimeout(timeout_s)
        return self._sock.recv(READ_BYTES)

    async def write(self, data: bytes, timeout_s: float) -> None:
        self._sock.settimeout(timeout_s)
        self._sock.sendall(data)

    def rests(self) -> bool:
        return not select.select([self._sock], [], [], 0)[0]

    def close(self) -> None:
        self._sock.close()
