"""A relay between client and bus that loses some requests, and the answers to some others."""

import contextlib
import socket
import threading
from collections.abc import Sequence
from typing import Self


class Forgetful:
    """A context manager; clients use `url`.

    Requests are named by what they begin with, each for one time. The connection of one of `unheard` is cut before the
    bus at `port` hears of it; then that of one of `unanswered`, when its answer comes. `lost` are those that were cut.
    """

    def __init__(self, port: int, *, unheard: Sequence[bytes] = (), unanswered: Sequence[bytes] = ()) -> None:
        self.lost: list[bytes] = []
        self._unheard = list(unheard)
        self._unanswered = list(unanswered)
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
                if unheard := _taken(self._unheard, chunk):
                    self.lost += unheard
                    return
                losing += _taken(self._unanswered, chunk)
                bus.sendall(chunk)
            bus.shutdown(socket.SHUT_WR)
            back.join()

    def _answer(self, bus: socket.socket, client: socket.socket, losing: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            while (chunk := bus.recv(65_536)) and not losing:
                client.sendall(chunk)
            self.lost += losing
            client.shutdown(socket.SHUT_RDWR)


def _taken(named: list[bytes], chunk: bytes) -> list[bytes]:
    """The one of `named` that this request is, which is removed from there; [] if it is none of them."""
    found = [start for start in named if chunk.startswith(start)][:1]
    for start in found:
        named.remove(start)
    return found
