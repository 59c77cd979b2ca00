"""Lineage: a restored copy is another log, no id is ever used for two things, and old cursors are told so."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog import lineage
from eventlog.backups import backup, restore
from eventlog.engine import Append, Appended
from eventlog.event import Draft
from eventlog.lineage import ID_GAP, Log, resolve_cursor
from eventlog.sqlite_engine import SqliteEngine
from eventlog.store import Store
from tests.appends import finished, message, one, started

pytestmark = pytest.mark.anyio

#: A log that was restored twice: from the first at 10, from the second at 2005.
LINE = (Log("a"), Log("b", 10, 2000), Log("c", 2005, 5000))


class TestCursors:
    @pytest.mark.parametrize("cursor", [0, 7, 10, 2000, 2005, 5000, 5003])
    @pytest.mark.parametrize("log_id", [None, "c"])
    def test_one_of_this_log_stands(self, log_id: str | None, cursor: int) -> None:
        assert resolve_cursor(LINE, 5003, log_id, cursor) == (cursor, None)

    @pytest.mark.parametrize(("cursor", "place"), [(11, 10), (1999, 10), (2006, 2005), (4999, 2005)])
    def test_one_in_a_range_that_was_left_out_goes_back_to_where_that_began(self, cursor: int, place: int) -> None:
        assert resolve_cursor(LINE, 5003, None, cursor) == (place, "skipped")
        assert resolve_cursor(LINE, 5003, "c", cursor) == (place, "skipped")

    def test_one_past_the_head_goes_back_to_where_this_log_was_restored(self) -> None:
        assert resolve_cursor(LINE, 5003, None, 5004) == (2005, "past_head")
        assert resolve_cursor(LINE, 5003, "c", 9999) == (2005, "past_head")
        assert resolve_cursor(LINE[:1], 5, None, 6) == (0, "past_head")

    def test_directly_after_a_restore_everything_newer_is_past_the_head(self) -> None:
        assert resolve_cursor(LINE, 2005, None, 2006) == (2005, "past_head")
        assert resolve_cursor(LINE, 2005, None, 2005) == (2005, None)

    @pytest.mark.parametrize(
        ("log_id", "cursor", "place"),
        [("a", 5, 5), ("a", 10, 10), ("a", 9999, 10), ("b", 7, 7), ("b", 2003, 2003), ("b", 2050, 2005), ("x", 7, 0)],
    )
    def test_one_of_another_log_goes_on_where_they_part(self, log_id: str, cursor: int, place: int) -> None:
        assert resolve_cursor(LINE, 5003, log_id, cursor) == (place, "other_log")

    @given(
        cursor=st.integers(0, 7000), head=st.integers(2005, 6000), log_id=st.sampled_from([None, "a", "b", "c", "x"])
    )
    def test_where_a_reader_goes_on_is_never_later_and_stands_from_then_on(
        self, cursor: int, head: int, log_id: str | None
    ) -> None:
        head = head if head == 2005 else max(head, 5000)
        place, _ = resolve_cursor(LINE, head, log_id, cursor)
        assert place <= cursor
        assert resolve_cursor(LINE, head, "c", place) == (place, None)


@asynccontextmanager
async def opened(folder: Path, now: float = 1.0) -> AsyncIterator[tuple[SqliteEngine, Store]]:
    async with Store.open(folder, wall=lambda: now) as store, SqliteEngine.open(store, wall=lambda: now) as engine:
        yield engine, store


async def append(engine: SqliteEngine, *drafts: Draft) -> list[int]:
    answer = await engine.append(Append(drafts))
    assert isinstance(answer, Appended)
    return [event.id for event in answer.events]


class TestRestoredLogs:
    async def test_a_new_log_is_its_own_first(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as (_, store):
            assert store.lineage == (Log(store.log_id),)
            assert store.quiet_kept_s is None
            assert store.resolve_cursor(None, 0) == (0, None)

    async def test_a_copy_takes_another_identity_once(self, tmp_path: Path) -> None:
        async with opened(tmp_path / "a") as (engine, store):
            await append(engine, message(), message())
            await backup(store, tmp_path / "copy")
            first = store.log_id
        restore(tmp_path / "copy", tmp_path / "b")
        async with opened(tmp_path / "b") as (_, store):
            own = store.lineage[-1]
            assert own.log_id != first
            assert store.lineage == (Log(first), Log(own.log_id, 2, 2 + ID_GAP))
        async with opened(tmp_path / "b") as (_, store):
            assert store.log_id == own.log_id
            assert store.quiet_kept_s == 0
            await store.note_quiet(600.5)
        async with opened(tmp_path / "b") as (_, store):
            assert store.quiet_kept_s == 600.5

    async def test_two_served_copies_are_two_logs(self, tmp_path: Path) -> None:
        async with opened(tmp_path / "a") as (_, store):
            await backup(store, tmp_path / "copy")
        ids = []
        for name in ("b", "c"):
            restore(tmp_path / "copy", tmp_path / name)
            async with opened(tmp_path / name) as (_, store):
                ids.append(store.log_id)
        assert ids[0] != ids[1]

    @pytest.mark.parametrize(
        ("now", "first"), [(1.0, 1_000_002), (1_800_000_000.5, 1_800_000_000_500_000)], ids=["gap", "clock"]
    )
    async def test_no_id_comes_again(self, tmp_path: Path, now: float, first: int) -> None:
        async with opened(tmp_path / "a") as (engine, store):
            await append(engine, message(), message())
            await backup(store, tmp_path / "copy")
            await append(engine, message())
        restore(tmp_path / "copy", tmp_path / "b")
        async with opened(tmp_path / "b", now) as (engine, store):
            assert engine.head.value == 2
            assert store.resolve_cursor(None, 3) == (2, "past_head")
            assert await append(engine, message()) == [first]
            assert store.resolve_cursor(None, 3) == (2, "skipped")
            assert store.resolve_cursor(None, first) == (first, None)
        async with opened(tmp_path / "b", now) as (engine, _):
            assert await append(engine, message()) == [first + 1]

    async def test_the_first_new_id_holds_over_a_restart_without_an_event(self, tmp_path: Path) -> None:
        async with opened(tmp_path / "a") as (engine, store):
            await append(engine, message())
            await backup(store, tmp_path / "copy")
        restore(tmp_path / "copy", tmp_path / "b")
        for _ in range(2):
            async with opened(tmp_path / "b") as (_, store):
                pass
        async with opened(tmp_path / "b") as (engine, _):
            assert await append(engine, message()) == [1 + ID_GAP]

    async def test_every_wake_in_flight_is_closed(self, tmp_path: Path) -> None:
        async with opened(tmp_path / "a") as (engine, store):
            await append(engine, message("Mel"), message("bo"), message("ann"))
            await append(engine, started(1, agent="Mel", key="k1"), started(2, agent="bo", key="k2"))
            await append(engine, started(3, agent="ann", key="k3"))
            await append(engine, finished(6, "ok", agent="ann"))
            await backup(store, tmp_path / "copy")
        restore(tmp_path / "copy", tmp_path / "b")
        async with opened(tmp_path / "b") as (engine, store):
            closed = await store.page(7, 10)
            assert [event.id for event in closed] == [7 + ID_GAP, 8 + ID_GAP]
            for event, (wake, agent) in zip(closed, [(5, "bo"), (4, "Mel")], strict=True):
                told = {"event": "wake.finished", "wake": wake, "agent": agent, "outcome": "interrupted", "by": "bus"}
                assert told | {"detail": "restored from a backup"} == {
                    name: value for name, value in event.fields.items() if name not in ("id", "time")
                }
            assert all(state.in_flight is None for state in store.states().values())
            row = await store.wake(4)
            assert row is not None
            assert (row.outcome, row.reported, row.finished) == ("interrupted", False, 8 + ID_GAP)
            assert engine.head.value == store.head_at_open == 8 + ID_GAP
            assert await append(engine, message()) == [9 + ID_GAP]

    async def test_keys_of_the_copied_log_still_hold(self, tmp_path: Path) -> None:
        async with opened(tmp_path / "a") as (engine, store):
            events = (await engine.append(one(message(), "k1"))).events  # type: ignore[union-attr]
            await backup(store, tmp_path / "copy")
        restore(tmp_path / "copy", tmp_path / "b")
        async with opened(tmp_path / "b") as (engine, _):
            assert (await engine.append(one(message(), "k1"))).events == events  # type: ignore[union-attr]


async def test_a_failed_adoption_leaves_the_copy_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path / "a") as (engine, store):
        await append(engine, message(), started(1))
        await backup(store, tmp_path / "copy")
        first = store.log_id
    restore(tmp_path / "copy", tmp_path / "b")

    def fail(*_: object) -> None:
        raise OSError("a fault")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="a fault"):
        patched.setattr(lineage, "seal", fail)
        async with opened(tmp_path / "b"):
            pass
    async with opened(tmp_path / "b") as (_, store):
        assert [log.log_id for log in store.lineage] == [first, store.log_id]
        assert store.agent("mel").in_flight is None
