"""The two ways to make connections behave alike, and a connection is used again only where it still stands."""

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from eventlog import errors
from eventlog.blocking import finish
from eventlog.client import Bus

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"agents": 1}'
#: Says how a program's calls are run, and the setting of the client that goes with it.
WAYS = {
    "with a loop": (lambda work: anyio.run(work), False),
    "blocking": (lambda work: finish(work()), True),
}


class Server:
    """Answers `each` requests a connection, then closes it."""

    def __init__(self, each: int, answer: bytes) -> None:
        self.connections = 0
        self._each = each
        self._answer = answer
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.port = self._sock.getsockname()[1]
        #: Set when a connection was closed.
        self.closed = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._sock.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                for _ in range(self._each):
                    if connection.recv(65_536):
                        connection.sendall(self._answer)
            self.closed.set()

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def serving() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def one(each: int, answer: bytes = ANSWER) -> Server:
        made.append(Server(each, answer))
        return made[-1]

    yield one
    for server in made:
        server.close()


@pytest.fixture(params=list(WAYS))
def way(request: pytest.FixtureRequest) -> Any:
    return WAYS[request.param]


def test_requests_in_a_row_share_a_connection(serving: Callable[..., Server], way: Any) -> None:
    run, blocking = way
    server = serving(3)

    async def work() -> list[Any]:
        async with Bus(f"http://localhost:{server.port}/", blocking=blocking) as bus:
            return [await bus.agents() for _ in range(3)]

    assert run(work) == [{"agents": 1}] * 3
    assert server.connections == 1


def test_a_connection_that_was_closed_while_it_rested_is_not_used(serving: Callable[..., Server], way: Any) -> None:
    run, blocking = way
    server = serving(1)

    async def work() -> None:
        async with Bus(f"http://127.0.0.1:{server.port}", blocking=blocking) as bus:
            for _ in range(3):
                await bus.agents()
                await anyio.to_thread.run_sync(server.closed.wait) if not blocking else server.closed.wait()
                server.closed.clear()
                await bus.net.sleep(0)

    run(work)
    assert server.connections == 3


def test_a_connection_whose_answer_was_not_read_is_not_used(serving: Callable[..., Server], way: Any) -> None:
    run, blocking = way
    server = serving(1, ANSWER.replace(b"Length: 13", b"Length: 14"))

    async def work() -> None:
        async with Bus(f"http://127.0.0.1:{server.port}", timeout_s=0.2, blocking=blocking) as bus:
            for _ in range(2):
                with pytest.raises(errors.Unreachable) as caught:
                    await bus.agents()
                assert caught.value.sent

    run(work)
    assert server.connections == 2


def test_silence_is_not_waited_for_longer_than_was_said(serving: Callable[..., Server], way: Any) -> None:
    run, blocking = way
    server = serving(1, b"")

    async def work() -> None:
        async with Bus(f"http://127.0.0.1:{server.port}", timeout_s=0.05, blocking=blocking) as bus:
            with pytest.raises(errors.Unreachable) as caught:
                await bus.agents()
            assert caught.value.sent

    run(work)


@pytest.mark.parametrize("url", ["http://", "http://bus:port", "http://bus:99999", "http://bü.example/é"])
def test_an_address_that_is_none_is_a_configuration_error(url: str) -> None:
    with pytest.raises(errors.ConfigError):
        Bus(url)


def test_a_name_that_cannot_be_one_is_no_bus(way: Any) -> None:
    run, blocking = way

    async def work() -> None:
        async with Bus(f"http://{'x' * 70}.invalid", blocking=blocking) as bus:
            with pytest.raises(errors.Unreachable) as caught:
                await bus.agents()
            assert not caught.value.sent

    run(work)


def test_without_a_loop_nothing_can_be_waited_for() -> None:
    with pytest.raises(RuntimeError, match="event loop"):
        finish(anyio.sleep(1))
