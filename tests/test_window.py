"""The window keeps the newest frames within its bounds and says when it does not know enough."""

import pytest

from eventlog.event import Event, canonical
from eventlog.window import CHUNK_BYTES_MAX, SLICE_EVENTS_MAX, Filter, Window

EVERYTHING = Filter(events=frozenset())


def event(id_: int, kind: str = "message", agent: str = "mel", payload: bytes = b"null") -> Event:
    header = canonical({"id": id_, "event": kind, "time": "2030-01-01T00:00:00.000000Z"})
    return Event(id_, kind, agent, "tony", header, payload if kind == "message" else None, bytes(32))


def window(*, floor: int = 0, events_max: int = 100, bytes_max: int = 1_000_000) -> Window:
    return Window(floor, events_max=events_max, bytes_max=bytes_max)


def test_what_comes_after_a_cursor_is_one_slice() -> None:
    kept = window()
    kept.add([event(1), event(2), event(5)])
    found = kept.slice(EVERYTHING, 1)
    assert found is not None
    assert (found.cursor, found.shown, found.hidden) == (5, 5, 0)
    assert [line for line in found.data.splitlines() if line.startswith(b"id:")] == [b"id: 2", b"id: 5"]


def test_what_is_hidden_is_counted_from_the_last_event_shown() -> None:
    kept = window()
    kept.add([event(1, agent="ann"), event(2), event(3, agent="ann"), event(4, "ack")])
    found = kept.slice(Filter(agents=frozenset({"mel"})), 0)
    assert found is not None
    assert (found.cursor, found.shown, found.hidden) == (4, 2, 2)


def test_it_knows_nothing_before_its_floor_and_nothing_after_its_end() -> None:
    kept = window(floor=10)
    assert kept.slice(EVERYTHING, 10) is None
    kept.add([event(11)])
    assert kept.slice(EVERYTHING, 9) is None
    assert kept.slice(EVERYTHING, 11) is None
    assert kept.slice(EVERYTHING, 10) is not None
    assert (kept.holds(9, "message", "mel"), kept.holds(10, "message", "mel")) == (None, True)
    assert (kept.holds(10, "ack", "mel"), kept.holds(11, "message", "mel")) == (False, False)


def test_the_oldest_events_go_when_there_are_too_many() -> None:
    kept = window(events_max=3)
    kept.add([event(n) for n in range(1, 6)])
    assert kept.floor == 2
    assert kept.slice(EVERYTHING, 1) is None
    found = kept.slice(EVERYTHING, 2)
    assert found is not None
    assert found.data.count(b"id:") == 3


def test_the_oldest_events_go_when_they_are_too_large() -> None:
    kept = window(bytes_max=2500)
    for n in range(1, 6):
        kept.add([event(n, payload=b'"%b"' % (b"x" * 1000))])
    assert kept.floor == 3
    kept.add([event(6, payload=b'"%b"' % (b"x" * 3000))])
    assert kept.floor == 6
    assert kept.slice(EVERYTHING, 6) is None
    kept.add([event(7)])
    assert kept.slice(EVERYTHING, 6) is not None


def test_a_slice_is_bounded_and_the_next_goes_on_where_it_ended() -> None:
    kept = window(bytes_max=10_000_000)
    kept.add([event(n, payload=b'"%b"' % (b"x" * 100_000)) for n in range(1, 8)])
    cursor, ids = 0, 0
    while cursor < 7:
        found = kept.slice(EVERYTHING, cursor)
        assert found is not None
        assert len(found.data) <= CHUNK_BYTES_MAX
        cursor = found.cursor
        ids += found.data.count(b"id:")
    assert ids == 7


def test_an_event_larger_than_a_chunk_comes_alone() -> None:
    kept = window()
    kept.add([event(1), event(2, payload=b'"%b"' % (b"x" * (CHUNK_BYTES_MAX + 1))), event(3)])
    found = kept.slice(EVERYTHING, 1)
    assert found is not None
    assert found.cursor == 2
    assert len(found.data) > CHUNK_BYTES_MAX


def test_a_slice_looks_at_a_bounded_number_of_hidden_events() -> None:
    kept = window(events_max=5000)
    kept.add([event(n, agent="ann") for n in range(1, 3001)])
    found = kept.slice(Filter(agents=frozenset({"mel"})), 0)
    assert found is not None
    assert (found.cursor, found.hidden) == (SLICE_EVENTS_MAX, SLICE_EVENTS_MAX)


def test_followers_that_ask_for_the_same_share_it_until_more_comes() -> None:
    kept = window()
    kept.add([event(1)])
    one = kept.slice(Filter(agents=frozenset({"mel"})), 0)
    assert kept.slice(Filter(agents=frozenset({"mel"})), 0) is one
    kept.add([event(2)])
    more = kept.slice(Filter(agents=frozenset({"mel"})), 0)
    assert more is not None
    assert more.cursor == 2


def test_a_redaction_empties_the_window() -> None:
    kept = window()
    kept.add([event(1)])
    kept.add([event(2), event(3, "redacted"), event(4)])
    assert kept.floor == 3
    found = kept.slice(EVERYTHING, 3)
    assert found is not None
    assert found.cursor == 4


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        (Filter(), True),
        (Filter(events=frozenset({"ack"})), False),
        (Filter(events=frozenset()), True),
        (Filter(agents=frozenset({"mel"})), True),
        (Filter(agents=frozenset({"tony"})), False),
        (Filter(visible=frozenset({"tony"})), True),
        (Filter(visible=frozenset({"ann"})), False),
        (Filter(agents=frozenset({"mel"}), visible=frozenset({"ann"})), False),
    ],
)
def test_a_filter_shows_what_passes_all_of_its_parts(wanted: Filter, shown: bool) -> None:
    assert wanted.shows("message", "mel", "tony") is shown
