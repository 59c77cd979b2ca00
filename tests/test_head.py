"""The head is a level: whoever waits for it to pass a cursor cannot miss that."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog.head import Head

pytestmark = pytest.mark.anyio


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_no_wait_for_what_is_past_already() -> None:
    head = Head(5)
    assert await asyncio.wait_for(head.wait_past(4), 1) == 5


async def test_everyone_who_waits_is_woken_by_one_advance() -> None:
    head = Head()
    waiting = [asyncio.create_task(head.wait_past(cursor)) for cursor in (0, 0, 1)]
    await settle()
    head.advance(2)
    assert await asyncio.wait_for(asyncio.gather(*waiting), 1) == [2, 2, 2]


async def test_a_wait_goes_on_until_its_own_cursor_is_passed() -> None:
    head = Head()
    waiting = asyncio.create_task(head.wait_past(2))
    for value in (1, 2):
        head.advance(value)
        await settle()
        assert not waiting.done()
    head.advance(3)
    assert await asyncio.wait_for(waiting, 1) == 3


async def test_it_never_goes_back() -> None:
    head = Head(5)
    waiting = asyncio.create_task(head.wait_past(5))
    await settle()
    for value in (5, 4):
        head.advance(value)
    await settle()
    assert head.value == 5
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_one_that_gives_up_does_not_take_the_others_along() -> None:
    head = Head()
    impatient, patient = (asyncio.create_task(head.wait_past(0)) for _ in range(2))
    await settle()
    impatient.cancel()
    await settle()
    assert impatient.cancelled()
    head.advance(1)
    assert await asyncio.wait_for(patient, 1) == 1


async def test_advancing_after_everyone_gave_up_is_harmless() -> None:
    head = Head()
    waiting = asyncio.create_task(head.wait_past(0))
    await settle()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    head.advance(1)
    assert await asyncio.wait_for(head.wait_past(0), 1) == 1


@given(
    steps=st.lists(st.integers(1, 20), min_size=1, max_size=10),
    cursors=st.lists(st.integers(0, 20), min_size=1, max_size=6),
)
def test_every_reader_that_reads_up_to_the_head_ends_at_the_last_id(steps: list[int], cursors: list[int]) -> None:
    """Readers that wait, read and wait again, against an appender that stops at no particular point."""
    last = max(steps)

    async def read(head: Head, cursor: int) -> int:
        while cursor < last:
            cursor = await head.wait_past(cursor)
            await asyncio.sleep(0)
        return cursor

    async def run() -> list[int]:
        head = Head()
        readers = [asyncio.create_task(read(head, cursor)) for cursor in cursors]
        for step in steps:
            head.advance(step)
            await asyncio.sleep(0)
        return await asyncio.wait_for(asyncio.gather(*readers), 5)

    assert asyncio.run(run()) == [max(cursor, last) for cursor in cursors]
