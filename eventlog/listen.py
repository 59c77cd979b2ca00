"""The listening socket, opened here or handed over by systemd with the limits that dead clients need; and accepting."""

import asyncio
import os
import socket
from collections.abc import Callable

import structlog

from eventlog import tcp
from eventlog.config import Config
from eventlog.errors import ConfigError, Locked

#: Connections that wait to be accepted: a fleet that reconnects at once.
BACKLOG = 2048
#: The most connections that are accepted in one turn of the event loop.
ACCEPTS_MAX = 256
#: How long nothing is accepted where it failed, seconds: mostly no descriptor is free, and that takes time to change.
ACCEPT_AGAIN_S = 1.0
#: The first descriptor that systemd hands over (sd_listen_fds(3)).
_FIRST_FD = 3

_log = structlog.get_logger()


class Listener:
    """Accepts connections on a listening socket until it is closed, and gives each a protocol of its own.

    Many in one turn of the loop. uvloop by itself accepts one in each, and under load a turn is long: those who came
    last, such as a person with a command line, would wait for seconds.
    """

    def __init__(self, sock: socket.socket, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        self._sock = sock
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._joining: set[asyncio.Task[None]] = set()
        self._closed = False
        self._listen()

    def close(self) -> None:
        """Accept no more, and close the socket: who comes is refused at once, or waits where systemd holds it, too."""
        self._closed = True
        self._loop.remove_reader(self._sock)
        self._sock.close()

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_MAX):
            try:
                connection, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.error("connections cannot be accepted", reason=str(error), again_in_s=ACCEPT_AGAIN_S)
                self._loop.remove_reader(self._sock)
                self._loop.call_later(ACCEPT_AGAIN_S, self._listen)
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._join(connection))
            self._joining.add(task)
            task.add_done_callback(self._joining.discard)

    async def _join(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()  # it went away already


def listening_socket(config: Config) -> socket.socket:
    """The socket to accept connections on: systemd's if it handed one over, else a new one at the settings' address.

    Raises ConfigError if what systemd handed over is no such socket, or the address is none of this machine; Locked if
    the address is in use.
    """
    sock = _from_systemd() or _own(config)
    # What is set on the listening socket, its connections inherit. 0: eventlog.patience ends them, not the kernel.
    for option in tcp.options(0):
        sock.setsockopt(*option)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, config.send_buffer_bytes)
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


def address_of(sock: socket.socket) -> str:
    """The address for a client on this machine."""
    host, port = sock.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - told apart, not bound
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _from_systemd() -> socket.socket | None:
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = os.environ.get("LISTEN_FDS", "0")
    # Whatever this process starts is not meant.
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if count != "1":
        raise ConfigError(f"systemd handed over {count} sockets; the socket unit must have one ListenStream")
    sock = socket.socket(fileno=_FIRST_FD)
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        raise ConfigError("systemd handed over something else than a TCP socket; set ListenStream=ADDRESS:PORT")
    os.set_inheritable(_FIRST_FD, False)
    return sock


def _own(config: Config) -> socket.socket:
    try:
        found = socket.getaddrinfo(
            config.host.strip("[]"), config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise ConfigError(f"host {config.host!r} is no address: {error.strerror}", field="host") from None
    family, _, _, _, address = found[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise Locked(
            f"cannot listen on {config.host} port {config.port}: {error.strerror}; free it, or set host or port",
            code="address_in_use",
        ) from None
    return sock
