"""Agents that would talk for ever are refused, the person can see why and let them go on; nobody else is refused."""

import asyncio
import itertools
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog import maintenance, stops
from eventlog.agents import AgentState
from eventlog.errors import NotFound, TooManyRequests
from eventlog.event import Message
from eventlog.log import EventLog
from eventlog.seal import seal
from eventlog.stops import Placed, Stops
from eventlog.views import Accepted
from eventlog.wakes import Report
from tests.appends import message
from tests.logs import opened, report, send, wake

pytestmark = pytest.mark.anyio


async def refused(call: Any) -> str:
    """What the sender of a refused message is told."""
    with pytest.raises(TooManyRequests) as caught:
        await call
    assert caught.value.code == "loop"
    return caught.value.detail


async def stopped(log: EventLog) -> list[dict[str, Any]]:
    """The events that say what was stopped, without what all events have."""
    events = [msgspec.json.decode(raw) for raw in (await log.events(event="thread.stopped")).events]
    return [{k: v for k, v in event.items() if k not in ("id", "event", "time", "hash", "by")} for event in events]


async def replies(log: EventLog, names: Iterable[str], most: int, last: Accepted | None = None) -> list[Accepted]:
    """Messages from each of these to the next, each a reply to the one before, until one is refused."""
    sent = [] if last is None else [last]
    for sender, to in itertools.islice(itertools.pairwise(itertools.cycle(names)), most):
        try:
            sent.append(await send(log, to, sender=sender, reply_to=sent[-1].id if sent else None))
        except TooManyRequests:
            break
    return sent


async def hops_of(log: EventLog, message: Accepted) -> int:
    event = await log.store.event(message.id)
    assert event is not None
    hops: int = event.fields["hops"]
    return hops


# ---- hops -----------------------------------------------------------------------------------------------------------


async def test_a_chain_of_replies_ends_at_max_hops(tmp_path: Path) -> None:
    async with opened(tmp_path, pair_rate_max=0) as log:
        sent = await replies(log, ("tony", "mel"), 200)
        assert [await hops_of(log, sent[0]), await hops_of(log, sent[-1]), len(sent)] == [0, 64, 65]
        said = await refused(send(log, "mel", sender="tony", reply_to=sent[-1].id))
        assert "max_hops" in said
        assert f"eventlog thread resume {sent[0].id}" in said
        told = {"thread": sent[0].id, "agents": ["mel", "tony"], "reason": "max_hops", "limit": 64}
        assert await stopped(log) == [told]


async def test_a_stopped_thread_takes_nothing_but_what_a_person_or_the_bus_says(tmp_path: Path) -> None:
    async with opened(tmp_path, max_hops=3) as log:
        sent = await replies(log, ("tony", "mel"), 20)
        for more in ({"reply_to": sent[0].id}, {"thread_id": sent[0].id}):
            await refused(send(log, "ann", sender="mel", **more))
        assert (await send(log, "mel", sender="admin", reply_to=sent[-1].id)).thread_id == sent[0].id
        assert (await send(log, "mel", sender="bus", thread_id=sent[0].id)).thread_id == sent[0].id
        assert (await send(log, "mel")).thread_id != sent[0].id
        assert len(await stopped(log)) == 1


async def test_many_refusals_at_once_are_one_stop(tmp_path: Path) -> None:
    async with opened(tmp_path, max_hops=3) as log:
        sent = await replies(log, ("tony", "mel"), 4)
        await asyncio.gather(*(refused(send(log, "mel", reply_to=sent[-1].id)) for _ in range(50)))
        assert len(await stopped(log)) == 1


async def test_nothing_of_a_request_is_taken_if_one_message_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path, max_hops=2) as log:
        sent = await replies(log, ("tony", "mel"), 3)
        batch = [Message(to_agent="ann"), Message(to_agent="mel", reply_to=sent[-1].id)]
        await refused(log.send(batch, sender="tony", key=None, request=b""))
        assert await stopped(log)
        assert not (await log.inbox("ann")).messages


async def test_agents_that_set_no_reply_to_are_counted_by_what_woke_them(tmp_path: Path) -> None:
    async with opened(tmp_path, max_hops=6) as log:
        last = await send(log, "mel", sender="tony")
        for sender, to in itertools.islice(itertools.cycle([("mel", "ann"), ("ann", "tony"), ("tony", "mel")]), 6):
            granted = await wake(log, sender, f"k{last.id}")
            await log.ack(sender, last.id)
            last = await send(log, to, sender=sender)
            assert last.thread_id == last.id
            await report(log, granted, "ok")
        await wake(log, "mel", "k-last")
        assert "max_hops" in await refused(send(log, "ann", sender="mel"))
        (told,) = await stopped(log)
        assert (told["thread"], told["reason"], sorted(told["agents"])) == (last.id, "max_hops", ["ann", "mel", "tony"])
        # What another thread's message leads to goes no further either, but is no other stop.
        await refused(send(log, "bob", sender="mel"))
        assert len(await stopped(log)) == 1


async def test_a_thread_that_was_let_go_on_has_its_whole_allowance_again(tmp_path: Path) -> None:
    async with opened(tmp_path, max_hops=4) as log:
        sent = await replies(log, ("tony", "mel"), 20)
        assert len(sent) == 5
        await asyncio.gather(*(log.thread_resume(sent[0].id, by="admin") for _ in range(5)))
        await log.thread_resume(sent[0].id, by="admin")
        more = await replies(log, ("tony", "mel"), 20, sent[-1])
        assert [await hops_of(log, one) for one in more[1:]] == [5, 6, 7, 8]
        assert [told["thread"] for told in await stopped(log)] == [sent[0].id] * 2
        assert len((await log.events(event="thread.resumed")).events) == 1


async def test_what_comes_of_a_thread_that_was_let_go_on_does_not_count_from_its_beginning(tmp_path: Path) -> None:
    async with opened(tmp_path, max_hops=2) as log:
        sent = await replies(log, ("tony", "mel"), 20)
        await log.thread_resume(sent[0].id, by="admin")
        last = sent[-1]
        agent = "mel" if len(sent) % 2 else "tony"
        others = {"mel": "tony", "tony": "mel"}
        taken = 0
        for number in range(5):
            granted = await wake(log, agent, f"k{number}")
            await log.ack(agent, log.head)
            try:
                last = await send(log, others[agent], sender=agent)
            except TooManyRequests:
                break
            taken += 1
            await report(log, granted, "ok")
            agent = others[agent]
        assert taken == 2
        event = await log.store.event(last.id)
        assert event is not None
        assert (event.fields["hops"], event.fields["hops_from"]) == (4, 2)


async def test_a_wakes_reply_that_would_go_on_for_ever_is_left_out_and_the_wake_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path, max_hops=2) as log:
        sent = await replies(log, ("tony", "mel"), 3)
        (agent,) = {"tony", "mel"} - {(await log.store.message(sent[-1].id)).sender}  # type: ignore[union-attr]
        granted = await wake(log, agent, "k")
        row = await log.leases.report(granted.wake.id, Report(key="k", outcome="ok", reply=b'"and on"'))
        assert row.outcome == "ok"
        assert row.detail is not None
        assert "the reply was not sent: thread" in row.detail
        assert log.head == granted.wake.id + 2  # the stop and the end
        assert [told["reason"] for told in await stopped(log)] == ["max_hops"]


# ---- budgets --------------------------------------------------------------------------------------------------------


async def test_a_thread_has_so_many_messages_and_no_more(tmp_path: Path) -> None:
    async with opened(tmp_path, thread_messages_max=5) as log:
        first = await send(log)
        batch = [Message(to_agent="mel", thread_id=first.id) for _ in range(5)]
        assert "thread_messages_max" in await refused(log.send(batch, sender="tony", key=None, request=b""))
        await log.thread_resume(first.id, by="admin")
        await log.send(batch, sender="tony", key=None, request=b"")
        assert "it has had 5 messages" in await refused(send(log, thread_id=first.id))
        assert [told["reason"] for told in await stopped(log)] == ["thread_messages"] * 2


async def test_a_thread_has_so_many_wakes_and_no_more(tmp_path: Path) -> None:
    async with opened(tmp_path, thread_wakes_max=2) as log:
        first = await send(log)
        for number in range(2):
            granted = await wake(log, "mel", f"k{number}")
            await log.ack("mel", log.head)
            await report(log, granted, "ok")
            if not number:
                await send(log, thread_id=first.id)
        assert "thread_wakes_max" in await refused(send(log, thread_id=first.id))
        assert [told["reason"] for told in await stopped(log)] == ["thread_wakes"]


# ---- pairs and rings ------------------------------------------------------------------------------------------------


async def talk(log: EventLog, names: Iterable[str], most: int = 200) -> list[Accepted]:
    """Messages from each of these to the next, without any cause, until one is refused."""
    sent = []
    for sender, to in itertools.islice(itertools.pairwise(itertools.cycle(names)), most):
        try:
            sent.append(await send(log, to, sender=sender))
        except TooManyRequests:
            break
    return sent


async def test_pollers_that_answer_each_other_for_ever_are_stopped(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        sent = await talk(log, ("Tony", "mel"))
        assert len(sent) == 61
        said = await refused(send(log, "tony", sender="mel"))
        assert said.startswith("mel and Tony are stopped: ")
        assert f"eventlog thread resume {sent[-1].id}" in said
        told = {"thread": sent[-1].id, "agents": ["mel", "Tony"], "reason": "pair_rate", "limit": 60}
        assert await stopped(log) == [told]
        # Nothing goes between the two, in any thread; but to and from others it does.
        await refused(send(log, "mel", sender="tony"))
        await refused(send(log, "tony", sender="mel", reply_to=sent[0].id))
        assert (await send(log, "ann", sender="mel", reply_to=sent[-1].id)).thread_id == sent[-1].id
        assert len(await stopped(log)) == 1
        await log.thread_resume(sent[-1].id, by="admin")
        assert len(await talk(log, ("mel", "tony"))) == 61


async def test_answers_to_requests_in_one_request_with_others_are_not_counted(tmp_path: Path) -> None:
    async with opened(tmp_path, pair_rate_max=2) as log:
        asked = await send(log)
        answered = await send(log, "tony", sender="mel", reply_to=asked.id)
        more = [await send(log, reply_to=answered.id) for _ in range(3)]
        batch = [Message(to_agent="tony", reply_to=asked.id)] * 3 + [Message(to_agent="tony", reply_to=more[0].id)]
        await log.send(batch, sender="mel", key=None, request=b"")
        await refused(send(log, "tony", sender="mel", reply_to=more[1].id))


async def test_pollers_in_a_ring_are_stopped(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        sent = await talk(log, ("ann", "Bob", "cat"))
        assert len(sent) == 60
        (told,) = await stopped(log)
        assert (told["thread"], told["reason"]) == (sent[-1].id, "cycle")
        assert told["agents"] == ["Bob", "cat", "ann"]
        await refused(send(log, "bob", sender="ann"))
        await refused(send(log, "ann", sender="cat"))
        await log.thread_resume(sent[-1].id, by="admin")
        assert len(await talk(log, ("ann", "bob", "cat"))) == 60
        await send(log, "ann", sender="bob")


async def test_what_a_person_says_counts_for_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        assert len(await talk(log, ("admin", "mel"))) == 200
        assert len(await talk(log, ("admin", "mel", "tony"))) == 200
        for _ in range(5):  # each piece of work goes round, and each is a person's
            await send(log, "ann", sender="admin")
            assert len(await talk(log, ("ann", "bob", "cat"), 30)) == 30


# ---- what stays, and who is told ------------------------------------------------------------------------------------


async def test_a_stop_outlives_the_bus_and_a_rebuild(tmp_path: Path) -> None:
    async with opened(tmp_path, max_hops=2) as log:
        sent = await replies(log, ("tony", "mel"), 20)
        pair = await talk(log, ("ann", "bob"))
    assert maintenance.verify(tmp_path).ok
    maintenance.rebuild(tmp_path)
    assert maintenance.verify(tmp_path).ok
    for _ in range(2):
        async with opened(tmp_path, max_hops=2) as log:
            await refused(send(log, "mel", reply_to=sent[0].id))
            await refused(send(log, "ann", sender="bob"))
            assert len(await stopped(log)) == 2
    async with opened(tmp_path) as log:
        await log.thread_resume(pair[-1].id, by="admin")
    async with opened(tmp_path, max_hops=2) as log:
        await send(log, "ann", sender="bob")
        await refused(send(log, "mel", reply_to=sent[0].id))


async def test_what_was_let_go_on_can_be_stopped_again_by_another_process(tmp_path: Path) -> None:
    async with opened(tmp_path, max_hops=2) as log:
        sent = await replies(log, ("tony", "mel"), 20)
        await log.thread_resume(sent[0].id, by="admin")
    for number in (2, 3):
        async with opened(tmp_path, max_hops=2) as log:
            sent = await replies(log, ("tony", "mel"), 20, sent[-1])
            assert len(await stopped(log)) == number
            assert log.stops.of_thread(sent[0].thread_id)
            await log.thread_resume(sent[0].thread_id, by="admin")


async def test_a_repeat_of_what_was_accepted_is_answered_while_the_thread_is_stopped(tmp_path: Path) -> None:
    async with opened(tmp_path, max_hops=1) as log:
        first = await send(log)
        answer = Message(to_agent="tony", reply_to=first.id)
        once = await log.send([answer], sender="mel", key="k", request=b"r")
        again = Message(to_agent="mel", reply_to=once.answers[0].id)
        await refused(log.send([again], sender="tony", key="k2", request=b"r"))
        head = log.head
        repeat = await log.send([answer], sender="mel", key="k", request=b"r")
        assert (repeat.replayed, repeat.answers[0].id, log.head) == (True, once.answers[0].id, head)
        await refused(log.send([again], sender="tony", key="k2", request=b"r"))
        await log.thread_resume(first.id, by="admin")
        assert not (await log.send([again], sender="tony", key="k2", request=b"r")).replayed


async def test_repeats_that_race_with_the_message_itself_are_answered(tmp_path: Path) -> None:
    async with opened(tmp_path, thread_messages_max=2) as log:
        first = await send(log)
        one = Message(to_agent="mel", thread_id=first.id)
        calls = [log.send([one], sender="tony", key="k", request=b"r") for _ in range(20)]
        assert len({sent.answers[0].id for sent in await asyncio.gather(*calls)}) == 1


async def test_the_agents_and_the_thread_say_that_they_are_stopped(tmp_path: Path) -> None:
    async with opened(tmp_path, max_hops=2) as log:
        sent = await replies(log, ("tony", "mel"), 20)
        await send(log, "ann", sender="bob")
        (event,) = (await log.events(event="thread.stopped")).events
        time = msgspec.json.decode(event)["time"]
        for shown in (await log.agent("Mel"), await log.agent("tony"), await log.thread(sent[0].id)):
            (stop,) = shown.stopped
            assert (stop.thread, stop.reason, stop.limit, stop.time) == (sent[0].id, "max_hops", 2, time)
        assert (await log.agent("ann")).stopped == ()
        await log.thread_resume(sent[0].id, by="admin")
        assert (await log.agent("mel")).stopped == (await log.thread(sent[0].id)).stopped == ()


async def test_what_is_no_thread_cannot_be_let_go_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        first = await send(log)
        reply = await send(log, "tony", sender="mel", reply_to=first.id)
        for wrong in (reply.id, 99):
            with pytest.raises(NotFound):
                await log.thread_resume(wrong, by="admin")
        await log.thread_resume(first.id, by="admin")
        assert log.head == reply.id


def test_each_reason_has_a_setting_of_its_own() -> None:
    assert sorted(setting for setting, _ in stops.REASONS.values()) == sorted(stops.LoopLimits.__struct_fields__)


# ---- normal traffic -------------------------------------------------------------------------------------------------


class Minutes:
    """A clock for the detectors that goes by the messages, so that minutes of traffic take seconds."""

    def __init__(self, log: EventLog) -> None:
        self.now = 0.0
        log.stops._now = lambda: self.now


async def test_a_lively_fleet_is_never_refused(tmp_path: Path) -> None:
    names = [f"agent{i}" for i in range(19)]
    dice = random.Random(5)
    async with opened(tmp_path) as log:
        clock = Minutes(log)
        await asyncio.gather(*(send(log, "admin", sender=name) for name in names))

        async def ask_and_answer() -> None:
            asker, asked = dice.sample(names, 2)
            request = await send(log, asked, sender=asker)
            await send(log, asker, sender=asked, reply_to=request.id)

        for _ in range(40):  # minutes
            for _ in range(12):
                await ask_and_answer()
                clock.now += 5
            broadcast = Message(to_agent="*")
            await log.send([broadcast], sender=dice.choice(names), key=None, request=b"")
        for pair in (names[:2], names[2:4]):  # threads of 40 hops, at once
            assert len(await replies(log, pair, 41)) == 41
        for number in range(150):  # a busy pair, 50 a minute, without a cause
            await send(log, names[number % 2 + 4], sender=names[5 - number % 2])
            clock.now += 60 / 50
        bulk = [Message(to_agent=names[7]) for _ in range(1000)]
        for _ in range(3):
            await log.send(bulk, sender=names[6], key=None, request=b"")
        await send(log, names[6], sender=names[7])
        assert await stopped(log) == []


NAMES = st.sampled_from(("ann", "bob", "cat", "admin"))
RING = (("ann", "bob"), ("bob", "cat"), ("cat", "ann"))


def runs(ways: Sequence[tuple[str, str]], hops: int) -> st.SearchStrategy[list[tuple[str, str, int]]]:
    """These ways one after the other, some of them more than once in a row."""
    times = st.lists(st.integers(1, 3), min_size=len(ways), max_size=len(ways))
    return times.map(lambda many: [(*way, hops) for way, n in zip(ways, many, strict=True) for _ in range(n)])


#: Messages between any of these, some that go round between three of them, and some to and fro between two.
WAYS = st.lists(st.tuples(NAMES, NAMES, st.integers(0, 3)), max_size=10)
PARTS = st.lists(WAYS | runs(RING, 1) | runs((("ann", "bob"), ("bob", "ann")), 0), max_size=12)


class Spelled:
    """Names as the log would spell them, were there one: nothing else is looked up, and nothing appended."""

    @staticmethod
    def agent(name: str) -> AgentState:
        return AgentState(name)


@given(
    ways=PARTS.map(lambda parts: list(itertools.chain.from_iterable(parts))),
    cuts=st.lists(st.integers(0, 60)),
)
def test_what_comes_in_one_commit_counts_as_it_would_one_by_one(
    ways: list[tuple[str, str, int]], cuts: list[int]
) -> None:
    """Messages of one way that come together are taken in at once."""
    events = [
        seal(message(to, sender, hops=hops), id_, "2026-01-01T00:00:00Z", bytes(32), None, 0, bytes(16))[0]
        for id_, (sender, to, hops) in enumerate(ways, start=1)
    ]
    limits = stops.LoopLimits(pair_rate_max=4, cycle_steps_max=8)
    store: Any = Spelled()
    singly, at_once = (Stops(store, store, limits, monotonic=lambda: 1000.0) for _ in range(2))
    for event in events:
        singly.saw([event])
    for begin, end in itertools.pairwise(sorted({0, len(events), *(cut for cut in cuts if cut < len(events))})):
        at_once.saw(events[begin:end])
    for sender, to in itertools.permutations(("ann", "bob", "cat"), 2):
        more = [Placed(message(to, sender))]
        refusals = [_told(one, more) for one in (singly, at_once)]
        assert refusals[0] == refusals[1]


def _told(one: Stops, more: list[Placed]) -> tuple[str, int] | None:
    refusal = one.refusal(more)
    return None if refusal is None else (refusal.reason, refusal.thread)
