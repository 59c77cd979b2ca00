"""Dead letters as an administrator deals with them: listed, shown, tried again, or dropped."""

import hashlib
from typing import Any

import msgspec

from eventlog.drafts import last_words
from eventlog.engine import Append, Appended, Engine, Key, Replayed, Stale
from eventlog.errors import Conflict, NotFound
from eventlog.event import Draft, Event
from eventlog.mail import Mail
from eventlog.store import DeadLetter, Store
from eventlog.views import Closed, Letter, LettersPage, Sent

#: The scope of the keys under which dead letters are closed, each once; no sender's name holds a colon.
CLOSED_SCOPE = "dead:"
#: What a message that is tried again takes over from the dead one.
KEPT = ("from_agent", "to_agent", "type", "thread_id", "reply_to", "hops_from")


class Letters:
    """Dead letters. They are named by their message's id; what is not one is NotFound."""

    def __init__(self, store: Store, engine: Engine, mail: Mail) -> None:
        self._store = store
        self._engine = engine
        self._mail = mail

    async def page(self, *, agent: str | None, after: int, limit: int, closed: bool) -> LettersPage:
        """Open dead letters of `agent` (None: of all) with message ids after `after`; with `closed`, all of them."""
        found = await self._store.dead_letters(agent, after, limit + 1, closed=closed)
        shown = found[:limit]
        return LettersPage(
            dead=tuple([await self._view(letter) for letter in shown]),
            cursor=shown[-1].message_id if shown else after,
            has_more=len(found) > limit,
        )

    async def one(self, message_id: int) -> Letter:
        """One dead letter, without its message."""
        return await self._view(await self._letter(message_id))

    async def retry(self, message_id: int, *, by: str) -> Sent:
        """Send the dead message anew, as its sender did, to the same agent; the dead one is its cause. Again: the same.

        Raises Conflict (already_closed) if it was dropped, or cannot be sent anew because its payload was erased.
        """
        letter, message = await self._letter(message_id), await self._message(message_id)
        if message.payload is None and letter.closed is None:
            raise Conflict(f"message {message_id} was redacted; drop it", code="already_closed")
        fields = {name: message.fields[name] for name in KEPT if name in message.fields}
        again = Draft(
            "message", {**fields, "hops": message.fields["hops"] + 1, "cause": message_id}, message.payload or b"null"
        )
        # The message comes first: its id is the one before the event that closes the letter.
        done = await self._close(letter, "retried", by, {}, again)
        return Sent((self._mail.accepted(done.events[0]),), isinstance(done, Replayed))

    async def drop(self, message_id: int, *, by: str, reason: str | None) -> Letter:
        """Close the dead letter; the message stays dead. Again: the same. Raises Conflict (already_closed) if it was
        tried again."""
        given = {} if reason is None else {"reason": reason}
        await self._close(await self._letter(message_id), "dropped", by, given)
        return await self.one(message_id)

    async def _close(
        self, letter: DeadLetter, how: str, by: str, given: dict[str, str], *first: Draft
    ) -> Appended | Replayed:
        """Close a letter, together with what comes `first`. It is closed once: by key, however many try at once."""
        fields = {"message_id": letter.message_id, "agent": letter.agent, "how": how, "by": by, **given}
        key = Key(CLOSED_SCOPE, str(letter.message_id), hashlib.sha256(how.encode()).digest())
        done = await self._engine.append(Append((*first, Draft("dead_letter.closed", fields)), key=key))
        assert not isinstance(done, Stale)
        if isinstance(done, Replayed) and done.request != key.request:
            was = "dropped" if how == "retried" else "retried"
            raise Conflict(f"the dead letter {letter.message_id} was {was} before; that stands", code="already_closed")
        return done

    async def _letter(self, message_id: int) -> DeadLetter:
        letter = await self._store.dead_letter(message_id)
        if letter is None:
            raise NotFound(f"there is no dead letter {message_id}; `eventlog dead list` shows them")
        return letter

    async def _message(self, message_id: int) -> Event:
        message = await self._store.message(message_id)
        assert message is not None
        return message

    async def _view(self, letter: DeadLetter) -> Letter:
        message = await self._message(letter.message_id)
        died = await self._store.event(letter.id)
        assert died is not None
        wake = await self._store.last_wake_covering(letter.agent, letter.message_id)
        fields: dict[str, Any] = message.fields
        return Letter(
            message_id=letter.message_id,
            agent=letter.agent,
            from_agent=fields["from_agent"],
            type=fields["type"],
            thread_id=fields["thread_id"],
            sent=fields["time"],
            died=died.fields["time"],
            reason=letter.reason,
            attempts=letter.attempts,
            detail="" if wake is None else last_words(wake),
            closed=await self._closed(letter),
        )

    async def _closed(self, letter: DeadLetter) -> Closed | None:
        event = None if letter.closed is None else await self._store.event(letter.closed)
        if event is None or letter.how is None:
            return None
        told = event.fields
        return Closed(
            id=event.id,
            time=told["time"],
            how=letter.how,
            by=told["by"],
            retry=event.id - 1 if letter.how == "retried" else None,
            reason=told.get("reason"),
        )


def with_message(letter: Letter, message: bytes) -> Letter:
    """The letter with its message, as flat JSON."""
    return msgspec.structs.replace(letter, message=msgspec.Raw(message))
