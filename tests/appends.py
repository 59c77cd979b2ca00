"""Requests to append, for tests of the engine and of what is derived from the log."""

from typing import Any

from eventlog.agents import Limits
from eventlog.engine import Append, Key
from eventlog.event import Draft, fold


def message(to: str = "mel", sender: str = "tony", payload: bytes = b'"hello"', **fields: Any) -> Draft:
    """A message that is to be appended."""
    return Draft("message", {"from_agent": sender, "to_agent": to, "type": "TASK", "hops": 0, **fields}, payload)


def ack(cursor: int, agent: str = "mel") -> Draft:
    """An ack that is to be appended."""
    return Draft("ack", {"agent": agent, "cursor": cursor})


def started(
    through: int, after: int = 0, agent: str = "mel", key: str = "k", attempt: int = 1, limits: Limits | None = None
) -> Draft:
    """A wake that is to be granted."""
    limits = limits or Limits()
    fields = {"agent": agent, "key": key, "after": after, "through": through, "attempt": attempt}
    return Draft("wake.started", {**fields, "watcher": "w", "node": "n", "thread": 1, **limits.kept})


def finished(wake: int, outcome: str = "ok", agent: str = "mel", by: str = "watcher", **fields: Any) -> Draft:
    """The end of a wake."""
    return Draft("wake.finished", {"wake": wake, "agent": agent, "outcome": outcome, "by": by, **fields})


def one(draft: Draft, key: str | None = None, request: bytes = bytes(32), **expect: int) -> Append:
    """A request for one event, with its sender's key if `key` is given."""
    scope = fold(draft.fields.get("from_agent", "wake:"))
    return Append((draft,), expect, Key(scope, key, request) if key is not None else None)
