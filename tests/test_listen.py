"""Accepting connections: many in one turn of the loop, and again after what kept it from accepting is over."""

import asyncio
import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from eventlog import listen
from eventlog.listen import Listener

pytestmark = pytest.mark.anyio

CONNECTIONS = 60


class Made(asyncio.Protocol):
    """Counts the connections that were made."""

    count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Made.count += 1
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    Made.count = 0
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(2 * CONNECTIONS)
        sock.setblocking(False)
        yield sock


def connected(sock: socket.socket, count: int) -> list[socket.socket]:
    """Clients whose connections the kernel has made, and nobody has accepted yet."""
    return [socket.create_connection(sock.getsockname(), 10) for _ in range(count)]


async def turns_until(count: int) -> int:
    """How many turns of the loop it takes until so many connections are made; fails after a thousand."""
    for turn in range(1000):
        if Made.count >= count:
            return turn
        await asyncio.sleep(0)
    raise AssertionError(f"only {Made.count} of {count} connections were made")


async def test_all_that_wait_are_accepted_in_a_few_turns(sock: socket.socket) -> None:
    clients = connected(sock, CONNECTIONS)
    listener = Listener(sock, Made)
    assert await turns_until(CONNECTIONS) < CONNECTIONS / 2
    listener.close()
    for client in clients:
        client.close()


async def test_one_that_is_closed_refuses(sock: socket.socket) -> None:
    address = sock.getsockname()
    Listener(sock, Made).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 10)


class Scarce:
    """A listening socket that cannot accept at first: no descriptor is free."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.failures = 1

    def fileno(self) -> int:
        return self._sock.fileno()

    def accept(self) -> Any:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "too many open files")
        return self._sock.accept()

    def close(self) -> None:
        self._sock.close()


async def test_it_accepts_again_once_there_are_descriptors(
    sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "ACCEPT_AGAIN_S", 0.01)
    (client,) = connected(sock, 1)
    scarce: Any = Scarce(sock)
    listener = Listener(scarce, Made)
    async with asyncio.timeout(10):
        while not Made.count:
            await asyncio.sleep(0.001)
    assert scarce.failures == 0
    listener.close()
    client.close()
