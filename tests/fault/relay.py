"""What may stand between a watcher and its bus: a long thin line, proxies that hold back or repeat, a name server."""

import contextlib
import fcntl
import heapq
import http.client
import http.server
import os
import random
import select
import socket
import struct
import threading
import time
from typing import Self

from tests.fault.net import Node

#: From linux/if_tun.h.
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000


class LongLine(threading.Thread):
    """A context manager: a second line between two machines, on which packets take their time, overtake, and get lost.

    The machine `near` finds the other at `address`. `delay_s` is one way; up to `jitter_s` is added to it, and `loss`
    is the share of packets that do not arrive.
    """

    def __init__(self, near: Node, far: Node, *, delay_s: float, jitter_s: float, loss: float, seed: int = 0) -> None:
        super().__init__(daemon=True)
        ours, self.address = f"10.78.{near.number}.2", f"10.78.{near.number}.1"
        self._ends = {_tun(near, ours, self.address), _tun(far, self.address, ours)}
        self._delay_s, self._jitter_s, self._loss = delay_s, jitter_s, loss
        self._random = random.Random(seed)
        self._on_the_way: list[tuple[float, int, int, bytes]] = []
        self._over = False
        self.lost = 0

    def run(self) -> None:
        """The thread."""
        number = 0
        while not self._over:
            due = self._on_the_way[0][0] - time.monotonic() if self._on_the_way else 0.2
            for end in select.select(self._ends, [], [], max(0.0, min(due, 0.2)))[0]:
                packet = os.read(end, 65536)
                if self._random.random() < self._loss:
                    self.lost += 1
                    continue
                number += 1
                arrives = time.monotonic() + self._delay_s + self._random.random() * self._jitter_s
                (other,) = self._ends - {end}
                heapq.heappush(self._on_the_way, (arrives, number, other, packet))
            while self._on_the_way and self._on_the_way[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(self._on_the_way)
                os.write(end, packet)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self.join()
        for end in self._ends:
            os.close(end)


def _tun(node: Node, address: str, peer: str) -> int:
    """The open end of a point-to-point interface of a machine."""
    with node.inside():
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        name = f"line{peer.split('.')[2]}"
        fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    node.net.run(f"ip address add {address} peer {peer} dev {name}; ip link set {name} up")
    return end


class Proxy(contextlib.AbstractContextManager["Proxy"]):
    """A proxy on loopback for the bus at `port` there; `url` is its own address.

    It holds streams back, for `hold_s` or until they end (None). With `repeats` it sends every other request again, by
    itself, a moment later and so out of order, and drops the answer to that.
    """

    def __init__(self, port: int, *, hold_s: float | None = 0.0, repeats: bool = False, seed: int = 0) -> None:
        chance = random.Random(seed)
        repeated = self.repeated = []  # type: list[str]

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                _relay(self, port, hold_s)

            def do_POST(self) -> None:
                body = _relay(self, port, hold_s)
                if repeats and chance.random() < 0.5:
                    again = threading.Timer(
                        chance.uniform(0, 1.5),
                        _repeat,
                        (port, self.command, self.path, body, dict(self.headers.items())),
                    )
                    again.daemon = True
                    again.start()
                    repeated.append(f"{self.command} {self.path}")

            do_PATCH = do_POST  # noqa: N815 - the library's way to name it

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients go as they please
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _relay(handler: http.server.BaseHTTPRequestHandler, port: int, hold_s: float | None) -> bytes:
    """One request to the bus and its answer back; the request's body."""
    body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as bus:
        bus.request(handler.command, handler.path, body, dict(handler.headers.items()))
        answer = bus.getresponse()
        handler.send_response_only(answer.status)
        is_stream = answer.headers.get_content_type() == "text/event-stream"
        for name, value in answer.headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                handler.send_header(name, value)
        if not is_stream:
            said = answer.read()
            handler.send_header("Content-Length", str(len(said)))
            handler.end_headers()
            handler.wfile.write(said)
            return body
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        held, since = b"", time.monotonic()
        while not _gone(handler.connection) and (chunk := answer.read1(65536)):
            held += chunk
            if hold_s is not None and time.monotonic() >= since + hold_s:
                handler.wfile.write(held)
                held, since = b"", time.monotonic()
        return body


def _gone(client: socket.socket) -> bool:
    """Whether a client, that has nothing more to say, has hung up."""
    return bool(select.select([client], [], [], 0)[0])


def _repeat(port: int, method: str, path: str, body: bytes, headers: dict[str, str]) -> None:
    with (
        contextlib.suppress(OSError, http.client.HTTPException),
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as bus,
    ):
        bus.request(method, path, body, headers)
        bus.getresponse().read()


class NameServer(threading.Thread):
    """A context manager: answers every question for an IPv4 address with `address`, on the machine where it starts.

    While `failing` is "silent" it does not answer, while "refusing" it says that it cannot.
    """

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.failing = ""
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("", 53))

    def run(self) -> None:
        """The thread."""
        while True:
            query, client = self._socket.recvfrom(512)
            if not query:
                return
            self.asked += 1
            if self.failing != "silent":
                self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        end = query.index(b"\0", 12) + 5
        (kind,) = struct.unpack(">H", query[end - 4 : end - 2])
        found = kind == 1 and not self.failing
        # Response, recursion available; server failure where it fails.
        header = query[:2] + struct.pack(">HHHHH", 0x8182 if self.failing else 0x8180, 1, int(found), 0, 0)
        record = struct.pack(">HHHIH", 0xC00C, 1, 1, 0, 4) + socket.inet_aton(self.address)
        return header + query[12:end] + (record if found else b"")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        # An empty datagram to itself ends it.
        self._socket.sendto(b"", ("127.0.0.1", 53))
        self.join()
        self._socket.close()
