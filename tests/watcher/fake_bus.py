"""A fake of the bus, for odd answers that the real one gives only by accident: it speaks the watcher's three routes.

It decides as simply as it can: one wake in flight for an agent, a wake that ended `ok` acknowledges what it covered.
Its answers can be made odd, one by one: see `Odd`.
"""

import asyncio
import json
import re
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any
from urllib.parse import parse_qs, urlsplit

PROBLEM = "application/problem+json"


@dataclass(frozen=True)
class Odd:
    """One odd answer: the request is `worked` on or not, and then answered with this, or not at all (`lost`).

    One that `trickles` comes in pieces that never end.
    """

    status: int = 200
    body: Any = None
    kind: str = "application/json"
    worked: bool = False
    lost: bool = False
    trickles: bool = False


def problem(status: int, code: str) -> Odd:
    """An error of the bus's own."""
    return Odd(status, {"code": code, "detail": f"the fake says {code}"}, PROBLEM)


#: The request arrives and its answer does not.
LOST = Odd(worked=True, lost=True)
#: The request arrives, and its answer never ends.
TRICKLE = Odd(worked=True, trickles=True)
#: A proxy that does not find its way.
PROXY_404 = Odd(404, "<html>nothing here</html>", "text/html")


@dataclass
class Wake:
    """A wake as the fake granted it."""

    id: int
    key: str
    agent: str
    after: int
    through: int
    attempt: int
    timeout_s: float
    began: float = field(default_factory=monotonic)
    outcome: str | None = None


def framed(message: dict[str, Any]) -> str:
    """A message as a frame."""
    return f"id: {message['id']}\ndata: {json.dumps(message)}\n\n"


class FakeBus:
    """`async with FakeBus() as bus`; `stop` and `start` take it down and up again at the same address."""

    def __init__(self) -> None:
        self.log_id = "log-1"
        self.head = 0
        self.messages: list[dict[str, Any]] = []
        self.read: dict[str, int] = defaultdict(int)
        self.wakes: dict[int, Wake] = {}
        self.asks: list[dict[str, Any]] = []
        self.reports: list[tuple[int, dict[str, Any]]] = []
        self.streams: list[dict[str, Any]] = []
        self.tokens = {"the-watchers-token"}
        self.odd: dict[str, deque[Odd]] = defaultdict(deque)
        self.gates: dict[str, asyncio.Event] = {}
        self.heartbeats = True
        self.opening: Callable[[int], int] | None = None
        self.retry_after_s = 300.0
        self.port = 0
        self._connections: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        self._followers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.trickles = 0
        self.trickling = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> "FakeBus":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer, task in list(self._connections.items()):
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*self._connections.values(), return_exceptions=True)

    # ---- what a test does -------------------------------------------------------------------------------------------

    def post(self, agent: str, text: str = "hello", *, told: bool = True) -> int:
        """A message comes; `told` followers hear of it."""
        self.head += 1
        message = {"id": self.head, "event": "message", "to_agent": agent, "from_agent": "tester", "payload": text}
        self.messages.append(message)
        if told:
            self.tell(framed(message))
        return self.head

    def tell(self, frame: str) -> None:
        """Send a frame to all followers."""
        for writer in self._followers:
            writer.write(frame.encode())

    def cut(self) -> None:
        """Break all streams."""
        for writer in list(self._followers):
            writer.transport.abort()

    def close_gate(self, route: str) -> None:
        """Answers of `ask` or `report` are held back until `gates[route].set()`."""
        self.gates[route] = asyncio.Event()

    @property
    def outcomes(self) -> list[str]:
        """The outcomes recorded, by wake."""
        return [wake.outcome for wake in self.wakes.values() if wake.outcome]

    # ---- the protocol -----------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[writer] = task
        try:
            while await self._request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            del self._connections[writer]
            self._followers.discard(writer)
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split(" ", 2)
        headers = {name.lower(): value for name, value in re.findall(r"^([\w-]+): (.*?)\r$", head, re.MULTILINE)}
        body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"null")
        route = {"GET": "stream", "POST": "ask", "PATCH": "report"}[method]
        odd: Odd | None = self.odd[route].popleft() if self.odd[route] else None
        if headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            odd = problem(401, "unauthorized")
        if route == "stream" and odd is None:
            return await self._stream(writer, parse_qs(urlsplit(target).query), headers)
        if odd is None or odd.worked:
            wake = target.rpartition("/")[2]
            status, answer = self._ask(body) if route == "ask" else self._report(int(wake), body)
            if route in self.gates:
                await self.gates[route].wait()
        elif route == "ask":
            self.asks.append(body)
        elif route == "report":
            self.reports.append((0, body))
        if odd is not None and odd.lost:
            return False
        if odd is not None and odd.trickles:
            await self._trickle(writer)
        if odd is not None:
            status, answer = odd.status, odd.body
        ordinary = "application/json" if status < 300 else PROBLEM
        self._answer(writer, status, answer, ordinary if odd is None else odd.kind)
        return True

    def _answer(self, writer: asyncio.StreamWriter, status: int, answer: Any, kind: str) -> None:
        said = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(said)}\r\n\r\n"
        writer.write(head.encode() + said)

    async def _trickle(self, writer: asyncio.StreamWriter) -> None:
        """An answer in pieces, until the connection is closed."""
        self.trickles += 1
        self.trickling += 1
        try:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n")
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        finally:
            self.trickling -= 1

    async def _stream(self, writer: asyncio.StreamWriter, query: dict[str, list[str]], headers: dict[str, str]) -> bool:
        after = int(headers.get("last-event-id") or self.head)
        self.streams.append({**query, "last-event-id": headers.get("last-event-id"), "asks_before": len(self.asks)})
        start = self.opening(after) if self.opening else after
        writer.write(
            f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nEventlog-Id: {self.log_id}\r\n"
            f"Eventlog-Head: {self.head}\r\n\r\nretry: 20\nid: {start}\n\n".encode()
        )
        self._followers.add(writer)
        if self.opening is None:
            missed = [message for message in self.messages if message["id"] > after]
            writer.write("".join(map(framed, missed)).encode() + f"id: {self.head}\n\n".encode())
        while True:
            await writer.drain()
            await asyncio.sleep(0.5)
            if self.heartbeats:
                writer.write(b": alive\n\n")
            if writer.is_closing():
                return False

    def _ask(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.asks.append(body)
        agent = body["agent"]
        latest = next((wake for wake in reversed(self.wakes.values()) if wake.agent == agent), None)
        own = next((wake for wake in self.wakes.values() if wake.key == body["key"]), None)
        if own is not None and own.outcome is not None:
            return 200, {"wake": None, "why": "closed", "retry_after_s": 0.05}
        if own is not None:
            return 200, {"wake": self._shown(own), "age_s": monotonic() - own.began}
        if latest is not None and latest.outcome is None:
            return 200, {"wake": None, "why": "in_flight", "retry_after_s": self.retry_after_s}
        unread = [message["id"] for message in self.messages if message["to_agent"] == agent]
        unread = [message_id for message_id in unread if message_id > self.read[agent]]
        if not unread:
            return 200, {"wake": None, "why": "nothing_unread", "retry_after_s": self.retry_after_s}
        attempt = 1 + sum(wake.agent == agent and wake.through >= unread[0] for wake in self.wakes.values())
        self.head += 1
        through = unread[0 if body["deliver"] == "each" else -1]
        wake = Wake(self.head, body["key"], agent, self.read[agent], through, attempt, body["timeout_s"])
        self.wakes[wake.id] = wake
        return 201, {"wake": self._shown(wake), "age_s": 0}

    def _shown(self, wake: Wake) -> dict[str, Any]:
        covered = [m for m in self.messages if m["to_agent"] == wake.agent and wake.after < m["id"] <= wake.through]
        told = {
            name: getattr(wake, name) for name in ("id", "key", "agent", "after", "through", "attempt", "timeout_s")
        }
        tokens = {"token": f"token-of-{wake.id}", "reply_token": f"reply-token-of-{wake.id}"}
        return {**told, **tokens, "messages": covered, "truncated": False}

    def _report(self, wake_id: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.reports.append((wake_id, body))
        wake = self.wakes.get(wake_id)
        if wake is None or wake.key != body["key"]:
            return 404, {"code": "unknown_wake", "detail": "no such wake"}
        if wake.outcome not in (None, body["outcome"]):
            return 409, {"code": "already_finished", "detail": "reported before"}
        if wake.outcome is None:
            self.head += 1
            wake.outcome = body["outcome"]
            if wake.outcome == "ok":
                self.read[wake.agent] = wake.through
        return 200, {"id": wake.id, "outcome": wake.outcome}
