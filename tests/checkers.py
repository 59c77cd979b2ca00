"""Judges of a run: pure functions from evidence to a list of what is wrong with it, in words.

There are two kinds of evidence that know nothing of each other: the log's events, and the lines that the wake commands
wrote of themselves (tests/wake_agent.py). Nothing here uses the project's own code.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

Event = Mapping[str, Any]

#: How far an ack deadline can be moved, in multiples of `ack_within_s` after the wake's end.
ACK_WITHIN_TIMES = 4
#: Events are stamped with a clock other than the one that leases run by.
CLOCK_SLACK = timedelta(seconds=0.1)
#: A command notes its start a little later than its time begins to count.
CUT_SLACK_S = 3.0
#: Senders that are told nothing of dead letters.
SILENT = frozenset({"bus", "admin"})


@dataclass
class _Message:
    """One message on its way: the wakes that count against it, and the end of the last ok one that covered it."""

    event: Event
    wakes: list[int] = field(default_factory=list)
    worked: tuple[datetime, Event] | None = None
    dead: bool = False

    @property
    def id(self) -> int:
        return int(self.event["id"])


@dataclass
class _Agent:
    """One agent, as far as the log was read."""

    cursor: int = 0
    moved: int = 0
    active: datetime | None = None
    in_flight: int | None = None
    newest: int = 0
    messages: dict[int, _Message] = field(default_factory=dict)


def log_problems(events: Sequence[Event], *, accepted: Iterable[int] = (), read_by: Collection[str] = ()) -> list[str]:
    """What the log says against itself.

    `accepted` are the ids that senders were given; `read_by` the agents that must have read, by the end, every message
    that is not dead, and have no wake in flight.
    """
    reading = _Reading()
    for event in events:
        reading.take(event)
    for number, times in Counter(accepted).items():
        if times > 1:
            reading.wrong(f"the id {number} was given to {times} messages")
        if number not in reading.messages:
            reading.wrong(f"message {number} was accepted and is not in the log")
    for name in read_by:
        reading.must_be_done(name.lower())
    return reading.problems


class _Reading:
    """Reads a log once, in order, keeping what the next event is judged by."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.last = 0
        self.messages: dict[int, _Message] = {}
        self.agents: defaultdict[str, _Agent] = defaultdict(_Agent)
        self.wakes: dict[int, Event] = {}
        self.covered: dict[int, list[_Message]] = {}
        self.ends: defaultdict[int, list[Event]] = defaultdict(list)
        self.keys: set[str] = set()

    def wrong(self, what: str) -> None:
        self.problems.append(what)

    def take(self, event: Event) -> None:
        """One event more."""
        if event["id"] <= self.last:
            self.wrong(f"event {event['id']} comes after {self.last}")
        self.last = event["id"]
        kinds = {
            "message": self.message,
            "ack": self.ack,
            "wake.started": self.started,
            "wake.finished": self.finished,
            "dead_letter": self.died,
        }
        judge = kinds.get(event["event"])
        if judge is not None:
            judge(event, _time(event))

    def message(self, event: Event, now: datetime) -> None:
        message = _Message(event)
        self.messages[message.id] = message
        self.agents[event["to_agent"].lower()].messages[message.id] = message
        self.agents[event["from_agent"].lower()].active = now

    def ack(self, event: Event, now: datetime) -> None:
        agent = self.agents[event["agent"].lower()]
        if not agent.cursor < event["cursor"] < event["id"]:
            self.wrong(f"ack {event['id']} moves the cursor of {event['agent']} from {agent.cursor}"
                       f" to {event['cursor']}")  # fmt: skip
        agent.cursor, agent.moved, agent.active = event["cursor"], event["id"], now
        for message in agent.messages.values():
            message.wakes.clear()

    def started(self, event: Event, now: datetime) -> None:
        agent, number = self.agents[event["agent"].lower()], event["id"]
        if agent.in_flight is not None:
            self.wrong(f"wake {number} started while {agent.in_flight} was in flight")
        if event["key"] in self.keys:
            self.wrong(f"wake {number} was granted to a key that was used before")
        self.keys.add(event["key"])
        covered = [
            message
            for message in agent.messages.values()
            if max(event["after"], agent.cursor) < message.id <= event["through"] and not message.dead
        ]
        if not covered:
            self.wrong(f"wake {number} covers no unread message")
        elif event["attempt"] != 1 + max(len(message.wakes) for message in covered):
            self.wrong(f"wake {number} says it is attempt {event['attempt']}")
        for message in covered:
            if len(message.wakes) >= event["max_attempts"]:
                self.wrong(f"wake {number} covers message {message.id}, whose wakes are used up")
            if message.worked is not None and now + CLOCK_SLACK < _deadline(message.worked, agent):
                self.wrong(f"wake {number} covers message {message.id} within its ack deadline after an ok wake")
            message.wakes.append(number)
        self.wakes[number], self.covered[number] = event, covered
        agent.in_flight, agent.newest = number, number

    def finished(self, event: Event, now: datetime) -> None:
        number = event["wake"]
        wake = self.wakes.get(number)
        if wake is None or wake["agent"].lower() != event["agent"].lower():
            self.wrong(f"wake {number} of {event['agent']} finished and was not started")
            return
        agent = self.agents[event["agent"].lower()]
        reports = [end for end in self.ends[number] if end["by"] != "bus"]
        if reports or (event["by"] == "bus" and self.ends[number]):
            self.wrong(f"wake {number} was finished again, by {event['id']}")
        if agent.newest != number:
            self.wrong(f"wake {number} was finished by {event['id']}, after wake {agent.newest} had started")
        self.ends[number].append(event)
        agent.in_flight = None if agent.in_flight == number else agent.in_flight
        for message in self.covered[number]:
            if event["outcome"] == "ok":
                message.worked = (now, wake)
            if event["outcome"] == "not_started" and number in message.wakes:
                message.wakes.remove(number)

    def died(self, event: Event, _now: datetime) -> None:
        message = self.agents[event["agent"].lower()].messages.get(event["message_id"])
        if message is None:
            self.wrong(f"dead letter {event['id']} is of no message to {event['agent']}")
            return
        if message.dead:
            self.wrong(f"message {message.id} became a dead letter twice")
        if message.id <= self.agents[event["agent"].lower()].cursor:
            self.wrong(f"message {message.id} became a dead letter though it was read")
        limits = [self.wakes[number]["max_attempts"] for number in message.wakes]
        if not limits or not len(message.wakes) == event["attempts"] == limits[-1]:
            self.wrong(f"message {message.id} became a dead letter after {len(message.wakes)} wakes")
        message.dead = True

    def must_be_done(self, name: str) -> None:
        """Judge the end: everything read or dead, the senders of the dead told, nothing in flight."""
        agent = self.agents[name]
        if agent.in_flight is not None:
            self.wrong(f"wake {agent.in_flight} of {name} is still in flight")
        notices = Counter(
            message.event.get("reply_to")
            for message in self.messages.values()
            if (message.event["from_agent"], message.event["type"]) == ("bus", "DEAD_LETTER")
        )
        for message in agent.messages.values():
            if not message.dead and message.id > agent.cursor:
                self.wrong(f"message {message.id} to {name} is neither read nor dead")
            told = int(message.dead and message.event["from_agent"].lower() not in SILENT)
            if notices[message.id] != told:
                self.wrong(f"the sender of message {message.id} was told {notices[message.id]} times that it is dead")


def reply_problems(events: Sequence[Event], agents: Collection[str]) -> list[str]:
    """What the log says against this: a message to one of these agents, whose runs print an answer, has one good run
    and one answer if it was read, and neither if it is dead."""
    names = {name.lower() for name in agents}
    dead = {e["message_id"] for e in events if e["event"] == "dead_letter"}
    good = {e["wake"] for e in events if e["event"] == "wake.finished" and e["outcome"] == "ok"}
    runs = Counter(e["through"] for e in events if e["event"] == "wake.started" and e["id"] in good)
    sent = [e for e in events if e["event"] == "message"]
    answers = Counter(e.get("reply_to") for e in sent if e["from_agent"].lower() in names)
    return [
        f"message {e['id']} has {runs[e['id']]} good runs and {answers[e['id']]} answers"
        for e in sent
        if e["to_agent"].lower() in names and (runs[e["id"]], answers[e["id"]]) != (0 if e["id"] in dead else 1,) * 2
    ]


def _deadline(worked: tuple[datetime, Event], agent: _Agent) -> datetime:
    """Until when a message that an ok wake covered is the agent's own business."""
    ended, wake = worked
    if wake["ack"] == "none":
        return datetime.max.replace(tzinfo=ended.tzinfo)
    within = timedelta(seconds=wake["ack_within_s"])
    active = max(ended, agent.active or ended)
    return min(active + within, ended + ACK_WITHIN_TIMES * within)


def _time(event: Event) -> datetime:
    return datetime.fromisoformat(event["time"])


def follower_problems(seen: Sequence[int], events: Sequence[Event], *, after: int = 0, agent: str = "") -> list[str]:
    """What is wrong with the ids of messages that a follower saw, against the log.

    It began at the cursor `after`, and was shown the messages to `agent` alone, if one is named.
    """
    due = [
        int(event["id"])
        for event in events
        if event["event"] == "message" and event["id"] > after and agent.lower() in ("", event["to_agent"].lower())
    ]
    times = Counter(seen)
    problems = [f"a follower saw {number} {count} times" for number, count in times.items() if count > 1]
    problems += [f"a follower did not see {number}" for number in due if not times[number]]
    problems += [f"a follower saw {number}, which was not for it" for number in times.keys() - set(due)]
    problems += [f"a follower saw {late} after {early}" for early, late in itertools.pairwise(seen) if late < early]
    return problems


def run_problems(events: Sequence[Event], runs: Sequence[Mapping[str, Any]], agents: Collection[str]) -> list[str]:
    """What the wake commands' own lines say against the log. `agents` are those whose wakes run such a command."""
    problems: list[str] = []
    names = {name.lower() for name in agents}
    granted = {e["id"]: e["agent"].lower() for e in events if e["event"] == "wake.started"}
    outcomes = {e["wake"]: e["outcome"] for e in events if e["event"] == "wake.finished"}
    dead = {e["message_id"] for e in events if e["event"] == "dead_letter"}
    starts = Counter(run["wake"] for run in runs if run["did"] == "start")
    ends = Counter(run["wake"] for run in runs if run["did"] == "end")
    at = {(run["did"], run["wake"]): run.get("at", 0.0) for run in runs}
    times_up = {e["id"]: e.get("timeout_s", math.inf) - CUT_SLACK_S for e in events if e["event"] == "wake.started"}
    problems += [f"wake {wake} was started {times} times" for wake, times in starts.items() if times > 1]
    for run in runs:
        if granted.get(run["wake"]) != run["agent"].lower():
            problems.append(f"{run['agent']} was started for wake {run['wake']}, which it was not granted")
        if run["did"] == "start" and not run["alone"]:
            problems.append(f"wake {run['wake']} started while another command of {run['agent']} ran")
    for wake, agent in granted.items():
        if agent not in names:
            continue
        if outcomes.get(wake) == "ok" and not ends[wake]:
            problems.append(f"wake {wake} ended ok, and no command came to its end for it")
        if outcomes.get(wake) == "not_started" and starts[wake]:
            problems.append(f"wake {wake} was reported not_started, and its command did start")
        if ends[wake] and outcomes.get(wake) not in ("ok", "interrupted"):
            # Its time may have been up just between its last word and its exit.
            if outcomes.get(wake) == "timeout" and at["end", wake] - at["start", wake] > times_up[wake]:
                continue
            problems.append(f"the command of wake {wake} came to its end, and was reported {outcomes.get(wake)}")
    seen = {(run["agent"].lower(), number) for run in runs if run["did"] == "read" for number in run["ids"]}
    problems += [
        f"message {e['id']} was never read by a command"
        for e in events
        if e["event"] == "message" and e["to_agent"].lower() in names and e["id"] not in dead
        and (e["to_agent"].lower(), e["id"]) not in seen
    ]  # fmt: skip
    return problems
