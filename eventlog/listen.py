"""The listening socket: opened here, or handed over by systemd, with the limits that dead clients need."""

import os
import socket

from eventlog import tcp
from eventlog.config import Config
from eventlog.errors import ConfigError, Locked

#: Connections that wait to be accepted: a fleet that reconnects at once.
BACKLOG = 2048
#: The first descriptor that systemd hands over (sd_listen_fds(3)).
_FIRST_FD = 3


def listening_socket(config: Config) -> socket.socket:
    """The socket to accept connections on: systemd's if it handed one over, else a new one at the settings' address.

    Raises ConfigError if what systemd handed over is no such socket, or the address is none of this machine; Locked if
    the address is in use.
    """
    sock = _from_systemd() or _own(config)
    # What is set on the listening socket, its connections inherit. A client's machine that is gone is noticed by what
    # it does not confirm; the server writes something every heartbeat.
    for option in tcp.options(config.tcp_user_timeout_ms):
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
