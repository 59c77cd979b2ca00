"""Cutter: a relay between clients and a bus that cuts connections after a random number of bytes."""

import random
import selectors
import socket
import struct
import threading

#: Up to here a cut is always a reset: a browser takes a header that merely ends for whole, and then finds CORS missing.
HEADER_BYTES = 2048


class Cutter:
    """A context manager; clients use `url`, behind which is the bus at `port` on loopback, also after it was restarted.

    About every `mean_bytes` that the bus sends, wherever in a frame that is, a connection is closed or reset, up to
    `cuts_max` times; `cuts` tells how often that was. While the bus is down connections are closed at once.
    """

    def __init__(self, port: int, *, mean_bytes: int, cuts_max: int, seed: int = 0) -> None:
        self.cuts = 0
        self._port = port
        self._mean_bytes = mean_bytes
        self._cuts_max = cuts_max
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> "Cutter":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        # A blocked accept() does not notice close() alone.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=10) as bus:
                    self._relay(client, bus, self._draw())
            except OSError:
                return

    def _draw(self) -> int | None:
        """After how many bytes this connection is cut; None: never."""
        with self._lock:
            if self.cuts >= self._cuts_max:
                return None
            return self._random.randint(1, 2 * self._mean_bytes)

    def _relay(self, client: socket.socket, bus: socket.socket, left: int | None) -> None:
        budget = left
        with selectors.DefaultSelector() as ready:
            ready.register(client, selectors.EVENT_READ)
            ready.register(bus, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is client:
                        bus.sendall(data)
                        continue
                    if left is not None:
                        left -= len(data)
                        if left <= 0:
                            assert budget is not None
                            self._cut(client, data[: left or None], reset=budget <= HEADER_BYTES)
                            return
                    client.sendall(data)

    def _cut(self, client: socket.socket, last: bytes, *, reset: bool) -> None:
        with self._lock:
            if self.cuts >= self._cuts_max:
                reset = True
            self.cuts += 1
            reset = reset or self._random.random() < 0.5
        client.sendall(last)
        if reset:
            # No lingering: close() sends a reset, and what the client had not read is lost.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
