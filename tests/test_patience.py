"""Patience, by what the kernel may say of a connection: who reads nothing or is gone, and who is only slow."""

import socket
import time
from typing import Any, ClassVar

import pytest

from eventlog import patience, tcp
from eventlog.patience import Patience

SEND_TIMEOUT_S, DEAD_AFTER_S = 30.0, 5.0
NOTHING, SILENT = "a client read nothing for too long", "a client's machine is silent"


class Peer:
    """A transport and its socket at once, of which the kernel says what a test wants it to."""

    said: ClassVar[dict[str, int]] = {}
    closed = False

    def get_extra_info(self, name: str) -> "Peer":
        assert name == "socket"
        return self

    def fileno(self) -> int:
        return -1 if self.closed else 5

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option, self.closed) == (socket.IPPROTO_TCP, socket.TCP_INFO, False)
        names = ("resent", "probes", "unconfirmed", "silent_ms", "confirmed", "unsent")
        return patience._INFO.pack(*(self.said.get(name, 0) for name in names))


class Looks:
    """A look each second, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self._patience = Patience(SEND_TIMEOUT_S, round(DEAD_AFTER_S * 1000))
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def fault(self, peer: Any, **said: int) -> str:
        """What the next look finds."""
        self.now += 1
        peer.said = said
        return "".join(why for _, why in self._patience.over([peer]))


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


def test_data_that_is_not_confirmed_for_so_long(looks: Looks) -> None:
    peer = Peer()
    seen = [looks.fault(peer, resent=n, unconfirmed=1, silent_ms=1000 * n) for n in range(1, 8)]
    assert seen == [""] * 5 + [SILENT] * 2


def test_a_probe_of_an_idle_machine_that_is_not_answered_for_so_long(looks: Looks) -> None:
    limit_ms = round(1000 * (tcp.KEEPALIVE_IDLE_S + DEAD_AFTER_S))
    assert not looks.fault(Peer(), probes=5, silent_ms=limit_ms - 1)
    assert looks.fault(Peer(), probes=5, silent_ms=limit_ms) == SILENT


def test_data_does_not_begin_the_time_anew_of_a_machine_that_was_silent_before(looks: Looks) -> None:
    assert looks.fault(Peer(), resent=1, unconfirmed=1, silent_ms=8000) == SILENT


def test_a_closed_window_is_borne_as_long_as_a_client_may_read_nothing(looks: Looks) -> None:
    peer = Peer()
    seen = [looks.fault(peer, probes=1, silent_ms=1000 * n, unsent=9, confirmed=7) for n in range(32)]
    assert seen == [""] * round(SEND_TIMEOUT_S) + [NOTHING] * 2


def test_one_that_reads_slowly_is_borne_for_ever(looks: Looks) -> None:
    peer = Peer()
    for n in range(200):
        assert not looks.fault(peer, probes=1, silent_ms=900, unsent=9, confirmed=n // 25)


def test_a_machine_that_was_not_asked_twice_yet_is_not_dead(looks: Looks) -> None:
    # As after a stop of the bus's own machine: the clocks went on, and nobody was asked meanwhile.
    assert not looks.fault(Peer(), silent_ms=60_000)
    assert not looks.fault(Peer(), unconfirmed=1, silent_ms=60_000)


def test_a_lossy_link_is_not_dead_as_long_as_something_is_heard(looks: Looks) -> None:
    peer = Peer()
    assert not any(looks.fault(peer, resent=1, unconfirmed=3, silent_ms=900) for _ in range(20))


def test_what_is_closed_is_not_looked_at(looks: Looks) -> None:
    peer = Peer()
    peer.closed = True
    assert not looks.fault(peer, probes=5, silent_ms=60_000)
