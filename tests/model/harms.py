"""Harms: what must never happen, by name, and the judge that looks for it in the log and at the commands."""

from collections import Counter
from dataclasses import dataclass, field

from eventlog.event import Event

#: How far an ack deadline can be moved, in multiples of `ack_within_s` after the wake's end.
ACK_WITHIN_TIMES = 4

TWO_AT_ONCE = "two commands of one agent run at once"
STARTED_TWICE = "command of one wake started twice"
COVERED_AGAIN = "message covered again inside its ack deadline after an ok wake"
TOO_MANY = "message gets more than max_attempts wakes"
DEAD_TWICE = "message dead-lettered twice"
DEAD_COUNT = "message dead after other than max_attempts wakes"
DEAD_READ = "message dead-lettered after it was read"
REPLACED = "an outcome recorded first is replaced"
MISREPORTED = "reports an outcome other than the folder's"
REFUSED = "ok report refused though no newer wake had started"
TWO_WAKES = "two wakes of one agent in flight"
STUCK = "nothing left to happen, and a message is neither read nor dead"
ENDLESS = "fair steps can go on for ever without the message being read or dead"


class Harm(AssertionError):
    """What must never happen has happened; `name` is one of the harms above."""

    def __init__(self, name: str, detail: str = "") -> None:
        super().__init__(f"{name}: {detail}" if detail else name)
        self.name = name


@dataclass
class Fate:
    """One message: the wakes that count against it, when the last ok one that covered it ended, and how it ended."""

    wakes: set[int] = field(default_factory=set)
    worked: float | None = None
    settled: bool = False
    read: bool = False
    dead: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing more is owed to it."""
        return self.read or self.dead or self.settled


@dataclass
class Ledger:
    """One agent's log, read event by event and counted message by message, in no way as the bus does it."""

    agent: str
    fates: dict[int, Fate] = field(default_factory=dict)
    covered: dict[int, list[int]] = field(default_factory=dict)
    limits: dict[int, Event] = field(default_factory=dict)
    reported: dict[int, str] = field(default_factory=dict)
    cursor: int = 0
    active: float = 0.0
    newest: int = 0
    in_flight: int = 0

    def take(self, event: Event, now: float) -> None:
        """One event, appended at `now`. Raises Harm."""
        kinds = {
            "message": self._message,
            "ack": self._ack,
            "wake.started": self._started,
            "wake.finished": self._finished,
            "dead_letter": self._died,
        }
        judge = kinds.get(event.event)
        if judge is not None:
            judge(event, now)

    def _message(self, event: Event, now: float) -> None:
        if event.agent == self.agent:
            self.fates[event.id] = Fate()
        if event.sender == self.agent:
            self.active = now

    def _ack(self, event: Event, now: float) -> None:
        self.cursor, self.active = event.fields["cursor"], now
        for id_, fate in self.fates.items():
            fate.read = fate.read or id_ <= self.cursor
            fate.wakes.clear()

    def _started(self, event: Event, now: float) -> None:
        fields = event.fields
        if self.in_flight:
            raise Harm(TWO_WAKES, f"{self.in_flight} and {event.id}")
        self.in_flight = self.newest = event.id
        self.limits[event.id] = event
        after, through = max(self.cursor, fields["after"]), fields["through"]
        self.covered[event.id] = [i for i, fate in self.fates.items() if after < i <= through and not fate.dead]
        for i in self.covered[event.id]:
            fate = self.fates[i]
            if fate.settled or (fate.worked is not None and now < self._deadline(fate.worked, fields["ack_within_s"])):
                raise Harm(COVERED_AGAIN, f"message {i} by wake {event.id}")
            fate.wakes.add(event.id)
            if len(fate.wakes) > fields["max_attempts"]:
                raise Harm(TOO_MANY, f"message {i}")

    def _deadline(self, worked: float, within: float) -> float:
        return min(max(worked, self.active) + within, worked + ACK_WITHIN_TIMES * within)

    def _finished(self, event: Event, now: float) -> None:
        wake, outcome = event.fields["wake"], event.fields["outcome"]
        if self.reported.get(wake, outcome) != outcome:
            raise Harm(REPLACED, f"wake {wake}: {self.reported[wake]} by {outcome}")
        if event.fields["by"] != "bus":
            self.reported[wake] = outcome
        self.in_flight = 0 if self.in_flight == wake else self.in_flight
        for i in self.covered[wake]:
            fate = self.fates[i]
            if outcome == "ok":
                fate.worked = now
                fate.settled = fate.settled or self.limits[wake].fields["ack"] == "none"
            elif outcome == "not_started":
                fate.wakes.discard(wake)

    def _died(self, event: Event, _now: float) -> None:
        id_ = event.fields["message_id"]
        fate = self.fates[id_]
        if fate.dead:
            raise Harm(DEAD_TWICE, f"message {id_}")
        if fate.read:
            raise Harm(DEAD_READ, f"message {id_}")
        if len(fate.wakes) != self.limits[self.newest].fields["max_attempts"]:
            raise Harm(DEAD_COUNT, f"message {id_} after {len(fate.wakes)}")
        fate.dead = True

    def refused(self, wake: int, outcome: str) -> None:
        """A report was refused. Raises Harm if it told of work that should count."""
        if outcome == "ok" and wake == self.newest and wake not in self.reported:
            raise Harm(REFUSED, f"wake {wake}")


class Commands:
    """What the commands themselves see, on whatever machine: who runs, and what was started."""

    def __init__(self) -> None:
        self._running: set[object] = set()
        self._started: Counter[object] = Counter()

    def start(self, command: object, *marks: object) -> None:
        """A command begins; `marks` are what its wake is known by. Raises Harm."""
        for mark in marks:
            self._started[mark] += 1
            if self._started[mark] > 1:
                raise Harm(STARTED_TWICE, str(mark))
        if self._running:
            raise Harm(TWO_AT_ONCE)
        self._running.add(command)

    def end(self, command: object) -> None:
        """A command is over."""
        self._running.discard(command)
