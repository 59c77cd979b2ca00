"""History's frames are made by SQLite: byte for byte what the encoder gives, filtered, in slices of bounded size."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventlog.agents import EVERYONE
from eventlog.engine import Append
from eventlog.event import KINDS, Draft, Event, fold
from eventlog.sqlite_engine import SqliteEngine
from eventlog.sse import encode_event
from eventlog.store import Store
from eventlog.window import CHUNK_BYTES_MAX, Filter, Slice
from tests.appends import ack, finished, message, started

pytestmark = pytest.mark.anyio

NAMES = ("mel", "Tony", "ann")
#: Anything but a line end, which no frame can hold: NUL, and what is no UTF-8, too.
PAYLOADS = st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b"")) | st.just(b"null")
TYPES = st.text(max_size=8).filter(lambda t: "\n" not in t) | st.sampled_from(("}", "a}}", '"}', "\x00", "é🐝"))
DRAFTS = st.lists(
    st.one_of(
        st.builds(message, st.sampled_from(NAMES), st.sampled_from(NAMES), PAYLOADS, type=TYPES),
        st.builds(ack, st.integers(0, 3), agent=st.sampled_from(NAMES)),
        st.builds(started, st.just(1), agent=st.sampled_from(NAMES), key=st.text(max_size=4)),
        st.builds(finished, st.just(1), agent=st.sampled_from(NAMES), detail=TYPES, duration_ms=st.floats(0, 1e6)),
        st.builds(Draft, st.just("agent.paused"), st.fixed_dictionaries({"agent": st.sampled_from(("mel", EVERYONE))})),
        st.just(Draft("token.created", {"name": "t", "kind": "agent", "agents": ["mel", "}"], "sha256": "00"})),
        st.just(Draft("redacted", {"message_id": 1, "reason": "}"})),
    ),
    min_size=1,
    max_size=25,
)
FILTERS = st.builds(
    Filter,
    agents=st.frozensets(st.sampled_from(("mel", "tony", "zoe"))),
    events=st.just(frozenset({"message"})) | st.frozensets(st.sampled_from(KINDS)),
    visible=st.none() | st.frozensets(st.sampled_from(("mel", "ann", "zoe"))),
)


def frame(event: Event) -> bytes:
    return encode_event(event.id, event.json(), event.event)


def is_shown(wanted: Filter, event: Event) -> bool:
    return wanted.shows(event.event, event.agent, event.sender)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(drafts=DRAFTS, data=st.data())
async def test_a_slice_is_what_the_encoder_gives_of_the_log_filtered(
    tmp_path_factory: pytest.TempPathFactory, drafts: list[Draft], data: st.DataObject
) -> None:
    async with Store.open(tmp_path_factory.mktemp("log")) as store, SqliteEngine.open(store) as engine:
        await engine.append(Append((message(), message(), *drafts)))
        everything = await store.page(0, 1000)
        for _ in range(10):
            wanted = data.draw(FILTERS)
            after, limit = data.draw(st.integers(0, len(everything) - 1)), data.draw(st.integers(1, 30))
            before = data.draw(st.integers(after + 2, len(everything) + 1))
            found = await store.frames(wanted, after, before, limit)
            covered = [event for event in everything if after < event.id <= found.cursor]
            shown = [event for event in covered if is_shown(wanted, event)]
            assert after < found.cursor < before
            assert found.data == b"".join(map(frame, shown))
            assert found.shown == (shown[-1].id if shown else 0)
            assert len(shown) <= limit
            # With agents, what their index finds is all that is looked at.
            index = Filter(agents=wanted.agents, events=wanted.events if wanted.agents else frozenset())
            assert found.hidden == (0 if shown else sum(is_shown(index, event) for event in covered))


async def fill(store: Store, *payloads: bytes) -> list[Event]:
    async with SqliteEngine.open(store) as engine:
        await engine.append(Append(tuple(message(payload=payload) for payload in payloads)))
    return await store.page(0, len(payloads))


async def walk(store: Store, wanted: Filter, head: int, limit: int) -> list[Slice]:
    """All slices up to the head."""
    slices = [await store.frames(wanted, 0, head + 1, limit)]
    while slices[-1].cursor < head:
        slices.append(await store.frames(wanted, slices[-1].cursor, head + 1, limit))
    return slices


@pytest.mark.parametrize("wanted", [Filter(), Filter(agents=frozenset({"mel"}))])
async def test_slices_of_large_events_stay_bounded_and_an_event_over_the_bound_comes_alone(
    tmp_path: Path, wanted: Filter
) -> None:
    sizes = (10, 100_000, 100_000, 100_000, 2 * CHUNK_BYTES_MAX, 10, 10, CHUNK_BYTES_MAX, *[1000] * 400)
    async with Store.open(tmp_path) as store:
        events = await fill(store, *(b'"%b"' % (b"x" * size) for size in sizes))
        slices = await walk(store, wanted, len(sizes), 1000)
        assert b"".join(one.data for one in slices) == b"".join(map(frame, events))
        over = [one for one in slices if len(one.data) > CHUNK_BYTES_MAX]
        assert [one.data.count(b"\nid: ") + 1 for one in over] == [1, 1]
        assert len(slices) < 20


async def test_what_is_not_addressed_to_an_agent_is_not_looked_at_for_it(tmp_path: Path) -> None:
    async with Store.open(tmp_path) as store, SqliteEngine.open(store) as engine:
        await engine.append(Append(tuple(message("ann") for _ in range(500))))
        await engine.append(Append((message("mel"), message("ann"))))
        found = await store.frames(Filter(agents=frozenset({fold("Mel")})), 0, 503, 10)
        assert (found.shown, found.cursor, found.hidden) == (501, 502, 0)
