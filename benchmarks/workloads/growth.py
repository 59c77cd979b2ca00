"""Growth: what appends, pages, threads, following and starting cost in small logs and in large ones."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from benchmarks.build import AGENTS, Built, built
from benchmarks.contenders.bus import Bus
from benchmarks.load.drive import Sending, following, send_all
from benchmarks.workloads.base import Column, Setting, Workload

#: Senders of the appends, and messages a second while delivery is timed.
SENDERS, PACE_PER_S = 16, 100
#: Messages of an inbox page: every log has more for one agent after its middle, so that all pages are alike.
PAGE = 25
#: What an event takes on disk, its write-ahead log included, at most.
EVENT_BYTES = 700


class Growth(Workload):
    """The contenders are logs of different sizes, each with a bus of its own, measured in turns."""

    name: ClassVar[str] = "growth"
    title: ClassVar[str] = "Growth: the same work in logs of different sizes"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("p50_ms", "p50 ms", 2),
        Column("p99_ms", "p99 ms", 2),
        Column("requests_per_s", "requests/s", 0, "more"),
        Column("bytes_per_event", "bytes/event", 0),
    )

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        setting.available((Bus,))
        self._sizes = [size for size in setting.sizes if self._fits(size)]
        self._logs: dict[str, Built] = {}
        self._buses: dict[str, Bus] = {}

    def _fits(self, size: int) -> bool:
        """Whether there is room for a log of this size and the copy that is worked on; if not, that is said."""
        kept = (self.setting.cache.folder / "logs").glob(f"{size}-*/built.json")
        needed = (1 if any(kept) else 2) * EVENT_BYTES * size
        if shutil.disk_usage(self.setting.cache.folder).free > needed:
            return True
        self.setting.skipped[f"{size:,} events"] = f"it takes {needed / 1e9:.0f} GB of disk"
        self.setting.say(f"skipped: {size:,} events: {self.setting.skipped[f'{size:,} events']}")
        return False

    @property
    def basis(self) -> str:  # type: ignore[override]
        """The smallest log."""
        return self.contenders()[0]

    def cases(self) -> list[str]:
        """What is done with each log."""
        return ["append", "inbox", "thread", "follow", "start-up", "file"]

    def contenders(self) -> list[str]:
        """The sizes."""
        return [f"{size:,} events" for size in self._sizes]

    @contextmanager
    def running(self) -> Iterator[None]:
        """A bus on a copy of each log."""
        try:
            for name, size in zip(self.contenders(), self._sizes, strict=True):
                self._logs[name] = built(self.setting.cache.folder, size, self.setting.say)
                self._logs[name].copy_to(self.setting.fresh(name))
                self._buses[name] = Bus(self.setting.cache)
                self._buses[name].start(self._folder(name))
            yield
        finally:
            for one in self._buses.values():
                one.stop()
            shutil.rmtree(self.setting.data, ignore_errors=True)

    def _folder(self, name: str) -> Path:
        return self.setting.data / name.replace(" ", "-")

    def measure(self, contender: str, case: str) -> dict[str, float] | None:
        """One kind of work in one log."""
        bus, log, seconds = self._buses[contender], self._logs[contender], self.setting.seconds
        if case == "file":
            size = (Path(log.folder) / "eventlog.db").stat().st_size
            return {"bytes_per_event": size / log.events}
        if case == "start-up":
            bus.stop()
            began = time.perf_counter()
            bus.start(self._folder(contender))
            return {"p50_ms": 1000 * (time.perf_counter() - began)}
        if case == "follow":
            with following(bus.following(1)) as followed:
                sending = Sending(bus.sending(SENDERS, seconds, rate=PACE_PER_S))
                sending.wait_counting()
                followed.begin()
                sending.result()
                counted = followed.count()
            return {"p50_ms": counted["p50_ms"], "p99_ms": counted["p99_ms"]}
        if case == "append":
            result = send_all(bus.sending(SENDERS, seconds))
        else:
            path = f"/api/threads/{log.thread}"
            if case == "inbox":
                path = f"/api/inbox?agent={AGENTS[1]}&after={log.cursor}&limit={PAGE}"
            request = bus.http("GET", path, headers=f"Authorization: Bearer {bus.admin}\r\n")
            result = send_all(bus.http_sending(request, 1, seconds, 0))
        return {name: result[name] for name in ("p50_ms", "p99_ms", "requests_per_s")}
