"""Senders are told, once, of a deadline that passed and of an agent that cannot be woken; and of nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventlog.agents import Limits
from eventlog.config import Config
from eventlog.engine import Append, Appended
from eventlog.errors import TooManyRequests
from eventlog.event import Draft
from eventlog.leases import Leases
from eventlog.log import EventLog
from eventlog.maintenance import backup
from eventlog.notices import MESSAGES_MAX, NOTICES_MAX, Notices
from eventlog.presence import Presence
from eventlog.seal import utc_now
from eventlog.sqlite_engine import SqliteEngine
from eventlog.stops import LoopLimits, Stops
from eventlog.store import Store
from eventlog.wakes import Ask, Granted, Report

pytestmark = pytest.mark.anyio

#: When the clocks begin, seconds since 1970.
BEGIN_S = 1_800_000_000.0
AFTER_S = 3600.0
EVERYONE = "*"
LIMITS = Limits()


class Bench:
    """A log whose clocks move only when told to, and what tells senders."""

    def __init__(self, store: Store, engine: SqliteEngine, clock: list[float]) -> None:
        self.store = store
        self.engine = engine
        self.clock = clock
        self.presence = Presence()
        stops = Stops(store, engine, LoopLimits(), (), 0)
        self.leases = Leases(store, engine, stops, quiet_s=600, monotonic=lambda: self.clock[0])
        self.notices = Notices(
            store,
            engine,
            self.leases,
            self.presence,
            unreachable_after_s=AFTER_S,
            monotonic=lambda: self.clock[0],
            wall=lambda: self.clock[0],
        )
        engine.listeners += [self.leases.saw, self.notices.saw]

    async def append(self, event: str, payload: bytes | None = None, **fields: Any) -> int:
        done = await self.engine.append(Append((Draft(event, fields, payload),)))
        assert isinstance(done, Appended)
        return done.events[-1].id

    async def message(self, to: str = "mel", sender: str = "tony", **fields: Any) -> int:
        given = {"from_agent": sender, "to_agent": to, "type": "TASK", "hops": 0, **fields}
        return await self.append("message", b'"hi"', **given)

    async def ack(self, cursor: int, agent: str = "mel") -> None:
        await self.append("ack", agent=agent, cursor=cursor)

    async def wake(self, key: str, outcome: str | None, detail: str | None = None, limits: Limits = LIMITS) -> None:
        granted = await self.leases.ask(Ask("mel", key, "w1", "n1", limits))
        assert isinstance(granted, Granted), granted
        if outcome is not None:
            await self.leases.report(granted.wake.id, Report(key, outcome, detail=detail))

    async def told(self, kind: str = "") -> list[dict[str, Any]]:
        """What the bus told anyone, oldest first."""
        events = [event.as_dict() for event in await self.store.page(0, 10_000, events=["message"])]
        return [one for one in events if one["from_agent"] == "bus" and kind in ("", one["type"])]

    def moment(self, in_s: float) -> str:
        return utc_now(self.clock[0] + in_s)

    async def goes_on(self, seconds: float) -> None:
        """Time passes, and the bus looks."""
        self.clock[0] += seconds
        await self.leases.sweep()
        await self.notices.sweep()


@asynccontextmanager
async def opened(folder: Path, clock: list[float] | None = None) -> AsyncIterator[Bench]:
    now = clock or [BEGIN_S]
    async with (
        Store.open(folder, wall=lambda: now[0]) as store,
        SqliteEngine.open(store, wall=lambda: now[0]) as engine,
    ):
        yield Bench(store, engine, now)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path / "data") as made:
        yield made


class TestDeadlines:
    async def test_a_message_that_nobody_read_in_time_is_told_of_once(self, bench: Bench) -> None:
        deadline = bench.moment(60)
        first = await bench.message(deadline=deadline, awaits="read")
        await bench.goes_on(59)
        assert await bench.told() == []
        await bench.goes_on(1)
        (told,) = await bench.told()
        assert (told["type"], told["to_agent"], told["reply_to"], told["thread_id"]) == (
            "DEADLINE",
            "tony",
            first,
            first,
        )
        assert told["payload"] == {"message_id": first, "agent": "mel", "deadline": deadline, "awaited": "read"}
        await bench.goes_on(60)
        assert len(await bench.told()) == 1

    @pytest.mark.parametrize("awaits", ["read", "replied"])
    async def test_what_was_answered_in_time_is_not(self, bench: Bench, awaits: str) -> None:
        first = await bench.message(deadline=bench.moment(60), awaits=awaits)
        await bench.message("tony", "Mel", reply_to=first, thread_id=first)
        await bench.goes_on(60)
        assert await bench.told() == []

    @pytest.mark.parametrize(("awaits", "count"), [("read", 0), ("replied", 1)])
    async def test_reading_is_enough_where_reading_was_awaited(self, bench: Bench, awaits: str, count: int) -> None:
        first = await bench.message(deadline=bench.moment(60), awaits=awaits)
        await bench.ack(first)
        await bench.goes_on(60)
        assert len(await bench.told()) == count

    async def test_an_answer_of_or_to_somebody_else_is_none(self, bench: Bench) -> None:
        first = await bench.message(deadline=bench.moment(60), awaits="replied")
        await bench.message("mel", "tony", reply_to=first, thread_id=first)
        await bench.message("mel", "ann", reply_to=first, thread_id=first)
        await bench.message("ann", "mel", reply_to=first, thread_id=first)
        await bench.goes_on(60)
        assert len(await bench.told()) == 1

    async def test_of_a_dead_message_its_sender_was_told_already(self, bench: Bench) -> None:
        await bench.message(deadline=bench.moment(60), awaits="replied")
        await bench.wake("k1", "ok", limits=Limits(max_attempts=1, ack_within_s=10))
        await bench.goes_on(60)
        assert [one["type"] for one in await bench.told()] == ["DEAD_LETTER"]

    @pytest.mark.parametrize("sender", ["admin", "bus"])
    async def test_who_is_no_agent_is_told_nothing(self, bench: Bench, sender: str) -> None:
        await bench.message(sender=sender, deadline=bench.moment(60), awaits="read")
        await bench.goes_on(2 * AFTER_S)
        assert [one for one in await bench.told() if one["type"] != "TASK"] == []

    async def test_many_are_told_of_a_part_at_a_time(self, bench: Bench) -> None:
        for _ in range(NOTICES_MAX + 1):
            await bench.message(deadline=bench.moment(60), awaits="read")
        await bench.goes_on(60)
        assert len(await bench.told()) == NOTICES_MAX
        await bench.goes_on(1)
        assert len(await bench.told()) == NOTICES_MAX + 1

    async def test_two_that_look_at_once_tell_once(self, bench: Bench) -> None:
        await bench.message(deadline=bench.moment(60), awaits="read")
        bench.clock[0] += 60
        await asyncio.gather(*(bench.notices.sweep() for _ in range(5)))
        assert len(await bench.told()) == 1

    async def test_a_full_queue_puts_it_off(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        await bench.message(deadline=bench.moment(60), awaits="read")

        async def full(_request: Append) -> None:
            raise TooManyRequests("full")

        with monkeypatch.context() as patch:
            patch.setattr(bench.engine, "append", full)
            await bench.goes_on(60)
        assert await bench.told() == []
        await bench.goes_on(1)
        assert len(await bench.told()) == 1

    async def test_a_restored_log_keeps_quiet_and_does_not_tell_again_what_it_knows_was_told(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        told = await bench.message(deadline=bench.moment(10), awaits="read")
        later = await bench.message(deadline=bench.moment(60), awaits="read")
        await bench.goes_on(10)
        (tmp_path / "copy").mkdir()
        await backup(bench.store, tmp_path / "copy" / "eventlog.db")
        async with opened(tmp_path / "copy", [bench.clock[0] + 100]) as restored:
            await restored.goes_on(599)
            assert [one["reply_to"] for one in await restored.told()] == [told]
            await restored.goes_on(1)
            assert [one["reply_to"] for one in await restored.told()] == [told, later]


class TestUnreachable:
    async def test_an_agent_that_no_watcher_serves_is_told_of_once(self, bench: Bench) -> None:
        since = bench.moment(0)
        first = await bench.message()
        await bench.goes_on(AFTER_S - 1)
        assert await bench.told() == []
        await bench.goes_on(1)
        (told,) = await bench.told()
        assert (told["type"], told["to_agent"], told["reply_to"]) == ("UNREACHABLE", "tony", first)
        assert told["payload"] == {
            "message_id": first,
            "agent": "mel",
            "why": "no_watcher",
            "since": since,
            "detail": "no watcher serves it",
        }
        await bench.goes_on(2 * AFTER_S)
        assert len(await bench.told()) == 1

    async def test_wakes_that_never_start_say_what_the_last_one_said(self, bench: Bench) -> None:
        await bench.message()
        await bench.wake("k1", "not_started", "no such program")
        await bench.goes_on(60)
        await bench.wake("k2", "not_started", "gateway refused")
        await bench.goes_on(AFTER_S)
        (told,) = await bench.told()
        assert told["payload"]["why"] == "not_started"
        assert told["payload"]["detail"] == "the last wake ended not_started: gateway refused"

    @pytest.mark.parametrize("outcome", ["ok", "failed", "timeout", "interrupted", None])
    async def test_what_a_wake_covered_that_began_is_not_told_of(self, bench: Bench, outcome: str | None) -> None:
        await bench.message()
        await bench.wake("k1", outcome, limits=Limits(timeout_s=3 * AFTER_S, ack_within_s=3 * AFTER_S))
        await bench.goes_on(2 * AFTER_S)
        assert await bench.told() == []

    async def test_a_message_that_waits_for_its_turn_is_not_told_of(self, bench: Bench) -> None:
        """One run at a time: the second waits while the first is tried, an hour and longer."""
        limits = Limits(deliver="each", timeout_s=1000, max_attempts=100)
        first, second = await bench.message(), await bench.message()
        for number in range(6):
            await bench.wake(f"k{number}", "failed", limits=limits)
            await bench.goes_on(1000)
        assert await bench.told() == []
        await bench.goes_on(AFTER_S)
        assert [one["reply_to"] for one in await bench.told()] == [second]
        assert first < second

    async def test_what_was_read_or_expired_or_sent_by_no_agent_is_not_told_of(self, bench: Bench) -> None:
        await bench.ack(await bench.message())
        await bench.message(expires=bench.moment(10))
        await bench.message(sender="admin")
        await bench.goes_on(2 * AFTER_S)
        assert await bench.told() == []
        last = await bench.message()
        await bench.goes_on(AFTER_S)
        assert [one["reply_to"] for one in await bench.told()] == [last]

    async def test_an_agent_that_was_seen_reading_since_is_not(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("eventlog.presence.wall_now", lambda: utc_now(bench.clock[0]))
        await bench.message()
        bench.clock[0] += 10
        bench.presence.agent_seen("Mel")
        await bench.goes_on(2 * AFTER_S)
        assert await bench.told() == []
        later = await bench.message()
        await bench.goes_on(AFTER_S)
        assert [one["reply_to"] for one in await bench.told()] == [later]

    @pytest.mark.parametrize("who", ["mel", EVERYONE])
    async def test_a_paused_agent_is_told_of_when_it_is_resumed_and_still_not_woken(
        self, bench: Bench, who: str
    ) -> None:
        await bench.message()
        await bench.append("agent.paused", agent=who, by="admin")
        await bench.goes_on(2 * AFTER_S)
        assert await bench.told() == []
        await bench.append("agent.resumed", agent=who, by="admin")
        await bench.goes_on(60)
        assert len(await bench.told()) == 1

    async def test_a_bus_that_has_just_started_waits_for_watchers_to_come_back(self, bench: Bench) -> None:
        await bench.message()
        bench.clock[0] += 2 * AFTER_S
        again = Bench(bench.store, bench.engine, bench.clock)
        await again.goes_on(299)
        assert await again.told() == []
        await again.goes_on(1)
        assert len(await again.told()) == 1

    async def test_a_bus_that_starts_again_does_not_repeat_it(self, bench: Bench) -> None:
        first = await bench.message()
        await bench.goes_on(AFTER_S)
        second = await bench.message()
        again = Bench(bench.store, bench.engine, bench.clock)
        await again.goes_on(AFTER_S)
        assert [one["reply_to"] for one in await again.told()] == [first, second]

    async def test_the_bus_own_notices_reach_nobody_without_a_word(self, bench: Bench) -> None:
        await bench.message()
        await bench.goes_on(AFTER_S)
        await bench.goes_on(2 * AFTER_S)
        assert len(await bench.told()) == 1, "tony is as unreachable as mel"

    async def test_a_full_mailbox_is_looked_at_once_and_in_steps(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looked: list[int] = []
        unreached = bench.store.unreached

        async def counted(agent: str, after: int, limit: int) -> Any:
            page = await unreached(agent, after, limit)
            looked.append(len(page))
            return page

        monkeypatch.setattr(bench.store, "unreached", counted)
        count = MESSAGES_MAX + 10
        for _ in range(count):
            await bench.message()
        await bench.goes_on(AFTER_S - 1)
        assert looked == []
        for _ in range(10):
            await bench.goes_on(1)
        assert (looked, len(await bench.told())) == ([MESSAGES_MAX, 10], count)

    async def test_what_happens_meanwhile_puts_it_off(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """A wake is granted between looking and telling: then nothing is told."""
        await bench.message()
        message = bench.store.message

        async def late(message_id: int) -> Any:
            found = await message(message_id)
            monkeypatch.undo()
            await bench.wake("k1", None)
            return found

        monkeypatch.setattr(bench.store, "message", late)
        await bench.goes_on(AFTER_S)
        assert await bench.told() == []
        await bench.goes_on(60)
        assert await bench.told() == []


async def test_a_log_tells_when_it_sweeps_and_not_when_it_is_told_not_to(tmp_path: Path) -> None:
    for folder, after_s, kinds in (("on", 0.1, ["DEADLINE", "UNREACHABLE"]), ("off", 0, ["DEADLINE"])):
        config = Config(data_dir=tmp_path / folder, sweep_interval_s=0.05, unreachable_after_s=after_s)
        async with EventLog.open(config) as log:
            sweeping = asyncio.create_task(log.sweep())
            fields = {"from_agent": "tony", "to_agent": "mel", "type": "TASK", "hops": 0}
            dated = {"deadline": "2020-01-01T00:00:00.000000Z", "awaits": "read"}
            await log.engine.append(Append((Draft("message", fields | dated, b"1"),)))
            async with asyncio.timeout(20):
                page = await log.inbox("tony", wait_s=20)
                while len(page.messages) < len(kinds):
                    page = await log.inbox("tony", after=0, wait_s=20)
                    await asyncio.sleep(0.01)
            assert sorted(msgspec.json.decode(one)["type"] for one in page.messages) == kinds
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
