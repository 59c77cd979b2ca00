"""A relay that lets a bus hear everything, and loses some of its answers."""

import contextlib
import socket
import threading
from collections.abc import Sequence
from typing import Self


class Forgetful:
    """A context manager; clients use `url`.

    For each of `losses`, the start of a request, the first such request is handed on to the bus at `port`, and its
    connection is cut when the answer comes. `lost` are those whose answer was lost so far.
    """

    def __init__(self, port: int, losses: Sequence[bytes]) -> None:
        self.lost: list[bytes] = []
        self._left = list(losses)
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        """One connection, until either side ends it or an answer is to be lost."""
        losing: list[bytes] = []
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port)) as bus:
            back = threading.Thread(target=self._answer, args=(bus, client, losing), daemon=True)
            back.start()
            while chunk := client.recv(65_536):
                for request in [request for request in self._left if chunk.startswith(request)]:
                    self._left.remove(request)
                    losing.append(request)
                bus.sendall(chunk)
            bus.shutdown(socket.SHUT_WR)
            back.join()

    def _answer(self, bus: socket.socket, client: socket.socket, losing: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            while (chunk := bus.recv(65_536)) and not losing:
                client.sendall(chunk)
            self.lost += losing
            client.shutdown(socket.SHUT_RDWR)
