"""Drafts: the events that leases append, made of what was decided or reported."""

from typing import Any

from eventlog.agents import AgentState, Wake
from eventlog.event import Draft, Event
from eventlog.reads import WakeRow
from eventlog.wakes import Report


def answer(message: Event, sender: str, kind: str, payload: bytes, hops_from: int = 0) -> Draft:
    """A message back to the sender of `message`, in its thread, whose hops count from `hops_from`."""
    fields: dict[str, Any] = message.fields
    hops_from = max(hops_from, fields.get("hops_from", 0))
    return Draft(
        "message",
        {
            "from_agent": sender,
            "to_agent": fields["from_agent"],
            "type": kind,
            "thread_id": fields["thread_id"],
            "reply_to": message.id,
            "hops": fields["hops"] + 1,
            "cause": message.id,
            **({"hops_from": hops_from} if hops_from else {}),
        },
        payload,
    )


def acked(state: AgentState, row: WakeRow, report: Report) -> list[Draft]:
    """The ack that an ok brings along where the exit code is one."""
    if report.outcome != "ok" or row.limits.ack != "exit" or row.through <= state.cursor:
        return []
    return [Draft("ack", {"agent": state.name, "cursor": row.through})]


def finished(row: WakeRow, report: Report) -> Draft:
    """That a wake ended, as its watcher reported it."""
    fields = {"wake": row.id, "agent": row.agent, "outcome": report.outcome, "by": "watcher"}
    given = {"exit_code": report.exit_code, "duration_ms": report.duration_ms, "detail": report.detail}
    return Draft("wake.finished", {**fields, **{k: v for k, v in given.items() if v is not None}})


def ran_out(state: AgentState, wake: Wake) -> Draft:
    """That a wake is given up: its lease ran out."""
    fields = {
        "wake": wake.id,
        "agent": state.name,
        "outcome": "interrupted",
        "by": "bus",
        "detail": "the lease ran out",
    }
    return Draft("wake.finished", fields)


def last_words(row: WakeRow) -> str:
    """How a message's last wake ended, with the tail of what its command said, for whoever is told of it."""
    return f"the last wake ended {row.outcome}" + (f": {row.detail}" if row.detail else "")
