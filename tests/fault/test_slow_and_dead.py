"""A client that is slow is served; one whose machine is gone is noticed in time, whatever was on its way to it."""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.foreign import Foreign
from tests.fault.net import Lab, needs_lab
from tests.raw import connect, read_answer, request
from tests.support import BusProcess, until

pytestmark = pytest.mark.fault

#: Goal: how soon a machine that is gone is noticed, and what a busy machine of ours may add.
NOTICED_S, MARGIN_S = 10.0, 1.5
#: For how long a client may read nothing, where that is not as usual; and its machine be silent.
SEND_TIMEOUT_S, DEAD_AFTER_MS = 3, 500
#: How slow a client reads: so much, so often, through a receive buffer of so much. It closes its window each time.
PIECE_BYTES, PIECE_S, BUFFER_BYTES = 20_000, 0.6, 8192
OPTIONS = ["--send-timeout-s", str(SEND_TIMEOUT_S), "--tcp-user-timeout-ms", str(DEAD_AFTER_MS)]
LARGE = "x" * 200_000


@pytest.fixture
def hasty_bus(tmp_path: Path) -> Iterator[BusProcess]:
    """A bus that is hasty with clients that read nothing, and has large events."""
    with BusProcess(tmp_path, options=OPTIONS) as bus:
        for _ in range(2):
            Foreign(bus.url, bus.admin_token).send("mel", LARGE)
        yield bus


def ask(bus: BusProcess, address: str, target: str) -> socket.socket:
    """A client that has asked for something, and has little room for the answer."""
    sock = connect(f"http://{address}:{bus.port}", buffer_bytes=BUFFER_BYTES)
    sock.sendall(request("GET", target, host="localhost", token=bus.admin_token))
    return sock


def test_a_follower_that_reads_slowly_but_steadily_gets_past_a_large_event(hasty_bus: BusProcess) -> None:
    with ask(hasty_bus, "127.0.0.1", "/api/stream?after=0&heartbeat=1") as sock:
        seen = b""
        while seen.count(LARGE.encode()) < 2:
            some = sock.recv(PIECE_BYTES)
            assert some, "the stream ended"
            seen += some
            time.sleep(PIECE_S * len(some) / PIECE_BYTES)


def test_a_client_may_pause_in_a_large_answer(hasty_bus: BusProcess) -> None:
    with ask(hasty_bus, "127.0.0.1", "/api/events") as sock:
        # Its window is closed, and it does nothing, for longer than its machine may be silent.
        assert sock.recv(1, socket.MSG_PEEK)
        until(lambda: idle_ms(sock) >= 4 * DEAD_AFTER_MS)
        answer = read_answer(sock)
    assert [event.get("payload") for event in json.loads(answer.body)["events"]].count(LARGE) == 2


@needs_lab
def test_a_machine_that_is_gone_is_noticed(tmp_path: Path) -> None:
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(1))
        (node,) = lab.nodes
        stack.enter_context(lab.bus.inside())
        options = ["--host", "0.0.0.0", "--allowed-hosts", "*"]
        usual, patient = (
            stack.enter_context(BusProcess(tmp_path / name, options=[*options, *more]))
            for name, more in (("usual", []), ("patient", ["--send-timeout-s", str(SEND_TIMEOUT_S)]))
        )
        for _ in range(2):
            Foreign(patient.url, patient.admin_token).send("mel", LARGE)
        before = {bus: connections(bus) for bus in (usual, patient)}
        with node.inside():
            # To one that nothing is sent to, one that is sent a heartbeat, and one that a message is on its way to.
            for target in ("agent=al&heartbeat=60", "agent=al&heartbeat=5", "agent=mel&heartbeat=60"):
                assert stack.enter_context(ask(usual, lab.bus.address, f"/api/stream?{target}")).recv(16)
            # And to one whose window is closed soon.
            assert stack.enter_context(ask(patient, lab.bus.address, "/api/stream?after=0&heartbeat=60")).recv(16)
        until(lambda: connections(usual) == before[usual] + 3)
        node.cut()
        start = time.monotonic()
        Foreign(usual.url, usual.admin_token).send("mel")
        until(lambda: connections(usual) <= before[usual], NOTICED_S + MARGIN_S)
        noticed_s = time.monotonic() - start
        until(lambda: connections(patient) <= before[patient], SEND_TIMEOUT_S + MARGIN_S)
        print(f"noticed within {noticed_s:.1f} s, closed {time.monotonic() - start:.1f} s")
        assert noticed_s < NOTICED_S


def idle_ms(sock: socket.socket) -> int:
    """How long ago data came last, as the kernel says (tcpi_last_data_recv in struct tcp_info of linux/tcp.h)."""
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)[52:56], sys.byteorder)


def connections(bus: BusProcess) -> int:
    """How many sockets a bus holds."""
    found = 0
    for entry in Path(f"/proc/{bus.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(entry).startswith("socket:")
    return found
