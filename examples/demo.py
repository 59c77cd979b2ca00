"""`make demo`: two agents talk while bus and watcher are killed; then counts what was lost or happened twice.

It counts in two records that know nothing of each other: the bus's log, and the file to which each agent process adds
a line when it starts. Exits 0 if nothing was lost and nothing happened twice, else 1. Takes less than 30 s.
"""

import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stage import AGENTS, Stage, interruptible, waiting_until

#: By when the conversation must be over, seconds from the start.
LIMIT_S = 27.0

Event = dict[str, Any]


def main() -> int:
    """Play, then count; 0 if nothing was lost and nothing happened twice."""
    began = time.monotonic()
    stage = Stage(Path(tempfile.mkdtemp(prefix="eventlog-demo-")))
    good = False
    try:
        with interruptible():
            asked = play(stage, began)
            complete = waiting_until(lambda: is_over(stage, len(asked)), LIMIT_S - (time.monotonic() - began))
            if not complete:
                say(began, "the conversation did not end in time")
            read_own_inbox(stage)
            good = count(stage, asked) and complete
    except KeyboardInterrupt:
        say(began, "stopped before it was over")
    finally:
        stage.stop()
        if good:
            shutil.rmtree(stage.folder)
        else:
            print(f"the logs of this run are in {stage.folder}", file=sys.stderr)
    return 0 if good else 1


# ---- the play -------------------------------------------------------------------------------------------------------


def play(stage: Stage, began: float) -> list[int]:
    """Give tasks and kill programs; the ids of the tasks that were accepted."""
    stage.start_bus(0)
    port = urlsplit(stage.url).port or 0
    stage.start_watcher()
    say(began, f"a bus at {stage.url}, a watcher, and the agents {' and '.join(AGENTS)}")
    asked = [task(stage, "notes", 0.5)]

    wait_for_wake_of_tony(stage, 0)
    stage.kill_bus()
    say(began, "SIGKILL to the bus during a wake; the agent goes on and repeats its requests")
    stage.start_bus(port)
    say(began, "the bus is back")
    asked.append(task(stage, "poem", 1.5))

    wait_for_wake_of_tony(stage, len(starts(stage)))
    stage.kill_watcher()
    say(began, "SIGKILL to the watcher during a wake; the agent goes on")
    asked += [task(stage, "plan", 0.2), task(stage, "budget", 0.2)]
    say(began, "two more tasks, while there is no watcher")
    stage.start_watcher()
    say(began, "the watcher is back")
    return asked


def task(stage: Stage, text: str, seconds: float) -> int:
    """Ask mel for something that takes tony two steps of so many seconds; the message's id."""
    payload = {"text": text, "steps": ["draft", "check"], "seconds": seconds}
    message = {"from_agent": "you", "to_agent": "mel", "type": "TASK", "payload": payload}
    accepted: int = stage.call("POST", "/api/send", message, key=f"task-{text}")["id"]
    return accepted


def wait_for_wake_of_tony(stage: Stage, seen: int) -> None:
    """Wait until tony was started once more, which the agents' record shows first."""
    if not waiting_until(lambda: any(start["agent"] == "tony" for start in starts(stage)[seen:]), 10):
        raise SystemExit(stage.failed() or f"tony was not woken within 10 s; see {stage.folder}")


def is_over(stage: Stage, tasks: int) -> bool:
    """Whether every task is done, everything is read, and no wake is in flight."""
    if len(stage.call("GET", "/api/inbox?agent=you")["messages"]) < tasks:
        return False
    events = log_of(stage)
    ended = {event["wake"] for event in events if event["event"] == "wake.finished"}
    in_flight = [event for event in events if event["event"] == "wake.started" and event["id"] not in ended]
    cursors = cursors_of(events)
    return not in_flight and all(
        cursors[event["to_agent"]] >= event["id"]
        for event in events
        if event["event"] == "message" and event["to_agent"] in AGENTS
    )


def read_own_inbox(stage: Stage) -> None:
    """Read the answers as `you`, who has no watcher."""
    page = stage.call("GET", "/api/inbox?agent=you")
    stage.call("POST", "/api/inbox/ack", {"agent": "you", "cursor": page["cursor"]})


def say(began: float, text: str) -> None:
    """A line of the play, with its second."""
    print(f"{time.monotonic() - began:5.1f} s  {text}", flush=True)


# ---- the count ------------------------------------------------------------------------------------------------------


def count(stage: Stage, asked: list[int]) -> bool:
    """Print every message with its wakes and its ack, then the sums; whether both are 0."""
    events = log_of(stage)
    started = starts(stage)
    print_messages(events)
    lost = lost_of(events, started, asked)
    duplicated = duplicated_of(events, started)
    for problem in (*lost, *duplicated):
        print(problem)
    messages = sum(event["event"] == "message" for event in events)
    wakes = sum(event["event"] == "wake.started" for event in events)
    print(f"\n{messages} messages, {wakes} wakes, {len(started)} starts in the agents' own record")
    print(f"{len(lost)} lost, {len(duplicated)} duplicated")
    return not lost and not duplicated


def print_messages(events: list[Event]) -> None:
    """The table: id, who to whom, what, the wakes that covered it with their outcomes, and where its ack stands."""
    outcomes = {event["wake"]: event["outcome"] for event in events if event["event"] == "wake.finished"}
    print(f"\n{'id':>4}  {'from -> to':<12}  {'type':<6}  {'about':<14}  {'wakes':<17}  ack")
    for event in events:
        if event["event"] != "message":
            continue
        payload = event["payload"]
        about = payload if isinstance(payload, str) else f"{payload['text']}, {payload.get('step', 'all')}"
        wakes = ", ".join(f"{wake['id']} {outcomes.get(wake['id'], 'in flight')}" for wake in covering(event, events))
        ack = next(
            (f"by {ack['id']}" for ack in events if ack["event"] == "ack" and covers_ack(ack, event)), "not read"
        )
        who = f"{event['from_agent']} -> {event['to_agent']}"
        none = "in an earlier one" if event["to_agent"] in AGENTS else "has no watcher"
        print(f"{event['id']:>4}  {who:<12}  {event['type']:<6}  {about:<14}  {wakes or none:<17}  {ack}")


def lost_of(events: list[Event], started: list[Event], asked: list[int]) -> list[str]:
    """What ought to be there and is not, a line each."""
    messages = {event["id"]: event for event in events if event["event"] == "message"}
    cursors = cursors_of(events)
    lost = [f"task {number} was accepted and is not in the log" for number in asked if number not in messages]
    lost += [f"message {number} was not read" for number, one in messages.items() if cursors[one["to_agent"]] < number]
    lost += [
        f"message {number} was not answered"
        for number, one in messages.items()
        if one["to_agent"] in AGENTS and not any(other.get("reply_to") == number for other in messages.values())
    ]
    recorded = {start["wake"] for start in started}
    lost += [
        f"wake {event['wake']} ended ok, and no agent was started for it"
        for event in events
        if event["event"] == "wake.finished" and event["outcome"] == "ok" and event["wake"] not in recorded
    ]
    return lost


def duplicated_of(events: list[Event], started: list[Event]) -> list[str]:
    """What happened twice, or without a reason in the log, a line each."""
    messages = [event for event in events if event["event"] == "message"]
    ok = {event["wake"] for event in events if event["event"] == "wake.finished" and event["outcome"] == "ok"}
    twice = [
        f"wake {wake} was started {times} times"
        for wake, times in Counter(start["wake"] for start in started).items()
        if times > 1
    ]
    granted = {event["id"] for event in events if event["event"] == "wake.started"}
    twice += [f"wake {start['wake']} is not in the log" for start in started if start["wake"] not in granted]
    twice += [
        f"message {one['id']} was covered by two wakes that ended ok"
        for one in messages
        if sum(wake["id"] in ok for wake in covering(one, events)) > 1
    ]
    answers = Counter(one["reply_to"] for one in messages if "reply_to" in one)
    return twice + [f"message {number} was answered {times} times" for number, times in answers.items() if times > 1]


def covering(message: Event, events: list[Event]) -> list[Event]:
    """The wakes that covered a message."""
    return [
        event
        for event in events
        if event["event"] == "wake.started"
        and event["agent"] == message["to_agent"]
        and event["after"] < message["id"] <= event["through"]
    ]


def covers_ack(ack: Event, message: Event) -> bool:
    """Whether an ack took this message over."""
    return bool(ack["agent"] == message["to_agent"] and ack["cursor"] >= message["id"])


def cursors_of(events: list[Event]) -> Counter[str]:
    """Each agent's cursor; 0 without an ack."""
    cursors: Counter[str] = Counter()
    for event in events:
        if event["event"] == "ack":
            cursors[event["agent"]] = max(cursors[event["agent"]], event["cursor"])
    return cursors


def log_of(stage: Stage) -> list[Event]:
    """The whole log."""
    events: list[Event] = []
    page: dict[str, Any] = {"has_more": True, "cursor": 0}
    while page["has_more"]:
        page = stage.call("GET", f"/api/events?after={page['cursor']}&limit=1000")
        events += page["events"]
    return events


def starts(stage: Stage) -> list[Event]:
    """The agents' own record of their starts."""
    if not stage.record.exists():
        return []
    return [json.loads(line) for line in stage.record.read_text().splitlines()]


if __name__ == "__main__":
    sys.exit(main())
