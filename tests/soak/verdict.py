"""What came of a fleet's run: a pure function from its evidence to figures, and the table of them."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from tests.checkers import Event, follower_problems, log_problems, run_problems

#: A fault counts as going on for so long after it was mended: until all that noticed it have come back, seconds.
RECOVERY_S = 2.0


class Window(NamedTuple):
    """While a fault went on, by the monotonic clock; at a node, or (None) at the bus."""

    begin: float
    end: float
    node: int | None


@dataclass
class Evidence:
    """What is known of a run. Times are of the monotonic clock, which is `wall_ahead_s` behind the log's."""

    events: Sequence[Event]
    #: What the wake commands wrote of themselves.
    runs: Sequence[Mapping[str, Any]]
    #: The ids that senders were told.
    accepted: Sequence[int]
    #: The ids that each follower saw.
    followers: Mapping[str, Sequence[int]]
    #: Each agent's node.
    agents: Mapping[str, int]
    windows: Sequence[Window]
    wall_ahead_s: float


@dataclass
class Verdict:
    """The figures of a run."""

    messages: int = 0
    read: int = 0
    answered: int = 0
    dead: int = 0
    wakes: int = 0
    attempts: Counter[int] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    calm_s: list[float] = field(default_factory=list)
    during_s: list[float] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing was lost, duplicated, or otherwise wrong."""
        return not (self.lost or self.duplicated or self.problems)


def judge(evidence: Evidence) -> Verdict:
    """What the evidence says."""
    verdict = Verdict()
    events = evidence.events
    by_kind: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_kind[event["event"]].append(event)
    asked = {event["id"]: event for event in by_kind["message"] if event["to_agent"] in evidence.agents}
    dead = {event["message_id"] for event in by_kind["dead_letter"]}
    answers = Counter(event["reply_to"] for event in by_kind["message"] if event.get("reply_to") in asked)
    first_read: dict[int, float] = {}
    for run in evidence.runs:
        for number in run["ids"] if run["did"] == "read" else ():
            first_read[number] = min(run["at"], first_read.get(number, run["at"]))

    verdict.messages = len(asked)
    verdict.read = len(asked.keys() & first_read.keys())
    verdict.answered = len(answers)
    verdict.dead = len(dead)
    verdict.wakes = len(by_kind["wake.started"])
    verdict.attempts = Counter(event["attempt"] for event in by_kind["wake.started"])
    # What the bus closed itself may be reported afterwards: that, then, is the outcome.
    verdict.outcomes = Counter({event["wake"]: event["outcome"] for event in by_kind["wake.finished"]}.values())

    logged = {event["id"] for event in by_kind["message"]}
    verdict.lost += [f"{number}: accepted, and not in the log" for number in set(evidence.accepted) - logged]
    verdict.lost += [f"{number}: never read" for number in asked.keys() - first_read.keys() - dead]
    verdict.lost += [f"{number}: never answered" for number in asked.keys() - answers.keys() - dead]
    keys = Counter((event["from_agent"], event["key"]) for event in by_kind["message"] if "key" in event)
    starts = Counter(run["wake"] for run in evidence.runs if run["did"] == "start")
    verdict.duplicated += [f"{key}: there {times} times" for key, times in keys.items() if times > 1]
    verdict.duplicated += [f"{number}: answered {times} times" for number, times in answers.items() if times > 1]
    verdict.duplicated += [f"wake {number}: started {times} times" for number, times in starts.items() if times > 1]
    for name, seen in evidence.followers.items():
        for problem in follower_problems(seen, events):
            (verdict.lost if "did not see" in problem else verdict.duplicated).append(f"{name}: {problem}")
    names = list(evidence.agents)
    verdict.problems = log_problems(events, accepted=evidence.accepted, read_by=names)
    verdict.problems += run_problems(events, evidence.runs, names)

    windows = _windows(evidence, by_kind)
    for number, message in asked.items():
        if number in first_read:
            sent = _monotonic(evidence, message)
            disturbed = any(w.begin < first_read[number] and sent < w.end for w in windows[message["to_agent"]])
            (verdict.during_s if disturbed else verdict.calm_s).append(first_read[number] - sent)
    return verdict


def _monotonic(evidence: Evidence, event: Event) -> float:
    return datetime.fromisoformat(event["time"]).timestamp() - evidence.wall_ahead_s


def _windows(evidence: Evidence, by_kind: Mapping[str, Sequence[Event]]) -> dict[str, list[Window]]:
    """For each agent, when faults of the bus or of its node went on, and when one of its wakes had failed: from the
    start of that wake to the start of the next."""
    found = {
        agent: [Window(w.begin, w.end + RECOVERY_S, w.node) for w in evidence.windows if w.node in (None, node)]
        for agent, node in evidence.agents.items()
    }
    ends = {event["wake"]: event["outcome"] for event in by_kind["wake.finished"]}
    failed: dict[str, float] = {}
    for event in by_kind["wake.started"]:
        agent, at = event["agent"], _monotonic(evidence, event)
        if agent in failed:
            found[agent].append(Window(failed.pop(agent), at + RECOVERY_S, evidence.agents[agent]))
        if ends.get(event["id"]) != "ok":
            failed[agent] = at
    return found


def table(verdict: Verdict, faults: Mapping[str, int]) -> str:
    """The figures, for people."""
    return "\n".join(_lines(verdict, faults))


def _lines(verdict: Verdict, faults: Mapping[str, int]) -> Iterator[str]:
    def counted(counts: Mapping[Any, int]) -> str:
        return ", ".join(f"{what} {count}" for what, count in sorted(counts.items())) or "none"

    v = verdict
    yield f"{'messages':<22} {v.messages}: read {v.read}, answered {v.answered}, dead {v.dead}"
    yield f"{'wakes':<22} {v.wakes}: by attempt {counted(v.attempts)}"
    yield f"{'outcomes':<22} {counted(v.outcomes)}"
    yield f"{'faults':<22} {counted(faults)}"
    yield f"{'lost':<22} {len(v.lost)}"
    yield f"{'duplicated':<22} {len(v.duplicated)}"
    yield f"{'delivery latency, ms':<22} {'p50':>8} {'p99':>8} {'max':>8} {'messages':>9}"
    for name, values in (("  outside of faults", v.calm_s), ("  during faults", v.during_s)):
        shown = " ".join(f"{round(_quantile(values, share) * 1000):>8}" for share in (0.5, 0.99, 1.0))
        yield f"{name:<22} {shown} {len(values):>9}"
    for problem in (v.lost + v.duplicated + v.problems)[:50]:
        yield f"wrong: {problem}"


def _quantile(values: Sequence[float], share: float) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else 0.0
