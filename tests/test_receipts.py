"""Waiting for a receipt: what ends it, and what is said of a message that later wakes only passed by."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventlog.agents import Limits
from eventlog.errors import NotFound, Unauthorized
from eventlog.log import EventLog
from eventlog.receipts import WAITS
from eventlog.seal import utc_now
from eventlog.wakes import Ask, Granted, Report
from tests.logs import opened, report, send, wake

pytestmark = pytest.mark.anyio

#: Longer than any test may take: what ends a wait is never its time.
LONG_S = 300
EACH = Limits(deliver="each", ack="exit", max_attempts=1, ack_within_s=0)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EventLog]:
    async with opened(tmp_path) as made:
        yield made


async def good() -> None:
    """A token that stays good."""


async def once(log: EventLog, message_id: int, wanted: str, timeout_s: float = LONG_S) -> dict[str, Any]:
    told = await log.message_once(message_id, wanted, timeout_s=timeout_s, check=good)
    receipt: dict[str, Any] = msgspec.json.decode(told)["receipt"]
    return receipt


async def receipt(log: EventLog, message_id: int) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.json.decode(await log.message(message_id))["receipt"]
    return told


async def run(log: EventLog, key: str, limits: Limits = EACH) -> Granted:
    """A wake that hands mel one message."""
    granted = await log.leases.ask(Ask("mel", key, "w1", "n1", limits))
    assert isinstance(granted, Granted), granted
    return granted


class Waiting:
    """A wait that is known to have looked, and to have found nothing, before the block goes on."""

    def __init__(self, log: EventLog, message_id: int, wanted: str, timeout_s: float = LONG_S) -> None:
        self.looks = 0
        self.refused = False
        self._looked = asyncio.Event()
        told = log.message_once(message_id, wanted, timeout_s=timeout_s, check=self._check)
        self.task = asyncio.create_task(told)

    async def _check(self) -> None:
        self.looks += 1
        self._looked.set()
        if self.refused:
            raise Unauthorized("gone")

    async def __aenter__(self) -> "Waiting":
        await self._looked.wait()
        for _ in range(3):  # it has looked; now it waits
            await asyncio.sleep(0)
        assert not self.task.done()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def receipt(self) -> dict[str, Any]:
        """What it ends with."""
        async with asyncio.timeout(20):
            told: dict[str, Any] = msgspec.json.decode(await self.task)["receipt"]
        return told


async def test_a_wake_with_one_message_is_running_until_it_is_over(log: EventLog) -> None:
    first = await send(log, "mel")
    granted = await run(log, "k1")
    told = await receipt(log, first.id)
    assert (told["status"], told["running"]["id"], told["woken"]["id"]) == ("running", granted.wake.id, granted.wake.id)
    assert "finished" not in told["wakes"][0]
    await log.leases.report(granted.wake.id, Report("k1", "failed"))
    told = await receipt(log, first.id)
    assert (told["status"], "running" in told) == ("woken", False)
    assert told["wakes"][0]["finished"] > told["woken"]["time"]


async def test_a_wake_that_did_not_start_woke_nobody(log: EventLog) -> None:
    first = await send(log, "mel")
    granted = await wake(log, "mel", "k1")
    assert (await receipt(log, first.id))["status"] == "woken"
    await report(log, granted, "not_started")
    told = await receipt(log, first.id)
    assert (told["status"], "woken" in told, told["wakes"][0]["outcome"]) == ("accepted", False, "not_started")


@pytest.mark.parametrize("wanted", [*WAITS])
async def test_what_is_there_already_is_not_waited_for(log: EventLog, wanted: str) -> None:
    first = await send(log, "mel")
    await send(log, "tony", sender="mel", reply_to=first.id)
    assert (await once(log, first.id, wanted))["waited"] == "reached"


async def test_each_step_ends_the_wait_for_it_and_no_other(log: EventLog) -> None:
    first = await send(log, "mel")
    async with (
        Waiting(log, first.id, "woken") as woken,
        Waiting(log, first.id, "read") as read,
        Waiting(log, first.id, "replied") as replied,
        Waiting(log, first.id, "done") as done,
    ):
        granted = await wake(log, "mel", "k1")
        assert (await woken.receipt())["woken"]["id"] == granted.wake.id
        assert not read.task.done()
        await log.ack("mel", first.id)
        assert (await read.receipt())["status"] == "read"
        assert not replied.task.done()
        assert not done.task.done(), "a wake has it in hand still"
        await report(log, granted, "ok")
        assert (await done.receipt())["waited"] == "reached"
        await send(log, "ann", sender="mel", reply_to=first.id)
        assert not replied.task.done(), "what it asked of another is no answer"
        reply = await send(log, "tony", sender="mel", reply_to=first.id)
        assert (await replied.receipt())["replies"][0]["id"] == reply.id


async def test_what_others_do_is_not_looked_at(log: EventLog) -> None:
    first = await send(log, "mel")
    async with Waiting(log, first.id, "read") as waiting:
        looks = waiting.looks
        for _ in range(20):
            await send(log, "ann", sender="bob")
        assert waiting.looks == looks
        await log.ack("mel", first.id)
        assert (await waiting.receipt())["status"] == "read"


async def test_a_wait_ends_with_what_there_is_when_the_time_is_over(log: EventLog) -> None:
    first = await send(log, "mel")
    told = await once(log, first.id, "read", timeout_s=0.05)
    assert (told["status"], told["waited"]) == ("accepted", "time_over")
    assert (await once(log, first.id, "read", timeout_s=0))["waited"] == "time_over"


async def test_a_dead_letter_ends_the_wait(log: EventLog) -> None:
    first = await send(log, "mel")
    async with Waiting(log, first.id, "replied") as waiting:
        granted = await run(log, "k1", Limits(max_attempts=1, ack_within_s=0))
        await report(log, granted, "ok")
        await log.leases.sweep()
        told = await waiting.receipt()
    assert (told["waited"], told["status"]) == ("dead", "dead")
    assert (told["dead"]["reason"], told["dead"]["attempts"]) == ("max_attempts", 1)


async def test_a_message_that_expires_ends_the_wait_at_that_moment(log: EventLog) -> None:
    first = await send(log, "mel", expires=utc_now(time.time() + 0.2))
    told = await once(log, first.id, "read")
    assert (told["waited"], told["expired"]) == ("expired", True)


async def test_a_message_that_was_read_in_time_is_waited_for_past_its_end(log: EventLog) -> None:
    first = await send(log, "mel", expires="2020-01-01T00:00:00.000000Z")
    await log.ack("mel", first.id)
    assert (await once(log, first.id, "replied", timeout_s=0.05))["waited"] == "time_over"


async def test_a_bus_that_stops_and_a_token_that_is_revoked_end_the_wait(log: EventLog) -> None:
    first = await send(log, "mel")
    async with Waiting(log, first.id, "read") as stays, Waiting(log, first.id, "read") as goes:
        await log.token_created("t1", kind="agent", agents=["mel"], sha256="ab" * 32)
        goes.refused = True
        await log.token_revoked("t1")
        with pytest.raises(Unauthorized):
            await goes.receipt()
        assert not stays.task.done()
        log.end_followers()
        assert (await stays.receipt())["waited"] == "stopping"


async def test_who_may_not_see_a_message_cannot_wait_for_it(log: EventLog) -> None:
    first = await send(log, "mel")
    with pytest.raises(NotFound):
        await log.message_once(first.id, "read", timeout_s=LONG_S, check=good, visible=frozenset({"ann"}))


async def test_a_dead_message_that_a_later_wake_passed_by_was_not_read(log: EventLog) -> None:
    dead, later = await send(log, "mel"), await send(log, "mel")
    limits = msgspec.structs.replace(EACH, ack="agent")
    granted = await run(log, "k1", limits)
    await log.leases.report(granted.wake.id, Report("k1", "ok"))
    await log.leases.sweep()
    assert (await receipt(log, dead.id))["status"] == "dead"
    granted = await run(log, "k2")
    assert (granted.wake.after, granted.wake.through) == (dead.id, later.id)
    await log.leases.report(granted.wake.id, Report("k2", "ok"))
    assert log.store.agent("mel").cursor == later.id
    told = await receipt(log, dead.id)
    assert (told["status"], "read" in told) == ("dead", False)
    assert (await receipt(log, later.id))["status"] == "read"
    await log.ack("mel", log.head)
    assert (await receipt(log, dead.id))["status"] == "dead", "its cursor was past it already"


async def test_a_dead_message_that_its_agent_acknowledged_was_read(log: EventLog) -> None:
    dead, later = await send(log, "mel"), await send(log, "mel")
    granted = await run(log, "k1", msgspec.structs.replace(EACH, ack="agent"))
    await log.leases.report(granted.wake.id, Report("k1", "ok"))
    await log.leases.sweep()
    granted = await run(log, "k2")
    await log.ack("mel", later.id)  # the agent itself, before its run is over
    await log.leases.report(granted.wake.id, Report("k2", "ok"))
    assert (await receipt(log, dead.id))["status"] == "read"


async def test_a_receipt_lists_the_newest_wakes(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventlog.receipts.RECEIPT_ENTRIES_MAX", 2)
    monkeypatch.setattr("eventlog.wakes.BACKOFF_FIRST_S", 0)
    first = await send(log, "mel")
    for number in range(3):
        await report(log, await wake(log, "mel", f"k{number}"), "not_started")
    last = await wake(log, "mel", "k3")
    told = await receipt(log, first.id)
    assert (told["status"], len(told["wakes"]), told["wakes"][-1]["wake"]) == ("woken", 2, last.wake.id)
