"""Connections over real sockets: whole requests take a short way, and what it does is what the long way does."""

import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.e2e.foreign import Foreign
from tests.raw import Raw, chunked, connect, exchange, read_answer, receive, request
from tests.support import BusProcess, until

pytestmark = pytest.mark.e2e


def post(bus: BusProcess, payload: object, *headers: str, token: str = "", to: str = "mel") -> bytes:
    """A message as a request; two that differ in the text alone have the same header."""
    body = json.dumps({"to_agent": to, "payload": payload}).encode()
    return request("POST", "/api/send", host="localhost", token=token or bus.admin_token, body=body, headers=headers)


def get(bus: BusProcess, target: str, *headers: str) -> bytes:
    return request("GET", target, host="localhost", token=bus.admin_token, headers=headers)


def answers(sock: socket.socket, count: int) -> list[Raw]:
    """So many answers of one connection, though several may come in one piece."""
    seen, found = b"", list[Raw]()
    while len(found) < count:
        head, ends, rest = seen.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0") if ends else 0
        if not ends or len(rest) < length:
            seen += receive(sock)
            continue
        found.append(Raw(int(head.split()[1]), {}, rest[:length]))
        seen = rest[length:]
    return found


def texts(bus: BusProcess, agent: str) -> list[object]:
    page = Foreign(bus.url, bus.admin_token).call("GET", f"/api/inbox?agent={agent}&after=0&limit=1000").body
    return [message["payload"] for message in page["messages"]]


def test_a_header_that_came_before_means_the_same_again(shared_bus: BusProcess) -> None:
    with connect(shared_bus.url) as sock:
        for text in ("one", "two", "six"):
            sock.sendall(post(shared_bus, text, to="again"))
            assert read_answer(sock).status == 201
    # Known from another connection, and of another length.
    assert exchange(shared_bus.url, post(shared_bus, "two", to="again")).status == 201
    assert exchange(shared_bus.url, post(shared_bus, "three", to="again")).status == 201
    assert texts(shared_bus, "again") == ["one", "two", "six", "two", "three"]


def test_a_token_that_was_revoked_is_refused_though_its_header_is_known(shared_bus: BusProcess) -> None:
    admin = Foreign(shared_bus.url, shared_bus.admin_token)
    holder = admin.create_token("shortlived", "agent")
    with connect(shared_bus.url) as sock:
        for _ in range(2):
            sock.sendall(post(shared_bus, "x", token=holder.token))
            assert read_answer(sock).status == 201
        admin.call("DELETE", "/api/tokens/shortlived")
        sock.sendall(post(shared_bus, "x", token=holder.token))
        refused = read_answer(sock)
    assert (refused.status, refused.code) == (401, "unauthorized")
    assert refused.headers["www-authenticate"]


def test_a_host_that_is_refused_is_refused_each_time(shared_bus: BusProcess) -> None:
    with connect(shared_bus.url) as sock:
        for _ in range(3):
            sock.sendall(request("GET", "/healthz", host="evil.example"))
            assert read_answer(sock).status == 421


@pytest.mark.parametrize("cut", [1, 20, -3, -1])
def test_a_known_header_in_two_pieces_is_one_request(shared_bus: BusProcess, cut: int) -> None:
    whole = post(shared_bus, f"cut at {cut}", to="pieces")
    with connect(shared_bus.url) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(whole)
        assert read_answer(sock).status == 201
        sock.sendall(whole[:cut])
        # Whatever of it has arrived by the time that another connection is answered was read by itself.
        assert exchange(shared_bus.url, get(shared_bus, "/healthz")).status == 200
        sock.sendall(whole[cut:])
        assert read_answer(sock).status == 201
    assert texts(shared_bus, "pieces").count(f"cut at {cut}") == 2


def test_requests_sent_at_once_are_answered_in_order(shared_bus: BusProcess) -> None:
    messages = [post(shared_bus, n, to="pipelined") for n in range(6)]
    with connect(shared_bus.url) as sock:
        sock.sendall(messages[0])
        assert read_answer(sock).status == 201
        sock.sendall(messages[1])
        sock.sendall(b"".join(messages[2:5]))
        sock.sendall(messages[5])
        ids = [answer.json["id"] for answer in answers(sock, 5)]
    assert ids == sorted(ids)
    assert texts(shared_bus, "pipelined") == [0, 1, 2, 3, 4, 5]


def test_what_comes_while_a_request_waits_is_answered_after_it(shared_bus: BusProcess) -> None:
    waiting = get(shared_bus, "/api/inbox?agent=patient&wait=60")
    with connect(shared_bus.url) as sock:
        sock.sendall(waiting)
        sock.sendall(post(shared_bus, "later", to="other"))
        admin = Foreign(shared_bus.url, shared_bus.admin_token)
        admin.send("patient", "now")
        first, second = answers(sock, 2)
    assert [message["payload"] for message in first.json["messages"]] == ["now"]
    assert second.status == 201


def test_a_client_that_went_away_leaves_its_seat(tmp_path: Path) -> None:
    with BusProcess(tmp_path, options=["--followers-max", "1"]) as bus:
        waiting = get(bus, "/api/inbox?agent=mel&wait=60")

        def refused() -> bool:
            return exchange(bus.url, get(bus, "/api/inbox?agent=mel&wait=0.001")).status == 429

        with connect(bus.url) as sock:
            sock.sendall(waiting)
            until(refused)
        until(lambda: not refused())
        assert exchange(bus.url, get(bus, "/api/inbox?agent=mel&wait=0.001")).json["messages"] == []


@pytest.mark.parametrize("waited", [False, True], ids=["at once", "after a wait"])
def test_a_client_that_has_closed_its_half_gets_its_answer_and_the_end(shared_bus: BusProcess, waited: bool) -> None:
    """As `nc -N` does; without the answer it would send its message again."""
    with connect(shared_bus.url) as sock:
        if waited:
            sock.sendall(get(shared_bus, "/api/inbox?agent=nobody-writes-to&wait=0.001"))
            assert read_answer(sock).status == 200
        sock.sendall(post(shared_bus, "one"))
        sock.shutdown(socket.SHUT_WR)
        assert read_answer(sock).status == 201
        assert sock.recv(1) == b""


def test_for_a_client_that_has_closed_its_half_nothing_is_waited_for(shared_bus: BusProcess) -> None:
    """It cannot be told from one that is gone."""
    with connect(shared_bus.url) as sock:
        sock.sendall(get(shared_bus, "/api/inbox?agent=nobody-writes-to&wait=60"))
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


@pytest.mark.parametrize("known", [False, True])
def test_a_client_that_wants_no_more_gets_its_answer_and_the_end(shared_bus: BusProcess, known: bool) -> None:
    asked = get(shared_bus, "/readyz", "Connection: close", f"X-Known: {known}")
    for _ in range(2 if known else 1):
        with connect(shared_bus.url) as sock:
            sock.sendall(asked)
            answer = read_answer(sock)
            assert sock.recv(1) == b""
    assert answer.status == 200
    assert answer.headers["connection"] == "close"


def test_an_old_client_gets_its_answer_and_the_end(shared_bus: BusProcess) -> None:
    asked = get(shared_bus, "/readyz").replace(b"HTTP/1.1", b"HTTP/1.0")
    for _ in range(2):
        with connect(shared_bus.url) as sock:
            sock.sendall(asked)
            assert read_answer(sock).status == 200
            assert sock.recv(1) == b""


def test_a_connection_that_is_used_is_kept_and_an_idle_one_closed(tmp_path: Path) -> None:
    with BusProcess(tmp_path, options=["--idle-timeout-s", "1"]) as bus, connect(bus.url) as sock:
        asked, used_until = get(bus, "/readyz"), time.monotonic() + 2.5
        while time.monotonic() < used_until:  # longer than an idle one is kept
            sock.sendall(asked)
            assert read_answer(sock).status == 200
        began = time.monotonic()
        assert sock.recv(1) == b""
        assert time.monotonic() - began > 0.5


def test_an_answer_carries_the_date_and_what_keeps_it_from_caches(shared_bus: BusProcess) -> None:
    answer = exchange(shared_bus.url, get(shared_bus, "/readyz"))
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["date"].endswith("GMT")


def test_a_body_over_the_limit_is_refused_though_it_came_whole(tmp_path: Path) -> None:
    with BusProcess(tmp_path, options=["--body-limit-bytes", "1024"]) as bus:
        for _ in range(2):
            refused = exchange(bus.url, post(bus, "x" * 2000))
            assert (refused.status, refused.code) == (413, "too_large")
        assert exchange(bus.url, post(bus, "x" * 100)).status == 201


def test_more_sends_at_once_than_there_may_be_are_told_to_come_back(tmp_path: Path) -> None:
    with BusProcess(tmp_path, options=["--sends-max", "1"]) as bus:
        admin = Foreign(bus.url, bus.admin_token)
        one = post(bus, "x")
        connections = [connect(bus.url) for _ in range(20)]
        try:
            # They come while the bus is stopped, and so all at once when it goes on.
            bus.process.send_signal(signal.SIGSTOP)
            for sock in connections:
                sock.sendall(one)
            bus.process.send_signal(signal.SIGCONT)
            got = [read_answer(sock) for sock in connections]
        finally:
            for sock in connections:
                sock.close()
        refused = [answer for answer in got if answer.status != 201]
        assert len(refused) > 0
        assert {(answer.status, answer.code, answer.headers["retry-after"]) for answer in refused} == {
            (429, "too_many_requests", "1")
        }
        # Nothing of what was refused is there, and what comes later is taken.
        assert texts(bus, "mel") == ["x"] * (len(got) - len(refused))
        admin.send("mel", "again")


@pytest.mark.parametrize("size", [70_000, 120_000, 200_000])
@pytest.mark.parametrize("key", [False, True])
def test_a_long_body_leaves_the_connection_as_it_was(shared_bus: BusProcess, size: int, key: bool) -> None:
    with connect(shared_bus.url) as sock:
        for number in range(3):
            keyed = (f"Idempotency-Key: long-{size}-{number}",) if key else ()
            sock.sendall(post(shared_bus, "x" * (size + number), *keyed, to="long"))
            assert read_answer(sock).status == 201
            sock.sendall(get(shared_bus, "/readyz"))
            assert read_answer(sock).status == 200


def test_empty_lines_before_a_request_do_not_make_it_whole(shared_bus: BusProcess) -> None:
    """Its length is such that the header, taken for the body, would be all of it."""
    token = f"Authorization: Bearer {shared_bus.admin_token}"
    lines = [
        "POST /api/send HTTP/1.1",
        "Host: localhost",
        token,
        "Content-Length: 000",
        "Content-Type: application/json",
    ]
    length = len("\r\n".join(lines)) + 4
    lines[3] = f"Content-Length: {length}"
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    assert len(head) == length
    body = json.dumps({"to_agent": "blank", "payload": ""}).encode()
    body = json.dumps({"to_agent": "blank", "payload": "x" * (length - len(body))}).encode()
    with connect(shared_bus.url) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(b"\r\n\r\n" + head)
        # What has arrived by the time that another connection is answered was read by itself.
        assert exchange(shared_bus.url, get(shared_bus, "/healthz")).status == 200
        sock.sendall(body + get(shared_bus, "/readyz"))
        assert [answer.status for answer in answers(sock, 2)] == [201, 200]


def test_requests_sent_with_a_part_of_another_are_answered(shared_bus: BusProcess) -> None:
    one = get(shared_bus, "/readyz")
    count = 33_000 // len(one) + 1  # together more than a header may have
    with connect(shared_bus.url) as sock:
        sock.sendall(one * count + one[:5])
        assert [answer.status for answer in answers(sock, count)] == [200] * count
        sock.sendall(one[5:])
        assert read_answer(sock).status == 200


# ---- offers of other protocols --------------------------------------------------------------------------------------

#: What `curl --http2` and Java's client send with a request, by default.
OFFER = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")


def in_pieces(bus: BusProcess, sock: socket.socket, *pieces: bytes) -> None:
    """Send pieces that the bus reads one by one."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connect(bus.url) as other:
        for piece in pieces:
            sock.sendall(piece)
            # What has arrived by the time that another connection is answered was read by itself.
            other.sendall(get(bus, "/healthz"))
            assert read_answer(other).status == 200


@pytest.mark.parametrize("where", ["whole", "in the header", "before the body", "in the body"])
@pytest.mark.parametrize("form", ["length", "chunks"])
def test_an_offer_of_another_protocol_is_ignored(shared_bus: BusProcess, where: str, form: str) -> None:
    whole = post(shared_bus, f"{where}, {form}", *OFFER, to="upgraded")
    if form == "chunks":
        head, _, body = whole.partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
        whole = b"\r\n".join([*lines, b"Transfer-Encoding: chunked"]) + b"\r\n\r\n" + chunked(body, 20)
    start = whole.index(b"\r\n\r\n") + 4
    cut = {"whole": 0, "in the header": start - 20, "before the body": start, "in the body": start + 9}[where]
    with connect(shared_bus.url) as sock:
        for _ in range(2):
            in_pieces(shared_bus, sock, whole[:cut], whole[cut:])
            assert read_answer(sock).status == 201
        sock.sendall(whole + get(shared_bus, "/readyz", *OFFER) + get(shared_bus, "/readyz"))
        assert [answer.status for answer in answers(sock, 3)] == [201, 200, 200]
    assert texts(shared_bus, "upgraded").count(f"{where}, {form}") == 3


@pytest.mark.parametrize("pieces", [1, 2])
def test_what_comes_with_an_offer_is_read_as_a_body_alone(shared_bus: BusProcess, pieces: int) -> None:
    hidden = post(shared_bus, "hidden", to="hidden")
    whole = request("POST", "/api/send", host="localhost", token=shared_bus.admin_token, body=hidden, headers=OFFER)
    with connect(shared_bus.url) as sock:
        cut = 0 if pieces == 1 else len(whole) - len(hidden)
        in_pieces(shared_bus, sock, whole[:cut], whole[cut:])
        assert read_answer(sock).code == "bad_json"
        sock.sendall(get(shared_bus, "/readyz"))
        assert read_answer(sock).status == 200
    assert texts(shared_bus, "hidden") == []


@pytest.mark.parametrize("target", ["localhost:443", "/readyz", "localhost/readyz"])
def test_connect_is_refused_and_what_follows_is_not_read(shared_bus: BusProcess, target: str) -> None:
    with connect(shared_bus.url) as sock:
        sock.sendall(request("CONNECT", target, host="localhost") + post(shared_bus, "inside", to="inside"))
        assert read_answer(sock).status == 400
        assert sock.recv(1) == b""
    assert texts(shared_bus, "inside") == []


# ---- clients that send much, or read nothing ------------------------------------------------------------------------


def memory_bytes(bus: BusProcess) -> int:
    status = Path(f"/proc/{bus.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def deaf(bus: BusProcess) -> socket.socket:
    """A connection for which the machine holds little of what it does not read."""
    return connect(bus.url, buffer_bytes=4096)


@pytest.mark.parametrize(("method", "body", "status"), [("GET", None, 200), ("POST", b"{}", 405)])
def test_what_waits_behind_a_request_is_not_made_into_requests(
    tmp_path: Path, method: str, body: bytes | None, status: int
) -> None:
    """A read brings thousands of small ones, and each came to 2 kB of objects."""
    small = request(method, "/healthz", host="localhost", body=body, content_type=None)
    with BusProcess(tmp_path, options=["--send-buffer-bytes", "4096"]) as bus:
        connections = [deaf(bus) for _ in range(10)]
        try:
            assert exchange(bus.url, small).status == status
            before = memory_bytes(bus)
            # All of it comes while the bus is stopped, and so in one read each.
            bus.process.send_signal(signal.SIGSTOP)
            for sock in connections:
                sock.sendall(small * 20)
                sock.setblocking(False)
                sock.send(small * 5000)
            bus.process.send_signal(signal.SIGCONT)
            most = 0
            for _ in range(20):
                assert exchange(bus.url, small).status == status
                most = max(most, memory_bytes(bus))
            assert most - before < 30_000_000  # it was 100 MB and more
            for sock in connections:
                sock.setblocking(True)
                assert [answer.status for answer in answers(sock, 20)] == [status] * 20
        finally:
            for sock in connections:
                sock.close()


def test_refusals_are_not_heaped_up_for_a_client_that_reads_nothing(tmp_path: Path) -> None:
    """What comes while it leaves much unread is looked at when it has read: so it is taken, once there is a seat."""
    stops = tmp_path / "stops"
    stops.mkdir()
    options, env = ["--sends-max", "1", "--send-buffer-bytes", "4096"], {"EVENTLOG_STOP_AT": str(stops)}
    count = 1000
    with BusProcess(tmp_path, options=options, env=env) as bus, connect(bus.url) as holder, deaf(bus) as sock:
        one = post(bus, "x")
        os.mkfifo(stops / "bus.append.committed")
        holder.sendall(one)
        held = until(lambda: list(stops.glob("bus.append.committed.*")))[0]
        in_pieces(bus, sock, *[one] * count)
        held.write_bytes(b"")
        assert read_answer(holder).status == 201
        statuses = [answer.status for answer in answers(sock, count)]
        refused = statuses.count(429)
        assert statuses == [429] * refused + [201] * (count - refused)
        assert 0 < refused < count / 2
        assert len(texts(bus, "mel")) == 1 + count - refused


def test_a_client_that_does_not_read_takes_no_seat_from_others(tmp_path: Path) -> None:
    with BusProcess(tmp_path, options=["--sends-max", "1", "--send-buffer-bytes", "4096"]) as bus, deaf(bus) as sock:
        admin = Foreign(bus.url, bus.admin_token)
        for _ in range(5):
            admin.send("mel", "x" * 100_000)
        in_pieces(bus, sock, get(bus, "/api/inbox?agent=mel&after=0"), post(bus, "mine", to="other"))
        assert exchange(bus.url, post(bus, "theirs", to="other")).status == 201
        page, sent = answers(sock, 2)
        assert len(page.json["messages"]) == 5
        assert sent.status == 201
        assert texts(bus, "other") == ["theirs", "mine"]


@pytest.mark.parametrize("last", [False, True])
def test_a_client_that_does_not_read_is_cut_off(tmp_path: Path, last: bool) -> None:
    options = ["--send-buffer-bytes", "4096", "--send-timeout-s", "0.3"]
    with BusProcess(tmp_path, options=options) as bus, deaf(bus) as sock:
        admin = Foreign(bus.url, bus.admin_token)
        for _ in range(5):
            admin.send("mel", "x" * 100_000)
        sock.sendall(get(bus, "/api/inbox?agent=mel&after=0", *(["Connection: close"] if last else [])))
        until(lambda: "read nothing for too long" in bus.log_text)
        seen = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := sock.recv(65536):
                seen += chunk
        assert len(seen) < 400_000
