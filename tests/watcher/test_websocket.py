"""The WebSocket: messages of every size and in pieces, pings, and ends of all kinds."""

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.watcher.fake_gateway import handshake, make_frame, read_frame
from watcher.wakers import websocket
from watcher.wakers.websocket import Closed, WebSocket, masked

Serve = Callable[[Callable[[socket.socket, Any], None]], WebSocket]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Connects to a server that does what a function says after the handshake."""
    opened: list[WebSocket] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def start(act: Callable[[socket.socket, Any], None]) -> WebSocket:
        def run() -> None:
            with listener.accept()[0] as connection:
                stream = connection.makefile("rb")
                handshake(connection, stream)
                act(connection, stream)

        threading.Thread(target=run, daemon=True).start()
        opened.append(WebSocket(f"ws://127.0.0.1:{listener.getsockname()[1]}", timeout_s=10))
        return opened[-1]

    yield start
    for one in opened:
        one.__exit__()
    listener.close()


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 300_000])
def test_messages_of_every_size_come_back(serve: Serve, size: int) -> None:
    def echo(connection: socket.socket, stream: Any) -> None:
        connection.sendall(make_frame(*read_frame(stream)))

    connected = serve(echo)
    text = ("grün " * size)[:size]
    connected.send(text)
    assert connected.receive(10) == text


def test_a_message_may_come_in_pieces_with_a_ping_between(serve: Serve) -> None:
    got: list[tuple[int, bytes]] = []

    def pieces(connection: socket.socket, stream: Any) -> None:
        for kind, data, last in ((1, b"one ", False), (9, b"here?", True), (0, b"two", True)):
            connection.sendall(make_frame(kind, data, last=last))
        got.append(read_frame(stream))
        connection.sendall(make_frame(1, b"end"))

    connected = serve(pieces)
    assert connected.receive(10) == "one two"
    assert connected.receive(10) == "end"
    assert got == [(10, b"here?")]


def test_an_end_is_told_with_its_reason(serve: Serve) -> None:
    connected = serve(lambda connection, _: connection.sendall(make_frame(8, (1012).to_bytes(2, "big") + b"restart")))
    with pytest.raises(Closed, match=r"1012 restart"):
        connected.receive(10)


def test_a_lost_connection_is_an_end(serve: Serve) -> None:
    with pytest.raises(Closed, match="lost"):
        serve(lambda connection, _: connection.sendall(make_frame(1, b"half")[:4])).receive(10)


def test_silence_is_a_timeout(serve: Serve) -> None:
    over = threading.Event()

    def wait(*_: object) -> None:
        over.wait(10)

    connected = serve(wait)
    with pytest.raises(TimeoutError):
        connected.receive(0.05)
    over.set()


def test_a_message_beyond_the_limit_ends_the_connection(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "MESSAGE_BYTES_MAX", 100)
    with pytest.raises(Closed, match="too long"):
        serve(lambda connection, _: connection.sendall(make_frame(1, b"x" * 101))).receive(10)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "no WebSocket there: HTTP/1.1 404"),
        (b"HTTP/1.1 101 Yes\r\nSec-WebSocket-Accept: x\r\n\r\n", "is not a WebSocket"),
        (b"x" * 20_000, "too long"),
        (b"", "lost"),
    ],
)
def test_what_is_no_websocket_is_told_so(answer: bytes, said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            with listener.accept()[0] as connection:
                connection.recv(65_536)
                connection.sendall(answer)

        threading.Thread(target=run, daemon=True).start()
        with pytest.raises(Closed, match=said):
            WebSocket(f"ws://127.0.0.1:{listener.getsockname()[1]}", timeout_s=10)


def test_a_mask_is_that_of_the_standards_own_example() -> None:
    """RFC 6455, section 5.7: "Hello"."""
    assert masked(b"Hello", bytes.fromhex("37fa213d")) == bytes.fromhex("7f9f4d5158")
