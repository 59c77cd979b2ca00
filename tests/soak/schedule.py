"""The schedule of a fleet's faults: a pure function of the seed, so that a run can be had again."""

import random
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """What fails."""

    BUS = "bus killed"
    WATCHER = "watcher killed"
    SHIM = "shim killed"
    CUT = "link cut"
    SLOW = "link slow"


class Fault(NamedTuple):
    """One fault: when it begins, seconds after the start; what; at which node (None: at the bus); how long it lasts."""

    at_s: float
    kind: Kind
    node: int | None
    lasts_s: float

    def __str__(self) -> str:
        where = "" if self.node is None else f" at node {self.node}"
        return f"{self.at_s:7.2f} s  {self.kind}{where} for {self.lasts_s:.2f} s"


#: Between the beginnings of two faults, seconds.
PAUSE_S = (1.5, 4.5)
#: How long each lasts, seconds: until what was killed is started again, or the link is whole.
LASTS_S = {
    Kind.BUS: (0.1, 1.5),
    Kind.WATCHER: (0.0, 2.0),
    Kind.SHIM: (0.0, 0.0),
    Kind.CUT: (0.3, 3.0),
    Kind.SLOW: (2.0, 6.0),
}
#: Every other cut link is cut for longer than either side takes to notice.
LONG_CUT_S = (6.0, 12.0)


def schedule(seed: int, seconds: float, nodes: int) -> list[Fault]:
    """All faults of a run, in order; the last of them is over `seconds` after the start."""
    chance = random.Random(seed)
    faults: list[Fault] = []
    busy_until: dict[int | None, float] = {}
    deck: list[Kind] = []
    now = 0.0
    while True:
        now = round(now + chance.uniform(*PAUSE_S), 2)
        if now >= seconds:
            return faults
        deck = deck or chance.sample(list(Kind), len(Kind))  # each kind comes before any comes again
        kind = deck[-1]
        node = None if kind is Kind.BUS else chance.randrange(nodes)
        long = kind is Kind.CUT and chance.random() < 0.5
        lasts_s = round(chance.uniform(*(LONG_CUT_S if long else LASTS_S[kind])), 2)
        # One thing at a time at one place, so that every fault is one.
        if now >= busy_until.get(node, 0.0) and now + lasts_s < seconds:
            deck.pop()
            faults.append(Fault(now, kind, node, lasts_s))
            busy_until[node] = now + lasts_s
