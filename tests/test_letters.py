"""Dead letters are listed until somebody deals with each, once: by sending the message anew, or by dropping it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventlog.agents import Limits
from eventlog.errors import Conflict, NotFound
from eventlog.log import EventLog
from eventlog.views import Letter
from eventlog.wakes import Ask, Granted, Report
from tests.logs import opened, send

pytestmark = pytest.mark.anyio

LIMITS = Limits(max_attempts=1, ack_within_s=0, deliver="each")


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EventLog]:
    async with opened(tmp_path) as made:
        yield made


async def dies(log: EventLog, agent: str = "mel", detail: str = "exit 1: no model", **fields: Any) -> int:
    """A message that becomes a dead letter."""
    sent = await send(log, agent, **fields)
    key = f"k{sent.id}"
    granted = await log.leases.ask(Ask(agent, key, "w1", "n1", LIMITS))
    assert isinstance(granted, Granted), granted
    await log.leases.report(granted.wake.id, Report(key, "ok", detail=detail))
    await log.leases.sweep()
    return sent.id


async def listed(log: EventLog, agent: str | None = None, *, closed: bool = False) -> list[int]:
    page = await log.letters.page(agent=agent, after=0, limit=100, closed=closed)
    return [one.message_id for one in page.dead]


async def event(log: EventLog, event_id: int) -> dict[str, Any]:
    found = await log.store.event(event_id)
    assert found is not None
    return found.as_dict()


async def test_open_ones_are_listed_in_order_and_page_by_page(log: EventLog) -> None:
    ids = [await dies(log), await dies(log, "ann"), await dies(log)]
    assert await listed(log) == ids
    assert await listed(log, "MEL") == [ids[0], ids[2]]
    page = await log.letters.page(agent=None, after=0, limit=2, closed=False)
    assert ([one.message_id for one in page.dead], page.cursor, page.has_more) == (ids[:2], ids[1], True)
    page = await log.letters.page(agent=None, after=page.cursor, limit=2, closed=False)
    assert ([one.message_id for one in page.dead], page.cursor, page.has_more) == (ids[2:], ids[2], False)
    views = {view.name: view.dead for view in await log.agents()}
    assert (views["mel"], views["ann"], views["tony"]) == (2, 1, 0)


async def test_one_tells_why_it_died_and_what_its_own_last_wake_said(log: EventLog) -> None:
    died = await dies(log, detail="exit 1: no model", type="TASK")
    await dies(log, detail="another message's")
    letter = await log.letters.one(died)
    assert (letter.agent, letter.from_agent, letter.type) == ("mel", "tony", "TASK")
    assert (letter.reason, letter.attempts, letter.closed) == ("max_attempts", 1, None)
    assert letter.detail == "the last wake ended ok: exit 1: no model"
    assert letter.sent < letter.died


async def test_the_notice_tells_of_the_wake_that_covered_the_message_not_of_a_later_one(log: EventLog) -> None:
    limits = msgspec.structs.replace(LIMITS, ack_within_s=3600)
    first, _second = await send(log), await send(log)
    for key, said in (("k1", "of the first"), ("k2", "of the second")):
        granted = await log.leases.ask(Ask("mel", key, "w1", "n1", limits))
        assert isinstance(granted, Granted)
        await log.leases.report(granted.wake.id, Report(key, "ok", detail=said))
    await log.leases.ask(Ask("mel", "k3", "w1", "n1", LIMITS))
    notices = [msgspec.json.decode(one) for one in (await log.inbox("tony")).messages]
    assert {one["reply_to"]: one["payload"]["detail"].rpartition(": ")[2] for one in notices}[
        first.id
    ] == "of the first"


async def test_a_retry_is_the_same_message_anew_caused_by_the_dead_one(log: EventLog) -> None:
    asked = await send(log, "tony", sender="mel")
    fields: dict[str, Any] = {"reply_to": asked.id, "type": "TASK", "expires": "2999-01-01T00:00:00.000000Z"}
    died = await dies(log, payload={"n": [1]}, **fields)
    sent = await log.letters.retry(died, by="owner")
    (answer,) = sent.answers
    assert (sent.replayed, answer.thread_id, answer.status) == (False, asked.id, "accepted")
    dead, again = await event(log, died), await event(log, answer.id)
    same = ("from_agent", "to_agent", "type", "payload", "thread_id", "reply_to")
    assert {name: again[name] for name in same} == {name: dead[name] for name in same}
    assert (again["cause"], again["hops"]) == (died, dead["hops"] + 1)
    assert not {"key", "expires"} & again.keys()
    closed = await event(log, answer.id + 1)
    assert {name: closed[name] for name in ("event", "message_id", "agent", "how", "by")} == {
        "event": "dead_letter.closed",
        "message_id": died,
        "agent": "mel",
        "how": "retried",
        "by": "owner",
    }
    assert (await listed(log), await listed(log, closed=True)) == ([], [died])
    letter = await log.letters.one(died)
    assert letter.closed is not None
    assert (letter.closed.how, letter.closed.by, letter.closed.retry) == ("retried", "owner", answer.id)
    assert (await log.agent("mel")).dead == 0


async def test_a_retry_is_one_however_often_it_is_asked_for(log: EventLog) -> None:
    died = await dies(log)
    answers = await asyncio.gather(*(log.letters.retry(died, by="owner") for _ in range(10)))
    assert len({sent.answers[0].id for sent in answers}) == 1
    assert sum(not sent.replayed for sent in answers) == 1
    assert (await log.letters.retry(died, by="other")).answers == answers[0].answers


async def test_a_retry_wakes_and_may_die_and_be_retried_again(log: EventLog) -> None:
    died = await dies(log)
    (answer,) = (await log.letters.retry(died, by="owner")).answers
    granted = await log.leases.ask(Ask("mel", "again", "w1", "n1", LIMITS))
    assert isinstance(granted, Granted)
    assert granted.wake.through == answer.id
    await log.leases.report(granted.wake.id, Report("again", "ok"))
    await log.leases.sweep()
    assert await listed(log) == [answer.id]
    (third,) = (await log.letters.retry(answer.id, by="owner")).answers
    assert (await event(log, third.id))["hops"] == 2


async def test_a_dropped_one_stays_dead_and_is_listed_no_more(log: EventLog) -> None:
    died = await dies(log)
    letter = await log.letters.drop(died, by="owner", reason="of no use any more")
    assert letter.closed is not None
    assert (letter.closed.how, letter.closed.reason, letter.closed.retry) == ("dropped", "of no use any more", None)
    assert await listed(log) == []
    assert msgspec.json.decode(await log.message(died))["receipt"]["status"] == "dead"
    head = log.head
    assert await log.letters.drop(died, by="other", reason="again") == letter
    assert log.head == head


@pytest.mark.parametrize("first", ["retry", "drop"])
async def test_what_was_done_first_stands(log: EventLog, first: str) -> None:
    died = await dies(log)
    deeds: dict[str, Any] = {
        "retry": lambda: log.letters.retry(died, by="owner"),
        "drop": lambda: log.letters.drop(died, by="owner", reason=None),
    }
    await deeds.pop(first)()
    head = log.head
    for deed in deeds.values():
        with pytest.raises(Conflict) as caught:
            await deed()
        assert caught.value.code == "already_closed"
    assert log.head == head


async def test_what_is_no_dead_letter_is_not_there(log: EventLog) -> None:
    alive = await send(log)
    for wrong in (alive.id, 99):
        for deed in (
            log.letters.one(wrong),
            log.letters.retry(wrong, by="owner"),
            log.letters.drop(wrong, by="owner", reason=None),
        ):
            with pytest.raises(NotFound):
                await deed


async def test_a_redacted_message_cannot_be_sent_anew_but_its_retry_is_still_told(log: EventLog) -> None:
    died, retried = await dies(log), await dies(log)
    sent = await log.letters.retry(retried, by="owner")
    for message in (died, retried):
        await log.redact(message, reason="secret")
    with pytest.raises(Conflict):
        await log.letters.retry(died, by="owner")
    assert (await log.letters.retry(retried, by="owner")).answers == sent.answers
    assert isinstance(await log.letters.drop(died, by="owner", reason=None), Letter)
