"""Events, receipts and agents as lines for people; what came from an agent is shown without control characters."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import click

#: How much of a payload one line shows.
PAYLOAD_CHARS = 160

_COLOURS = {
    "message": "cyan",
    "ack": "green",
    "wake.started": "blue",
    "wake.finished": "blue",
    "dead_letter": "red",
    "thread.stopped": "red",
    "reset": "yellow",
    "redacted": "yellow",
}


def clean(text: str) -> str:
    """`text` on one line, with what would steer a terminal written out."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def payload_text(event: Mapping[str, Any], limit: int = PAYLOAD_CHARS) -> str:
    """A message's payload on one line: text as it is, anything else as JSON; cut at `limit` characters."""
    if event.get("redacted"):
        return "(redacted)"
    payload = event.get("payload")
    text = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)
    return clean(text if len(text) <= limit else text[: limit - 1] + "…")


def whole_payload(event: Mapping[str, Any]) -> str:
    """A message's payload as it is: text with its lines, anything else as JSON; without what would steer a terminal."""
    if event.get("redacted"):
        return "(redacted)"
    payload = event.get("payload")
    return whole_text(payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False))


def whole_text(text: str) -> str:
    """Text with its lines, without what would steer a terminal."""
    return "\n".join("\t".join(map(clean, line.split("\t"))) for line in text.split("\n"))


def event_line(event: Mapping[str, Any]) -> str:
    """One event: id, time, kind, and what its kind tells."""
    kind = str(event.get("event", "message"))
    clock = clean(str(event.get("time", "")))[:19].replace("T", " ")
    head = f"{event.get('id', ''):>6}  {clock}  "
    if kind == "message":
        names = f"{event.get('from_agent', '?')} -> {event.get('to_agent', '?')}"
        marks = "".join(f"  [{mark}]" for mark in ("dead", "expired") if event.get(mark))
        told = (
            f"{click.style(clean(names), bold=True)}  {clean(str(event.get('type', '')))}  {payload_text(event)}{marks}"
        )
    else:
        told = click.style(kind, fg=_COLOURS.get(kind, "magenta")) + "  " + _told(kind, event)
    return click.style(head, dim=True) + told


def _told(kind: str, event: Mapping[str, Any]) -> str:
    """What an event other than a message says, in one line."""
    get = event.get
    if kind == "ack":
        text = f"{get('agent')} up to {get('cursor')}"
    elif kind == "wake.started":
        text = f"{get('agent')}  ({get('after')}, {get('through')}]  attempt {get('attempt')}  by {get('watcher')}"
    elif kind == "wake.finished":
        text = f"{get('agent')}  wake {get('wake')}  {get('outcome')}" + (f"  {get('detail')}" if get("detail") else "")
    elif kind == "dead_letter.closed":
        text = f"message {get('message_id')} to {get('agent')}: {get('how')} by {get('by')}"
    elif kind == "dead_letter":
        text = f"message {get('message_id')} to {get('agent')}: {get('reason')} after {_attempts(event)}"
    elif kind == "thread.stopped":
        text = f"thread {get('thread')}  {get('reason')} {get('limit')}  {', '.join(map(str, get('agents', ())))}"
    else:
        text = "  ".join(f"{name}={value}" for name, value in event.items() if name not in _COMMON)
    return clean(text)


def _attempts(dead: Mapping[str, Any]) -> str:
    count = dead.get("attempts")
    return "1 attempt" if count == 1 else f"{count} attempts"


_COMMON = frozenset({"id", "event", "time", "hash"})


def receipt_lines(message: Mapping[str, Any]) -> Iterable[str]:
    """How far a message has come, each step with its time."""
    receipt = message.get("receipt") or {}
    yield f"status: {receipt.get('status', '?')}" + ("  (expired)" if receipt.get("expired") else "")
    if receipt.get("accepted"):
        yield f"  accepted  {receipt['accepted']['time']}"
    if message.get("expires"):
        yield clean(f"  expires  {message['expires']}")
    if message.get("deadline"):
        yield clean(f"  deadline  {message['deadline']}  to be {message.get('awaits')}")
    running = (receipt.get("running") or {}).get("id")
    for wake in receipt.get("wakes", ()):
        now = "running" if wake["wake"] == running else "in flight"
        ended = f"{wake['outcome']}  {wake.get('finished', '')}" if wake.get("outcome") else now
        yield clean(
            f"  wake {wake['wake']}  {wake['time']}  attempt {wake['attempt']}  by {wake['watcher']}  {ended}".rstrip()
        )
    if receipt.get("read"):
        yield f"  read at {receipt['read']['id']}  {receipt['read']['time']}"
    if receipt.get("dead"):
        dead = receipt["dead"]
        yield clean(f"  dead at {dead['id']}  {dead['time']}  {dead.get('reason', '')} after {_attempts(dead)}")
    for reply in receipt.get("replies", ()):
        yield f"  replied by {reply['id']}  {reply['time']}"


def wait_ended(message: Mapping[str, Any], wanted: str) -> str:
    """Why a wait for a receipt ended before the message had come so far, and where more is told; empty if it had."""
    number, waited = message["id"], message["receipt"]["waited"]
    if waited == "dead":
        return f"message {number} is a dead letter; `eventlog dead show {number}` tells why"
    if waited == "expired":
        return f"message {number} expired before anybody read it"
    if waited == "reached":
        return ""
    ended = "the time is over" if waited == "time_over" else "the bus is stopping"
    agent = clean(str(message["to_agent"]))
    return f"{ended}, and message {number} has not come as far as {wanted}; `eventlog why {agent}` tells why"


def letter_line(letter: Mapping[str, Any], *, detail: bool = True) -> str:
    """A dead letter in one line; `detail` is how its last wake ended."""
    closed = letter.get("closed")
    state = ""
    if closed:
        as_what = f" as {closed['retry']}" if closed.get("retry") else ""
        state = f"  [{closed['how']}{as_what}" + (f": {closed['reason']}]" if closed.get("reason") else "]")
    said = str(letter.get("detail", ""))
    last = said if len(said) <= PAYLOAD_CHARS else said[: PAYLOAD_CHARS - 1] + "…"
    clock = letter["died"][:19].replace("T", " ")
    return clean(
        f"{letter['message_id']:>6}  {clock}  {letter['from_agent']} -> {letter['agent']}"
        f"  {letter['type']}  {letter['reason']} after {_attempts(letter)}{state}"
        + (f"  {last}" if detail and last else "")
    )


def agent_line(agent: Mapping[str, Any]) -> str:
    """One agent in one line."""
    wake = "wake in flight" if agent.get("wake") else next_text(agent)
    connected = [str(watcher["watcher"]) for watcher in agent.get("watchers", ()) if watcher.get("connected")]
    served = "served by " + ", ".join(connected) if connected else "no watcher connected"
    dead = f"  {agent['dead']} dead" if agent.get("dead") else ""
    return clean(f"{agent['name']:<20} {agent['unread']:>6} unread{dead}  cursor {agent['cursor']:<8} {wake}; {served}")


def next_text(agent: Mapping[str, Any]) -> str:
    """When the next wake is due, and why not now."""
    after = agent.get("next_wake") or {}
    if after.get("due"):
        return "a wake is due"
    reason = _WHY.get(str(after.get("why")), str(after.get("why")))
    return reason + (f" (looked at again in {after['in_s']:.0f} s)" if after.get("in_s") else "")


_WHY = {
    "in_flight": "a wake is in flight",
    "nothing_unread": "nothing is unread",
    "ack_pending": "woken already; its ack is awaited",
    "paused": "paused",
    "quiet": "quiet after a restore",
    "backoff": "the last wake failed; waiting before the next",
    "min_interval": "woken a short time ago",
    "wakes_per_hour": "woken as often as is allowed in an hour",
}

_STOPPED = {
    "max_hops": "its messages came {limit} hops far",
    "thread_messages": "it has had {limit} messages",
    "thread_wakes": "it has had {limit} wakes",
    "pair_rate": "more than {limit} answers a minute between them",
    "cycle": "{limit} messages round and round in one rhythm",
}


def stopped_lines(shown: Mapping[str, Any]) -> Iterable[str]:
    """What is stopped of an agent or a thread, why, and how it is let go on."""
    for stop in shown.get("stopped", ()):
        why = _STOPPED.get(str(stop["reason"]), str(stop["reason"])).format(limit=stop["limit"])
        yield clean(
            f"stopped: thread {stop['thread']} of {', '.join(stop['agents'])}: {why}, at {stop['time']}; "
            f"`eventlog thread resume {stop['thread']}` lets it go on"
        )


def why_lines(agent: Mapping[str, Any]) -> Iterable[str]:
    """Why an agent was or was not woken and what comes next, in one screen."""
    dead = f", {agent['dead']} dead (eventlog dead list --agent {agent['name']})" if agent.get("dead") else ""
    yield (
        f"{agent['name']}: {agent['unread']} unread after cursor {agent['cursor']}"
        + dead
        + (", paused" if agent.get("paused") else "")
    )
    for title, wake in (("wake in flight", agent.get("wake")), ("last wake", agent.get("last_wake"))):
        if wake:
            yield (
                f"{title}: {wake['id']} at {wake['time']}, attempt {wake['attempt']}, messages in "
                f"({wake['after']}, {wake['through']}], by {wake['watcher']}: {wake.get('outcome', 'running')}"
            )
            if wake.get("detail"):
                yield f"  it said: {clean(str(wake['detail']))}"
    if not agent.get("wake") and not agent.get("last_wake"):
        yield "never woken"
    yield "next: " + next_text(agent)
    yield from stopped_lines(agent)
    watchers = agent.get("watchers", ())
    for watcher in watchers:
        state = "connected" if watcher.get("connected") else f"not connected, last seen {watcher['last_seen']}"
        yield f"watcher: {watcher['watcher']} on node {watcher['node']}: {state}"
    if not watchers:
        yield (
            "watcher: none serves this agent; name it in the configuration of the watcher on its machine and "
            "start `bus-watcher run`, unless it reads its inbox by itself"
        )
    yield f"last request of its own: {agent.get('last_seen', 'none since the bus started')}"
