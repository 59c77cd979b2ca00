"""Wake: from POST to the first instruction of the wake command, idle and busy, beside the fleet's bus and script."""

import json
import random
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import ClassVar

from benchmarks.contenders.base import TEXT, Contender
from benchmarks.contenders.bus import Bus
from benchmarks.contenders.fleet import PROGRAMS, Fleet
from benchmarks.contenders.watched import Pipe, Started, launch_watcher
from benchmarks.load.drive import LoadFailed
from benchmarks.program import Program
from benchmarks.sample import quantile
from benchmarks.workloads.base import Column, Setting, Workload

OURS, THEIRS = "bus and watcher", "fleet and script (re-created)"
AGENTS = tuple(f"agent-{n:02}" for n in range(19))
RATE_PER_S = 100
#: Idle wakes of one measurement.
WAKES, QUICK_WAKES = 20, 5
#: How long a wake may take, and how long to wait after one until all is idle again, seconds.
WAKE_S, REST_S = 15.0, 0.3


class Wake(Workload):
    """The command is a shell's `echo` into a named pipe; when it is read counts."""

    name: ClassVar[str] = "wake"
    title: ClassVar[str] = "Wake: POST to the first instruction of the wake command"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("p50_ms", "p50 ms", 2),
        Column("p99_ms", "p99 ms", 2),
        Column("max_ms", "max ms", 1),
        Column("messages", "messages", 0, "more"),
        Column("wakes", "wakes", 0),
    )
    basis: ClassVar[str] = OURS

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        names = {Bus.name: OURS, Fleet.name: THEIRS}
        self._contenders: dict[str, Contender] = {names[one.name]: one for one in setting.available((Bus, Fleet))}
        self._pipes: dict[str, Pipe] = {}
        self._watchers: dict[str, Program] = {}
        self._chance = random.Random(6)

    def cases(self) -> list[str]:
        """One message at a time, and many to all agents."""
        return ["idle", f"{RATE_PER_S}/s, {len(AGENTS)} agents"]

    def contenders(self) -> list[str]:
        """The bus and its watcher, the fleet's and its script."""
        return list(self._contenders)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Both, with their watchers."""
        data = self.setting.fresh("wake")
        try:
            for number, (name, one) in enumerate(self._contenders.items()):
                folder = data / str(number)
                one.start(folder / "bus")
                pipe = self._pipes[name] = Pipe(folder)
                if isinstance(one, Bus):
                    token = one.call("POST", "/api/tokens", {"name": "node", "kind": "watcher"})["token"]
                    self._watchers[name] = launch_watcher(
                        folder / "watcher", one.url, token, AGENTS, pipe.command, "node"
                    )
                else:
                    words: list[str | Path] = [
                        sys.executable,
                        PROGRAMS / "watcher.py",
                        f"http://127.0.0.1:{one.port}",
                        pipe.command,
                    ]
                    self._watchers[name] = Program([*words, *AGENTS], log=folder / "script.log")
            time.sleep(1)  # the script does not say when its stream stands
            yield
        finally:
            for program in self._watchers.values():
                program.stop()
            for one in self._contenders.values():
                one.stop()
            for pipe in self._pipes.values():
                pipe.close()
            shutil.rmtree(self.setting.data, ignore_errors=True)

    def measure(self, contender: str, case: str) -> dict[str, float] | None:
        """One contender, idle or busy."""
        post = _Post(self._contenders[contender])
        try:
            if case == "idle":
                waits, wakes = self._idle(post, self._pipes[contender])
            else:
                waits, wakes = self._busy(post, self._pipes[contender])
        finally:
            post.close()
        ordered = sorted(waits)
        p50, p99 = (quantile(ordered, part) for part in (0.5, 0.99))
        return {"p50_ms": p50, "p99_ms": p99, "max_ms": ordered[-1], "messages": len(ordered), "wakes": wakes}

    def _idle(self, post: "_Post", pipe: Pipe) -> tuple[list[float], int]:
        """One message, its wake, and a rest, again and again; milliseconds, and how many wakes."""
        waits = []
        for number in range(QUICK_WAKES if self.setting.quick else WAKES):
            agent = AGENTS[number % len(AGENTS)]
            # The script's loop turns once a second: each message meets it at another point.
            time.sleep(REST_S + self._chance.random())
            pipe.read(0)
            post.connect()
            began = time.monotonic_ns()
            post(agent)
            started = pipe.read(WAKE_S)
            if not started:
                raise LoadFailed(f"no wake within {WAKE_S:g} s")
            waits.append((started[0].at_ns - began) / 1e6)
        return waits, len(waits)

    def _busy(self, post: "_Post", pipe: Pipe) -> tuple[list[float], int]:
        """Messages to all agents in turns at a fixed rate; milliseconds to the first wake that covers each."""
        time.sleep(REST_S)
        pipe.read(0)
        open_: dict[str, dict[int, int]] = {agent: {} for agent in AGENTS}
        waits: list[float] = []
        wakes = 0
        began = time.monotonic()
        for number in range(round(self.setting.seconds * RATE_PER_S)):
            due = began + number / RATE_PER_S
            while (left_s := due - time.monotonic()) > 0:
                wakes += _take(pipe.read(left_s), open_, waits)
            agent = AGENTS[number % len(AGENTS)]
            sent = time.monotonic_ns()
            open_[agent][post(agent)] = sent
        end = time.monotonic() + WAKE_S
        while any(open_.values()) and time.monotonic() < end:
            wakes += _take(pipe.read(1), open_, waits)
        if any(open_.values()):
            raise LoadFailed(f"{sum(map(len, open_.values()))} messages were not woken for within {WAKE_S:g} s")
        return waits, wakes


def _take(started: list[Started], open_: dict[str, dict[int, int]], waits: list[float]) -> int:
    """Take messages that these wakes cover out of `open_`; how many wakes there were."""
    for one in started:
        covered = [id_ for id_ in open_[one.agent] if one.after < id_ <= one.through]
        waits += [(one.at_ns - open_[one.agent].pop(id_)) / 1e6 for id_ in covered]
    return len(started)


class _Post:
    """Posts messages over one connection."""

    def __init__(self, one: Contender) -> None:
        self._connection = HTTPConnection("127.0.0.1", one.port, timeout=30)
        self._headers = {"Content-Type": "application/json"}
        if isinstance(one, Bus):
            self._headers["Authorization"] = f"Bearer {one.token}"

    def __call__(self, agent: str) -> int:
        """Post a message to an agent; its id."""
        body = json.dumps({"to_agent": agent, "payload": {"text": TEXT}})
        self._connection.request("POST", "/api/send", body, self._headers)
        answer = self._connection.getresponse()
        said = json.loads(answer.read())
        if answer.status != 201:
            raise LoadFailed(f"a message was refused: {said}")
        id_: int = said["id"]
        return id_

    def connect(self) -> None:
        """Connect anew: a server may have closed a connection that rested, and that is not what is measured."""
        self._connection.close()
        self._connection.connect()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
