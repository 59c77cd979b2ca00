"""Reads: a page is the log filtered, and every statement is answered from an index."""

import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventlog import database
from eventlog.agents import EVERYONE
from eventlog.engine import Append, Appended
from eventlog.event import KINDS, Draft
from eventlog.queries import SQL
from eventlog.sqlite_engine import SqliteEngine
from eventlog.store import Store
from tests.appends import ack, message

pytestmark = pytest.mark.anyio

WALL = "2026-06-01T00:00:00.000000Z"


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[tuple[SqliteEngine, Store]]:
    async with Store.open(folder) as store, SqliteEngine.open(store) as engine:
        yield engine, store


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[tuple[SqliteEngine, Store]]:
    async with opened(tmp_path) as pair:
        yield pair


async def put(engine: SqliteEngine, *drafts: Draft) -> list[int]:
    """Append; the ids."""
    answer = await engine.append(Append(drafts))
    assert isinstance(answer, Appended)
    return [event.id for event in answer.events]


# ---- pages ----------------------------------------------------------------------------------------------------------

NAMES = ("mel", "tony", "ann")
DRAFTS = st.lists(
    st.one_of(
        st.builds(message, to=st.sampled_from(NAMES), sender=st.sampled_from(NAMES)),
        st.builds(message, to=st.just("Mel"), thread_id=st.just(1)),
        st.builds(ack, st.integers(0, 3), agent=st.sampled_from(NAMES)),
        st.builds(Draft, st.just("agent.paused"), st.fixed_dictionaries({"agent": st.sampled_from(("mel", EVERYONE))})),
        st.just(Draft("token.created", {"name": "t", "kind": "agent", "agents": ["mel"], "sha256": "00"})),
    ),
    min_size=1,
    max_size=25,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(drafts=DRAFTS, data=st.data())
async def test_a_page_is_the_log_filtered(
    tmp_path_factory: pytest.TempPathFactory, drafts: list[Draft], data: st.DataObject
) -> None:
    async with opened(tmp_path_factory.mktemp("log")) as (engine, store):
        await engine.append(Append((message(), *drafts)))
        everything = await store.page(0, 1000)
        assert len(everything) == len(drafts) + 1
        for _ in range(15):
            after, before = data.draw(st.integers(0, 27)), data.draw(st.none() | st.integers(0, 27))
            limit = data.draw(st.integers(1, 30))
            agents = data.draw(st.none() | st.lists(st.sampled_from(("MEL", "tony", "zoe")), max_size=3))
            events = data.draw(st.none() | st.lists(st.sampled_from(KINDS), max_size=4) | st.just(list(KINDS)))
            thread = data.draw(st.none() | st.just(1))
            expected = [
                event
                for event in everything
                if event.id > after
                and (before is None or event.id < before)
                and (agents is None or event.agent in {agent.lower() for agent in agents})
                and (events is None or event.event in events)
                and (thread is None or event.fields.get("thread_id") == thread)
            ][:limit]
            assert await store.page(after, limit, before, agents, events, thread) == expected


# ---- indexes --------------------------------------------------------------------------------------------------------

#: Statements that read a whole table because all of it is wanted, or stop at the first row.
WHOLE = {"head": "events", "agents": "agents", "tokens": "tokens", "logs": "logs", "stops": "s"}


@pytest.mark.parametrize("name", sorted(SQL))
async def test_every_statement_is_answered_from_an_index(log: tuple[SqliteEngine, Store], name: str) -> None:
    _, store = log
    named = dict.fromkeys(re.findall(r":(\w+)", SQL[name]))
    values = named or (None,) * SQL[name].split("VALUES")[-1].count("?")

    def plan(connection: sqlite3.Connection) -> list[str]:
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {SQL[name]}", values)]

    scanned = {step.split()[1] for step in await store.writer.run(plan) if re.match(r"SCAN \w", step)}
    assert scanned - {"json_each"} <= {WHOLE.get(name)}


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("inbox", "events_agent (agent=? AND id>? AND id<?)"),
        ("living", "events_agent (agent=? AND id>? AND id<?)"),
        ("page_agent", "events_agent (agent=? AND id>? AND id<?)"),
        ("page_kind", "events_kind (event=? AND rowid>? AND rowid<?)"),
        ("page_thread", "events_thread (thread_id=? AND rowid>? AND rowid<?)"),
        ("page_all", "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        ("page_messages", "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        ("keyed", "events_key (scope=? AND key=?)"),
        ("wakes_covering", "wakes_agent (agent=? AND id>?)"),
    ],
)
async def test_pages_start_at_their_cursor(log: tuple[SqliteEngine, Store], name: str, index: str) -> None:
    _, store = log
    values = dict.fromkeys(re.findall(r":(\w+)", SQL[name]))

    def plan(connection: sqlite3.Connection) -> str:
        return "\n".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {SQL[name]}", values))

    told = await store.writer.run(plan)
    assert index in told
    assert "TEMP B-TREE" not in told, "it is in order already"


@pytest.mark.parametrize("name", ["page_agent", "inbox", "first_living", "last_living"])
async def test_an_agent_s_page_costs_the_same_in_a_long_log(tmp_path: Path, name: str) -> None:
    """Counted in steps of SQLite's machine, which no busy test machine can change."""
    place = {"agent": "mel", "after": 0, "before": 10**9, "through": 10**9}
    values = place | {"limit": 100, "kinds": None, "wall": WALL}
    steps: list[int] = []
    async with opened(tmp_path) as (engine, _):
        await put(engine, *(message() for _ in range(5)))
        for _ in range(2):
            await put(engine, *(message(to=f"a{i % 50}") for i in range(2000)))
            connection = database.open_reader(tmp_path / database.FILE)
            connection.set_progress_handler(lambda: steps.append(1), 1)
            before = len(steps)
            assert connection.execute(SQL[name], values).fetchall()
            steps[before:] = [len(steps) - before]
            connection.close()
    assert steps[0] == steps[1]
