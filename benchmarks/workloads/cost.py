"""Cost: memory and processor time at rest, start-up, command line calls, and what an installation weighs."""

import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path
from typing import ClassVar

from benchmarks.contenders.bus import Bus
from benchmarks.contenders.watched import Pipe, launch_watcher
from benchmarks.load.drive import ROOT, following
from benchmarks.program import Program, clean_environment
from benchmarks.workloads.base import Column, Setting, Workload

WATCHERS = 9
#: Idle followers, how long idleness is watched, and how often a command is called.
FOLLOWERS, IDLE_S, CALLS = 1000, 60.0, 10
QUICK_FOLLOWERS, QUICK_IDLE_S, QUICK_CALLS = 200, 5.0, 3
#: What ends before memory at rest is looked at, seconds.
SETTLE_S = 1.0


class Cost(Workload):
    """A bus with nine connected watchers, all of them idle."""

    name: ClassVar[str] = "cost"
    title: ClassVar[str] = "Cost: what bus, watcher and command line take"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("ms", "ms", 0),
        Column("mb", "MB", 1),
        Column("kb", "KB", 1),
        Column("percent", "% of a core", 2),
        Column("packages", "packages", 0),
    )

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        setting.available((Bus,))
        self._bus = Bus(setting.cache)
        self._watchers: list[Program] = []
        self._pipe: Pipe | None = None
        self._token = ""

    @property
    def rounds(self) -> int:
        """One: every figure is one of many calls, or of a long time."""
        return 1

    def cases(self) -> list[str]:
        """Each unit has a column of its own. At rest comes before the followers: their leaving takes a while, too."""
        rest = ["memory at rest", "idle CPU", "per follower", "start-up", "eventlog send", "eventlog inbox"]
        return [*rest, "bus-watcher status", "wheel", "dependencies"]

    def contenders(self) -> list[str]:
        """Both programs."""
        return ["bus", "watcher"]

    @contextmanager
    def running(self) -> Iterator[None]:
        """The bus and its watchers."""
        data = self.setting.fresh("cost")
        try:
            self._bus.start(data / "bus")
            self._token = self._bus.call("POST", "/api/tokens", {"name": "node", "kind": "watcher"})["token"]
            self._pipe = Pipe(data)
            self._watchers = [self._watcher(number) for number in range(WATCHERS)]
            yield
        finally:
            for one in self._watchers:
                one.stop()
            self._bus.stop()
            if self._pipe is not None:
                self._pipe.close()
            shutil.rmtree(self.setting.data, ignore_errors=True)

    def _watcher(self, number: int) -> Program:
        assert self._pipe is not None
        agents = [f"agent-{number}{letter}" for letter in "ab"]
        folder = self.setting.data / "cost" / f"watcher-{number}"
        return launch_watcher(folder, self._bus.url, self._token, agents, self._pipe.command, f"node-{number}")

    def measure(self, contender: str, case: str) -> dict[str, float] | None:
        """One figure of one program; None where there is none."""
        of_bus: dict[str, Callable[[], dict[str, float]]] = {
            "memory at rest": lambda: self._memory([self._bus.program]),
            "per follower": self._per_follower,
            "idle CPU": lambda: self._idle([self._bus.program]),
            "start-up": self._bus_start,
            "eventlog send": lambda: self._call("eventlog", "send", "mel", "hello", "--from", "you"),
            "eventlog inbox": lambda: self._call("eventlog", "inbox", "mel"),
            "wheel": _wheel,
            "dependencies": _dependencies,
        }
        state = self.setting.data / "cost" / "watcher-0"
        of_watcher: dict[str, Callable[[], dict[str, float]]] = {
            "memory at rest": lambda: self._memory(self._watchers),
            "idle CPU": lambda: self._idle(self._watchers),
            "start-up": self._watcher_start,
            "bus-watcher status": lambda: self._call("bus-watcher", "status", "--state-dir", f"{state}/state"),
        }
        found = (of_bus if contender == "bus" else of_watcher).get(case)
        return None if found is None else found()

    def _memory(self, programs: Sequence[Program]) -> dict[str, float]:
        time.sleep(SETTLE_S)
        return {"mb": statistics.median(one.family_bytes() for one in programs) / 1e6}

    def _per_follower(self) -> dict[str, float]:
        count = QUICK_FOLLOWERS if self.setting.quick else FOLLOWERS
        before = self._bus.program.rss_bytes()
        with following(self._bus.following(count)):
            time.sleep(SETTLE_S)
            return {"kb": (self._bus.program.rss_bytes() - before) / count / 1e3}

    def _idle(self, programs: Sequence[Program]) -> dict[str, float]:
        before = [one.family_cpu_s() for one in programs]
        seconds = QUICK_IDLE_S if self.setting.quick else IDLE_S
        time.sleep(seconds)
        used = [one.family_cpu_s() - cpu_s for one, cpu_s in zip(programs, before, strict=True)]
        return {"percent": 100 * statistics.mean(used) / seconds}

    def _bus_start(self) -> dict[str, float]:
        took = []
        for number in range(self._calls):
            one = Bus(self.setting.cache)
            folder = self.setting.data / "cost" / f"start-{number}"
            began = time.perf_counter()
            try:
                one.start(folder)
                took.append(1000 * (time.perf_counter() - began))
            finally:
                one.stop()
        return {"ms": statistics.median(took)}

    def _watcher_start(self) -> dict[str, float]:
        took = []
        for number in range(self._calls):
            began = time.perf_counter()
            self._watcher(WATCHERS + number).stop()
            took.append(1000 * (time.perf_counter() - began))
        return {"ms": statistics.median(took)}

    def _call(self, program: str, *arguments: str) -> dict[str, float]:
        """A command line call, from its start to its end."""
        command = [str(Path(sys.executable).parent / program), *arguments]
        environ = clean_environment(
            {"EVENTLOG_URL": self._bus.url, "EVENTLOG_TOKEN": self._bus.admin, "PYTHONPATH": str(ROOT)}
        )
        took = []
        for _ in range(self._calls):
            began = time.perf_counter()
            done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
            took.append(1000 * (time.perf_counter() - began))
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return {"ms": statistics.median(took)}

    @property
    def _calls(self) -> int:
        return QUICK_CALLS if self.setting.quick else CALLS


def _wheel() -> dict[str, float]:
    """The wheel, built from this checkout."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        return {"kb": next(Path(folder).glob("*.whl")).stat().st_size / 1e3}


def _dependencies() -> dict[str, float]:
    """Every package that the wheel needs, and what their files come to."""
    found: dict[str, int] = {}
    wanted = ["agent-eventlog"]
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        try:
            files = distribution(name).files or []
        except PackageNotFoundError:
            continue  # needed on another system
        found[name] = sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file())
        for line in requires(name) or []:
            if "extra ==" not in line:
                match = re.match(r"[A-Za-z0-9._-]+", line)
                assert match is not None
                wanted.append(match[0].lower())
    del found["agent-eventlog"]
    return {"packages": len(found), "mb": sum(found.values()) / 1e6}
