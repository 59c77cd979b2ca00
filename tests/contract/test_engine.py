"""What every engine must keep. A second engine joins by one line in ENGINES."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from eventlog.engine import Append, Appended, Engine, Key, Replayed, Stale
from eventlog.event import GENESIS, Draft, Event, chain, payload_digest
from eventlog.sqlite_engine import SqliteEngine
from eventlog.store import Store
from tests.appends import ack, message, one

pytestmark = [pytest.mark.anyio, pytest.mark.contract]

#: How long a test waits for what must come.
DEADLINE_S = 20

#: An engine on the log in a folder, with the store that it keeps.
Open = Callable[[Path], AbstractAsyncContextManager[tuple[Engine, Store]]]


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[tuple[Engine, Store]]:
    async with Store.open(folder) as store, SqliteEngine.open(store) as engine:
        yield engine, store


ENGINES: list[Open] = [sqlite]


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.__name__)
def opened(request: pytest.FixtureRequest) -> Open:
    made: Open = request.param
    return made


@pytest.fixture
async def log(opened: Open, tmp_path: Path) -> AsyncIterator[tuple[Engine, Store]]:
    async with opened(tmp_path) as pair:
        yield pair


async def appended(engine: Engine, request: Append | Draft) -> tuple[Event, ...]:
    answer = await engine.append(request if isinstance(request, Append) else one(request))
    assert isinstance(answer, Appended)
    return answer.events


class TestOrder:
    async def test_a_request_s_events_stand_together_in_its_order(self, log: tuple[Engine, Store]) -> None:
        engine, store = log
        requests = [Append(tuple(message(payload=b"[%d,%d]" % (i, j)) for j in range(3))) for i in range(20)]
        answers = await asyncio.gather(*(appended(engine, request) for request in requests))
        for i, events in enumerate(answers):
            assert [event.payload for event in events] == [b"[%d,%d]" % (i, j) for j in range(3)]
        stored = await store.page(0, 1000)
        assert stored == sorted((event for events in answers for event in events), key=lambda event: event.id)
        for events in answers:
            place = stored.index(events[0])
            assert stored[place : place + 3] == list(events)

    async def test_each_sender_s_ids_rise_and_none_is_given_twice(self, log: tuple[Engine, Store]) -> None:
        engine, _ = log

        async def send() -> list[int]:
            return [(await appended(engine, message()))[0].id for _ in range(20)]

        answers = await asyncio.gather(*(send() for _ in range(8)))
        assert all(ids == sorted(ids) for ids in answers)
        assert len({id_ for ids in answers for id_ in ids}) == 160
        assert max(max(ids) for ids in answers) == engine.head.value

    async def test_no_reader_sees_an_id_before_a_smaller_one(self, log: tuple[Engine, Store]) -> None:
        engine, store = log
        done = asyncio.Event()

        async def read() -> list[int]:
            """Follows as a follower does: only ever past what it has read."""
            seen: list[int] = []
            while not (done.is_set() and seen and seen[-1] == engine.head.value):
                page = await store.page(seen[-1] if seen else 0, 7, agents=("mel", "bo"))
                seen += (event.id for event in page)
                await asyncio.sleep(0)
            return seen

        async def send(to: str) -> None:
            for _ in range(50):
                await appended(engine, message(to=to))

        readers = [asyncio.create_task(read()) for _ in range(6)]
        await asyncio.gather(*(send(to) for to in ("mel", "bo") * 3))
        done.set()
        everything = [event.id for event in await store.page(0, 1000)]
        for seen in await asyncio.wait_for(asyncio.gather(*readers), DEADLINE_S):
            assert seen == everything

    async def test_nothing_is_appended_for_no_drafts(self, log: tuple[Engine, Store]) -> None:
        engine, store = log
        assert await engine.append(Append(())) == Appended(())
        assert engine.head.value == 0
        assert await store.page(0, 10) == []


class TestDurability:
    async def test_what_was_answered_is_there_after_opening_again(self, opened: Open, tmp_path: Path) -> None:
        async with opened(tmp_path) as (engine, _):
            events = await appended(engine, Append((message(), message(sender="ann"), ack(1))))
        async with opened(tmp_path) as (engine, store):
            assert tuple(await store.page(0, 10)) == events
            assert engine.head.value == store.head_at_open == events[-1].id
            assert store.agent("mel").cursor == 1
            assert (await appended(engine, message()))[0].id > events[-1].id

    async def test_the_head_moves_with_the_answer_and_wakes_who_waits(self, log: tuple[Engine, Store]) -> None:
        engine, store = log
        waiting = asyncio.create_task(engine.head.wait_past(0))
        event = (await appended(engine, message()))[0]
        assert engine.head.value == event.id
        assert await asyncio.wait_for(waiting, DEADLINE_S) == event.id
        assert await store.event(event.id) == event

    async def test_a_cancelled_append_harms_no_other(self, log: tuple[Engine, Store]) -> None:
        engine, store = log
        cancelled = [asyncio.create_task(appended(engine, message(payload=b'"gone"'))) for _ in range(10)]
        others = [asyncio.create_task(appended(engine, message())) for _ in range(10)]
        await asyncio.sleep(0)
        for task in cancelled:
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*others), DEADLINE_S)
        stored = [event.id for event in await store.page(0, 100)]
        assert {task.result()[0].id for task in others} <= set(stored)
        assert len(await appended(engine, message())) == 1


class TestStamps:
    async def test_the_first_message_of_a_thread_names_it(self, log: tuple[Engine, Store]) -> None:
        engine, _ = log
        first, second = await appended(engine, Append((message(), message())))
        reply = (await appended(engine, message(thread_id=first.id, reply_to=first.id)))[0]
        assert first.fields["thread_id"] == first.id
        assert second.fields["thread_id"] == second.id
        assert reply.fields["thread_id"] == first.id

    async def test_id_kind_and_time_are_on_every_event(self, log: tuple[Engine, Store]) -> None:
        engine, store = log
        for event in await appended(engine, Append((message(), ack(1), message(sender="Mel", to="Tony")))):
            stored = await store.event(event.id)
            assert stored is not None
            fields = stored.fields
            assert (fields["id"], fields["event"]) == (event.id, event.event)
            assert len(fields["time"]) == len("2026-11-22T10:00:00.123456Z")
            assert fields["time"].endswith("Z")
            assert fields == event.fields

    async def test_names_are_kept_as_spelled_and_compared_folded(self, log: tuple[Engine, Store]) -> None:
        engine, store = log
        event = (await appended(engine, message(to="Mel", sender="TONY")))[0]
        assert (event.agent, event.sender) == ("mel", "tony")
        assert (event.fields["to_agent"], event.fields["from_agent"]) == ("Mel", "TONY")
        assert await store.inbox("MEL", 0, 10) == [event]

    async def test_hashes_form_a_chain(self, log: tuple[Engine, Store]) -> None:
        engine, _ = log
        previous = GENESIS
        for draft in (ack(0), Draft("agent.paused", {"agent": "mel", "by": "admin"})):
            event = (await appended(engine, draft))[0]
            assert event.hash == chain(previous, event.header, payload_digest(b"", None))
            previous = event.hash

    async def test_equal_payloads_do_not_show_in_the_chain(self, log: tuple[Engine, Store]) -> None:
        engine, _ = log
        event = (await appended(engine, message()))[0]
        assert event.hash != chain(GENESIS, event.header, payload_digest(b"", event.payload))


class TestConditions:
    async def test_what_is_expected_must_still_be_so(self, log: tuple[Engine, Store]) -> None:
        engine, store = log
        await appended(engine, Append((message(), message())))
        await appended(engine, one(ack(1), mel=0))
        version = store.agent("mel").version
        assert version == 3
        assert await engine.append(one(ack(2), mel=0)) == Stale()
        assert store.agent("mel").cursor == 1
        assert engine.head.value == 3
        await appended(engine, one(ack(2), mel=version))
        assert store.agent("mel").cursor == 2

    async def test_of_many_with_one_condition_one_wins(self, log: tuple[Engine, Store]) -> None:
        engine, store = log
        await appended(engine, message())
        answers = await asyncio.gather(*(engine.append(one(ack(1), mel=0)) for _ in range(20)))
        assert sum(isinstance(answer, Appended) for answer in answers) == 1
        assert answers.count(Stale()) == 19
        assert len(await store.page(0, 100, events=["ack"])) == 1

    async def test_an_event_without_consequence_does_not_spoil_a_condition(self, log: tuple[Engine, Store]) -> None:
        engine, store = log
        await appended(engine, message())
        await appended(engine, one(ack(1), mel=0))
        version = store.agent("mel").version
        await appended(engine, message())
        await appended(engine, ack(1))
        assert store.agent("mel").version == version
        await appended(engine, one(ack(2), mel=version))

    async def test_several_agents_may_be_named(self, log: tuple[Engine, Store]) -> None:
        engine, _ = log
        await appended(engine, Append((message(), message(to="bo"), ack(1))))
        assert await engine.append(Append((message(),), {"mel": 0, "bo": 0})) == Stale()
        assert isinstance(await engine.append(Append((message(),), {"mel": 3, "bo": 0})), Appended)


class TestKeys:
    async def test_a_repeat_makes_nothing_and_answers_the_same(self, log: tuple[Engine, Store]) -> None:
        engine, _ = log
        request = Append((message(), message(to="bo")), key=Key("tony", "k1", b"r" * 32))
        events = await appended(engine, request)
        assert await engine.append(request) == Replayed(events, b"r" * 32)
        assert engine.head.value == events[-1].id

    async def test_another_request_with_this_key_is_told_of_the_first(self, log: tuple[Engine, Store]) -> None:
        engine, _ = log
        events = await appended(engine, one(message(), "k1", b"a" * 32))
        assert await engine.append(one(message(payload=b'"else"'), "k1", b"b" * 32)) == Replayed(events, b"a" * 32)

    async def test_a_key_holds_over_a_restart(self, opened: Open, tmp_path: Path) -> None:
        async with opened(tmp_path) as (engine, _):
            events = await appended(engine, one(message(), "k1", b"r" * 32))
        async with opened(tmp_path) as (engine, _):
            assert await engine.append(one(message(), "k1", b"r" * 32)) == Replayed(events, b"r" * 32)

    async def test_of_many_at_once_one_is_stored(self, log: tuple[Engine, Store]) -> None:
        engine, store = log
        answers = await asyncio.gather(*(engine.append(one(message(), "k1", b"r" * 32)) for _ in range(20)))
        assert sum(isinstance(answer, Appended) for answer in answers) == 1
        assert {answer.events[0].id for answer in answers if not isinstance(answer, Stale)} == {1}
        assert len(await store.page(0, 100)) == 1

    async def test_a_key_is_its_scope_s_own(self, log: tuple[Engine, Store]) -> None:
        engine, store = log
        for scope in ("tony", "ann", "wake:"):
            await appended(engine, Append((message(),), key=Key(scope, "k1", bytes(32))))
        assert len(await store.page(0, 10)) == 3

    async def test_a_repeat_is_answered_though_the_condition_is_gone(self, log: tuple[Engine, Store]) -> None:
        engine, _ = log
        await appended(engine, message())
        request = Append((ack(1),), {"mel": 0}, Key("wake:", "k1", b"r" * 32))
        events = await appended(engine, request)
        assert await engine.append(request) == Replayed(events, b"r" * 32)

    async def test_a_request_that_was_not_appended_leaves_its_key_free(self, log: tuple[Engine, Store]) -> None:
        engine, _ = log
        await appended(engine, Append((message(), ack(1))))
        key = Key("wake:", "k1", b"r" * 32)
        assert await engine.append(Append((ack(1),), {"mel": 0}, key)) == Stale()
        assert isinstance(await engine.append(Append((ack(1),), {"mel": 2}, key)), Appended)


class TestWrongDrafts:
    @pytest.mark.parametrize(
        "draft",
        [
            Draft("message", {"from_agent": "tony", "type": "TASK"}, b"1"),
            Draft("message", {"from_agent": "tony", "to_agent": "mel", "reply_to": 2**63}, b"1"),
            Draft("message", {"from_agent": "tony", "to_agent": "mel", "expires": "tomorrow"}, b"1"),
            Draft("ack", {"agent": "mel"}),
            Draft("wake.started", {"agent": "mel", "key": "k"}),
            Draft("wake.finished", {"wake": 1, "agent": "mel", "outcome": "ok", "exit_code": 2**70}),
            Draft("dead_letter", {"message_id": "1", "agent": "mel", "reason": "r", "attempts": 1}),
            Draft("token.created", {"name": "t"}),
            Draft("redacted", {"reason": "r"}),
        ],
        ids=lambda draft: draft.event,
    )
    async def test_what_cannot_be_stored_fails_alone(self, log: tuple[Engine, Store], draft: Draft) -> None:
        engine, store = log
        before, wrong, after = await asyncio.gather(
            engine.append(one(message())),
            engine.append(Append((message(payload=b'"with it"'), draft))),
            engine.append(one(message())),
            return_exceptions=True,
        )
        assert isinstance(wrong, Exception)
        assert isinstance(before, Appended)
        assert isinstance(after, Appended)
        assert tuple(await store.page(0, 10)) == before.events + after.events
        assert [event.id for event in await store.page(0, 10)] == [1, 2]
