"""Simulation of a fleet's busiest hour: the wakes it makes, how long messages wait for turns, and appends for the bus.

`python -m benchmarks.simulate` prints the tables of docs/explanation/scale.md; with options, one fleet. Nothing is
measured here: the costs below were, and the simulation finds what arithmetic on them cannot: what bursts, busy agents
and full machines make of them. The same seed gives the same figures.
"""

import argparse
import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from benchmarks.report import table
from benchmarks.sample import quantile

# ---- costs, seconds of a core where nothing else is said; measured by `make bench`, as docs/explanation/scale.md says

#: An append over HTTP among many (`append`, 64 senders), and one in a batch (batches of 100).
APPEND_S, BATCHED_S = 110e-6, 45e-6
#: One follower's turn, however many events it is shown (`fanout`, 1 follower).
DELIVERY_S = 25e-6
#: A third of a wake on the bus's side: an ask, a report or an ack, each an append and an answer.
STEP_S = 0.5e-3 / 3
#: An ask that finds nothing due, after each wake; estimated at half an append, as nothing is appended.
NOTHING_DUE_S = 55e-6
#: From a grant to the command's first instruction at the watcher (`wake`).
START_S = 10e-3
#: A commit's fdatasync: time, not a core's (`make bench` prints it with the machine); 0.07 to 0.2 ms.
FSYNC_S = 0.2e-3

# ---- what fleets are taken to do

#: The part of a day's messages that comes in its busiest hour.
BUSIEST_HOUR = 0.18
#: The part of all messages that comes of broadcasts, and the most of one request (`recipients_max`).
BROADCAST, RECIPIENTS_MAX = 0.1, 1000
#: How many of the messages that are not of a broadcast are answered, each in the moment that the turn ends.
ANSWERED = 0.5
#: Turns are lognormal about their median with this deviation (the longest of 100 is ten times the median); a wake's
#: `timeout` ends them.
TURN_DEVIATION, TIMEOUT_S = 1.0, 300.0
#: Wakes that may run at once on a machine (`max_wakes`).
MAX_WAKES = 8
#: Seconds before anything is counted, and how long or how many messages are counted then.
WARM_UP_S, COUNTED_S_LEAST, COUNTED_S_MOST, COUNTED_MESSAGES = 400.0, 100.0, 14_400.0, 50_000


@dataclass(frozen=True)
class Fleet:
    """Who is simulated; `turn_s` is the median length of a turn."""

    name: str
    agents: int
    machines: int
    messages_a_day: float
    turn_s: float = 30.0

    @property
    def messages_per_s(self) -> float:
        """In the busiest hour."""
        return self.messages_a_day * BUSIEST_HOUR / 3600


FLEETS = (
    Fleet("as it is", 19, 9, 20_000),
    Fleet("every agent busy", 200, 100, 1_000_000),
    Fleet("the most of one bus", 2_000, 1_000, 10_000_000),
)


@dataclass
class Result:
    """What was counted after the warm-up; `messages`, `covered` and `wakes` are of the whole run, to its very end."""

    messages: int = 0
    covered: int = 0
    wakes: int = 0
    counted_s: float = 0.0
    counted_messages: int = 0
    counted_wakes: int = 0
    #: The part of the bus's core that was busy.
    core: float = 0.0
    #: From a message's append until a turn that covers it began, seconds, sorted.
    turn_waits_s: list[float] = field(default_factory=list)
    #: From an append's coming to the bus until its answer, seconds, sorted.
    append_waits_s: list[float] = field(default_factory=list)
    #: The most requests to send that were under way at once.
    sends_most: int = 0


class Bus:
    """One core that works in order of coming, and a disk on which all appends share a commit that wait for one."""

    def __init__(self, fsync_s: float = FSYNC_S) -> None:
        self.busy_s = 0.0
        self._fsync_s = fsync_s
        self._free_at = 0.0
        self._commit_at = -math.inf

    def append(self, now: float, cost_s: float, delivery_s: float = 0.0) -> float:
        """When an append that comes now is answered; `delivery_s` is the work that it makes afterwards."""
        appended = self.work(now, cost_s)
        if appended > self._commit_at:  # the newest commit had begun without it
            self._commit_at = max(appended, self._commit_at + self._fsync_s)
        self.work(appended, delivery_s)
        return self._commit_at + self._fsync_s

    def work(self, now: float, cost_s: float) -> float:
        """When work that comes now is done."""
        self._free_at = max(now, self._free_at) + cost_s
        self.busy_s += cost_s
        return self._free_at


class Machine:
    """A watcher's machine: places for wakes, and the agents that wait for one, first come, first served."""

    def __init__(self) -> None:
        self.places = MAX_WAKES
        self.waiting: deque[Agent] = deque()


class Agent:
    """Its messages, each as (when it was posted, who is to be answered or None), and whether a wake is due or runs."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.unread: list[tuple[float, Agent | None]] = []
        self.covered: list[tuple[float, Agent | None]] = []
        self.awake = False


class Simulation:
    """One run: a heap of what happens when. After the counted time nobody posts, and the last messages are covered."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self._fleet = fleet
        self._chance = random.Random(seed)
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._number = 0
        self.now = 0.0
        self._bus = Bus()
        self._under_way: deque[float] = deque()
        machines = [Machine() for _ in range(fleet.machines)]
        self._agents = [Agent(machines[i % fleet.machines]) for i in range(fleet.agents)]
        counted_s = COUNTED_MESSAGES / fleet.messages_per_s
        self._end = WARM_UP_S + min(max(counted_s, COUNTED_S_LEAST), COUNTED_S_MOST)
        self._result = Result(counted_s=self._end - WARM_UP_S)

    def run(self) -> Result:
        """All of it."""
        recipients = min(self._fleet.agents - 1, RECIPIENTS_MAX)
        rate = self._fleet.messages_per_s
        # Each message that is not a broadcast's is followed by ANSWERED others, each of these by as many, and so on.
        self._often(rate * (1 - BROADCAST) * (1 - ANSWERED), self._post_anew)
        self._often(rate * BROADCAST / recipients, lambda: self._broadcast(recipients))
        self._at(WARM_UP_S, self._start_counting)
        self._at(self._end, self._stop_counting)
        while self._heap:
            self.now, _, action, arguments = heapq.heappop(self._heap)
            action(*arguments)
        self._result.turn_waits_s.sort()
        self._result.append_waits_s.sort()
        return self._result

    def _at(self, when: float, action: Callable[..., None], *arguments: object) -> None:
        self._number += 1
        heapq.heappush(self._heap, (when, self._number, action, arguments))

    def _often(self, rate: float, action: Callable[[], None], *, first: bool = True) -> None:
        """Do it at random moments, so often a second, until the counted time is over."""
        if not first:
            action()
        when = self.now + self._chance.expovariate(rate)
        if when < self._end:
            self._at(when, lambda: self._often(rate, action, first=False))

    @property
    def _counts(self) -> bool:
        return WARM_UP_S <= self.now < self._end

    def _start_counting(self) -> None:
        self._result.core = self._bus.busy_s

    def _stop_counting(self) -> None:
        self._result.core = (self._bus.busy_s - self._result.core) / self._result.counted_s

    # ---- messages ----

    def _post_anew(self) -> None:
        sender = self._chance.choice(self._agents)
        to = self._chance.choice(self._agents)
        self._post([to], sender, APPEND_S, DELIVERY_S)

    def _broadcast(self, recipients: int) -> None:
        machines = min(recipients, self._fleet.machines)
        to = self._chance.sample(self._agents, recipients)
        self._post(to, None, APPEND_S + BATCHED_S * recipients, DELIVERY_S * machines)

    def _post(self, to: list[Agent], sender: Agent | None, cost_s: float, delivery_s: float) -> None:
        answered = self._append(cost_s, delivery_s)
        while self._under_way and self._under_way[0] <= self.now:
            self._under_way.popleft()
        self._under_way.append(answered)
        self._result.messages += len(to)
        if self._counts:
            self._result.counted_messages += len(to)
            self._result.sends_most = max(self._result.sends_most, len(self._under_way))
        self._at(answered, self._deliver, to, self.now, sender)

    def _append(self, cost_s: float, delivery_s: float = 0.0) -> float:
        answered = self._bus.append(self.now, cost_s, delivery_s)
        if self._counts:
            self._result.append_waits_s.append(answered - self.now)
        return answered

    def _deliver(self, to: list[Agent], posted: float, sender: Agent | None) -> None:
        for agent in to:
            agent.unread.append((posted, sender))
            if not agent.awake:
                agent.awake = True
                self._seek_place(agent)

    # ---- wakes ----

    def _seek_place(self, agent: Agent) -> None:
        if agent.machine.places:
            agent.machine.places -= 1
            self._at(self._append(STEP_S), self._granted, agent)
        else:
            agent.machine.waiting.append(agent)

    def _granted(self, agent: Agent) -> None:
        """The wake covers all that is unread; what comes from now on is for the next."""
        agent.covered, agent.unread = agent.unread, []
        began = self.now + START_S
        self._result.wakes += 1
        self._result.covered += len(agent.covered)
        if self._counts:
            self._result.counted_wakes += 1
        waits = self._result.turn_waits_s
        waits.extend(began - posted for posted, _ in agent.covered if WARM_UP_S <= posted < self._end)
        turn_s = self._fleet.turn_s * self._chance.lognormvariate(0, TURN_DEVIATION)
        self._at(began + min(turn_s, TIMEOUT_S), self._turn_ended, agent)

    def _turn_ended(self, agent: Agent) -> None:
        for _, sender in agent.covered:
            if sender is not None and self.now < self._end and self._chance.random() < ANSWERED:
                self._post([sender], agent, APPEND_S, DELIVERY_S)
        self._append(STEP_S)  # the ack
        self._at(self._append(STEP_S), self._reported, agent)

    def _reported(self, agent: Agent) -> None:
        """Its place goes to whoever waits longest; an agent with mail goes behind them."""
        agent.machine.places += 1
        if agent.machine.waiting:
            self._seek_place(agent.machine.waiting.popleft())
        agent.awake = bool(agent.unread)
        if agent.awake:
            self._seek_place(agent)
        else:
            self._bus.work(self.now, NOTHING_DUE_S)


def simulate(fleet: Fleet, seed: int = 1) -> Result:
    """What becomes of the fleet in its busiest hour."""
    return Simulation(fleet, seed).run()


HEADINGS = (
    *("fleet", "agents", "machines", "messages a day", "messages/s", "wakes/s", "messages a wake"),
    *("turn p50 s", "turn p99 s", "append p50 ms", "append p99 ms", "sends at once", "the bus's core"),
)


def row(fleet: Fleet, result: Result) -> list[str]:
    """A fleet's row under HEADINGS."""
    waits, appends = result.turn_waits_s, result.append_waits_s
    return [
        *(fleet.name, f"{fleet.agents:,}", f"{fleet.machines:,}", f"{fleet.messages_a_day:,.0f}"),
        f"{result.counted_messages / result.counted_s:,.1f}",
        f"{result.counted_wakes / result.counted_s:,.2f}",
        f"{result.counted_messages / max(result.counted_wakes, 1):.1f}",
        *(f"{quantile(waits, part):,.2f}" for part in (0.5, 0.99)),
        *(f"{1000 * quantile(appends, part):,.2f}" for part in (0.5, 0.99)),
        f"{result.sends_most:,}",
        f"{100 * result.core:.2f} %",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one table for the fleet that is asked for, or those of scale.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__)
    parser.add_argument("--agents", type=int, help="(200)")
    parser.add_argument("--machines", type=int, help="(100)")
    parser.add_argument("--messages-a-day", type=float, help="(1,000,000)")
    parser.add_argument("--turn-s", type=float, help="median length of a turn (30)")
    parser.add_argument("--seed", type=int, default=1)
    asked = vars(parser.parse_args(arguments))
    seed = asked.pop("seed")
    given = {name: value for name, value in asked.items() if value is not None}
    few, busy, most = FLEETS
    tables: list[list[Fleet]] = [
        [*FLEETS, replace(most, name="8 x that", messages_a_day=8 * most.messages_a_day)],
        [replace(few, name=f"turns of {s} s", turn_s=s) for s in (3, 10, 30, 100)],
        [replace(busy, name=f"{busy.agents // n} a machine", machines=n) for n in (100, 25, 20, 12, 6, 3)],
    ]
    if given:
        tables = [[replace(busy, name="as asked", **given)]]
    for fleets in tables:
        print(table(list(HEADINGS), [row(fleet, simulate(fleet, seed)) for fleet in fleets]), end="\n\n")


if __name__ == "__main__":
    main()
