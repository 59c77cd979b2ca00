"""When an agent's wakes of the last hour began is known, also of those before this process."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from eventlog.agents import Limits
from eventlog.event import Event, canonical
from eventlog.leases import Leases
from eventlog.starts import STARTS_MAX, Starts
from eventlog.wakes import Ask, Granted, Nothing, Report
from tests.logs import opened, send

WALL = datetime(2026, 1, 1, 12, tzinfo=UTC)


def event(kind: str, id_: int, **fields: object) -> Event:
    header = canonical({"id": id_, "event": kind, **fields})
    return Event(id_, kind, "mel", "", header, None, b"")


@pytest.fixture
def starts() -> Starts:
    return Starts(1000.0, WALL)


def test_starts_of_the_last_hour_are_kept(starts: Starts) -> None:
    for id_, at in ((1, 1000.0), (2, 2000.0), (3, 4601.0)):
        starts.saw(event("wake.started", id_), at)
    assert starts.of("mel") == (2000.0, 4601.0)
    assert starts.of("tony") == ()


def test_a_wake_that_never_began_is_no_start(starts: Starts) -> None:
    for id_ in (1, 2):
        starts.saw(event("wake.started", id_), 1000.0 + id_)
    starts.saw(event("wake.finished", 3, wake=1, outcome="not_started"), 1003.0)
    starts.saw(event("wake.finished", 4, wake=2, outcome="failed"), 1004.0)
    assert starts.of("mel") == (1002.0,)


def test_what_was_before_this_process_goes_by_the_wall_clock(starts: Starts) -> None:
    starts.saw(event("wake.started", 9), 1010.0)
    assert not starts.recalled("mel")
    times = [(WALL + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ") for seconds in (-600, 300)]
    starts.recall("mel", [(1, times[0]), (2, times[1])])
    assert starts.recalled("mel")
    # A wall clock that was ahead then makes nothing start later than this process did.
    assert starts.of("mel") == (400.0, 1000.0, 1010.0)


def test_it_is_bounded(starts: Starts) -> None:
    for id_ in range(1, STARTS_MAX + 10):
        starts.saw(event("wake.started", id_), 1000.0)
    assert len(starts.of("mel")) == STARTS_MAX


# ---- on a real log --------------------------------------------------------------------------------------------------

LIMITS = Limits(ack="exit", max_wakes_per_hour=2)


async def ask(leases: Leases, key: str, limits: Limits = LIMITS) -> Granted | Nothing:
    return await leases.ask(Ask("mel", key, "w1", "n1", limits))


async def woken(leases: Leases, key: str, outcome: str = "ok") -> None:
    granted = await ask(leases, key)
    assert isinstance(granted, Granted), granted
    await leases.report(granted.wake.id, Report(key=key, outcome=outcome))


@pytest.mark.anyio
async def test_an_agent_is_woken_so_often_in_an_hour_and_no_more_also_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        for key in ("k1", "k2"):
            await send(log)
            await woken(log.leases, key)
        await send(log)
        answer = await ask(log.leases, "k3")
        assert isinstance(answer, Nothing)
        assert (answer.why, answer.retry_after_s) == ("wakes_per_hour", 300)
        assert (await log.agent("mel")).next_wake.why == "wakes_per_hour"
    async with opened(tmp_path) as log:
        answer = await ask(log.leases, "k4")
        assert isinstance(answer, Nothing)
        assert answer.why == "wakes_per_hour"
        assert isinstance(await ask(log.leases, "k5", Limits(max_wakes_per_hour=3)), Granted)


@pytest.mark.anyio
async def test_the_limit_is_kept_in_the_event_only_if_it_is_set(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await send(log)
        await woken(log.leases, "k1")
        state = log.store.agent("mel")
        assert state.wake is not None
        assert state.limits == LIMITS
        first = await log.store.event(state.wake.id)
        await send(log)
        await ask(log.leases, "k2", Limits())
        assert log.store.agent("mel").wake is not None
        second = await log.store.event(log.head)
        assert first is not None
        assert second is not None
        assert (first.fields["max_wakes_per_hour"], "max_wakes_per_hour" in second.fields) == (2, False)
