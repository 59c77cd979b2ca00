"""TCP: what a connection is told, on either side, so that a dead peer is noticed and a healed link is used at once."""

import functools
import socket

#: Data that the peer's machine does not confirm for so long, or silence of its machine, ends a connection.
DEAD_AFTER_MS = 5000
#: An idle connection's peer is asked for a sign of life after so long, and then so often, seconds. Its kernel answers,
#: however busy the program is.
KEEPALIVE_IDLE_S = 3
KEEPALIVE_INTERVAL_S = 1
#: Lost data is sent again at least so often. By default the pauses double: a link that was cut for 4 s would lie idle
#: for up to 4 s more once it is back.
RESEND_MS_MAX = 1000
#: From linux/tcp.h, since Linux 6.15.
_TCP_RTO_MAX_MS = 44


def options(dead_after_ms: int = DEAD_AFTER_MS) -> list[tuple[int, int, int]]:
    """Socket options as (level, option, value); a listening socket's connections inherit them.

    With 0 for `dead_after_ms` there is no such limit (RFC 5482): who tells the kernel so finds dead peers by itself.
    """
    found = [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, dead_after_ms),
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    ]
    if _resends_can_be_bounded():
        found.append((socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, RESEND_MS_MAX))
    return found


@functools.cache
def _resends_can_be_bounded() -> bool:
    """Whether this kernel knows that option."""
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, RESEND_MS_MAX)
        except OSError:
            return False
    return True
