"""Receipts say how far a message has come; threads and pages of the log show what the caller may see."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventlog.agents import Limits
from eventlog.errors import Conflict, NotFound
from eventlog.log import EventLog
from eventlog.wakes import Ask, Granted, Report
from tests.logs import opened, report, send, wake

pytestmark = pytest.mark.anyio


async def receipt(log: EventLog, message_id: int) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.json.decode(await log.message(message_id))["receipt"]
    return told


async def test_a_receipt_goes_from_accepted_to_woken_to_read_to_replied(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        first = await send(log, "mel")
        told = await receipt(log, first.id)
        assert (told["status"], told["accepted"]["id"]) == ("accepted", first.id)
        assert not {"wakes", "read", "replies", "dead"} & told.keys()

        granted = await wake(log, "mel", "k1")
        told = await receipt(log, first.id)
        assert told["status"] == "woken"
        (covered,) = told["wakes"]
        assert (covered["wake"], covered["attempt"], covered["watcher"]) == (granted.wake.id, 1, "w1")
        assert "outcome" not in covered
        await report(log, granted, "ok")
        told = await receipt(log, first.id)
        assert (told["status"], told["wakes"][0]["outcome"]) == ("woken", "ok")

        await log.ack("mel", first.id)
        ack_id = log.head
        later = await send(log, "mel")
        await log.ack("mel", later.id)
        told = await receipt(log, first.id)
        assert (told["status"], told["read"]["id"]) == ("read", ack_id)

        reply = await send(log, "tony", sender="mel", reply_to=first.id)
        told = await receipt(log, first.id)
        assert told["status"] == "replied"
        assert [one["id"] for one in told["replies"]] == [reply.id]


async def test_a_receipt_names_the_first_ack_that_passed_the_message(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        first, second, third = [await send(log, "mel") for _ in range(3)]
        await log.ack("mel", first.id)
        await log.ack("mel", second.id)
        passed = log.head
        await log.ack("mel", third.id)
        assert (await receipt(log, second.id))["read"]["id"] == passed


async def test_only_the_recipients_answer_is_a_reply(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        first = await send(log, "mel")
        await send(log, "mel", reply_to=first.id)
        assert (await receipt(log, first.id))["status"] == "accepted"


async def test_a_message_whose_wakes_are_used_up_is_dead_and_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        first = await send(log, "mel")
        limits = Limits(max_attempts=1, ack_within_s=0)
        granted = await log.leases.ask(Ask("mel", "k1", "w1", "n1", limits))
        assert isinstance(granted, Granted)
        await log.leases.report(granted.wake.id, Report("k1", "ok"))
        await log.leases.sweep()
        told = await receipt(log, first.id)
        assert told["status"] == "dead"
        assert (await log.store.event(told["dead"]["id"])).event == "dead_letter"  # type: ignore[union-attr]
        (message,) = (await log.inbox("mel")).messages
        assert msgspec.json.decode(message)["dead"] is True
        (notice,) = (await log.inbox("tony")).messages
        assert msgspec.json.decode(notice)["type"] == "DEAD_LETTER"
        await log.ack("mel", first.id)
        assert (await receipt(log, first.id))["status"] == "read"


async def test_a_receipt_says_when_an_unread_message_has_expired(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        first = await send(log, "mel", expires="2020-01-01T00:00:00.000000Z")
        assert (await receipt(log, first.id))["expired"] is True
        await log.ack("mel", first.id)
        assert "expired" not in await receipt(log, first.id)


async def test_messages_and_threads_of_others_are_not_there(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        first = await send(log, "ann", sender="bob")
        await log.ack("ann", first.id)
        mel = frozenset({"mel"})
        for look in (log.message(first.id, visible=mel), log.thread(first.id, visible=mel)):
            with pytest.raises(NotFound):
                await look
        for wrong in (2, 99):
            for look in (log.message(wrong), log.thread(wrong)):
                with pytest.raises(NotFound):
                    await look
        assert await log.message(first.id, visible=frozenset({"ann"}))


async def test_a_thread_is_shown_in_order_and_whole_to_whoever_is_part_of_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        first = await send(log, "ann", sender="bob")
        await send(log, "ann", sender="bob")
        reply = await send(log, "bob", sender="ann", reply_to=first.id)
        third = await send(log, "mel", sender="ann", thread_id=first.id)
        thread = await log.thread(first.id, visible=frozenset({"mel"}))
        assert [msgspec.json.decode(one)["id"] for one in thread.messages] == [first.id, reply.id, third.id]
        with pytest.raises(NotFound):
            await log.thread(reply.id)


async def fill(log: EventLog) -> None:
    """1 to mel, 2 to ann, 3 mel's ack, 4 to mel in 1's thread."""
    first = await send(log, "mel")
    await send(log, "ann")
    await log.ack("mel", first.id)
    await send(log, "mel", thread_id=first.id)


@pytest.mark.parametrize(
    ("asked", "ids"),
    [
        ({}, [1, 2, 3, 4]),
        ({"after": 1, "before": 4}, [2, 3]),
        ({"agent": "Mel"}, [1, 3, 4]),
        ({"event": "ack"}, [3]),
        ({"agent": "mel", "event": "message"}, [1, 4]),
        ({"thread": 1}, [1, 4]),
        ({"before": 0}, []),
    ],
)
async def test_a_page_of_the_log_and_an_export_show_the_same(tmp_path: Path, asked: Any, ids: list[int]) -> None:
    async with opened(tmp_path) as log:
        await fill(log)
        page = await log.events(**asked)
        events = [msgspec.json.decode(one) for one in page.events]
        assert [event["id"] for event in events] == ids
        assert (page.has_more, page.head) == (False, 4)
        assert page.cursor == (ids[-1] if ids else asked.get("after", 0))
        lines = b"".join([chunk async for chunk in log.export(**asked)]).splitlines()
        assert [msgspec.json.decode(line) for line in lines] == events


async def test_pages_go_on_where_the_last_one_ended_and_every_event_is_an_anchor(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await fill(log)
        page = await log.events(limit=3)
        assert (page.cursor, page.has_more) == (3, True)
        page = await log.events(limit=3, after=page.cursor)
        (last,) = [msgspec.json.decode(one) for one in page.events]
        stored = await log.store.event(4)
        assert stored is not None
        assert (last["hash"], page.has_more) == (stored.hash.hex(), False)


async def test_a_page_after_the_head_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await fill(log)
        with pytest.raises(Conflict) as caught:
            await log.events(after=5)
        assert caught.value.code == "cursor_past_head"


async def test_an_export_ends_at_the_head_of_its_start_and_keeps_to_its_limit(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        for _ in range(3):
            await fill(log)
        export = log.export(limit=5)
        assert len(b"".join([chunk async for chunk in export]).splitlines()) == 5
        export = log.export()
        first = await anext(export)
        await fill(log)
        rest = b"".join([chunk async for chunk in export])
        assert len((first + rest).splitlines()) == 12
