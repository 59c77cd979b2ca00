"""What TCP is told: the kernel takes it, and connections inherit it from the socket that listens."""

import socket

from eventlog import tcp


def test_connections_inherit_all_of_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        for told in tcp.options(4321):
            listening.setsockopt(*told)
        with socket.create_connection(listening.getsockname()):
            connection, _ = listening.accept()
            with connection:
                for level, option, value in tcp.options(4321):
                    assert connection.getsockopt(level, option) == value


def test_silence_ends_a_connection_before_a_watcher_would_wait_for_its_heartbeats() -> None:
    assert (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, tcp.DEAD_AFTER_MS) in tcp.options()
    assert tcp.KEEPALIVE_IDLE_S + tcp.KEEPALIVE_INTERVAL_S < tcp.DEAD_AFTER_MS / 1000
