"""Load generator: many connections that each send a request and wait for its answer; one process, one epoll loop.

`python -m benchmarks.load.send` reads a Plan as JSON from standard input, says `counting` when the warm-up is over, and
writes a result as JSON.
"""

import array
import json
import select
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from benchmarks.load.wire import MARK, PROTOCOLS, STAMP, Said, allow_many_files
from benchmarks.sample import quantile

#: A server that says nothing for so long has failed, seconds.
SILENCE_S = 30.0
_READ_BYTES = 262_144


@dataclass(frozen=True)
class Plan:
    """What to send. Texts are bytes as latin-1.

    `hello` is sent once by each connection, its `{n}` being the connection's number, and answered by something that
    ends with `hello_ends`. A `request` may hold STAMP, which becomes the time of sending, and `{n}`; `answers` is how
    many answers it gets. `rate` is requests a second over all connections, sent whether or not earlier ones were
    answered, as far as there are connections; 0 sends the next one as soon as the last was answered. What is sent in
    the first `warm_s` is not counted.
    """

    host: str
    port: int
    protocol: str
    request: str
    connections: int = 1
    seconds: float = 3.0
    warm_s: float = 0.3
    rate: float = 0.0
    answers: int = 1
    hello: str = ""
    hello_ends: str = ""


class Connection:
    """One connection and the request under way on it."""

    __slots__ = ("due", "left", "rest", "sent", "sock", "template")

    def __init__(self, plan: Plan, number: int) -> None:
        self.sock = socket.create_connection((plan.host, plan.port), SILENCE_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.template = plan.request.replace("{n}", str(number)).encode("latin-1").split(STAMP)
        self.rest = b""
        self.left = 0
        self.sent = self.due = 0.0
        if plan.hello:
            self.sock.sendall(plan.hello.replace("{n}", str(number)).encode("latin-1"))
        said = b""
        while plan.hello_ends and not said.endswith(plan.hello_ends.encode("latin-1")):
            said += self.sock.recv(4096)

    def send(self, answers: int, due: float) -> None:
        """Send the request, which was due at `due`."""
        self.due = due
        self.sent = time.perf_counter()
        self.left = answers
        self.sock.sendall((b"%b%019d" % (MARK, time.monotonic_ns())).join(self.template))


class Load:
    """The loop. `waits` are the seconds from when a request was due to its whole answer."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._parse = PROTOCOLS[plan.protocol]
        self._poll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._idle: deque[Connection] = deque()
        self.waits = array.array("d")
        self.sent = self.later = self.bad = self.starved = 0
        self.complaint = ""
        for number in range(plan.connections):
            one = Connection(plan, number)
            self._connections[one.sock.fileno()] = one
            self._poll.register(one.sock, select.EPOLLIN)
            self._idle.append(one)

    def run(self) -> dict[str, Any]:
        """Send for the planned time; the result."""
        plan = self._plan
        began = time.perf_counter()
        self._counting_from = began + plan.warm_s
        end = self._counting_from + plan.seconds
        next_due = began
        cpu: float | None = None
        while (now := time.perf_counter()) < end:
            if cpu is None and now >= self._counting_from:
                print("counting", flush=True)
                cpu = time.process_time()
            if plan.rate:
                next_due = self._send_due(next_due, now)
                wait_s = max(0.0, min(next_due, end) - now)
            else:
                while self._idle:
                    self._idle.popleft().send(plan.answers, time.perf_counter())
                wait_s = (end if cpu is not None else self._counting_from) - now
            for handle, _ in self._poll.poll(wait_s):
                self._answered(self._connections[handle])
        took = time.perf_counter() - self._counting_from
        return self._result(took, time.process_time() - (cpu or 0.0))

    def _send_due(self, next_due: float, now: float) -> float:
        """Send what is due by now; when the next one is."""
        step = 1 / self._plan.rate
        while next_due <= now:
            if self._idle:
                self._idle.popleft().send(self._plan.answers, next_due)
            else:
                self.starved += 1
            next_due += step
        return next_due

    def _answered(self, one: Connection) -> None:
        """Read what came on a connection; send again once all answers are there."""
        got = one.sock.recv(_READ_BYTES)
        if not got:
            raise SystemExit("the server closed a connection under load")
        data = one.rest + got if one.rest else got
        while data:
            said, end = self._parse(data)
            if said is Said.PARTIAL:
                break
            if said is Said.NOISE:
                if data.startswith(b"PING"):
                    one.sock.sendall(b"PONG\r\n")
            else:
                one.left -= 1
                self._count(one, said, data[:end])
            data = data[end:]
        one.rest = data
        if one.left <= 0:
            if self._plan.rate:
                self._idle.append(one)
            else:
                one.send(self._plan.answers, time.perf_counter())

    def _count(self, one: Connection, said: Said, answer: bytes) -> None:
        self.sent += one.left == 0
        if said is Said.BAD:
            self.bad += 1
            self.complaint = answer[:300].decode("latin-1")
        elif said is Said.LATER:
            self.later += 1
        elif one.left == 0 and (now := time.perf_counter()) >= self._counting_from:
            self.waits.append(now - one.due)

    def _result(self, took: float, cpu_s: float) -> dict[str, Any]:
        ordered = sorted(self.waits)
        p50, p99 = (1000 * quantile(ordered, part) for part in (0.5, 0.99))
        return {
            "requests_per_s": len(ordered) / took,
            "sent": self.sent,
            "p50_ms": p50,
            "p99_ms": p99,
            "max_ms": 1000 * ordered[-1] if ordered else 0.0,
            "later": self.later,
            "bad": self.bad,
            "starved": self.starved,
            "load_cpu": cpu_s / took,
            "complaint": self.complaint,
        }


def main() -> None:
    """Read the plan, send, write the result."""
    allow_many_files()
    plan = Plan(**json.loads(sys.stdin.read()))
    load = Load(plan)
    print(json.dumps(load.run()), flush=True)


if __name__ == "__main__":
    main()
