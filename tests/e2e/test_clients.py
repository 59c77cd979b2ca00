"""Clients of every kind see every id exactly once, in order, however often they are cut off and the bus is killed."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.browser import Browser, chromium
from tests.e2e.cutter import Cutter
from tests.e2e.foreign import Foreign, address
from tests.e2e.readers import BusReader, CurlReader, PlainReader, Reader
from tests.e2e.senders import Sender
from tests.support import SOAK, BusProcess, until

pytestmark = [pytest.mark.e2e, pytest.mark.fault]

#: How often things happen to the clients: in a soak as often as was promised once, else as often as is quick.
APPENDS, CUTS, KILLS = (10_000, 200, 10) if SOAK else (4_000, 80, 4)
#: The readers besides the browser.
READERS = {"plain": PlainReader, "filtered": PlainReader, "curl": CurlReader, "bus": BusReader}
#: How often a reader is cut off that comes back only after the 2 s that the bus asks for.
PATIENT_CUTS = 4
#: About what the bus sends for one message, bytes.
FRAME_BYTES = 270
#: Whose pages may use the bus.
ORIGIN = "http://panel.example:8000"


@dataclass
class Seen:
    """What came of the run: the ids that each client saw, and those that it should have seen."""

    appended: list[int] = field(default_factory=list)
    to_mel: list[int] = field(default_factory=list)
    by: dict[str, list[int]] = field(default_factory=dict)
    connections: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str | None] = field(default_factory=dict)
    cuts: int = 0


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """One run of all of it."""
    folder = tmp_path_factory.mktemp("clients")
    with ExitStack() as stack:
        browser = stack.enter_context(Browser(folder / "browser"))
        bus = BusProcess(folder / "bus", options=["--allowed-origins", browser.origin])
        stack.enter_context(bus)
        admin = Foreign(bus.url, bus.admin_token)
        auditor = admin.create_token("panel", "auditor")

        readers: dict[str, Reader | Browser] = {}
        cutters: list[Cutter] = []
        for name, kind in READERS.items():
            cuts = PATIENT_CUTS if kind is BusReader else (CUTS - 2 * PATIENT_CUTS) // 3
            share = 0.5 if name == "filtered" else 1
            cutters.append(stack.enter_context(cutter(bus, cuts, share, seed=len(cutters))))
            query = "&agent=mel" if name == "filtered" else ""
            readers[name] = stack.enter_context(kind(cutters[-1].url, auditor.token, query=query))
        if chromium() is not None:
            cutters.append(stack.enter_context(cutter(bus, PATIENT_CUTS, 1, seed=len(cutters))))
            browser.follow(f"{cutters[-1].url}/api/stream?after=0&heartbeat=1&token={auditor.token}")
            until(lambda: browser.connections or browser.failure or browser.closed, 60)
            readers["browser"] = browser
        yield run(bus, admin, readers, cutters)


def cutter(bus: BusProcess, cuts: int, share: float, seed: int) -> Cutter:
    """One that makes so many cuts in about two thirds of what it relays, which is a share of all messages."""
    mean_bytes = round(APPENDS * share * FRAME_BYTES * 2 / 3 / (cuts + 1))
    return Cutter(bus.port, mean_bytes=mean_bytes, cuts_max=cuts, seed=seed)


def run(bus: BusProcess, admin: Foreign, readers: dict[str, Reader | Browser], cutters: list[Cutter]) -> Seen:
    """Two senders, kills of the bus meanwhile, and then until every reader has seen the last message."""
    counts = {"mel": APPENDS // 2, "tony": APPENDS - APPENDS // 2}
    senders = [Sender(bus.url, admin.token, name=to, to_agent=to, count=count) for to, count in counts.items()]
    for sender in senders:
        sender.start()
    for kill in range(1, KILLS + 1):
        until(lambda kill=kill: sum(len(s.accepted) for s in senders) >= kill * APPENDS // (KILLS + 1), 300)  # type: ignore[misc]
        bus.kill()
        bus.start()
    for sender in senders:
        sender.join(300)
        assert sender.refused is None, sender.refused
        assert len(sender.accepted) == counts[sender.name], "the sender did not come to its end"
    admin.send("tony", "the last but one")
    last = admin.send("mel", "the last")
    for reader in readers.values():
        until(lambda reader=reader: last in reader.ids[-1:] or reader.failure or is_closed(reader), 60)  # type: ignore[misc]
    messages = admin.events("&event=message")
    return Seen(
        appended=[event["id"] for event in messages],
        to_mel=[event["id"] for event in messages if event["to_agent"] == "mel"],
        by={name: list(reader.ids) for name, reader in readers.items()},
        connections={name: reader.connections for name, reader in readers.items()},
        failures={
            name: reader.failure or ("it gave up" if is_closed(reader) else None) for name, reader in readers.items()
        },
        cuts=sum(cutter.cuts for cutter in cutters),
    )


def is_closed(reader: Reader | Browser) -> bool:
    """Whether a browser has given up for good."""
    return isinstance(reader, Browser) and reader.closed


@pytest.mark.parametrize("name", READERS)
def test_a_client_sees_every_id_once_and_in_order(seen: Seen, name: str) -> None:
    assert seen.failures[name] is None
    assert seen.by[name] == (seen.to_mel if name == "filtered" else seen.appended)


@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason="Chromium is not installed")
def test_a_browser_sees_every_id_once_and_in_order(seen: Seen) -> None:
    assert seen.failures["browser"] is None
    assert seen.by["browser"] == seen.appended
    assert seen.connections["browser"] > KILLS, "it was never cut off"


def test_all_of_it_did_happen(seen: Seen) -> None:
    assert len(seen.appended) == APPENDS + 2
    # Not all: a cut that meets a reader which is just coming back cuts nothing.
    least = 0.9 * (CUTS - PATIENT_CUTS if chromium() is None else CUTS)
    assert seen.cuts >= least


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Foreign]:
    """The administrator of a bus that allows pages of ORIGIN."""
    with BusProcess(tmp_path_factory.mktemp("pages"), options=["--allowed-origins", ORIGIN]) as bus:
        yield Foreign(bus.url, bus.admin_token)


class TestPages:
    """Web pages of other origins: only those that are allowed."""

    def test_an_allowed_page_may_read_what_is_answered(self, admin: Foreign) -> None:
        page = {"Origin": ORIGIN}
        for answer in (admin.call("GET", "/api/agents", headers=page), admin.call("GET", "/api/nowhere", headers=page)):
            assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert answer.headers["Vary"] == "Origin"

    def test_an_allowed_page_may_ask_before_it_sends(self, admin: Foreign) -> None:
        asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
        answer = admin.with_token("none").call("OPTIONS", "/api/send", headers=asked)
        assert answer.status == 200
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
        allowed = answer.headers["Access-Control-Allow-Headers"].split(", ")
        assert {"Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"} <= set(allowed)

    @pytest.mark.parametrize(
        "origin", ["http://panel.example", "http://panel.example:8001", "null", "http://evil.example"]
    )
    def test_another_page_reaches_nothing(self, admin: Foreign, origin: str) -> None:
        for method, path in (("GET", "/api/agents"), ("OPTIONS", "/api/send"), ("POST", "/api/send")):
            answer = admin.call(method, path, headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
            assert (answer.status, answer.code) == (403, "forbidden")
            assert answer.headers["Access-Control-Allow-Origin"] is None

    @pytest.mark.browser
    @pytest.mark.skipif(chromium() is None, reason="Chromium is not installed")
    def test_another_page_s_event_source_gives_up(self, admin: Foreign, tmp_path: Path) -> None:
        auditor = admin.create_token("panel", "auditor")
        admin.send("mel")
        with Browser(tmp_path / "browser") as browser:
            browser.follow(f"{admin.url}/api/stream?after=0&token={auditor.token}")
            until(lambda: browser.closed)
            assert (browser.ids, browser.connections) == ([], 0)

    @pytest.mark.parametrize("kind", ["agent", "watcher", "admin"])
    def test_a_token_that_can_write_is_refused_in_a_query_string(self, admin: Foreign, kind: str) -> None:
        writer = admin.create_token(f"a-{kind}", kind)
        with socket.create_connection(address(admin.url)) as plain:
            request = f"GET /api/stream?token={writer.token} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            plain.sendall(request.encode())
            assert plain.recv(65536).startswith(b"HTTP/1.1 403 ")
