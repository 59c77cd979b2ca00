"""Followers in great number, with a revoked token, or that read nothing: the bus ends them and harms no other."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.foreign import Foreign, address
from tests.e2e.readers import Frames, PlainReader
from tests.e2e.senders import Sender
from tests.support import BusProcess, until

pytestmark = [pytest.mark.fault, pytest.mark.anyio]

FOLLOWERS = 500
#: Within which a bus is to have stopped, seconds.
STOP_S = 1.0
#: How often that is tried: the machine may be busy with something else.
TRIES = 3
STUCK = 50
#: Growth for which a bus with that many stuck readers has no reason, bytes; each holds a chunk of 256 KiB and what
#: waits in its connection. Were they each sent all there is, it would be ten times as much.
GROWTH_MAX = 100_000_000


@pytest.fixture
def admin(bus: BusProcess) -> Foreign:
    return Foreign(bus.url, bus.admin_token)


@dataclass
class Stream:
    """One follower on a bare socket, read to its end, and what it was sent."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    content: bytes = b""

    @classmethod
    async def open(cls, url: str, token: str, query: str = "after=0") -> "Stream":
        reader, writer = await asyncio.open_connection(*address(url))
        stream = cls(reader, writer)
        writer.write(request(token, query))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        return stream

    async def read_to_end(self) -> None:
        """Takes the chunks of the transfer encoding until the one that says it was the last."""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            self.content += (await self.reader.readexactly(size + 2))[:-2]
        assert await self.reader.readexactly(2) == b"\r\n"
        self.writer.close()

    @property
    def ids(self) -> list[int]:
        """The ids of the messages, which must be whole."""
        assert self.content.endswith(b"\n\n"), self.content[-200:]
        frames = Frames("")
        ids = []
        for chunk in self.content.splitlines(keepends=True):
            ids += [int(frames.last_id) for _ in frames.feed(chunk)]
        return ids


def request(token: str, query: str) -> bytes:
    """What a follower sends."""
    return f"GET /api/stream?{query} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


async def test_stopping_ends_every_follower_at_a_whole_frame_within_a_second(tmp_path: Path) -> None:
    took_s: list[float] = []
    while not took_s or (took_s[-1] > STOP_S and len(took_s) < TRIES):
        with BusProcess(tmp_path / str(len(took_s))) as bus:
            took_s.append(await stop_with_followers(bus))
    assert took_s[-1] <= STOP_S, took_s


async def stop_with_followers(bus: BusProcess) -> float:
    """Stops a bus under load, while it has many followers; checks what each of them saw; how long it took, seconds."""
    admin = Foreign(bus.url, bus.admin_token)
    with Sender(bus.url, admin.token, name="tony") as sender:
        streams = [await Stream.open(bus.url, admin.token) for _ in range(FOLLOWERS)]
        reading = [asyncio.create_task(stream.read_to_end()) for stream in streams]
        while not all(stream.content for stream in streams):
            await asyncio.sleep(0.01)
        began = time.monotonic()
        assert await asyncio.to_thread(bus.stop) == 0
        took_s = time.monotonic() - began
        async with asyncio.timeout(30):
            await asyncio.gather(*reading)
    told = sorted(id_ for ids in sender.accepted.values() for id_ in ids)
    for stream in streams:
        ids = stream.ids
        assert ids == sorted(set(ids))
        assert ids[: len(told)] == told[: len(ids)]
    return took_s


async def test_a_revoked_token_ends_its_streams_and_no_others(admin: Foreign) -> None:
    old, good = admin.create_token("old", "auditor"), admin.create_token("good", "auditor")
    ending = [await Stream.open(admin.url, old.token) for _ in range(2)]
    staying = await Stream.open(admin.url, good.token)
    sent = admin.send("mel")
    assert admin.call("DELETE", "/api/tokens/old").status in (200, 204)
    async with asyncio.timeout(5):
        for stream in ending:
            await stream.read_to_end()
            assert stream.ids == [sent]
    assert old.call("GET", "/api/stream").status == 401
    later = admin.send("mel")
    async with asyncio.timeout(5):
        await staying.reader.readuntil(b"id: %d\ndata: " % later)
    staying.writer.close()


@pytest.fixture
def impatient_bus(tmp_path: Path) -> Iterator[BusProcess]:
    """A bus that waits only briefly for readers that do not read, and leaves it to nobody else to end them."""
    with BusProcess(tmp_path / "bus", options=["--send-timeout-s", "3", "--tcp-user-timeout-ms", "60000"]) as bus:
        yield bus


def test_readers_that_do_not_read_harm_nobody_and_are_ended(impatient_bus: BusProcess) -> None:
    bus = impatient_bus
    admin = Foreign(bus.url, bus.admin_token)
    sent = [admin.send("mel", "x" * 200_000) for _ in range(60)]
    with PlainReader(bus.url, admin.token) as reader:
        until(lambda: reader.ids == sent)
        before, connected = resident_bytes(bus), connections(bus)
        with ExitStack() as stack:
            for _ in range(STUCK):
                stack.enter_context(stuck(admin))
            until(lambda: connections(bus) == connected + STUCK)
            for _ in range(20):
                sent.append(admin.send("mel", "x" * 200_000))
                until(lambda: reader.ids == sent, 2.0)
            assert resident_bytes(bus) - before < GROWTH_MAX
            until(lambda: connections(bus) <= connected, 20)
    assert reader.failure is None
    assert bus.stop() == 0


def stuck(admin: Foreign) -> socket.socket:
    """A follower that asks for everything and reads nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(address(admin.url))
    sock.sendall(request(admin.token, "after=0"))
    return sock


def resident_bytes(bus: BusProcess) -> int:
    """The memory that a bus has now."""
    status = Path(f"/proc/{bus.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def connections(bus: BusProcess) -> int:
    """How many sockets and files a bus holds."""
    return len(list(Path(f"/proc/{bus.process.pid}/fd").iterdir()))
