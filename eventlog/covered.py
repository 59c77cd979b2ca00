"""Covered: the messages that a wake is about, as they go along with it."""

from collections.abc import Sequence

from eventlog.agents import Limits
from eventlog.event import Event
from eventlog.wakes import Grant

#: How much of the messages goes along with a wake, bytes of JSON.
MESSAGES_BYTES_MAX = 64 * 1024
#: How many messages are read to fill that.
MESSAGES_MAX = 500
#: How many of an agent's first unread messages are read with what decides about its wake: mostly it covers no more.
FIRST_MAX = 20


def among(first: Sequence[Event], limits: Limits, grant: Grant) -> Sequence[Event]:
    """What `grant` covers, if its agent's first living messages, FIRST_MAX at most, show all of that; else nothing."""
    if limits.deliver == "each":
        return [message for message in first if message.id == grant.through]
    if len(first) == FIRST_MAX and first[-1].id < grant.through:
        return ()
    return [message for message in first if grant.after < message.id <= grant.through]


def fitting(covered: Sequence[Event], limits: Limits) -> tuple[tuple[Event, ...], bool]:
    """As many of these as may go along, and whether there are more; a run's one goes along however large it is."""
    if limits.deliver == "each":
        return tuple(covered), False
    fit: list[Event] = []
    room = MESSAGES_BYTES_MAX
    for message in covered:
        room -= len(message.json()) + 1
        if room < 0:
            break
        fit.append(message)
    return tuple(fit), len(fit) < len(covered) or len(covered) == MESSAGES_MAX
