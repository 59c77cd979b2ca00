"""Overload: twice the messages that the bus can take, and how soon it is itself again."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from typing import ClassVar

from benchmarks.contenders.base import TEXT
from benchmarks.contenders.bus import Bus
from benchmarks.load.drive import send_all
from benchmarks.workloads.base import Column, Setting, Workload

#: Connections that find the capacity, and those that the overload may use.
SENDERS, CONNECTIONS = 256, 2000
OVERLOAD_S, QUICK_OVERLOAD_S = 60.0, 3.0
#: An append that takes no longer than this many idle ones, and at least so many ms, is one of a recovered bus.
IDLE_TIMES, IDLE_MS = 5.0, 20.0


class Overload(Workload):
    """Requests come at a fixed rate, whether or not earlier ones were answered, as far as there are connections."""

    name: ClassVar[str] = "overload"
    title: ClassVar[str] = "Overload: twice what the bus can take"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("messages_per_s", "accepted/s", 0, "more"),
        Column("refused_per_s", "refused/s", 0),
        Column("starved_per_s", "without connection/s", 0),
        Column("p50_ms", "p50 ms", 1),
        Column("p99_ms", "p99 ms", 1),
        Column("max_ms", "max ms", 0),
        Column("rss_mb", "memory, most, MB", 0),
        Column("recovered_s", "recovered s", 2),
    )

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        setting.available((Bus,))
        self._bus = Bus(setting.cache)
        self._capacity = 0.0
        self._idle_ms = 0.0

    @property
    def rounds(self) -> int:
        """One: it is long, and nothing is compared."""
        return 1

    def cases(self) -> list[str]:
        """In this order: each needs what the one before it found."""
        return ["capacity", "twice", "after"]

    def contenders(self) -> list[str]:
        """The bus."""
        return [Bus.name]

    @contextmanager
    def running(self) -> Iterator[None]:
        """A bus with an empty log."""
        self._bus.start(self.setting.fresh("overload"))
        try:
            yield
        finally:
            self._bus.stop()
            shutil.rmtree(self.setting.data, ignore_errors=True)

    def measure(self, contender: str, case: str) -> dict[str, float] | None:
        """One of the three."""
        if case == "capacity":
            self._idle_ms = min(self._append_ms() for _ in range(20))
            found = send_all(self._bus.sending(SENDERS, self.setting.seconds))
            self._capacity = found["requests_per_s"]
            return {"messages_per_s": self._capacity, **{m: found[m] for m in ("p50_ms", "p99_ms", "max_ms")}}
        if case == "after":
            return {"recovered_s": self._recovered_s(), "rss_mb": self._bus.program.rss_bytes() / 1e6}
        seconds = QUICK_OVERLOAD_S if self.setting.quick else OVERLOAD_S
        with _most_rss(self._bus) as most:
            result = send_all(replace(self._bus.sending(CONNECTIONS, seconds), rate=2 * self._capacity))
        took_s = seconds + 0.3
        return {
            "messages_per_s": result["requests_per_s"],
            "refused_per_s": result["later"] / took_s,
            "starved_per_s": result["starved"] / took_s,
            "rss_mb": most[0] / 1e6,
            **{name: result[name] for name in ("p50_ms", "p99_ms", "max_ms")},
        }

    def _recovered_s(self) -> float:
        """Since the load ended, until an append takes no longer than it should."""
        began = time.perf_counter()
        while self._append_ms() > max(IDLE_MS, IDLE_TIMES * self._idle_ms):
            pass
        return time.perf_counter() - began

    def _append_ms(self) -> float:
        """How long one append over a new connection takes."""
        began = time.perf_counter()
        connection = HTTPConnection("127.0.0.1", self._bus.port, timeout=60)
        headers = {"Authorization": f"Bearer {self._bus.token}", "Content-Type": "application/json"}
        connection.request("POST", "/api/send", json.dumps({"to_agent": "mel", "payload": TEXT}), headers)
        connection.getresponse().read()
        connection.close()
        return 1000 * (time.perf_counter() - began)


@contextmanager
def _most_rss(bus: Bus) -> Iterator[list[int]]:
    """The most memory that the bus holds while the block runs, in bytes; in a list, to be read afterwards."""
    most = [bus.program.rss_bytes()]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            most[0] = max(most[0], bus.program.rss_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()
