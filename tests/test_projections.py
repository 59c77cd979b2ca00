"""What is derived from the log is a function of the log: built event by event or all at once, it is the same."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from eventlog import database, maintenance
from eventlog.agents import Limits
from eventlog.engine import Append, Appended
from eventlog.event import Draft
from eventlog.projections import TABLES, Projector, changes
from eventlog.seal import seal
from eventlog.sqlite_engine import SqliteEngine
from eventlog.store import Store
from tests.appends import ack, finished, message, started

AGENTS = st.sampled_from(("mel", "Mel", "tony", "ann", "bo"))
IDS = st.integers(1, 30)
OUTCOMES = st.sampled_from(("ok", "failed", "timeout", "interrupted", "not_started"))
LIMITS = st.builds(
    Limits,
    timeout_s=st.sampled_from((300, 0.5)),
    ack=st.sampled_from(("agent", "none", "exit")),
    max_attempts=st.integers(1, 3),
    max_wakes_per_hour=st.integers(0, 1),
)


def wake_end(wake: int, outcome: str, agent: str, by: str, detail: str | None, duration_ms: float | None) -> Draft:
    told = {"detail": detail, "duration_ms": duration_ms}
    return finished(wake, outcome, agent, by, **{name: value for name, value in told.items() if value is not None})


def stopped(thread: int) -> Draft:
    fields = {"thread": thread, "agents": ["mel", "tony"], "reason": "max_hops", "limit": 64, "by": "bus"}
    return Draft("thread.stopped", fields)


def token(name: str, agents: list[str], peer: str | None) -> Draft:
    fields: dict[str, Any] = {"name": name, "kind": "watcher", "agents": agents, "sha256": "ab"}
    return Draft("token.created", fields | ({"peer": peer} if peer else {}))


def dated(**fields: Any) -> Draft:
    return message(deadline="2026-01-01T00:00:00+01:00", **fields)


def closed(message_id: int, agent: str, how: str) -> Draft:
    return Draft("dead_letter.closed", {"message_id": message_id, "agent": agent, "how": how, "by": "admin"})


#: Every kind of event, also such as no bus would append: what is derived must be a function of these, too.
DRAFTS = st.one_of(
    st.builds(message, to=AGENTS, sender=AGENTS | st.sampled_from(("bus", "admin"))),
    st.builds(message, to=AGENTS, sender=AGENTS, thread_id=IDS, reply_to=IDS, hops=st.integers(0, 9)),
    st.builds(message, to=AGENTS, expires=st.just("2026-01-01T00:00:00+01:00")),
    st.builds(dated, to=AGENTS, sender=AGENTS | st.just("bus"), awaits=st.sampled_from(("read", "replied"))),
    st.builds(message, to=AGENTS, sender=st.just("bus"), type=st.just("DEADLINE"), reply_to=IDS),
    st.builds(ack, IDS, AGENTS),
    st.builds(started, IDS, IDS, AGENTS, key=st.sampled_from(("k1", "k2")), attempt=IDS, limits=LIMITS),
    st.builds(
        wake_end,
        IDS,
        OUTCOMES,
        AGENTS,
        st.sampled_from(("bus", "watcher")),
        st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        st.none() | st.integers(0, 99) | st.just(1.5),
    ),
    st.builds(
        lambda i, agent: Draft("dead_letter", {"message_id": i, "agent": agent, "reason": "r", "attempts": 3}),
        IDS,
        AGENTS,
    ),
    st.builds(closed, IDS, AGENTS, st.sampled_from(("retried", "dropped"))),
    st.builds(token, st.sampled_from(("t1", "T1", "t2")), st.lists(AGENTS, max_size=2), st.none() | AGENTS),
    st.builds(lambda name: Draft("token.revoked", {"name": name}), st.sampled_from(("t1", "t2"))),
    st.builds(stopped, IDS),
    st.builds(lambda i: Draft("thread.resumed", {"thread": i, "by": "admin"}), IDS),
    st.builds(lambda i: Draft("redacted", {"message_id": i, "reason": "r"}), IDS),
    st.builds(
        lambda kind, agent: Draft(kind, {"agent": agent, "by": "admin"}),
        st.sampled_from(("agent.paused", "agent.resumed")),
        AGENTS | st.just("*"),
    ),
)
#: Requests, and how many of them are under way at once.
HISTORIES = st.lists(st.lists(st.lists(DRAFTS, min_size=1, max_size=3), max_size=5), max_size=8)


async def live(folder: Path, history: list[list[list[Draft]]]) -> None:
    """Append it all, as a bus does."""
    async with Store.open(folder) as store, SqliteEngine.open(store) as engine:
        for group in history:
            answers = await asyncio.gather(*(engine.append(Append(tuple(request))) for request in group))
            assert all(isinstance(answer, Appended) for answer in answers)


def tables(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that is derived, and the events, as stored."""
    with closing(sqlite3.connect(folder / database.FILE)) as connection:
        names = (*TABLES, "events")
        return {name: connection.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in names}


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
    max_examples=40,
    phases=(Phase.reuse, Phase.generate),
)
@given(history=HISTORIES)
def test_a_rebuild_gives_what_appending_gave(
    tmp_path_factory: pytest.TempPathFactory, history: list[list[list[Draft]]]
) -> None:
    folder = tmp_path_factory.mktemp("log")
    asyncio.run(live(folder, history))
    before = tables(folder)
    assert maintenance.rebuild(folder) == len(before["events"])
    assert tables(folder) == before
    report = maintenance.verify(folder)
    assert report.ok, report.detail


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A log whose every derived table holds something."""
    letter = Draft("dead_letter", {"message_id": 1, "agent": "mel", "reason": "r", "attempts": 3})
    drafts = [message(), message("Tony"), started(1), finished(3, "failed"), letter, token("t1", ["ann"], None)]
    drafts += [stopped(2), dated()]
    asyncio.run(live(tmp_path, [[[*drafts, Draft("redacted", {"message_id": 2, "reason": "r"})]]]))
    assert all(tables(tmp_path).values())
    return tmp_path


def ruin(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / database.FILE, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize("table", TABLES)
def test_a_rebuild_mends_what_was_lost(full: Path, table: str) -> None:
    before = tables(full)
    ruin(full, f"DELETE FROM {table}")
    report = maintenance.verify(full)
    assert not report.ok
    assert table in report.detail
    maintenance.rebuild(full)
    assert tables(full) == before
    assert maintenance.verify(full).ok


def test_a_rebuild_keeps_indexes(full: Path) -> None:
    def indexes() -> list[tuple[str, str]]:
        with closing(sqlite3.connect(full / database.FILE)) as connection:
            return connection.execute(
                "SELECT name, sql FROM sqlite_schema WHERE type = 'index' ORDER BY name"
            ).fetchall()

    before = indexes()
    assert any(name == "wakes_agent" for name, _ in before)
    maintenance.rebuild(full)
    assert indexes() == before


def test_a_rebuild_that_fails_changes_nothing(full: Path) -> None:
    ruin(full, "DROP TRIGGER events_unchanged", "UPDATE events SET header = '{}' WHERE id = 6")
    before = tables(full)
    with pytest.raises(ValueError, match="name"):
        maintenance.rebuild(full)
    assert tables(full) == before


@settings(deadline=None)
@given(draft=DRAFTS)
def test_changes_is_pure(draft: Draft) -> None:
    event, _ = seal(draft, 31, "2026-11-22T10:00:00.000000Z", bytes(32), None, 0, b"")
    find: Callable[[str], None] = lambda name: None  # noqa: E731
    first = changes(event, find)
    assert changes(event, find) == first
    assert all(agent.state.version in (0, 31) for agent in first[0])


@pytest.mark.parametrize("apart", [False, True], ids=["followed", "taken over"])
def test_a_way_that_changed_no_agent_is_looked_at_anew_once_an_agent_has_changed(apart: bool) -> None:
    woken = [started(1, agent="tony"), finished(3, agent="tony")]
    drafts = [message(), message(), *woken]
    projector = Projector(lambda name: None)
    for id_, draft in enumerate([*drafts, message()], start=1):
        event, _ = seal(draft, id_, "2026-01-01T00:00:00.000000Z", bytes(32), None, 0, bytes(16))
        if apart and draft in woken:
            request = Projector(projector.find)
            request.apply(event)
            projector.take(request)
        else:
            projector.apply(event)
    # A message of an agent with an ack due is a sign of life.
    assert projector.agents["tony"].state.activity == 5
