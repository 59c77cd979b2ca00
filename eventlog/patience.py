"""Patience: which connections are to be cut, as the client reads nothing or its machine is gone; by what TCP_INFO says.

The kernel has one limit for both, TCP_USER_TIMEOUT (RFC 5482), and it takes those for gone whose program reads slowly:
a window that opens for less than what waits first does not end a time that it was closed, though the peer answers each
probe (tcp_ack_probe in net/ipv4/tcp_input.c, tcp_probe_timer in tcp_timer.c). So it is not used for clients.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Iterable

from eventlog import tcp

#: Of struct tcp_info in linux/tcp.h: tcpi_retransmits, tcpi_probes, tcpi_unacked, tcpi_last_ack_recv (ms),
#: tcpi_bytes_acked, and tcpi_notsent_bytes. All are there since Linux 4.6.
_INFO = struct.Struct("=2xBB20xI28xI60xQ16xI")


class Patience:
    """To be asked about every second: a look costs about 2 us for each connection, and none has a timer of its own."""

    def __init__(self, send_timeout_s: float, dead_after_ms: int) -> None:
        self._send_timeout_s = send_timeout_s
        self._dead_after_s = dead_after_ms / 1000
        #: By connection that something waits on: how much its peer has confirmed of all, and since when no more.
        self._waiting: dict[asyncio.Transport, tuple[int, float]] = {}

    def over(self, transports: Iterable[asyncio.Transport]) -> list[tuple[asyncio.Transport, str]]:
        """Those of them that patience is over with, and why."""
        now = time.monotonic()
        before, self._waiting = self._waiting, {}
        looked = [(transport, self._fault(transport, before.get(transport), now)) for transport in transports]
        return [(transport, fault) for transport, fault in looked if fault]

    def _fault(self, transport: asyncio.Transport, before: tuple[int, float] | None, now: float) -> str:
        sock = transport.get_extra_info("socket")
        if sock.fileno() < 0:
            return ""  # it is closed already
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
        resent, probes, unconfirmed, silent_ms, confirmed, unsent = _INFO.unpack(info)
        waited_s = 0.0
        if unconfirmed or unsent:
            since = before[1] if before is not None and before[0] == confirmed else now
            self._waiting[transport] = confirmed, since
            waited_s = now - since
        if waited_s >= self._send_timeout_s:
            return "a client read nothing for too long"
        # A machine was asked, and asked again. While its window is closed it is asked ever less often; that is bounded
        # above. Else there is data that it could confirm; and an idle one is asked from KEEPALIVE_IDLE_S on.
        if (resent or probes) and (unconfirmed or not unsent):
            silent_s = silent_ms / 1000
            if max(min(waited_s, silent_s), silent_s - tcp.KEEPALIVE_IDLE_S) >= self._dead_after_s:
                return "a client's machine is silent"
        return ""
