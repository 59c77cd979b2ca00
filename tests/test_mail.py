"""Sending stamps what the bus knows and is harmless to repeat; an inbox is read by cursor and taken over by ack."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventlog.errors import BadRequest, Conflict, EventlogError, KeyReused, NotFound
from eventlog.event import Message
from eventlog.log import EventLog
from eventlog.mail import Mail
from eventlog.views import InboxPage, Sent
from tests.logs import DEADLINE_S, opened, report, send, wake

pytestmark = pytest.mark.anyio


async def send_all(log: EventLog, *to: str, key: str | None = None, request: bytes = b"body", **fields: Any) -> Sent:
    """One message to each, in one request, from tony."""
    messages = [Message(to_agent=name, payload=b'"hello"', **fields) for name in to]
    return await log.send(messages, sender="tony", key=key, request=request)


async def fields_of(log: EventLog, event_id: int) -> dict[str, Any]:
    event = await log.store.event(event_id)
    assert event is not None
    return event.fields


def decoded(page: InboxPage) -> list[dict[str, Any]]:
    return [msgspec.json.decode(message) for message in page.messages]


def ids(page: InboxPage) -> list[int]:
    return [message["id"] for message in decoded(page)]


async def refused(call: Any, kind: type[EventlogError], code: str) -> EventlogError:
    with pytest.raises(kind) as caught:
        await call
    assert caught.value.code == code
    return caught.value


# ---- sending ----


async def test_the_answer_is_an_anchor_of_a_durable_message(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        answer = await send(log, "mel")
    async with opened(tmp_path) as log:
        event = await log.store.event(answer.id)
        assert event is not None
        assert (event.hash.hex(), event.fields["thread_id"]) == (answer.hash, answer.id)
        assert (answer.status, answer.thread_id) == ("accepted", answer.id)


async def test_one_message_starts_a_thread_of_its_own_with_no_cause(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        first = await fields_of(log, (await send(log)).id)
        assert (first["hops"], first["type"]) == (0, "MESSAGE")
        assert not {"cause", "reply_to", "expires", "key"} & first.keys()


async def test_a_reply_takes_its_parents_thread_and_is_one_hop_further(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        first = await send(log)
        reply = await send(log, "tony", sender="mel", reply_to=first.id)
        again = await send(log, reply_to=reply.id, thread_id=first.id)
        told = await fields_of(log, again.id)
        assert (reply.thread_id, told["thread_id"]) == (first.id, first.id)
        assert (told["hops"], told["cause"], told["reply_to"]) == (2, reply.id, reply.id)


async def test_a_message_in_a_thread_needs_no_parent(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        first = await send(log)
        more = await fields_of(log, (await send(log, thread_id=first.id)).id)
        assert (more["thread_id"], more["hops"]) == (first.id, 0)
        assert "reply_to" not in more


@pytest.mark.parametrize("field", ["reply_to", "thread_id"])
async def test_a_parent_that_is_not_there_is_refused(tmp_path: Path, field: str) -> None:
    async with opened(tmp_path) as log:
        first = await send(log)
        await log.ack("mel", first.id)
        reply = await send(log, reply_to=first.id)
        # 99 is nobody's, 2 is an ack, and a reply is not the first message of a thread.
        for wrong in (99, 2, *([reply.id] if field == "thread_id" else [])):
            call = send(log, reply_to=wrong) if field == "reply_to" else send(log, thread_id=wrong)
            error = await refused(call, BadRequest, "unknown_parent")
            assert error.field == field
        assert log.head == reply.id


async def test_a_parent_in_another_thread_than_the_one_given_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        first, other = await send(log), await send(log)
        call = send_all(log, "mel", reply_to=first.id, thread_id=other.id)
        assert (await refused(call, BadRequest, "bad_field")).field == "thread_id"


async def test_a_parent_that_the_sender_may_not_see_is_not_there_for_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        secret = await send(log, "ann", sender="bob")
        for message in (Message(to_agent="ann", reply_to=secret.id), Message(to_agent="ann", thread_id=secret.id)):
            call = log.send([message], sender="mel", key=None, request=b"", visible=frozenset({"mel"}))
            await refused(call, BadRequest, "unknown_parent")


async def test_whoever_was_brought_into_a_thread_may_write_in_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        first = await send(log, "ann", sender="bob")
        await send(log, "mel", sender="ann", thread_id=first.id)
        message = Message(to_agent="bob", thread_id=first.id)
        sent = await log.send([message], sender="mel", key=None, request=b"", visible=frozenset({"mel"}))
        assert sent.answers[0].thread_id == first.id


async def test_what_an_agent_sends_in_a_wake_comes_from_the_newest_message_of_that_wake(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await send(log, "mel")
        newest = await send(log, "mel")
        granted = await wake(log, "mel", "k1")
        told = await fields_of(log, (await send(log, "ann", sender="mel")).id)
        assert (told["hops"], told["cause"]) == (1, newest.id)
        await report(log, granted, "ok")
        told = await fields_of(log, (await send(log, "ann", sender="mel")).id)
        assert (told["hops"], told["cause"]) == (1, newest.id)


async def test_a_wake_that_failed_is_nobodys_cause(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await send(log, "mel")
        await report(log, await wake(log, "mel", "k1"), "failed")
        told = await fields_of(log, (await send(log, "ann", sender="mel")).id)
        assert told["hops"] == 0
        assert "cause" not in told


async def test_a_reply_in_a_wake_comes_from_what_it_replies_to(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        first = await send(log, "mel")
        await send(log, "mel")
        await wake(log, "mel", "k1")
        told = await fields_of(log, (await send(log, "tony", sender="mel", reply_to=first.id)).id)
        assert told["cause"] == first.id


async def test_a_reply_to_the_beginning_of_its_thread_comes_from_the_wakes_message_that_came_further(
    tmp_path: Path,
) -> None:
    """Agents that answer the first message of their thread each time are counted as those that answer the last one."""
    async with opened(tmp_path) as log:
        first = await send(log, "mel")
        said = first
        for hops in range(1, 5):
            me, other = ("mel", "tony") if hops % 2 else ("tony", "mel")
            granted = await wake(log, me, f"k{hops}")
            before, said = said, await send(log, other, sender=me, reply_to=first.id)
            told = await fields_of(log, said.id)
            assert (told["hops"], told["cause"], told["reply_to"]) == (hops, before.id, first.id)
            await log.ack(me, before.id)
            await report(log, granted, "ok")


async def test_names_keep_the_spelling_they_first_had(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await send(log, "Mel", sender="Tony")
        told = await fields_of(log, (await send(log, "MEL", sender="TONY")).id)
        assert (told["to_agent"], told["from_agent"]) == ("Mel", "Tony")


async def test_an_unknown_recipient_gets_its_message_and_the_sender_the_nearest_names(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await send(log, "tony", sender="Melissa")
        answer = await send(log, "Melisa")
        assert (answer.known, answer.nearest) == (False, ("Melissa",))
        assert ids(await log.inbox("melisa")) == [answer.id]
        answer = await send(log, "melissa")
        assert (answer.known, answer.nearest) == (True, ())


async def test_a_watcher_or_a_token_that_names_an_agent_makes_it_known(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await log.token_created("t", kind="agent", agents=["ann"], sha256="00" * 32)
        assert (await send(log, "ann")).known
        with log.presence.serving("w1", "n1", ("Bob",)):
            answer = await send(log, "bob")
            assert (answer.known, answer.watched) == (True, True)
        assert not (await send(log, "bob")).watched


async def test_a_broadcast_goes_to_every_known_agent_but_its_sender(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        for name in ("Tony", "mel", "Ann"):
            await send(log, "nobody", sender=name)
        await log.pause("*", by="admin")
        with log.presence.serving("w1", "n1", ("bob",)):
            sent = await send_all(log, "*")
        recipients = [(await fields_of(log, one.id))["to_agent"] for one in sent.answers]
        assert recipients == ["Ann", "bob", "mel"]
        assert len({one.thread_id for one in sent.answers}) == 3


async def test_a_broadcast_to_nobody_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await refused(send_all(log, "*"), BadRequest, "no_recipient")


async def test_a_request_makes_all_its_messages_or_none(tmp_path: Path) -> None:
    async with opened(tmp_path, batch_max=3, recipients_max=4) as log:
        await send_all(log, "a", "b", "c")
        await refused(send_all(log, "a", "b", "c", "d"), BadRequest, "bad_field")
        for name in ("a", "b", "c", "d", "e"):
            await send(log, "x", sender=name)
        head = log.head
        await refused(send_all(log, "*"), BadRequest, "bad_field")
        good, bad = Message(to_agent="a"), Message(to_agent="a", reply_to=99)
        await refused(log.send([good, bad], sender="tony", key=None, request=b""), BadRequest, "unknown_parent")
        assert log.head == head


# ---- keys ----


async def test_a_repeated_request_answers_the_same_and_appends_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        first = await send_all(log, "mel", "ann", key="k")
        again = await send_all(log, "mel", "ann", key="k")
        assert (first.replayed, again.replayed) == (False, True)
        assert again.answers == first.answers
        assert log.head == 2
        assert (await fields_of(log, 1))["key"] == "k"


async def test_a_key_outlives_the_process_and_concurrent_repeats_are_one_message(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        repeats = await asyncio.gather(*(send_all(log, "mel", key="k") for _ in range(20)))
        assert sum(not one.replayed for one in repeats) == 1
        assert {one.answers for one in repeats} == {repeats[0].answers}
    async with opened(tmp_path) as log:
        assert (await send_all(log, "mel", key="k")).replayed
        assert log.head == 1


async def test_a_key_with_another_body_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await send_all(log, "mel", key="k", request=b"one")
        await refused(send_all(log, "mel", key="k", request=b"two"), KeyReused, "key_reused")
        assert log.head == 1


async def test_a_key_is_its_senders_own(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        message = Message(to_agent="mel")
        await log.send([message], sender="tony", key="k", request=b"")
        assert (await log.send([message], sender="Tony", key="k", request=b"")).replayed
        assert not (await log.send([message], sender="ann", key="k", request=b"")).replayed


async def test_a_repeated_broadcast_answers_for_whom_it_reached_the_first_time(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await send(log, "x", sender="mel")
        first = await send_all(log, "*", key="k")
        await send(log, "x", sender="ann")
        again = await send_all(log, "*", key="k")
        assert again.replayed
        assert again.answers == first.answers
        assert len(again.answers) == 1


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256, "a\n"])
async def test_a_key_must_be_visible_ascii(tmp_path: Path, key: str) -> None:
    async with opened(tmp_path) as log:
        await refused(send_all(log, "mel", key=key), BadRequest, "bad_field")
        assert not (await send_all(log, "mel", key="x" * 255)).replayed


# ---- reading and taking over ----


async def test_an_inbox_is_read_page_by_page_from_the_acked_cursor(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        mine = [one.id for one in (await send_all(log, "mel", "ann", "mel", "mel")).answers if one.id != 2]
        page = await log.inbox("Mel", limit=2)
        assert (ids(page), page.cursor, page.has_more) == (mine[:2], mine[1], True)
        page = await log.inbox("mel", after=page.cursor, limit=2)
        assert (ids(page), page.cursor, page.has_more) == (mine[2:], mine[2], False)
        await log.ack("mel", mine[1])
        assert ids(await log.inbox("mel")) == mine[2:]
        page = await log.inbox("mel", after=mine[2])
        assert (ids(page), page.cursor, page.has_more) == ([], mine[2], False)


async def test_an_inbox_says_the_agents_name_as_first_spelled(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await send(log, "Mel")
        assert (await log.inbox("mEL")).agent == "Mel"


async def test_dead_and_expired_messages_are_marked(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await send(log, expires="2020-01-01T00:00:00.000000Z")
        await send(log, expires="2999-01-01T00:00:00.000000Z")
        first, second = decoded(await log.inbox("mel"))
        assert first["expired"] is True
        assert not {"dead", "expired"} & second.keys()


async def test_a_cursor_past_the_head_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await send(log)
        await refused(log.inbox("mel", after=2), Conflict, "cursor_past_head")
        await refused(log.ack("mel", 2), Conflict, "cursor_past_head")
        assert log.head == 1


async def test_waiting_for_mail_ends_with_the_first_message_for_the_agent(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        waiting = asyncio.create_task(log.inbox("mel", wait_s=60))
        for _ in range(5):
            await send(log, "ann")
        assert not waiting.done()
        mine = await send(log, "mel")
        page = await asyncio.wait_for(waiting, DEADLINE_S)
        assert (ids(page), page.cursor) == ([mine.id], mine.id)


async def test_mail_that_came_while_the_inbox_was_looked_at_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as log:
        look = Mail._look

        async def slow_look(self: Mail, agent: str, after: int, limit: int) -> Any:
            found = await look(self, agent, after, limit)
            if log.head == 0:
                await send(log, "mel")
            return found

        monkeypatch.setattr(Mail, "_look", slow_look)
        assert ids(await asyncio.wait_for(log.inbox("mel", wait_s=60), DEADLINE_S)) == [1]


async def test_waiting_for_mail_ends_empty_when_the_time_is_over_or_the_bus_stops(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await send(log, "ann")
        page = await log.inbox("mel", wait_s=0.05)
        assert (ids(page), page.cursor, page.has_more) == ([], 0, False)
        waiting = asyncio.create_task(log.inbox("mel", wait_s=60))
        await asyncio.sleep(0)
        log.end_followers()
        assert ids(await asyncio.wait_for(waiting, DEADLINE_S)) == []


async def test_an_ack_moves_forward_only_and_only_a_move_is_an_event(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await send_all(log, "Mel", "mel", "mel")
        assert await log.ack("mel", 2) == 2
        assert log.head == 4
        assert await log.ack("MEL", 1) == 2
        assert await log.ack("mel", 2) == 2
        assert log.head == 4
        told = await fields_of(log, 4)
        assert (told["event"], told["agent"], told["cursor"]) == ("ack", "Mel", 2)
    async with opened(tmp_path) as log:
        assert ids(await log.inbox("mel")) == [3]


async def test_acks_that_meet_leave_the_cursor_at_the_furthest(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await send_all(log, *["mel"] * 30)
        answers = await asyncio.gather(*(log.ack("mel", cursor) for cursor in range(30, 0, -1)))
        assert max(answers) == log.store.agent("mel").cursor == 30
        assert all(answer >= cursor for answer, cursor in zip(answers, range(30, 0, -1), strict=True))


async def test_a_redacted_message_keeps_its_place_and_loses_its_payload(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        secret = await send(log, payload="hunter2")
        await log.redact(secret.id, reason="a password")
        await log.redact(secret.id, reason="a password")
        assert log.head == 2
        (message,) = decoded(await log.inbox("mel"))
        assert message["redacted"] is True
        assert "payload" not in message
        for wrong in (2, 99):
            await refused(log.redact(wrong, reason="x"), NotFound, "not_found")
