"""The whole log on a real file, held against a log in memory: the same things are done to both, and both are asked.

At a crash the files are taken as they stood, cut off anywhere in what was being written: what was answered must be
there, what was not must be there whole or not at all, in order.
"""

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from eventlog import database, leases, maintenance
from eventlog.agents import EVERYONE, Limits
from eventlog.engine import Append, Appended, Key, Replayed
from eventlog.errors import EventlogError
from eventlog.event import KINDS, Draft
from eventlog.leases import Leases
from eventlog.sqlite_engine import SqliteEngine
from eventlog.stops import Stops
from eventlog.store import Store, ThreadCount
from eventlog.wakes import Ask, Granted, Report
from tests.appends import message
from tests.model.log_model import LogInMemory
from tests.support import SOAK

AGENTS = ("mel", "bo", "tony")
#: What asks want; their leases are short beside the steps of the clock.
LIMITS = [
    Limits(timeout_s=60, ack_within_s=120, max_attempts=2),
    Limits(timeout_s=60, ack_within_s=120, max_attempts=2, deliver="each", ack="exit"),
    Limits(timeout_s=600, max_attempts=3, ack="none", min_interval_s=30),
    Limits(timeout_s=100, max_attempts=3, ack="exit", max_wakes_per_hour=2),
]
OUTCOMES = ("ok", "failed", "timeout", "interrupted", "not_started")

T = TypeVar("T")
Post = tuple[str, int, int | None, int, str | None]

agents = st.sampled_from(AGENTS)
keys = st.sampled_from([f"k{n}" for n in range(8)])
STEPS_S = st.sampled_from([5.0, 30.0, 130.0, 700.0])
#: Messages of one request: to whom, with which payload, in how many seconds it expires, in which thread (by place), and
#: what is awaited by a deadline soon.
posts: st.SearchStrategy[Post] = st.tuples(
    agents,
    st.integers(0, 3),
    st.sampled_from([None, None, 30, 1000]),
    st.integers(0, 5),
    st.sampled_from([None, None, "read", "replied"]),
)


class VirtualTime(datetime):
    """A wall clock that the model moves."""

    moment: ClassVar[datetime]

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls.moment  # type: ignore[return-value]


class LogModel(RuleBasedStateMachine):
    """One real log and one in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.log = LogInMemory()
        self.runner = asyncio.Runner()
        self.home = Path(tempfile.mkdtemp())
        self.folder = self.home / "first"
        VirtualTime.moment = self.log.wall()
        self.patched = mock.patch.multiple(leases, datetime=VirtualTime, wall_now=self.log.wall_text)
        self.patched.start()
        self.run(self._open())

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(what)

    async def _open(self) -> None:
        self.stack = AsyncExitStack()
        wall = lambda: self.log.wall().timestamp()  # noqa: E731
        self.store = await self.stack.enter_async_context(Store.open(self.folder, readers=1, wall=wall))
        self.engine = await self.stack.enter_async_context(SqliteEngine.open(self.store, group_max=3, wall=wall))
        self.leases = Leases(self.store, self.engine, Stops(self.store, self.engine), monotonic=lambda: self.log.now)
        self.engine.listeners.append(self.leases.saw)
        self.log.restart()

    # ---- sending ----------------------------------------------------------------------------------------------------

    def _request(self, sender: str, wanted: list[Post], key: str | None) -> Append:
        drafts = []
        for to, payload, expires_s, parent, awaits in wanted:
            fields: dict[str, Any] = {} if expires_s is None else {"expires": self.log.wall_text(expires_s)}
            if awaits is not None:
                fields |= {"deadline": self.log.wall_text(100), "awaits": awaits}
            sent = self.log.select(lambda event: event.event == "message")
            if parent and len(sent) >= parent:
                first = self.log.events[sent[-parent] - 1]
                fields |= {"thread_id": first.fields["thread_id"], "reply_to": first.id}
            drafts.append(message(to, sender, b"%d" % payload, **fields))
        request = hashlib.sha256(repr([(d.fields, d.payload) for d in drafts]).encode()).digest()
        return Append(tuple(drafts), key=None if key is None else Key(sender, key, request))

    @rule(sender=agents, wanted=st.lists(posts, min_size=1, max_size=3), key=st.none() | keys)
    def send(self, sender: str, wanted: list[Post], key: str | None) -> None:
        self._append(self._request(sender, wanted, key))

    def _append(self, request: Append) -> None:
        head = len(self.log.events)
        answer = self.run(self.engine.append(request))
        expected = self.log.put(request)
        assert type(answer).__name__ == expected
        if isinstance(answer, Appended):
            assert [event.id for event in answer.events] == list(range(head + 1, len(self.log.events) + 1))
        elif isinstance(answer, Replayed):
            assert request.key is not None
            first_request, ids = self.log.keys[request.key.scope, request.key.key]
            assert (answer.request, tuple(event.id for event in answer.events)) == (first_request, ids)

    # ---- agents and administrators ----------------------------------------------------------------------------------

    @rule(agent=agents, back=st.integers(0, 4), stale=st.booleans())
    def ack(self, agent: str, back: int, stale: bool) -> None:
        cursor = len(self.log.events) - back
        state = self.log.state(agent)
        if cursor > state.cursor:
            expect = {agent: state.version - (stale and state.version > 0)}
            self._append(Append((Draft("ack", {"agent": agent, "cursor": cursor}),), expect))

    @rule(agent=st.sampled_from([*AGENTS, EVERYONE]))
    def pause_or_resume(self, agent: str) -> None:
        state = self.log.state(agent)
        event = "agent.resumed" if state.paused else "agent.paused"
        self._append(Append((Draft(event, {"agent": agent, "by": "admin"}),), {agent: state.version}))

    @rule(name=st.sampled_from(["t1", "t2"]), owner=agents)
    def make_or_revoke_token(self, name: str, owner: str) -> None:
        good = any(row.name == name and row.revoked is None for row in self.log.token_rows())
        fields = {
            "kind": "agent",
            "agents": [owner],
            "sha256": hashlib.sha256(b"%d" % len(self.log.events)).hexdigest(),
        }
        draft = Draft("token.revoked", {"name": name}) if good else Draft("token.created", {"name": name, **fields})
        self._append(Append((draft,)))

    @rule(back=st.integers(0, 8))
    def redact(self, back: int) -> None:
        sent = self.log.select(lambda event: event.event == "message")
        if len(sent) > back:
            self._append(Append((Draft("redacted", {"message_id": sent[-1 - back], "reason": "asked to"}),)))

    @rule(back=st.integers(0, 2), how=st.sampled_from(["retried", "dropped"]))
    def close_a_dead_letter(self, back: int, how: str) -> None:
        dead = sorted(self.log.dead())
        if len(dead) > back:
            letter = self.log.letter(dead[-1 - back])
            assert letter is not None
            fields = {"message_id": letter.message_id, "agent": letter.agent, "how": how, "by": "admin"}
            key = Key("dead:", str(letter.message_id), hashlib.sha256(how.encode()).digest())
            self._append(Append((Draft("dead_letter.closed", fields),), key=key))

    # ---- wakes ------------------------------------------------------------------------------------------------------

    @rule(agent=agents, key=keys, limits=st.sampled_from(LIMITS))
    def ask(self, agent: str, key: str, limits: Limits) -> None:
        key = f"{agent}-{key}"
        answer = self.run(self.leases.ask(Ask(agent, key, "w", "n", limits)))
        said: tuple[str, int | str]
        if isinstance(answer, Granted):
            said = ("again" if answer.again else "granted", answer.wake.id)
            covered = self.log.alive(agent, max(answer.wake.after, self.log.state(agent).cursor), answer.wake.through)
            assert [one.id for one in answer.messages] == [one.id for one in covered]
        else:
            said = ("nothing", answer.why)
        assert said == self.log.ask_for(agent, key, limits)

    @rule(back=st.integers(0, 2), outcome=st.sampled_from(OUTCOMES), right=st.integers(0, 9))
    def report(self, back: int, outcome: str, right: int) -> None:
        rows = list(self.log.wake_rows())
        if len(rows) <= back:
            return
        row = rows[-1 - back]
        report = Report(row.key if right else "wrong", outcome)
        try:
            said = self.run(self.leases.report(row.id, report)).outcome
        except EventlogError as error:
            said = error.code
        assert said == self.log.told(row.id, report)

    @rule(
        agent=agents,
        limits=st.sampled_from(LIMITS),
        turns=st.lists(st.tuples(st.sampled_from(OUTCOMES), STEPS_S), min_size=1, max_size=3),
        posted=st.lists(posts, max_size=2),
        acks=st.booleans(),
    )
    def some_turns(
        self, agent: str, limits: Limits, turns: list[tuple[str, float]], posted: list[Post], acks: bool
    ) -> None:
        """Mail and wakes to their end at once, so that runs get further."""
        if posted:
            self.send("tony", [(agent, *post[1:]) for post in posted], None)
        for outcome, then_s in turns:
            self.ask(agent, f"t{len(self.log.events)}", limits)
            self.report(0, outcome, right=1)
            self.time_goes_on(then_s)
            self.sweep()
        if acks:
            self.ack(agent, 1, stale=False)

    @rule()
    def sweep(self) -> None:
        order = list(self.store.states())
        self.run(self.leases.sweep())
        self.log.sweep(order)

    @rule(seconds=STEPS_S)
    def time_goes_on(self, seconds: float) -> None:
        self.log.now += seconds
        VirtualTime.moment = self.log.wall()

    # ---- the file ---------------------------------------------------------------------------------------------------

    @rule(rebuild=st.booleans())
    def reopen(self, rebuild: bool) -> None:
        self.run(self.stack.aclose())
        if rebuild:
            assert maintenance.rebuild(self.folder) == len(self.log.events)
        self.run(self._open())
        self.all_is_the_same()

    @rule(data=st.data(), batches=st.lists(st.tuples(agents, st.lists(posts, min_size=1, max_size=3)), max_size=6))
    def crash(self, data: st.DataObject, batches: list[tuple[str, list[Post]]]) -> None:
        """Some requests are on their way when the power goes: the files are kept up to some byte of what they write."""
        wal = self.folder / f"{database.FILE}-wal"
        requests = [self._request(sender, posted, None) for sender, posted in batches]
        before = wal.stat().st_size
        self.run(self._append_all(requests))
        after = wal.stat().st_size
        cut = data.draw(st.integers(min(before, after), after), label="bytes kept")
        kept = Path(tempfile.mkdtemp(dir=self.home))
        shutil.copyfile(self.folder / database.FILE, kept / database.FILE)
        (kept / wal.name).write_bytes(wal.read_bytes()[:cut])
        self.run(self.stack.aclose())
        self.folder = kept
        self.run(self._open())
        there = [
            request for request in requests if self.store.head.value > len(self.log.events) and self.log.put(request)
        ]
        assert cut < after or len(there) == len(requests), "what was answered is there"
        self.all_is_the_same()

    async def _append_all(self, requests: list[Append]) -> None:
        await asyncio.gather(*(self.engine.append(request) for request in requests))

    # ---- reading ----------------------------------------------------------------------------------------------------

    @rule()
    def all_is_the_same(self) -> None:
        """Events, states and everything derived are those of the log in memory."""
        self.run(self._all_is_the_same())

    async def _all_is_the_same(self) -> None:
        store, log = self.store, self.log
        events = await store.page(0, 100_000)
        assert [(e.header, e.payload) for e in events] == [(e.header, log.payloads.get(e.id)) for e in log.events]
        assert store.head.value == self.engine.head.value == len(log.events)
        assert {name: store.agent(name) for name in (*AGENTS, EVERYONE)} == {
            n: log.state(n) for n in (*AGENTS, EVERYONE)
        }
        assert store.names() == log.known()
        assert await store.tokens() == log.token_rows()
        rows = list(log.wake_rows())
        assert [await store.wake(row.id) for row in rows] == rows
        assert [await store.wake_by_key(row.key) for row in rows] == rows
        assert await store.dead(range(1, len(events) + 1)) == set(log.dead())
        assert sorted(await store.deadlines_due(log.wall_text(), 1000)) == log.overdue()
        letters = [log.letter(message) for message in sorted(log.dead())]
        assert await store.dead_letters(None, 0, 1000, closed=True) == letters
        for agent in (None, *AGENTS):
            still = await store.dead_letters(agent, 0, 1000, closed=False)
            assert [letter.message_id for letter in still] == log.open_letters(agent)
        assert [await store.count_dead(agent) for agent in AGENTS] == [len(log.open_letters(a)) for a in AGENTS]

    @rule(after=st.integers(0, 20), limit=st.integers(1, 20))
    def every_agent_reads(self, after: int, limit: int) -> None:
        for agent in AGENTS:
            self.run(self._an_agent_reads(agent, after, limit))
            self.run(self._an_agent_reads(agent, self.log.state(agent).cursor, limit))

    async def _an_agent_reads(self, agent: str, after: int, limit: int) -> None:
        store, log, wall = self.store, self.log, self.log.wall_text()
        state = log.state(agent)
        living = [event.id for event in log.alive(agent, after)]
        assert [e.id for e in await store.inbox(agent, after, limit)] == [i for i in log.messages(agent) if i > after][
            :limit
        ]
        assert [e.id for e in await store.living(agent, after, 10**9, limit, wall)] == living[:limit]
        assert await store.unread(state, wall) == len(log.alive(agent, state.cursor))
        spans, first = await store.unread_of(state, wall, limit)
        assert spans == log.spans(agent)
        past = [event.id for event in log.alive(agent, state.cursor) if spans and event.id <= spans[-1].last]
        assert [event.id for event in first] == past[:limit]
        mine = [row.id for row in log.wake_rows() if row.agent == agent]
        assert [row.id for row in await store.wakes_of(agent, limit)] == mine[::-1][:limit]

    @rule()
    def messages_are_looked_up(self) -> None:
        for id_ in self.log.select(lambda event: event.event == "message")[-10:]:
            self.run(self._look_up(id_))

    async def _look_up(self, id_: int) -> None:
        store, log = self.store, self.log
        event = log.events[id_ - 1]
        found = await store.message(id_)
        assert found is not None
        assert (found.header, found.payload) == (event.header, log.payloads[id_])
        assert await store.dead_letter(id_) == log.letter(id_)
        assert await store.redacted(id_) == (log.payloads[id_] is None)
        assert await store.replies(id_) == log.select(lambda e: e.fields.get("reply_to") == id_)
        thread = event.fields["thread_id"]
        assert [e.id for e in await store.thread(thread)] == log.select(lambda e: e.fields.get("thread_id") == thread)
        woken = log.select(lambda e: e.event == "wake.started" and e.fields.get("thread") == thread)
        messages = log.select(lambda e: e.fields.get("thread_id") == thread)
        assert await store.message_in_thread(id_) == (found, ThreadCount(thread, len(messages), 0, len(woken)))
        covering = [r for r in log.wake_rows() if r.agent == event.agent and r.after < id_ <= r.through]
        assert await store.wakes_covering(event.agent, id_) == covering

    @rule(
        after=st.integers(0, 60),
        before=st.none() | st.integers(1, 80),
        limit=st.integers(1, 30),
        names=st.none() | st.lists(agents, min_size=1, unique=True),
        kinds=st.none() | st.lists(st.sampled_from(KINDS), min_size=1, unique=True),
        thread=st.none() | st.integers(1, 10),
    )
    def an_auditor_reads(
        self,
        after: int,
        before: int | None,
        limit: int,
        names: list[str] | None,
        kinds: list[str] | None,
        thread: int | None,
    ) -> None:
        asked = (after, limit, before, names, kinds, thread)
        assert [event.id for event in self.run(self.store.page(*asked))] == self.log.page(*asked)

    def teardown(self) -> None:
        try:
            self.run(self.stack.aclose())
            report = maintenance.verify(self.folder)
            assert report.ok, report
        finally:
            self.patched.stop()
            self.runner.close()
            shutil.rmtree(self.home)


TestLogModel = pytest.mark.timeout(3600 if SOAK else 300)(LogModel.TestCase)
TestLogModel.settings = settings(
    max_examples=1000 if SOAK else 40,
    stateful_step_count=100 if SOAK else 40,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
