"""A relay in front of a gateway, on this machine, whose connections can be cut."""

import contextlib
import socket
import socketserver
import threading
from typing import Self
from urllib.parse import urlsplit


class Relay(socketserver.ThreadingTCPServer):
    """Passes connections on to `url`; a context manager. `made` counts them, `cut` ends all that stand."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Line)
        parts = urlsplit(url)
        self.target = (parts.hostname, parts.port)
        self.made = 0
        self._standing: set[socket.socket] = set()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def stands(self, *ends: socket.socket) -> None:
        """A connection has these ends."""
        self.made += 1
        self._standing |= set(ends)

    def cut(self) -> None:
        """End every connection, as a network would."""
        while self._standing:
            with contextlib.suppress(OSError):
                self._standing.pop().shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.cut()
        self.server_close()


class _Line(socketserver.BaseRequestHandler):
    server: Relay
    request: socket.socket

    def handle(self) -> None:
        with socket.create_connection(self.server.target) as far:
            self.server.stands(self.request, far)
            back = threading.Thread(target=_pass, args=(far, self.request), daemon=True)
            back.start()
            _pass(self.request, far)
            back.join()


def _pass(source: socket.socket, target: socket.socket) -> None:
    """Pass on what comes, until one end is gone; then end the other one."""
    with contextlib.suppress(OSError):
        while chunk := source.recv(65_536):
            target.sendall(chunk)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
