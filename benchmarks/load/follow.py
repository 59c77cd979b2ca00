"""Load generator: many followers of a stream of server-sent events; one process, one epoll loop, counting by the mark.

`python -m benchmarks.load.follow` reads a Plan as one line of JSON and says `ready` when every follower's stream
stands; what comes before that is counted, too. Each further line asks it: `begin` starts counting anew, `count` says
the result so far as JSON, and an empty line or the end of the input ends it.
"""

import array
import json
import os
import re
import select
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.load.wire import MARK, STAMP, allow_many_files
from benchmarks.sample import quantile

SILENCE_S = 30.0
_READ_BYTES = 1 << 20
_STAMPED = re.compile(re.escape(MARK) + rb"(\d{19})")
#: One less than a stamp: what is whole in a tail was found before.
_TAIL_BYTES = len(STAMP) - 1


@dataclass(frozen=True)
class Plan:
    """Whom to follow. `request` is bytes as latin-1. Of the first `probes` followers every event's latency is taken.

    A stream stands when its answer holds `ready`.
    """

    host: str
    port: int
    request: str
    followers: int = 1
    probes: int = 4
    ready: str = "\r\n\r\n"


class Follower:
    """One stream."""

    __slots__ = ("bytes", "count", "probe", "sock", "tail")

    def __init__(self, plan: Plan, *, probe: bool) -> None:
        self.sock = socket.create_connection((plan.host, plan.port), SILENCE_S)
        self.sock.sendall(plan.request.encode("latin-1"))
        self.count = self.bytes = 0
        self.probe = probe
        self.tail = b""


class Load:
    """All streams."""

    def __init__(self, plan: Plan) -> None:
        self._poll = select.epoll()
        self._poll.register(sys.stdin, select.EPOLLIN)
        self._buffer = bytearray(_READ_BYTES)
        self._view = memoryview(self._buffer)
        self.waits = array.array("d")
        ready = plan.ready.encode("latin-1")
        self._followers: dict[int, Follower] = {}
        self.begin()
        opened = [Follower(plan, probe=n < plan.probes) for n in range(plan.followers)]
        for one in opened:
            self._wait_ready(one, ready)
            self._followers[one.sock.fileno()] = one
            self._poll.register(one.sock, select.EPOLLIN)

    def _wait_ready(self, one: Follower, ready: bytes) -> None:
        said = b""
        while ready not in said:
            got = one.sock.recv(65_536)
            if not got:
                raise SystemExit(f"a stream was refused: {said[:300].decode('latin-1')}")
            said += got
        if not said.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"a stream was refused: {said[:300].decode('latin-1')}")
        self._buffer[: len(said)] = said
        self._take(one, len(said))

    def begin(self) -> None:
        """Count from here."""
        self._began = self._last = time.perf_counter()
        self._cpu_s = time.process_time()
        self.waits = array.array("d")
        for one in self._followers.values():
            one.count = one.bytes = 0

    def run(self) -> None:
        """Read until told to end."""
        stdin = sys.stdin.fileno()
        asked = b""
        while True:
            for handle, _ in self._poll.poll():
                if handle != stdin:
                    self._read(self._followers[handle])
                    continue
                asked += os.read(stdin, 4096) or b"\n"
                while b"\n" in asked:
                    word, _, asked = asked.partition(b"\n")
                    if not word:
                        return
                    self._obey(word)

    def _obey(self, word: bytes) -> None:
        if word == b"begin":
            self.begin()
            print("begun", flush=True)
        else:
            print(json.dumps(self.result()), flush=True)

    def _read(self, one: Follower) -> None:
        size = one.sock.recv_into(self._buffer)
        if not size:
            raise SystemExit("the server ended a stream")
        self._take(one, size)

    def _take(self, one: Follower, size: int) -> None:
        """Count the marks in what the buffer holds, and those that the end of the read before has cut."""
        edge = one.tail[1 - len(MARK) :] + self._view[: min(size, len(MARK) - 1)]
        marks = self._buffer.count(MARK, 0, size) + edge.count(MARK)
        before = one.tail
        one.tail = (before + self._view[max(0, size - _TAIL_BYTES) : size])[-_TAIL_BYTES:]
        one.bytes += size
        if marks:
            one.count += marks
            self._last = time.perf_counter()
        if one.probe:
            now = time.monotonic_ns()
            stamps = _STAMPED.findall(before + self._view[:size])
            self.waits.extend((now - int(stamp)) / 1e9 for stamp in stamps)

    def result(self) -> dict[str, Any]:
        """What was counted since the beginning."""
        took = time.perf_counter() - self._began
        counts = [one.count for one in self._followers.values()]
        ordered = sorted(self.waits)
        return {
            "events": sum(counts),
            "least": min(counts, default=0),
            "bytes": sum(one.bytes for one in self._followers.values()),
            "seconds": took,
            "last_s": self._last - self._began,
            "p50_ms": 1000 * quantile(ordered, 0.5),
            "p99_ms": 1000 * quantile(ordered, 0.99),
            "max_ms": 1000 * ordered[-1] if ordered else 0.0,
            "load_cpu": (time.process_time() - self._cpu_s) / took,
        }


def main() -> None:
    """Read the plan, follow, answer what is asked."""
    allow_many_files()
    load = Load(Plan(**json.loads(sys.stdin.readline())))
    print("ready", flush=True)
    load.run()


if __name__ == "__main__":
    main()
