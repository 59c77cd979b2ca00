"""Fan-out: deliveries a second and their latency, 1 to 1000 followers x 1 to 64 senders."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar

from benchmarks.contenders.bus import Bus
from benchmarks.contenders.fleet import Fleet
from benchmarks.contenders.nchan import Nchan
from benchmarks.load.drive import Sending, following
from benchmarks.workloads.base import Column, Setting, Workload, started

#: Followers x senders; of the fleet also at a pace that leaves room, messages a second.
CASES = ((1, 1), (1, 19), (1, 64), (7, 1), (7, 19), (7, 64), (100, 1), (100, 19), (100, 64), (1000, 1), (1000, 64))
QUICK = ((7, 19), (100, 64))
PACE_PER_S = 50
#: Given to followers to catch up before counting, and of the load before counting begins, seconds.
WARM_S = 0.5


class Fanout(Workload):
    """Every follower is shown every message; what they get is counted while the senders go on."""

    name: ClassVar[str] = "fanout"
    title: ClassVar[str] = "Fan-out: deliveries a second, and POST to delivery"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("deliveries_per_s", "deliveries/s", 0, "more"),
        Column("p50_ms", "p50 ms", 2),
        Column("p99_ms", "p99 ms", 2),
        Column("max_ms", "max ms", 1),
        Column("messages_per_s", "messages/s", 0, "more"),
        Column("send_cpu", "senders' CPU", 2),
        Column("load_cpu", "followers' CPU", 2),
        Column("own_cpu", "own CPU", 2),
    )

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._contenders = {one.name: one for one in setting.available((Bus, Nchan, Fleet))}

    def cases(self) -> list[str]:
        """Followers x senders."""
        chosen = QUICK if self.setting.quick else CASES
        return [f"{f} x {s}" for f, s in chosen] + [f"7 x 19, {PACE_PER_S}/s"]

    def contenders(self) -> list[str]:
        """The bus and its peers."""
        return list(self._contenders)

    @contextmanager
    def running(self) -> Iterator[None]:
        """All of them, idle while another one is measured."""
        with started(self._contenders, self.setting, self.name):
            yield

    def measure(self, contender: str, case: str) -> dict[str, float] | None:
        """Followers first, then senders; counted once both have got going."""
        one, seconds = self._contenders[contender], self.setting.seconds
        numbers, _, pace = case.partition(", ")
        followers, senders = (int(n) for n in numbers.split(" x "))
        if contender == Fleet.name and followers > 100:
            return None  # its one worker is busy for minutes
        watched = one.following(followers)
        plan = one.sending(senders, seconds, rate=PACE_PER_S if pace else 0)
        assert watched is not None
        assert plan is not None
        with following(watched) as followed:
            sending = Sending(replace(plan, warm_s=WARM_S))
            sending.wait_counting()
            followed.begin()
            cpu_s, began = one.program.cpu_s(), time.perf_counter()
            time.sleep(max(0.0, seconds - 0.1))
            counted = followed.count()
            own = (one.program.cpu_s() - cpu_s) / (time.perf_counter() - began)
            sent = sending.result()
        return {
            "deliveries_per_s": counted["events"] / counted["seconds"],
            "p50_ms": counted["p50_ms"],
            "p99_ms": counted["p99_ms"],
            "max_ms": counted["max_ms"],
            "messages_per_s": sent["requests_per_s"],
            "send_cpu": sent["load_cpu"],
            "load_cpu": counted["load_cpu"],
            "own_cpu": own,
        }
