"""The network fails in every way that it can: nothing is lost, nothing runs twice, and both sides notice soon."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.checkers import follower_problems, log_problems, run_problems
from tests.e2e.cutter import Cutter
from tests.e2e.readers import BusReader
from tests.fault.net import Lab, Node, needs_lab, with_resolver
from tests.fault.relay import LongLine, NameServer, Proxy
from tests.scene import Scene
from tests.support import BusProcess, WatcherProcess, until
from watcher.agent import UNCONNECTED_ASK_S

pytestmark = pytest.mark.fault

#: Goals: how soon a dead peer is noticed, and how soon the first event comes once a link is back.
NOTICED_S, REPLAYED_S = 10.0, 1.0
#: What a busy machine may add to either.
MARGIN_S = 1.5
#: How long links are cut: shorter than every time limit, longer than some, longer than all of them.
CUTS_S = {"short": 2.5, "middle": 6.5, "long": 11.5}
#: How long a bus accepts and does not answer.
HUNG_S = 10.5
BUS_NAME = "bus.test"


@dataclass
class Machine:
    """A watcher with one agent of its name, a follower beside it, and what was measured of them, in seconds."""

    name: str
    scene: Scene
    node: Node
    watcher: WatcherProcess
    follower: BusReader
    measured: dict[str, float] = field(default_factory=dict)
    failure: BaseException | None = None

    def start(self) -> None:
        """Both, on their machine."""
        with self.node.inside():
            self.watcher.start(wait=False)
            self.follower.start()
        until(lambda: self.said('"event": "watching"', 0))

    def send(self, count: int = 1) -> int:
        """Messages to its agent; the id of the last."""
        return [self.scene.boss.send(self.name, f"{self.name} {number}") for number in range(count)][-1]

    def read(self, upto: int) -> None:
        """Wait until its agent has read so far and its watcher has reported that."""
        until(lambda: self.view()["cursor"] >= upto and not self.view().get("wake"), 60, why=self.told)

    def told(self) -> str:
        return f"{self.name}: {json.dumps(self.view())}\n{self.watcher.log_text[-3000:]}"

    def view(self) -> Any:
        return self.scene.admin.call("GET", f"/api/agents/{self.name}").body

    def served(self) -> bool:
        """Whether the bus takes the watcher for connected."""
        return any(watcher["connected"] for watcher in self.view()["watchers"])

    def said(self, what: str, since: int) -> bool:
        """Whether the watcher's log has said so after its first `since` letters."""
        return what in self.watcher.log_text[since:]

    def measure(self, what: str, look: Callable[[], Any], since: float, deadline_s: float = 40.0) -> None:
        """Wait for something, and note when it was."""
        until(look, deadline_s, why=lambda: f"{what}; {self.told()}")
        self.measured[what] = time.monotonic() - since

    def out(self, cut: Callable[[], None], heal: Callable[[], None], cut_s: float) -> None:
        """Cut and heal its link while nothing is under way; messages come meanwhile, and are there as it is back."""
        since, seen = len(self.watcher.log_text), len(self.follower.ids)
        start = time.monotonic()
        cut()
        last = self.send(3)
        looks: dict[str, Callable[[], bool]] = {
            "bus noticed": lambda: not self.served(),
            "watcher noticed": lambda: self.said("no stream", since),
        }
        while (left := start + cut_s - time.monotonic()) > 0:
            time.sleep(min(left, 0.02))
            for what in [what for what, look in looks.items() if what not in self.measured and look()]:
                self.measured[what] = time.monotonic() - start
        heal()
        back = time.monotonic()
        self.measure("replayed", lambda: len(self.follower.ids) > seen, back)
        self.measure("granted", lambda: self.said('"event": "granted"', since), back)
        self.read(last)


@dataclass
class Run:
    """One run of all of it: what every machine saw, and the log."""

    machines: dict[str, Machine]
    events: list[dict[str, Any]]
    accepted: list[int]
    lost_packets: int
    cuts: int
    repeated: int

    def measured(self, what: str) -> dict[str, float]:
        """What was measured of a kind, by machine."""
        return {name: one.measured[what] for name, one in self.machines.items() if what in one.measured}


class Stage:
    """A lab, its bus, and a machine for each way to fail."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.lab = stack.enter_context(Lab(6))
        self.folder = folder
        self._stack = stack
        stack.enter_context(self.lab.bus.inside())
        # Its address that has a name is another one, so that it can change.
        self.move("", "2")
        options = ["--host", "0.0.0.0", "--allowed-hosts", "*"]
        self.bus = stack.enter_context(BusProcess(folder / "bus", options=options))
        agents = folder / "agents"
        agents.mkdir()
        self.scene = Scene(self.bus, agents)
        self.auditor = self.scene.admin.create_token("panel", "auditor").token
        self.machines: dict[str, Machine] = {}

    def move(self, old: str, new: str) -> None:
        """The bus's machine gets another address."""
        prefix = self.lab.bus.address.rpartition(".")[0]
        drop = f"ip address del {prefix}.{old}/24 dev lan;" if old else ""
        self.lab.bus.net.run(f"{drop} ip address add {prefix}.{new}/24 dev lan")

    def add(self, name: str, url: str = "", node: Node | None = None, under: list[str] | None = None) -> Machine:
        """A machine, whose watcher has the settings that it has where nobody sets them."""
        node = node or self.lab.bus
        url = url or self.lab.url(self.bus.port)
        tables = self.scene.agent(name=name, timeout=20)
        watcher = WatcherProcess(
            self.folder / name, url, self.scene.watcher_token, tables, name=name, bus="", under=under or []
        )
        self._stack.callback(watcher.__exit__)
        # A follower knows nothing of the resolver that a watcher is started under.
        follower = BusReader(self.lab.url(self.bus.port) if BUS_NAME in url else url, self.auditor)
        self._stack.callback(follower.stop)
        self.machines[name] = Machine(name, self.scene, node, watcher, follower)
        return self.machines[name]

    def at_once(self, do: Callable[[Machine], None]) -> None:
        """The same of every machine, each in a thread of its own; fails as the first of them does."""

        def work(machine: Machine) -> None:
            try:
                do(machine)
            except BaseException as error:
                machine.failure = error

        threads = [threading.Thread(target=work, args=(machine,)) for machine in self.machines.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for machine in self.machines.values():
            if machine.failure is not None:
                raise machine.failure


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """All links fail at once, each in its way; then the bus hangs."""
    folder = tmp_path_factory.mktemp("network")
    with ExitStack() as stack:
        stage = Stage(stack, folder)
        lab, port, nodes = stage.lab, stage.bus.port, stage.lab.nodes
        line = stack.enter_context(LongLine(nodes[3], lab.bus, delay_s=0.05, jitter_s=0.03, loss=0.05))
        cutter = stack.enter_context(Cutter(port, mean_bytes=1500, cuts_max=60))
        names = stack.enter_context(NameServer(f"{lab.bus.address[:-1]}2"))
        proxies = {
            "held": Proxy(port, hold_s=1.5),
            "withheld": Proxy(port, hold_s=None),
            "repeated": Proxy(port, repeats=True),
        }
        for node, name in zip(nodes, CUTS_S, strict=False):
            stage.add(name, node=node)
        stage.add("lossy", f"http://{line.address}:{port}", nodes[3])
        stage.add("unplugged", node=nodes[4])
        named = stage.add("named", f"http://{BUS_NAME}:{port}", nodes[5], under=with_resolver(folder, lab.bus.address))
        stage.add("reset", cutter.url)
        for name, proxy in proxies.items():
            stack.enter_context(proxy)
            stage.add(name, proxy.url)

        def fails(machine: Machine) -> None:
            machine.start()
            if machine.name != "withheld":
                machine.read(machine.send(2))
            if machine.name in CUTS_S:
                machine.out(machine.node.cut, machine.node.heal, CUTS_S[machine.name])
            elif machine.name == "unplugged":
                machine.out(machine.node.unplug, machine.node.plug, 4.0)
            elif machine is named:
                no_name(stage, names, machine)
            else:
                for _ in range(1 if machine.name == "withheld" else 6):
                    sent = time.monotonic()
                    last = machine.send()
                    machine.read(last)
                    slowest = machine.measured.get("slowest read", 0.0)
                    machine.measured["slowest read"] = max(slowest, time.monotonic() - sent)
            if machine.name != "withheld":
                machine.read(machine.send(2))

        stage.at_once(fails)
        hang(stage)
        yield judged(stage, line, cutter, proxies["repeated"])


def no_name(stage: Stage, names: NameServer, machine: Machine) -> None:
    """The bus moves while no name can be looked up: first nobody answers, then somebody who does not know."""
    since = len(machine.watcher.log_text)
    names.failing = "silent"
    stage.move("2", "3")
    last = machine.send()
    machine.measure("watcher noticed", lambda: machine.said("no stream", since), time.monotonic())
    time.sleep(3)
    names.failing = "refusing"
    time.sleep(2)
    names.address = f"{stage.lab.bus.address[:-1]}3"
    names.failing = ""
    machine.measure("found again", machine.served, time.monotonic())
    machine.read(last)


def hang(stage: Stage) -> None:
    """The bus accepts connections and answers nothing; then it goes on."""
    machines = [machine for machine in stage.machines.values() if machine.name in (*CUTS_S, "named")]
    since = {machine.name: len(machine.watcher.log_text) for machine in machines}
    start = time.monotonic()
    os.kill(stage.bus.process.pid, signal.SIGSTOP)
    try:
        for machine in machines:
            at = since[machine.name]
            machine.measure("hang noticed", lambda one=machine, at=at: one.said("no stream", at), start)  # type: ignore[misc]
        time.sleep(max(0.0, start + HUNG_S - time.monotonic()))
    finally:
        os.kill(stage.bus.process.pid, signal.SIGCONT)
    last = {machine.name: machine.send() for machine in machines}
    for machine in machines:
        machine.read(last[machine.name])


def judged(stage: Stage, line: LongLine, cutter: Cutter, repeated: Proxy) -> Run:
    """The evidence, as soon as every follower has seen the last message that there is."""
    names = list(stage.machines)
    events = stage.scene.at_rest(*names)
    last = max(event["id"] for event in events if event["event"] == "message")
    for machine in stage.machines.values():
        if machine.name != "withheld":
            until(lambda machine=machine: last in machine.follower.ids[-1:], 30, why=machine.told)  # type: ignore[misc]
    accepted = [event["id"] for event in events if event["event"] == "message"]
    run = Run(stage.machines, events, accepted, line.lost, cutter.cuts, len(repeated.repeated))
    kinds = sorted({what for machine in run.machines.values() for what in machine.measured})
    for what in kinds:
        shown = ", ".join(f"{name} {value:.2f}" for name, value in run.measured(what).items())
        print(f"{what} (s): {shown}")
    return run


@needs_lab
class TestLinks:
    """Machines whose link to the bus is cut, lossy, reset, proxied, or to a bus that moves and hangs."""

    def test_the_log_and_the_commands_say_nothing_against_it(self, run: Run) -> None:
        runs = [one for machine in run.machines.values() for one in machine.scene.runs(agent=machine.name)]
        found = log_problems(run.events, accepted=run.accepted, read_by=list(run.machines))
        assert found + run_problems(run.events, runs, list(run.machines)) == []

    def test_no_wake_was_needed_twice(self, run: Run) -> None:
        # A grant that took longer than the wake might, as from a bus that hung, is not started, and is no attempt.
        assert {event["outcome"] for event in run.events if event["event"] == "wake.finished"} <= {"ok", "not_started"}
        assert {event["attempt"] for event in run.events if event["event"] == "wake.started"} == {1}

    def test_every_follower_sees_every_message_once_and_in_order(self, run: Run) -> None:
        for name, machine in run.machines.items():
            seen = machine.follower.ids
            assert machine.follower.failure is None, name
            if name != "withheld":
                assert follower_problems(seen, run.events) == [], name

    def test_the_watcher_notices_a_dead_bus(self, run: Run) -> None:
        assert {"middle", "long", "named"} <= set(run.measured("watcher noticed"))
        assert max(run.measured("watcher noticed").values()) < NOTICED_S

    def test_the_watcher_notices_a_bus_that_hangs(self, run: Run) -> None:
        assert max(run.measured("hang noticed").values()) < NOTICED_S

    def test_the_bus_notices_a_dead_watcher(self, run: Run) -> None:
        assert "long" in run.measured("bus noticed")
        assert max(run.measured("bus noticed").values()) < NOTICED_S

    def test_a_cut_shorter_than_all_time_limits_costs_no_connection(self, run: Run) -> None:
        assert "short" not in run.measured("watcher noticed")
        assert "short" not in run.measured("bus noticed")

    def test_what_was_missed_comes_as_soon_as_the_link_is_back(self, run: Run) -> None:
        assert set(run.measured("replayed")) == {*CUTS_S, "unplugged"}
        assert max(run.measured("replayed").values()) < REPLAYED_S + MARGIN_S

    def test_the_agent_is_woken_as_soon_as_the_link_is_back(self, run: Run) -> None:
        assert set(run.measured("granted")) == {*CUTS_S, "unplugged"}
        assert max(run.measured("granted").values()) < REPLAYED_S + MARGIN_S

    def test_a_bus_that_moved_is_found(self, run: Run) -> None:
        assert run.measured("found again")["named"] < 3.5

    def test_agents_behind_a_proxy_that_holds_the_stream_back_are_woken_all_the_same(self, run: Run) -> None:
        assert run.machines["withheld"].follower.ids == []
        assert run.measured("slowest read")["withheld"] < 2 * UNCONNECTED_ASK_S

    def test_all_of_it_did_happen(self, run: Run) -> None:
        assert run.lost_packets > 5
        assert run.cuts > 5
        assert run.repeated > 5
