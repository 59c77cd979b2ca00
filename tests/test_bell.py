"""A bell ends its waiter's wait for what the filter shows, and for nothing else; no ring is lost."""

import asyncio
import time
from collections.abc import Callable

import pytest

from eventlog.bell import REST_FROM_S, Bell, Bells
from eventlog.event import Event
from eventlog.window import Filter

pytestmark = pytest.mark.anyio

DEADLINE_S = 20


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The loop that the bus is served by: its clock stands still within a turn."""
    return "asyncio", {"use_uvloop": True}


def event(id_: int, agent: str = "mel", sender: str = "tony", kind: str = "message") -> Event:
    return Event(id_, kind, agent, sender, b"{}", None, bytes(32))


async def rings(bell: Bell, cause: Callable[[], object]) -> bool:
    """Whether a wait that is under way ends by `cause`."""
    waiting = asyncio.create_task(bell.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    cause()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    ended = waiting.done()
    waiting.cancel()
    return ended


@pytest.mark.parametrize(
    ("wanted", "heard"),
    [
        (Filter(), True),
        (Filter(agents=frozenset({"mel", "ann"})), True),
        (Filter(agents=frozenset({"ann"})), False),
        (Filter(events=frozenset({"ack"})), False),
        (Filter(agents=frozenset({"mel"}), events=frozenset({"ack"})), False),
        (Filter(visible=frozenset({"tony"})), True),
        (Filter(visible=frozenset({"ann"})), False),
    ],
)
async def test_it_rings_for_what_its_filter_shows(wanted: Filter, heard: bool) -> None:
    bells = Bells()
    with bells.hung(wanted) as bell:
        assert await rings(bell, lambda: bells.heard([event(1, kind="wake.started"), event(2)])) is heard


async def test_a_ring_while_nobody_waits_ends_the_next_wait_and_only_that() -> None:
    bells = Bells()
    with bells.hung(Filter()) as bell:
        bells.heard([event(1)])
        bells.heard([event(2)])
        await asyncio.wait_for(bell.wait(), DEADLINE_S)
        assert await rings(bell, lambda: None) is False


async def test_all_are_rung_at_the_end() -> None:
    bells = Bells()
    with bells.hung(Filter(agents=frozenset({"ann"}))) as one, bells.hung(Filter()) as other:
        assert await rings(one, bells.ring_all)
        await asyncio.wait_for(other.wait(), DEADLINE_S)


async def test_a_waiter_that_was_cancelled_is_rung_in_vain() -> None:
    bells = Bells()
    with bells.hung(Filter()) as gone, bells.hung(Filter()) as bell:
        waiting = asyncio.create_task(gone.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        assert await rings(bell, lambda: bells.heard([event(1)]))


async def test_a_bell_that_was_taken_down_leaves_nothing_behind() -> None:
    bells = Bells()
    wanted = Filter(agents=frozenset({"mel", "ann"}))
    with bells.hung(wanted), bells.hung(wanted):
        pass
    assert bells._hung == {}


async def test_after_a_long_round_it_rings_once_for_all_that_came_in_the_rest() -> None:
    bells = Bells()
    turns = 0

    async def follow(bell: Bell) -> None:
        nonlocal turns
        while True:
            await bell.wait()
            turns += 1
            until = time.perf_counter() + 2 * REST_FROM_S
            while time.perf_counter() < until:
                pass  # a turn that is long

    with bells.hung(Filter()) as bell:
        following = asyncio.create_task(follow(bell))
        await asyncio.sleep(0)  # it waits
        async with asyncio.timeout(DEADLINE_S):
            bells.heard([event(1)])
            while not bells._resting:
                await asyncio.sleep(0)
            bells.heard([event(2)])
            bells.heard([event(3)])
            assert [one.id for one in bells._news] == [2, 3]
            while bells._resting or turns == 1:
                await asyncio.sleep(0)
            assert turns == 2
        following.cancel()
