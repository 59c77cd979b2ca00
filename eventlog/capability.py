"""Reply capability: a signed token good for answering one message, in its thread, as its recipient, and nothing else.

It is kept nowhere: what it is good for stands in it and is signed, so an agent can be shown it in a prompt and a log
that was restored, or another one, does not know it.
"""

import base64
import hmac
import re
from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from eventlog.errors import Forbidden
from eventlog.event import ID_MAX, Event, fold
from eventlog.log import EventLog

#: What a reply capability begins with; the message's id, the Unix time of its end and a signature follow.
PREFIX = "erc_"
#: The kind of token that it counts as: a route that does not name this kind refuses it.
KIND = "reply"

_TOKEN = re.compile(r"erc_([1-9][0-9]{0,15})_([1-9][0-9]{0,11})_([A-Za-z0-9_-]{43})")


class Claim(msgspec.Struct, frozen=True):
    """What a token says of itself, before its signature was looked at; `ends` is Unix time."""

    message_id: int
    ends: int

    def over(self) -> bool:
        """Whether its time is up. The wall clock counts: its end was fixed when the wake was granted."""
        return datetime.now(UTC).timestamp() >= self.ends


def claimed(token: str) -> Claim | None:
    """What the token says of itself; None if it cannot be a reply capability."""
    parts = _TOKEN.fullmatch(token)
    return None if parts is None else Claim(int(parts[1]), int(parts[2]))


def reply_token(key: bytes, log_id: str, message: Event, ends: int) -> str:
    """The token with which the message's recipient may answer it until `ends` (Unix time); the same each time."""
    signed = hmac.digest(key, f"reply:{log_id}:{message.agent}:{message.id}:{ends}".encode(), "sha256")
    return f"{PREFIX}{message.id}_{ends}_{base64.urlsafe_b64encode(signed).decode().rstrip('=')}"


async def check_within(
    bus: EventLog, answers: Event, *, to_agents: Iterable[str], reply_to: int, thread_id: int | None, where: str = ""
) -> None:
    """Whether a message stays within the thread of the one that the caller may answer, and among those that take part.

    Raises Forbidden, for what is not there as for what is elsewhere: the token shows nothing of other threads.
    """
    thread = answers.fields["thread_id"]
    if reply_to != answers.id:
        parent = await bus.store.message(reply_to) if 1 <= reply_to <= ID_MAX else None
        ours = parent is not None and parent.fields["thread_id"] == thread
        if parent is None or not ours or answers.agent not in (parent.agent, parent.sender):
            raise _elsewhere(answers, f"{where}reply_to")
    if thread_id not in (None, thread):
        raise _elsewhere(answers, f"{where}thread_id")
    for name in set(map(fold, to_agents)):
        if not await bus.store.takes_part(thread, frozenset({name})):
            raise _elsewhere(answers, f"{where}to_agent")


def _elsewhere(answers: Event, field: str) -> Forbidden:
    return Forbidden(
        f"this token is for answering message {answers.id}: in its thread, and to those who take part in it",
        field=field,
    )
