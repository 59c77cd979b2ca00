"""Several watchers for one agent, on machines whose links fail: one wake at a time, and another takes over."""

import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fault.launch import QUICK, tuned
from tests.fault.net import Lab, Node, needs_lab
from tests.scene import Scene
from tests.support import BusProcess, WatcherProcess, until

pytestmark = [pytest.mark.fault, needs_lab]

SEED = int(os.environ.get("EVENTLOG_SEED", str(random.randrange(2**32))))
#: A wake's limits, and what a lease holds besides, seconds.
LIMITS = {"timeout": 4, "start_within": 2, "ack_within": 3}
STOP_S = 3
LEASE_S = LIMITS["timeout"] + LIMITS["start_within"] + STOP_S
#: How long links go on failing, and what a busy machine may add to a lease.
FAILING_S, MARGIN_S = 12.0, 6.0
#: For how much longer they fail if chance has kept a machine from being granted any wake.
TURN_S = 30.0
#: Who is woken by the three watchers, two of which have one name. eve exits with 0 and has not looked, the first time.
SHARED = {"mel": ["--work", "0.3"], "tony": ["--work", "0.05"], "eve": ["--late"]}


class Machines:
    """A lab, a bus with short leases, and a watcher on each machine."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.lab = stack.enter_context(Lab(7))
        self._stack = stack
        self._folder = folder
        stack.enter_context(self.lab.bus.inside())
        under = tuned({**QUICK, "agents.STOP_S": STOP_S})
        options = ["--host", "0.0.0.0", "--allowed-hosts", "*"]
        self.bus = stack.enter_context(BusProcess(folder / "bus", options=options, under=under))
        (folder / "agents").mkdir()
        self.scene = Scene(self.bus, folder / "agents")

    def watch(self, node: Node, agents: dict[str, list[str]], name: str) -> WatcherProcess:
        """Start a watcher on a machine."""
        tables = "".join(self.scene.agent(*options, name=agent, **LIMITS) for agent, options in agents.items())
        home = self._folder / f"node-{node.number}"
        watcher = WatcherProcess(home, self.lab.url(self.bus.port), self.scene.watcher_token, tables, name=name)
        self._stack.callback(watcher.__exit__)
        with node.inside():
            return watcher.start()


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    """The log of one run of it all, after the judges found nothing wrong."""
    with ExitStack() as stack:
        machines = Machines(stack, tmp_path_factory.mktemp("many"))
        inside = machines.lab.bus.inside
        with ThreadPoolExecutor(3) as pool:

            def at_once(do: Callable[..., None], *args: Any) -> Any:
                def work() -> None:
                    with inside():
                        do(machines, *args)

                return pool.submit(work)

            nodes = machines.lab.nodes
            doing = [
                at_once(gone, "ann", nodes[0:2], False),
                at_once(gone, "bob", nodes[2:4], True),
                at_once(three, nodes[4:7]),
            ]
            for one in doing:
                one.result()
        yield machines.scene.judge("ann", "bob", *SHARED, deadline_s=60)


def gone(machines: Machines, agent: str, nodes: list[Node], killed: bool) -> None:
    """The first watcher of two is gone while its wake runs: cut off, and killed too if it is."""
    scene = machines.scene
    first = machines.watch(nodes[0], {agent: ["--work", "1"]}, f"first-of-{agent}")
    machines.watch(nodes[1], {agent: ["--work", "0"]}, f"second-of-{agent}")
    while True:
        sent = scene.boss.send(agent)
        (run, *_) = until(lambda: [run for run in scene.runs("start", agent) if sent in run["handed"]])  # noqa: B023
        (wake,) = [wake for wake in scene.events_of(agent, "wake.started") if wake["id"] == run["wake"]]
        if wake["watcher"] == f"first-of-{agent}":
            break
        scene.at_rest(agent)
    nodes[0].cut()
    if killed:
        first.kill()
        first.kill_shims()
    until(lambda: wakes_by(scene, agent, f"second-of-{agent}", wake["id"]), LEASE_S + MARGIN_S + FAILING_S)
    scene.at_rest(agent)
    nodes[0].heal()
    if killed:
        with nodes[0].inside():
            first.start()
    else:
        until(lambda: "the bus does not take this report" in first.log_text)


def wakes_by(scene: Scene, agent: str, watcher: str, after: int) -> list[int]:
    """The wakes of an agent that a watcher was granted after another one."""
    wakes = scene.events_of(agent, "wake.started")
    return [wake["id"] for wake in wakes if wake["watcher"] == watcher and wake["id"] > after]


def granted(scene: Scene) -> set[str]:
    """The nodes that were granted a wake of an agent whom all three watch."""
    return {wake["node"] for agent in SHARED for wake in scene.events_of(agent, "wake.started")}


def three(machines: Machines, nodes: list[Node]) -> None:
    """Three watchers of the same agents, while their links, and that of the bus, are cut and healed at random."""
    print(f"EVENTLOG_SEED={SEED}")
    chance = random.Random(SEED)
    for number, node in enumerate(nodes):
        machines.watch(node, SHARED, "twin" if number else "single")
    end = time.monotonic() + FAILING_S
    links = [*nodes, machines.lab.bus]
    while time.monotonic() < end or (time.monotonic() < end + TURN_S and len(granted(machines.scene)) < len(nodes)):
        cut = chance.sample(links, chance.choice([1, 1, 2]))
        for node in cut:
            node.cut()
        for agent in SHARED:
            machines.scene.boss.send(agent)
        time.sleep(chance.uniform(0.2, 2.5))
        for node in cut:
            node.heal()
        machines.scene.boss.send(chance.choice(list(SHARED)))
        time.sleep(chance.uniform(0.0, 0.7))


@pytest.mark.parametrize("agent", ["ann", "bob"])
def test_another_watcher_takes_over_as_soon_as_the_lease_of_one_that_is_gone_has_run_out(
    events: list[dict[str, Any]], agent: str
) -> None:
    wakes = [event for event in events if event["event"] == "wake.started" and event["agent"] == agent]
    ends = {event["wake"]: event for event in events if event["event"] == "wake.finished"}
    cut = next(wake for wake in reversed(wakes) if wake["watcher"] == f"first-of-{agent}")
    later = wakes[wakes.index(cut) + 1 :]
    assert (ends[cut["id"]]["by"], ends[cut["id"]]["outcome"]) == ("bus", "interrupted")
    assert {wake["watcher"] for wake in later} == {f"second-of-{agent}"}
    assert {wake["attempt"] for wake in later} == {cut["attempt"] + 1}
    assert ends[later[-1]["id"]]["outcome"] == "ok"


def test_each_of_three_has_its_turn_and_two_of_one_name_are_two(events: list[dict[str, Any]]) -> None:
    wakes = [event for event in events if event["event"] == "wake.started" and event["agent"] in SHARED]
    assert {wake["watcher"] for wake in wakes} == {"single", "twin"}
    assert len({wake["node"] for wake in wakes}) == 3
