"""Followers miss nothing and see nothing twice, are told cursors past what is hidden, and end when they must."""

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventlog.bell import Bell
from eventlog.event import Event, Message
from eventlog.follow import HIDDEN_MAX, PARTS_MAX, WHOLE_PAGES_MAX
from eventlog.log import EventLog
from eventlog.store import Store
from eventlog.window import SLICE_EVENTS_MAX, Filter, Slice
from tests.logs import ALL, DEADLINE_S, Listener, listening, opened, report, send, wake

pytestmark = pytest.mark.anyio


async def send_many(log: EventLog, count: int, to: str = "mel", payload: str = "hello") -> list[int]:
    """Many messages in few transactions; their ids."""
    ids: list[int] = []
    for first in range(0, count, 500):
        messages = [Message(to_agent=to, payload=msgspec.json.encode(payload))] * min(500, count - first)
        sent = await log.send(messages, sender="tony", key=None, request=b"")
        ids += [one.id for one in sent.answers]
    return ids


def only(*agents: str, events: tuple[str, ...] = ("message",)) -> Filter:
    return Filter(agents=frozenset(agents), events=frozenset(events))


async def test_the_first_frame_anchors_a_reconnect_before_any_event(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        (last,) = await send_many(log, 1)
        async with listening(log.follow(ALL)) as client:
            await client.until(lambda c: bool(c.frames))
            assert client.raw == b"retry: 2000\nid: %d\n\n" % last
            assert (client.follower.start, client.follower.head, client.follower.log_id) == (last, last, log.log_id)


async def test_history_and_live_are_one_stream_in_order(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        ids = await send_many(log, 3)
        async with listening(log.follow(ALL, after="earliest")) as client:
            ids += await send_many(log, 3)
            await client.reach(ids[-1])
            assert client.shown == ids
            assert [frame.kind for frame in client.frames[1:]] == ["message"] * 6
            assert client.frames[1].fields()["payload"] == "hello"


async def test_a_follower_begins_strictly_after_its_cursor(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        ids = await send_many(log, 5)
        async with listening(log.follow(ALL, after=ids[2])) as client:
            await client.reach(ids[-1])
            assert client.shown == ids[3:]


async def test_an_event_appended_between_reading_and_waiting_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower that subscribes before it reads must not sleep on what came in between."""
    async with opened(tmp_path) as log:
        ids = await send_many(log, 1)
        wait = Bell.wait

        async def slow_to_wait(self: Bell) -> None:
            if len(ids) < 4:
                ids.extend(await send_many(log, 1))
            await wait(self)

        monkeypatch.setattr(Bell, "wait", slow_to_wait)
        async with listening(log.follow(ALL, after="earliest", heartbeat_s=60)) as client:
            await client.until(lambda c: len(c.shown) == 4)
            assert client.shown == ids


async def test_an_event_appended_while_a_page_is_read_comes_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as log:
        ids = await send_many(log, 3)
    async with opened(tmp_path) as log:  # another process's window is empty: history is read from the file
        frames = Store.frames

        async def slow_page(self: Store, *asked: Any) -> Slice:
            found = await frames(self, *asked)
            if len(ids) == 3:
                ids.extend(await send_many(log, 1))
            return found

        monkeypatch.setattr(Store, "frames", slow_page)
        async with listening(log.follow(ALL, after=0, heartbeat_s=60)) as client:
            await client.reach(ids[2])
            ids += await send_many(log, 1)  # a follower of what it was told of would show this one next
            await client.reach(ids[4])
            assert client.shown == ids


async def test_nothing_is_missed_or_seen_twice_by_clients_that_reconnect_at_random(tmp_path: Path) -> None:
    async with opened(tmp_path, window_events=40) as log:
        total = 600
        done = asyncio.Event()

        async def write() -> None:
            for _ in range(total // 3):
                await send_many(log, 3)
            done.set()

        async def follow_with_drops(seed: int) -> list[int]:
            draw = random.Random(seed)
            seen: list[int] = []
            cursor = 0
            while not (done.is_set() and cursor == log.head):
                async with listening(log.follow(ALL, after=cursor)) as client:
                    goal = min(cursor + draw.randrange(1, 60), total)
                    await client.reach(goal)
                seen += client.shown
                cursor = client.cursor
            return seen

        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
            clients = [group.create_task(follow_with_drops(seed)) for seed in range(8)]
            group.create_task(write())
        assert [client.result() for client in clients] == [list(range(1, total + 1))] * 8


async def test_a_gap_larger_than_the_window_is_read_from_the_file(tmp_path: Path) -> None:
    async with opened(tmp_path, window_events=10) as log:
        ids = await send_many(log, 1200)
        async with listening(log.follow(ALL, after=0)) as client:
            await client.reach(ids[-1])
            assert client.shown == ids


async def test_a_reader_that_was_overtaken_by_the_window_goes_on_where_it_was(tmp_path: Path) -> None:
    async with opened(tmp_path, window_events=10) as log:
        await send_many(log, 5)
        chunks = aiter(log.follow(ALL, after=0, heartbeat_s=60))
        read = await anext(chunks) + await anext(chunks)
        assert read.count(b"data:") == 5
        ids = await send_many(log, 300)
        while b"id: %d\n" % ids[-1] not in read:
            read += await anext(chunks)
        assert [line for line in read.splitlines() if line.startswith(b"id:")] == [
            b"id: %d" % n for n in range(ids[-1] + 1)
        ]


async def test_large_events_come_in_chunks_that_stay_bounded(tmp_path: Path) -> None:
    async with opened(tmp_path, window_events=1) as log:
        for _ in range(12):
            await send(log, payload="x" * 100_000)
        sizes = [len(chunk) async for chunk in _until_head(log)]
        assert max(sizes) <= 256 * 1024
        assert sum(sizes) > 1_200_000


async def _until_head(log: EventLog) -> Any:
    follower = log.follow(ALL, after=0)
    async for chunk in follower:
        yield chunk
        if b"id: %d\n" % log.head in chunk:
            return


async def test_a_filter_by_agent_shows_what_is_addressed_to_it_in_any_spelling(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await send(log, "Mel")
        await send(log, "ann")
        mine = await send(log, "MEL")
        async with listening(log.follow(only("mel"), after=0)) as client:
            live = await send(log, "mel")
            await client.reach(live.id)
            assert client.shown == [1, mine.id, live.id]


async def test_kinds_other_than_messages_come_only_when_asked_for_and_are_named(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        message = await send(log)
        await log.ack("mel", message.id)
        async with listening(log.follow(only("mel"), after=0)) as client:
            await client.reach(log.head)
            assert client.shown == [message.id]
        async with listening(log.follow(only("mel", events=("ack",)), after=0)) as client:
            await client.reach(log.head)
            assert [(f.kind, f.fields()["cursor"]) for f in client.frames[1:]] == [("ack", message.id)]


async def test_what_a_caller_may_not_see_is_hidden(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await send(log, "ann", sender="bob")
        to_mel = await send(log, "mel", sender="bob")
        from_mel = await send(log, "bob", sender="mel")
        wanted = Filter(visible=frozenset({"mel"}))
        async with listening(log.follow(wanted, after=0)) as client:
            live = await send(log, "mel", sender="ann")
            await client.reach(live.id)
            assert client.shown == [to_mel.id, from_mel.id, live.id]


@pytest.mark.parametrize("window_events", [10_000, 5])
async def test_reaching_the_head_of_the_start_is_told_even_if_all_was_hidden(
    tmp_path: Path, window_events: int
) -> None:
    async with opened(tmp_path, window_events=window_events) as log:
        await send_many(log, 30, "ann")
        async with listening(log.follow(only("mel"), after=0, heartbeat_s=60)) as client:
            await client.reach(30)
            assert (client.id_only, client.shown) == ([30], [])


async def test_an_id_only_frame_comes_for_each_thousand_hidden_events(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        wanted = Filter(visible=frozenset({"mel"}))
        await send_many(log, 3 * HIDDEN_MAX + 10, "ann")
        async with listening(log.follow(wanted, after=0, heartbeat_s=60)) as client:
            await client.reach(log.head)
            assert client.id_only == [HIDDEN_MAX, 2 * HIDDEN_MAX, 3 * HIDDEN_MAX, log.head]


async def test_hidden_live_events_are_told_at_the_heartbeat_and_not_before(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        async with listening(log.follow(only("mel"), heartbeat_s=0.3)) as client:
            await client.until(lambda c: bool(c.frames))
            for _ in range(20):
                await send_many(log, 1, "ann")
            await client.reach(20)
            beats = client.raw.count(b": \n\n")
            assert 1 <= len(client.id_only) <= beats


async def test_an_idle_stream_shows_life_every_heartbeat(tmp_path: Path) -> None:
    async with opened(tmp_path) as log, listening(log.follow(ALL, heartbeat_s=0.05)) as client:
        await client.until(lambda c: c.raw.count(b": \n\n") >= 3)
        assert client.shown == []


async def test_a_busy_stream_shows_its_heartbeat_too(tmp_path: Path) -> None:
    async with opened(tmp_path) as log, listening(log.follow(ALL, heartbeat_s=0.05)) as client:
        async with asyncio.timeout(DEADLINE_S):
            ids: list[int] = []
            while client.raw.count(b": \n\n") < 3:
                ids += await send_many(log, 1)
        await client.reach(ids[-1])
        assert client.shown == ids


@pytest.mark.parametrize(
    ("after", "log_id", "reason", "start"), [(99, None, "past_head", 0), (1, "another", "other_log", 0)]
)
async def test_a_cursor_that_is_not_this_logs_is_reset_aloud(
    tmp_path: Path, after: int, log_id: str | None, reason: str, start: int
) -> None:
    async with opened(tmp_path) as log:
        ids = await send_many(log, 3)
        async with listening(log.follow(ALL, after=after, log_id=log_id)) as client:
            await client.reach(ids[-1])
            reset = client.frames[1]
            assert (reset.kind, reset.cursor) == ("reset", start)
            assert reset.fields() == {"reason": reason, "log": log.log_id, "cursor": start}
            assert client.shown == [start, *ids]


async def test_a_redacted_payload_is_gone_from_the_window_too(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        secret = await send(log, payload="hunter2")
        await send(log)
        await log.redact(secret.id, reason="a password")
        async with listening(log.follow(ALL, after=0)) as client:
            await client.reach(log.head)
            assert b"hunter2" not in client.raw
            assert client.frames[1].fields()["redacted"] is True
            assert client.shown == [1, 2, 3]


async def test_closing_ends_500_followers_within_a_second(tmp_path: Path) -> None:
    async with opened(tmp_path) as log, AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(listening(log.follow(_some_filter(n), heartbeat_s=60))) for n in range(500)
        ]
        for client in clients:
            await client.until(lambda c: bool(c.frames))
        await send_many(log, 5)
        log.end_followers()
        async with asyncio.timeout(1):
            await asyncio.gather(*(client.task for client in clients))
        assert all(client.raw.endswith(b"\n\n") for client in clients)


def _some_filter(n: int) -> Filter:
    return ALL if n % 2 else only("mel" if n % 4 else "ann")


async def test_a_follower_that_comes_after_the_end_ends_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await send_many(log, 3)
        log.end_followers()
        client = Listener(log.follow(ALL, after=0))
        await asyncio.wait_for(client.task, DEADLINE_S)
        assert len(client.frames) == 1


class Connection:
    """Takes a client's chunks at once, as long as `ready` says so; counts what it took."""

    def __init__(self, client: Listener, ready: Callable[[], bool]) -> None:
        self.taken = self.empty = 0
        self._client = client
        self._ready = ready
        client.follower.write = self._write

    def _write(self, chunk: bytes) -> bool:
        if not self._ready():
            return False
        self.taken += 1
        self.empty += not chunk
        self._client.take(chunk)
        return True


async def test_a_connection_that_is_ready_is_sent_what_comes_without_waking_anyone(tmp_path: Path) -> None:
    async with opened(tmp_path) as log, listening(log.follow(ALL, heartbeat_s=60)) as client:
        await client.until(lambda c: bool(c.frames))
        connection = Connection(client, lambda: True)
        wait = Bell.wait
        waits: list[Bell] = []

        async def counted(self: Bell) -> None:
            waits.append(self)
            await wait(self)

        with pytest.MonkeyPatch.context() as counting:
            counting.setattr(Bell, "wait", counted)
            ids = [*await send_many(log, 3), *await send_many(log, 2)]
            await client.reach(ids[-1])
        assert client.shown == ids
        assert connection.taken == 2
        assert not waits


async def test_nothing_is_missed_or_seen_twice_however_often_the_connection_is_ready(tmp_path: Path) -> None:
    """Whatever it does not take goes the long way, and that in order; so do heartbeats and what is hidden."""
    async with opened(tmp_path, window_events=30) as log:
        chance = random.Random(7)
        both = Filter(agents=frozenset({"mel", "ann"}))
        async with listening(log.follow(both, heartbeat_s=0.02)) as client:
            await client.until(lambda c: bool(c.frames))
            connection = Connection(client, lambda: chance.random() < 0.6)
            ids: list[int] = []
            for _ in range(300):
                to = chance.choice(["mel", "ann", "bob"])
                sent = await send_many(log, chance.choice([1, 1, 1, 2, 50]), to)
                ids += sent if to != "bob" else []
                await asyncio.sleep(chance.choice([0, 0, 0, 0.001]))
            await client.reach(ids[-1])
            assert client.shown == ids
            assert [frame.cursor for frame in client.frames] == sorted(frame.cursor or 0 for frame in client.frames)
            assert 0 < connection.taken < 300
            assert client.id_only


async def test_what_is_more_than_a_chunk_goes_on_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as log, listening(log.follow(ALL, heartbeat_s=60)) as client:
        await client.until(lambda c: bool(c.frames))
        connection = Connection(client, lambda: True)
        ids = await send_many(log, 500, payload="x" * 2000)
        await client.reach(ids[-1])
        assert client.shown == ids
        assert connection.taken == 1  # the rest is for who iterates


async def test_a_connection_is_never_given_an_empty_chunk(tmp_path: Path) -> None:
    """Over HTTP that is the end of the answer."""
    async with opened(tmp_path) as log, listening(log.follow(only("mel"), heartbeat_s=60)) as client:
        await client.until(lambda c: bool(c.frames))
        connection = Connection(client, lambda: True)
        await send_many(log, SLICE_EVENTS_MAX + 1, "bob")
        ids = await send_many(log, 1)
        await client.reach(ids[-1])
        assert client.shown == ids
        assert connection.empty == 0


async def test_a_connection_that_fails_costs_no_follower_anything(tmp_path: Path) -> None:
    async with opened(tmp_path) as log, listening(log.follow(ALL)) as fails, listening(log.follow(ALL)) as other:
        for client in (fails, other):
            await client.until(lambda c: bool(c.frames))

        def gone() -> bool:
            raise RuntimeError("the transport is closed")

        Connection(fails, gone)
        Connection(other, lambda: True)
        ids = [*await send_many(log, 1), *await send_many(log, 1)]
        for client in (fails, other):
            await client.reach(ids[-1])
            assert client.shown == ids


async def test_a_connection_is_sent_nothing_once_its_stream_has_ended(tmp_path: Path) -> None:
    async with opened(tmp_path) as log, listening(log.follow(ALL)) as client:
        await client.until(lambda c: bool(c.frames))
        connection = Connection(client, lambda: True)
        client.follower.ended = True
        await send_many(log, 1)
        await asyncio.wait_for(client.task, DEADLINE_S)
        assert (connection.taken, client.shown) == (0, [])


async def test_revoking_a_token_ends_its_streams_and_no_others(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await log.token_created("Mels", kind="agent", agents=["mel"], sha256="ab" * 32)
        async with listening(log.follow(ALL, token="mels")) as ends, listening(log.follow(ALL, token="x")) as stays:
            await ends.until(lambda c: bool(c.frames))
            await stays.until(lambda c: bool(c.frames))
            await log.token_revoked("MELS")
            await asyncio.wait_for(ends.task, DEADLINE_S)
            (last,) = await send_many(log, 1)
            await stays.reach(last)
            assert not stays.task.done()


async def test_a_client_that_goes_away_leaves_nothing_behind(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        async with listening(log.follow(only("mel"), heartbeat_s=60, watcher="w1", node="n1")) as client:
            await client.until(lambda c: bool(c.frames))
            assert log.presence.watched("Mel")
        async with asyncio.timeout(DEADLINE_S):
            while log.presence.watched("mel"):
                await asyncio.sleep(0)
        assert log._hub.bells._hung == {}


async def test_a_burst_is_encoded_once_for_all_followers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as log, AsyncExitStack() as stack:
        encoded: list[int] = []
        json = Event.json

        def counted(self: Event, **extra: Any) -> bytes:
            encoded.append(self.id)
            return json(self, **extra)

        monkeypatch.setattr(Event, "json", counted)
        clients = [await stack.enter_async_context(listening(log.follow(ALL))) for _ in range(20)]
        for client in clients:
            await client.until(lambda c: bool(c.frames))
        ids = await send_many(log, 50)
        for client in clients:
            await client.reach(ids[-1])
            assert client.shown == ids
        assert sorted(encoded) == ids


async def test_wake_events_come_to_whoever_asks_for_everything_of_an_agent(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        async with listening(log.follow(Filter(agents=frozenset({"mel"}), events=frozenset()), after=0)) as client:
            await send(log)
            granted = await wake(log, "mel", "k1")
            await report(log, granted, "ok")
            await client.reach(log.head)
            assert [frame.kind for frame in client.frames[1:]] == ["message", "wake.started", "wake.finished"]


async def test_what_many_replay_at_once_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path, window_events=10) as log, AsyncExitStack() as stack:
        ids = await send_many(log, 1500)
        read: list[int] = []
        frames = Store.frames

        async def counted(self: Store, wanted: Filter, after: int, before: int, limit: int) -> Slice:
            read.append(after)
            return await frames(self, wanted, after, before, limit)

        monkeypatch.setattr(Store, "frames", counted)
        clients = [await stack.enter_async_context(listening(log.follow(ALL, after=0))) for _ in range(20)]
        for client in clients:
            await client.reach(ids[-1])
            assert client.shown == ids
        assert len(read) == len(set(read)) < 20


@pytest.mark.parametrize(("many", "alike"), [(20, True), (80, True), (20, False)])
async def test_pages_that_many_ask_for_are_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: int, alike: bool
) -> None:
    """What one of many is sent holds up the appends in between; who replays something of its own gets whole pages."""
    async with opened(tmp_path, window_events=10) as log, AsyncExitStack() as stack:
        await send_many(log, 3000)
        limits: list[int] = []
        all_ask = asyncio.Event()
        all_ask.set()
        frames = Store.frames

        async def counted(self: Store, wanted: Filter, after: int, before: int, limit: int) -> Slice:
            limits.append(limit)
            await all_ask.wait()
            return await frames(self, wanted, after, before, limit)

        monkeypatch.setattr(Store, "frames", counted)
        async with listening(log.follow(ALL, after=0)) as client:
            await client.reach(log.head)
        alone = list(limits)
        limits.clear()
        all_ask.clear()
        start = log.head
        await send_many(log, 3000)  # further pages: those that were read are kept
        filters = [ALL if alike else only("mel", f"agent-{n}") for n in range(many)]
        clients = [await stack.enter_async_context(listening(log.follow(wanted, after=start))) for wanted in filters]
        all_ask.set()
        for client in clients:
            await client.reach(log.head)
        if alike:
            assert max(limits) == max(alone) // min(PARTS_MAX, many // WHOLE_PAGES_MAX)
        else:
            assert sorted(limits) == sorted(alone * many)


async def test_one_page_is_given_out_in_one_turn_of_the_loop(tmp_path: Path) -> None:
    """So that however many replay, appends go in between."""
    async with opened(tmp_path, window_events=10) as log:
        await send_many(log, 3000)
        turn = 0
        turns: list[int] = []

        async def replay() -> None:
            async with aclosing(aiter(log.follow(ALL, after=0, heartbeat_s=60))) as chunks:
                await anext(chunks)
                async for chunk in chunks:
                    turns.append(turn)
                    if b"id: %d\n" % log.head in chunk:
                        return

        await asyncio.wait_for(replay(), DEADLINE_S)
        pages = len(turns)
        turns.clear()
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
            # What it needs is kept since the first one: nobody waits for a read.
            replays = [group.create_task(replay()) for _ in range(20)]
            while not all(one.done() for one in replays):
                turn += 1
                await asyncio.sleep(0)
        assert len(turns) == 20 * pages
        assert len(set(turns)) == len(turns)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_a_redacted_payload_is_gone_from_pages_that_were_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Also from one that is being read while the redaction is made durable."""
    async with opened(tmp_path, window_events=1) as log:
        secret = await send(log, payload="hunter2")
        await send_many(log, 3)
        if when == "meanwhile":
            frames = Store.frames

            async def slow(self: Store, *asked: Any) -> Slice:
                found = await frames(self, *asked)
                await log.redact(secret.id, reason="a password")
                return found

            monkeypatch.setattr(Store, "frames", slow)
        async with listening(log.follow(ALL, after=0)) as client:
            await client.reach(4)
        await log.redact(secret.id, reason="a password")
        async with listening(log.follow(ALL, after=0)) as client:
            await client.reach(log.head)
            assert b"hunter2" not in client.raw
            assert client.frames[1].fields()["redacted"] is True
