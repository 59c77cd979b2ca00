"""Append: durable messages a second, one each time by 1 to 256 senders, and in batches by one sender."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from benchmarks.contenders.bare_sqlite import commits_per_s
from benchmarks.contenders.base import Contender
from benchmarks.contenders.bus import Bus
from benchmarks.contenders.durable_streams import DurableStreams
from benchmarks.contenders.fleet import Fleet
from benchmarks.contenders.jetstream import JetStream
from benchmarks.contenders.nchan import Nchan
from benchmarks.contenders.redis import Redis
from benchmarks.load.drive import send_all
from benchmarks.machine import fdatasync_s
from benchmarks.sample import quantile
from benchmarks.workloads.base import Column, Setting, Workload, started

#: Senders of the warm-up: until a write-ahead log was written through once, every commit also makes its file longer.
WARM_SENDERS = 64
#: The floors, measured in the same turns: one durable write, and what SQLite alone does.
FDATASYNC, BARE, OURS = "fdatasync 4 KiB", "bare sqlite3", "bare sqlite3, the bus's statements"


class Append(Workload):
    """Closed loops: each sender sends its next request when the last one was answered."""

    name: ClassVar[str] = "append"
    title: ClassVar[str] = "Append: durable messages a second over the network"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("messages_per_s", "messages/s", 0, "more"),
        Column("p50_ms", "p50 ms", 3),
        Column("p99_ms", "p99 ms", 2),
        Column("load_cpu", "load's CPU", 2),
        Column("own_cpu", "own CPU", 2),
        Column("own_us", "own CPU us/message", 1),
    )

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        kinds = (Bus, JetStream, Redis, Fleet, DurableStreams, Nchan)
        self._contenders: dict[str, Contender] = {one.name: one for one in setting.available(kinds)}
        without = "the bus's schema and settings, without HTTP, hashing and checking"
        setting.durability.setdefault(BARE, f"{without}; one row after the other by executemany")
        setting.durability.setdefault(OURS, f"{without}; many rows in each statement, as the bus does it")
        setting.durability.setdefault(FDATASYNC, "one write and fdatasync in place")

    def cases(self) -> list[str]:
        """Senders of one message each, then batches of one sender."""
        senders = (1, 64) if self.setting.quick else (1, 16, 64, 256)
        batches = (100,) if self.setting.quick else (10, 100, 1000)
        return [f"{n} senders" if n > 1 else "1 sender" for n in senders] + [f"batches of {n}" for n in batches]

    def contenders(self) -> list[str]:
        """The bus, its peers, and the floors."""
        return [*self._contenders, BARE, OURS, FDATASYNC]

    @contextmanager
    def running(self) -> Iterator[None]:
        """All of them, idle while another one is measured; each warmed up, so that files and caches have their size."""
        with started(self._contenders, self.setting, self.name):
            for name, one in self._contenders.items():
                self.setting.say(f"warming up {name}")
                measured(one, WARM_SENDERS, 1, self.setting.seconds)
            yield

    def measure(self, contender: str, case: str) -> dict[str, float] | None:
        """One contender under one load."""
        number = int(next(word for word in case.split() if word.isdecimal()))
        senders, batch = (1, number) if case.startswith("batches") else (number, 1)
        if contender == FDATASYNC:
            return self._fdatasync() if case == "1 sender" else None
        if contender in (BARE, OURS):
            group = batch if batch > 1 else senders
            folder = self.setting.fresh("bare")
            commits = commits_per_s(folder, group, self.setting.seconds, ours=contender == OURS)
            return {"messages_per_s": group * commits}
        return measured(self._contenders[contender], senders, batch, self.setting.seconds)

    def _fdatasync(self) -> dict[str, float]:
        folder = self.setting.data
        folder.mkdir(parents=True, exist_ok=True)
        took = sorted(fdatasync_s(folder, self.setting.seconds))
        p50, p99 = (1000 * quantile(took, part) for part in (0.5, 0.99))
        return {"messages_per_s": len(took) / sum(took), "p50_ms": p50, "p99_ms": p99}


def measured(one: Contender, senders: int, batch: int, seconds: float) -> dict[str, float] | None:
    """A closed loop of some senders; None if this contender takes no batches. Raises LoadFailed."""
    plan = one.sending(senders, seconds, batch=batch)
    if plan is None:
        return None
    cpu_s, began = one.program.cpu_s(), time.perf_counter()
    result = send_all(plan)
    return {
        "messages_per_s": batch * result["requests_per_s"],
        "p50_ms": result["p50_ms"],
        "p99_ms": result["p99_ms"],
        "max_ms": result["max_ms"],
        "load_cpu": result["load_cpu"],
        **own_cpu(one, cpu_s, time.perf_counter() - began, batch * result["sent"]),
    }


def own_cpu(one: Contender, before_s: float, took_s: float, messages: float) -> dict[str, float]:
    """A contender's share of a core since it had used `before_s`, and its microseconds for each message."""
    used_s = one.program.cpu_s() - before_s
    return {"own_cpu": used_s / took_s, "own_us": 1e6 * used_s / messages if messages else 0.0}
