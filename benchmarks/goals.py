"""Goals: what the bus and the watcher are to reach, each as a ratio or a limit, and whether a run reached it."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.sample import Samples, Spread


@dataclass(frozen=True)
class Goal:
    """One goal. `measured` gives what counts, None if the run did not measure it; `least` or `most` bounds it."""

    work: str
    wanted: str
    measured: Callable[[Samples], float | None]
    least: float | None = None
    most: float | None = None
    unit: str = "x"

    def verdict(self, samples: Samples) -> tuple[str, str]:
        """What was measured, and "yes", "no" or "not measured"."""
        value = self.measured(samples)
        if value is None:
            return "", "not measured"
        met = (self.least is None or value >= self.least) and (self.most is None or value <= self.most)
        return f"{value:,.3g} {self.unit}", "yes" if met else "no"


def times(workload: str, case: str, metric: str, other: str, *, of: str = "bus") -> Callable[[Samples], float | None]:
    """`of` as a multiple of `other`: the median over the rounds."""
    return lambda samples: _median(samples.ratio(workload, case, of, other, metric))


def value(workload: str, case: str, metric: str, contender: str = "bus") -> Callable[[Samples], float | None]:
    """The median of a metric."""
    return lambda samples: _median(samples.spread(workload, case, contender, metric))


def between(
    workload: str, cases: tuple[str, str], metric: str, contender: str = "bus"
) -> Callable[[Samples], float | None]:
    """The metric of the second case as a multiple of the first one's."""

    def ratio(samples: Samples) -> float | None:
        one, two = (_median(samples.spread(workload, case, contender, metric)) for case in cases)
        return two / one if one and two is not None else None

    return ratio


def growth(case: str) -> Callable[[Samples], float | None]:
    """The largest log's time as a multiple of the smallest one's."""

    def ratio(samples: Samples) -> float | None:
        sizes = samples.contenders("growth", case)
        if len(sizes) < 2:
            return None
        small, large = (_median(samples.spread("growth", case, size, "p50_ms")) for size in (sizes[0], sizes[-1]))
        return large / small if small and large is not None else None

    return ratio


def start_up(samples: Samples) -> float | None:
    """The largest log's start-up time, seconds."""
    sizes = samples.contenders("growth", "start-up")
    found = _median(samples.spread("growth", "start-up", sizes[-1], "p50_ms")) if len(sizes) > 1 else None
    return None if found is None else found / 1000


def _median(found: Spread | None) -> float | None:
    return None if found is None else found.median


_ONE, _MANY, _RATE = "1 sender", "64 senders", "messages_per_s"
_SENT, _BATCH = "append, 64 senders", "batches of 100"
_FLEET, _SCRIPT = "fleet (re-created)", "fleet and script (re-created)"
_OUT = "deliveries_per_s"

GOALS: tuple[Goal, ...] = (
    Goal(_SENT, "at least 2.5 x JetStream (sync always)", times("append", _MANY, _RATE, "jetstream"), least=2.5),
    Goal(_SENT, "at least 12 x the fleet's bus", times("append", _MANY, _RATE, _FLEET), least=12),
    Goal(_SENT, "at least 0.25 x raw Redis, appendfsync always", times("append", _MANY, _RATE, "redis"), least=0.25),
    Goal(
        "append, 1 sender",
        "p50 at most 3 x one fdatasync of 4 KiB",
        times("append", _ONE, "p50_ms", "fdatasync 4 KiB"),
        most=3,
    ),
    Goal(
        "append, batches of 100",
        "at least 60 % of bare sqlite3",
        times("append", _BATCH, _RATE, "bare sqlite3"),
        least=0.6,
    ),
    Goal("fan-out, 100 x 64", "at least 1.7 x nchan", times("fanout", "100 x 64", _OUT, "nchan"), least=1.7),
    Goal("fan-out, 1000 x 64", "at least 4 x nchan", times("fanout", "1000 x 64", _OUT, "nchan"), least=4),
    Goal("fan-out, 7 x 19", "p50 at most 3 ms at full speed", value("fanout", "7 x 19", "p50_ms"), most=3, unit="ms"),
    Goal(
        "fan-out, 7 x 19",
        "p50 at most 1.2 ms at 50 messages/s",
        value("fanout", "7 x 19, 50/s", "p50_ms"),
        most=1.2,
        unit="ms",
    ),
    Goal(
        "replay from disk",
        "at least 150,000 events/s for one follower",
        value("replay", "1 follower", "events_per_s"),
        least=150_000,
        unit="events/s",
    ),
    Goal(
        "replay from disk",
        "50 followers no less in sum than one",
        between("replay", ("1 follower", "50 followers"), "events_per_s"),
        least=1,
    ),
    Goal(
        "replay from disk",
        "appends meanwhile: p99 at most 4 x idle",
        between("replay", ("appends alone", "50 followers"), "append_p99_ms"),
        most=4,
    ),
    Goal(
        "wake, idle",
        "p50 at least 80 x faster than the fleet's",
        times("wake", "idle", "p50_ms", "bus and watcher", of=_SCRIPT),
        least=80,
    ),
    Goal("wake, idle", "p50 at most 10 ms", value("wake", "idle", "p50_ms", "bus and watcher"), most=10, unit="ms"),
    *(
        Goal("growth, smallest to largest log", f"{case} at most 1.2 x", growth(case), most=1.2)
        for case in ("append", "inbox", "thread", "follow")
    ),
    Goal("growth, smallest to largest log", "start-up at most 2 x", growth("start-up"), most=2),
    Goal("growth, largest log", "start-up under 1 s", start_up, most=1, unit="s"),
    Goal("memory", "at most 50 KB per idle follower", value("cost", "per follower", "kb"), most=50, unit="KB"),
    Goal("memory", "bus under 90 MB at rest", value("cost", "memory at rest", "mb"), most=90, unit="MB"),
    Goal("memory", "watcher under 50 MB", value("cost", "memory at rest", "mb", "watcher"), most=50, unit="MB"),
    Goal("idle CPU", "bus under 0.3 % of a core, 9 watchers", value("cost", "idle CPU", "percent"), most=0.3, unit="%"),
    Goal("idle CPU", "watcher under 0.3 %", value("cost", "idle CPU", "percent", "watcher"), most=0.3, unit="%"),
    Goal("command line", "`eventlog send` at most 150 ms", value("cost", "eventlog send", "ms"), most=150, unit="ms"),
    Goal(
        "command line",
        "`bus-watcher status` at most 150 ms",
        value("cost", "bus-watcher status", "ms", "watcher"),
        most=150,
        unit="ms",
    ),
    Goal(
        "overload",
        "recovers within 1 s",
        value("overload", "after", "recovered_s"),
        most=1,
        unit="s",
    ),
)
