"""Replay: history from disk to one follower and to fifty at once after a restart, and appends meanwhile."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar

from benchmarks.build import Built, built
from benchmarks.contenders.bus import Bus
from benchmarks.load.drive import Following, Sending, following, send_all
from benchmarks.workloads.base import Column, Setting, Workload

#: Appends a second meanwhile, enough for a p99 that is more than the slowest one, and over how many connections.
APPENDS_PER_S, SENDERS = 100, 4
MANY = 50
#: A replay that is not over after so many times the length of a measurement is counted as far as it has come.
LENGTHS_MAX = 5
#: The largest log that is replayed, events.
EVENTS_MAX = 1_000_000


class Replay(Workload):
    """The bus is restarted before each replay, so that nothing is in its window."""

    name: ClassVar[str] = "replay"
    title: ClassVar[str] = "Replay: history from disk, and appends meanwhile"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("events_per_s", "events/s", 0, "more"),
        Column("append_p50_ms", "append p50 ms", 2),
        Column("append_p99_ms", "append p99 ms", 2),
        Column("own_cpu", "own CPU", 2),
        Column("load_cpu", "followers' CPU", 2),
    )

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        setting.available((Bus,))
        self._bus = Bus(setting.cache)
        self._log: Built | None = None
        self._folder = setting.data / "replay"

    def cases(self) -> list[str]:
        """The appends alone are what those during a replay are compared with."""
        return ["appends alone", "1 follower", f"{MANY} followers"]

    def contenders(self) -> list[str]:
        """The bus."""
        return [Bus.name]

    @contextmanager
    def running(self) -> Iterator[None]:
        """A copy of a built log."""
        size = max((s for s in self.setting.sizes if s <= EVENTS_MAX), default=EVENTS_MAX)
        self._log = built(self.setting.cache.folder, size, self.setting.say)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._log.copy_to(self._folder)
        self._bus.start(self._folder)
        try:
            yield
        finally:
            self._bus.stop()
            shutil.rmtree(self.setting.data, ignore_errors=True)

    def measure(self, contender: str, case: str) -> dict[str, float] | None:
        """One replay, or the appends alone."""
        self._bus.stop()
        self._bus.start(self._folder)
        appends = self._bus.sending(SENDERS, self.setting.seconds, rate=APPENDS_PER_S)
        if case == "appends alone":
            alone = send_all(appends)
            return {"append_p50_ms": alone["p50_ms"], "append_p99_ms": alone["p99_ms"]}
        followers = int(case.split()[0])
        plan = replace(self._bus.following(followers, query="after=earliest"), probes=0)
        cpu_s, began = self._bus.program.cpu_s(), time.perf_counter()
        with following(plan) as followed:
            meanwhile = Sending(appends) if followers > 1 else None
            counted = self._counted(followed)
            own = (self._bus.program.cpu_s() - cpu_s) / (time.perf_counter() - began)
            sent = meanwhile.result() if meanwhile else None
        metrics = {
            "events_per_s": counted["events"] / counted["last_s"],
            "own_cpu": own,
            "load_cpu": counted["load_cpu"],
        }
        if sent:
            metrics |= {"append_p50_ms": sent["p50_ms"], "append_p99_ms": sent["p99_ms"]}
        return metrics

    def _counted(self, followed: Following) -> dict[str, float]:
        """What was counted when the last follower had all of it, or when time was up."""
        assert self._log is not None
        messages = self._log.events - self._log.acks
        end = time.monotonic() + LENGTHS_MAX * self.setting.seconds
        while True:
            counted = followed.count()
            if counted["least"] >= messages or time.monotonic() > end:
                return counted
            time.sleep(0.05)
