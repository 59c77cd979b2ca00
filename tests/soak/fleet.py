"""The fleet: 19 agents on 9 watchers, each on a machine of its own, while everything fails at random.

`python -m tests.soak.fleet` sends 20,000 messages for ten minutes, each answered by its agent, and prints one table; it
exits with 1 if anything was lost or came twice. The faults are a pure function of the seed, which it prints.
"""

import argparse
import contextlib
import heapq
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.e2e.readers import BusReader
from tests.e2e.senders import Sender
from tests.fault.net import Lab, why_no_lab
from tests.scene import Scene
from tests.soak.schedule import Fault, Kind, schedule
from tests.soak.verdict import Evidence, Verdict, Window, judge, table
from tests.support import BusProcess, WatcherProcess, run_eventlog, until

AGENTS, NODES = 19, 9
#: How long all that was sent may take to be read and answered once the faults are over.
REST_S = 180.0
#: How long a shim that is to be killed is waited for.
SHIM_WAIT_S = 3.0
#: Between two looks at what is due.
LOOK_S = 0.02


class Fleet:
    """A context manager: the machines, and all that runs on them. This thread is on the bus's machine meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.agents = {f"agent-{number + 1:02}": number % NODES for number in range(AGENTS)}
        self.faults: Counter[str] = Counter()
        self.windows: list[Window] = []
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self._actions: list[tuple[float, int, Callable[[], None]]] = []

    def __enter__(self) -> "Fleet":
        with self._stack as stack:
            self.lab = stack.enter_context(Lab(NODES))
            stack.enter_context(self.lab.bus.inside())
            options = ["--host", "0.0.0.0", "--allowed-hosts", "*"]
            self.bus = stack.enter_context(BusProcess(self.folder / "bus", options=options))
            (self.folder / "agents").mkdir()
            self.scene = Scene(self.bus, self.folder / "agents")
            auditor = self.scene.admin.create_token("panel", "auditor").token
            self.url = self.lab.url(self.bus.port)
            self.watchers = [stack.enter_context(self._watcher(node)) for node in range(NODES)]
            self.followers: list[BusReader] = []
            for machine in self.lab.nodes:
                self.followers.append(BusReader(self.url, auditor))
                stack.callback(self.followers[-1].stop)
                with machine.inside():
                    self.followers[-1].start()
            for watcher in self.watchers:
                until(lambda watcher=watcher: watcher.connected, 60, why=lambda: watcher.log_text)  # type: ignore[misc] # noqa: B023
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.__exit__(None, None, None)

    @contextlib.contextmanager
    def _watcher(self, node: int) -> Iterator[WatcherProcess]:
        """A node's watcher, with all settings as they are where nobody sets them."""
        tables = "".join(
            self.scene.agent("--answer", name=name, timeout=20) for name, at in self.agents.items() if at == node
        )
        name = f"node-{node}"
        watcher = WatcherProcess(self.folder / name, self.url, self.scene.watcher_token, tables, name=name, bus="")
        try:
            self._start_watcher(node, watcher)
            yield watcher
        finally:
            watcher.__exit__()

    def _start_watcher(self, node: int, watcher: WatcherProcess) -> None:
        with self.lab.nodes[node].inside():
            watcher.start(wait=False)

    def run(self, faults: list[Fault], *, messages: int, seconds: float) -> Verdict:
        """Send for so many seconds while the faults happen; the verdict, once all is at rest."""
        senders = [
            Sender(
                self.bus.url,
                self.bus.admin_token,
                name=f"asks-{agent}",
                to_agent=agent,
                count=messages * (number + 1) // AGENTS - messages * number // AGENTS,
                pace_s=seconds * AGENTS / messages,
            )
            for number, agent in enumerate(self.agents)
        ]
        wall_ahead_s = time.time() - time.monotonic()
        start = time.monotonic()
        for fault in faults:
            self._at(start + fault.at_s, lambda fault=fault: self._begin(fault))  # type: ignore[misc]
        for sender in senders:
            sender.start()
        while self._actions:
            due, _, act = self._actions[0]
            if due <= time.monotonic():
                heapq.heappop(self._actions)
                act()
            else:
                time.sleep(min(LOOK_S, max(0.0, due - time.monotonic())))
        for sender in senders:
            sender.join(max(1.0, start + seconds + REST_S - time.monotonic()))
            assert not sender.is_alive(), f"{sender.name} could not send its last message"
            assert sender.refused is None, sender.refused
        self._rest()
        evidence = self._evidence(
            wall_ahead_s, [number for s in senders for ids in s.accepted.values() for number in ids]
        )
        verdict = judge(evidence)
        verdict.problems += self._verified()
        return verdict

    def _at(self, due: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._actions, (due, len(self._actions) + random.getrandbits(40), act))

    def _begin(self, fault: Fault) -> None:
        """What fails, and when it is mended."""
        print(f"  {fault}", flush=True)
        begin = time.monotonic()

        def mended(mend: Callable[[], object]) -> None:
            """Mend it when its time has come."""

            def act() -> None:
                mend()
                self.windows.append(Window(begin, time.monotonic(), fault.node))

            self.faults[fault.kind] += 1
            self._at(begin + fault.lasts_s, act)

        if fault.node is None:
            self.bus.kill()
            mended(self.bus.start)
            return
        node, link, watcher = fault.node, self.lab.nodes[fault.node], self.watchers[fault.node]
        if fault.kind is Kind.WATCHER:
            watcher.kill()
            mended(lambda: self._start_watcher(node, watcher))
        elif fault.kind is Kind.SHIM:
            self._kill_shim(fault, begin)
        else:
            link.cut() if fault.kind is Kind.CUT else link.slow()
            mended(link.heal)

    def _kill_shim(self, fault: Fault, begin: float) -> None:
        """Kill a shim of a node as soon as one runs there."""
        assert fault.node is not None
        for pid in self.watchers[fault.node].shims()[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.faults[fault.kind] += 1
                self.windows.append(Window(begin, time.monotonic(), fault.node))
                return
        if time.monotonic() < begin + SHIM_WAIT_S:
            self._at(time.monotonic() + LOOK_S, lambda: self._kill_shim(fault, begin))

    def _rest(self) -> None:
        """Until every agent has read all there is, and every follower has seen the last of it."""

        def rests() -> bool:
            views = self.scene.admin.call("GET", "/api/agents").body["agents"]
            return all(not view["unread"] and not view.get("wake") for view in views if view["name"] in self.agents)

        until(rests, REST_S, why=lambda: json.dumps(self.scene.admin.call("GET", "/api/agents").body["agents"]))
        last = self.scene.boss.send("nobody")
        for follower in self.followers:
            until(lambda follower=follower: last in follower.ids[-1:] or follower.failure, 60)  # type: ignore[misc]

    def _evidence(self, wall_ahead_s: float, accepted: list[int]) -> Evidence:
        lines = (self.folder / "agents" / "runs.ndjson").read_text().splitlines()
        return Evidence(
            events=self.scene.events(),
            runs=[json.loads(line) for line in lines],
            accepted=accepted,
            followers={f"follower {number}": list(one.ids) for number, one in enumerate(self.followers)},
            agents=self.agents,
            windows=self.windows,
            wall_ahead_s=wall_ahead_s,
        )

    def _verified(self) -> list[str]:
        """What is wrong with the log as it is stored: its chain, its projections, its keys."""
        failures = [f"a follower failed: {one.failure}" for one in self.followers if one.failure is not None]
        if self.bus.stop() != 0:
            failures.append("the bus did not stop as it should")
        called = run_eventlog("verify", "--data-dir", self.bus.data_dir, home=self.bus.home)
        return failures if called.code == 0 else [*failures, called.out + called.err]


def run(folder: Path, seed: int, *, messages: int, seconds: float) -> tuple[Verdict, str]:
    """One run of a fleet, its files in `folder`; its verdict, and the table."""
    print(f"SEED={seed}: {AGENTS} agents on {NODES} watchers, {messages} messages, {seconds:g} s", flush=True)
    faults = schedule(seed, seconds, NODES)
    with Fleet(folder) as fleet:
        verdict = fleet.run(faults, messages=messages, seconds=seconds)
        shown = table(verdict, fleet.faults)
    print(shown, flush=True)
    return verdict, shown


def main() -> int:
    """The command line; 0 if all was well, 1 if not, 77 if this machine cannot have such networks."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="replay the faults of an earlier run")
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--folder", type=Path, help="a new folder to keep everything in (default: one that is removed)")
    given = parser.parse_args()
    if reason := why_no_lab():
        print(f"make soak: this needs network namespaces: {reason}", file=sys.stderr)
        return 77
    # Ended from outside, it tidies up as at Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("make soak: ended by SIGTERM"))
    with tempfile.TemporaryDirectory(prefix="eventlog-fleet-", ignore_cleanup_errors=True) as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        verdict, _ = run(folder, given.seed, messages=given.messages, seconds=given.seconds)
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
