"""The bus's log lines: they tell at no level what was asked for, because a token may stand in a query string."""

import socket
from pathlib import Path

import pytest

from tests.e2e.foreign import Foreign
from tests.raw import exchange, request
from tests.support import UNWRITABLE, BusProcess, until

pytestmark = pytest.mark.e2e

#: Line ends of a client that asks for something else than HTTP/1.1.
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AA==")
#: Whether a stream that was ended because nobody read it is told of; what the server itself warns of always is.
LEVELS = {"debug": True, "info": True, "warning": False, "error": False}


def ask_in_every_way(bus: BusProcess, token: str) -> None:
    """Requests with this auditor's token, the administrator's and a wrong one in the query; most are refused."""
    told = [f"?token={one}" for one in (token, bus.admin_token, "evt_wrong")]
    for query in told:
        for method, path in (
            ("GET", "/api/stream"),  # good with the auditor's: it is left at its first frame
            ("GET", "/api/stream/nowhere"),
            ("DELETE", "/api/stream"),
            ("GET", "/healthz"),
        ):
            exchange(bus.url, request(method, path + query, host="localhost"))
        exchange(bus.url, request("GET", f"/api/stream{query}&after=x", host="localhost"))
        exchange(bus.url, request("GET", f"/api/stream{query}", host="elsewhere.example"))
        exchange(bus.url, request("GET", f"/api/stream{query}", host="localhost", headers=UPGRADE))
        exchange(bus.url, request("GET", f"/api/stream{query}&x={'x' * 40_000}", host="localhost"))
        exchange(bus.url, f"GET /api/stream{query} HTTP/one\r\n\r\n".encode())


@pytest.mark.parametrize("level", LEVELS)
def test_what_was_asked_for_is_in_no_log_line(level: str, tmp_path: Path) -> None:
    options = ["--log-level", level, "--send-buffer-bytes", "4096", "--send-timeout-s", "0.3"]
    with BusProcess(tmp_path, options=options) as bus, socket.socket() as sock:
        admin = Foreign(bus.url, bus.admin_token)
        auditor = admin.create_token("panel", "auditor").token
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", bus.port))
        sock.sendall(request("GET", f"/api/stream?after=0&token={auditor}", host="localhost"))
        for _ in range(20):
            admin.send("mel", "x" * 100_000)
        ask_in_every_way(bus, auditor)
        if LEVELS[level]:
            until(lambda: "read nothing for too long" in bus.log_text)
        assert bus.stop() == 0
        found = [said for said in (auditor, bus.admin_token, "token", "/api/", "evt_") if said in bus.log_text]
        assert found == [], bus.log_text
        assert level != "error" or bus.log_text == "", "what a client does is no error of the bus"


@pytest.mark.parametrize("under", UNWRITABLE.values(), ids=UNWRITABLE)
def test_a_line_that_cannot_be_written_is_dropped(under: list[str], tmp_path: Path) -> None:
    (tmp_path / ".config").touch()  # a file, so that the bus cannot write a client's configuration, and says so
    with BusProcess(tmp_path, under=under) as bus:
        admin = Foreign(bus.url, bus.admin_token)
        assert admin.send("mel", "x") > 0
        assert bus.stop() == 0
