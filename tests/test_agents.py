"""An agent's state is a function of the log: held, message by message, against a model that keeps a row for each."""

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog.agents import STOP_S, AgentState, Limits, Segment, apply, concerned
from eventlog.wakes import Grant
from tests.pure_log import PureLog

OUTCOMES = ("ok", "failed", "timeout", "interrupted", "not_started")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["message", "message", "ack", "start", "start", *OUTCOMES, "ran_out", "dead", "speak", "pause", "resume"]
        ),
        st.integers(0, 5),
        st.integers(0, 5),
    ),
    max_size=40,
)


@dataclass
class Told:
    """What the events say of one message."""

    attempts: int = 0
    ok: int = 0
    settled: bool = False
    dead: bool = False


def start(log: PureLog, after: int, through: int, ack: str = "agent") -> int:
    """A wake that covers (after, through]."""
    grant = Grant(after, through, 1)
    return log.grant(grant, Limits(ack=ack), key=f"k{len(log.events)}")


@dataclass
class Model:
    """The words of DESIGN section 8, one row a message."""

    log: PureLog = field(default_factory=PureLog)
    told: dict[int, Told] = field(default_factory=dict)
    cursor: int = 0
    moved: int = 0
    wake: tuple[int, int, int, str] | None = None
    open: bool = False
    reported: bool = True

    def covered(self) -> list[Told]:
        assert self.wake is not None
        _, after, through, _ = self.wake
        return [
            told
            for i, told in self.told.items()
            if max(after, self.cursor) < i <= through and not (told.settled or told.dead)
        ]

    def step(self, what: str, one: int, two: int) -> None:
        ids = list(self.told)
        if what == "message":
            self.told[self.log.message()] = Told()
        elif what == "speak":
            self.log.message(to="tony", sender="mel")
        elif what in ("pause", "resume"):
            self.log.append(f"agent.{what}d", agent="mel", by="admin")
        elif what == "ack" and ids:
            self._ack(ids[one % len(ids)])
        elif what == "start" and ids and not self.open:
            after, through = sorted((0, *ids)[n % (len(ids) + 1)] for n in (one, two))
            self._start(after, through, "none" if one % 2 else "agent")
        elif what == "ran_out" and self.open:
            self._finish("interrupted", "bus")
        elif what in OUTCOMES and self.wake and not self.reported:
            self._finish(what, "watcher")
        elif what == "dead":
            self._die()

    def _ack(self, cursor: int) -> None:
        event = self.log.append("ack", agent="mel", cursor=cursor)
        if cursor > self.cursor:
            self.cursor, self.moved = cursor, event
            for told in self.told.values():
                told.attempts = 0

    def _start(self, after: int, through: int, ack: str) -> None:
        if through <= max(after, self.cursor):
            return
        event = start(self.log, after, through, ack)
        self.wake, self.open, self.reported = (event, after, through, ack), True, False
        for told in self.covered():
            told.attempts += 1

    def _finish(self, outcome: str, by: str) -> None:
        assert self.wake is not None
        wake, _, _, ack = self.wake
        event = self.log.append("wake.finished", wake=wake, agent="mel", outcome=outcome, by=by)
        self.open, self.reported = False, by == "watcher"
        for told in self.covered():
            if outcome == "ok" and ack == "none":
                told.attempts, told.ok, told.settled = 0, 0, True
            elif outcome == "ok":
                told.ok = event
            elif outcome == "not_started" and wake > self.moved:
                told.attempts = max(0, told.attempts - 1)

    def _die(self) -> None:
        for i, told in self.told.items():
            if i > self.cursor and told.attempts and not told.dead:
                self.log.append("dead_letter", message_id=i, agent="mel", reason="max_attempts", attempts=told.attempts)
                self.told[i] = Told(dead=True)
                return


def said(state: AgentState, message: int) -> Told:
    for segment in state.segments:
        if segment.after < message <= segment.through:
            return Told(segment.attempts, segment.ok, segment.settled, segment.dead)
    return Told()


@given(STEPS)
def test_the_ranges_say_of_each_message_what_its_own_row_would(steps: list[tuple[str, int, int]]) -> None:
    model = Model()
    for step in steps:
        model.step(*step)
        state = model.log.state()
        assert state.cursor == model.cursor
        assert {i: said(state, i) for i in model.told if i > model.cursor} == {
            i: told for i, told in model.told.items() if i > model.cursor
        }


@given(STEPS)
def test_ranges_are_few_in_order_and_past_the_cursor(steps: list[tuple[str, int, int]]) -> None:
    model = Model()
    for step in steps:
        model.step(*step)
        state = model.log.state()
        for segment in state.segments:
            assert state.cursor <= segment.after < segment.through
            assert segment != Segment(segment.after, segment.through), "it says nothing"
        for before, after in zip(state.segments, state.segments[1:], strict=False):
            assert before.through <= after.after
            told = msgspec.structs.replace(before, after=after.after, through=after.through)
            assert before.through < after.after or told != after, "two that say the same are one"


@given(STEPS)
def test_version_is_the_last_event_that_changed_something(steps: list[tuple[str, int, int]]) -> None:
    model = Model()
    for step in steps:
        model.step(*step)
    state = AgentState(name="mel")
    for event in model.log.events:
        if concerned(event) != "mel":
            continue
        moved = apply(state, event)
        assert apply(state, event) == moved, "the same twice"
        if moved is state:
            assert moved.version < event.id
        else:
            assert moved.version == event.id
            assert msgspec.structs.replace(moved, version=state.version) != state, "nothing changed but the version"
        state = moved
    assert state == model.log.state()
    assert msgspec.json.decode(msgspec.json.encode(state), type=AgentState) == state


@given(STEPS)
def test_what_was_not_wanted_any_more_is_forgotten(steps: list[tuple[str, int, int]]) -> None:
    """An ack of everything leaves no range behind, however long the history."""
    model = Model()
    for step in steps:
        model.step(*step)
    if model.told:
        model._ack(max(model.told))
        assert all(s.after >= model.cursor for s in model.log.state().segments)


class TestWhatEventsChange:
    def test_a_message_changes_its_sender_and_not_its_recipient(self) -> None:
        log = PureLog()
        log.message()
        assert concerned(log.events[-1]) == "tony"
        assert log.state().version == 0

    def test_a_sign_of_life_counts_only_while_an_ack_is_due(self) -> None:
        log = PureLog()
        log.message(to="tony", sender="mel")
        assert log.state().activity == 0
        wake = start(log, 0, log.message())
        log.finish(wake, "ok")
        sign = log.message(to="tony", sender="mel")
        assert log.state().activity == sign

    def test_an_ack_that_does_not_move_the_cursor_changes_nothing(self) -> None:
        log = PureLog()
        message = log.message()
        log.append("ack", agent="mel", cursor=message)
        before = log.state()
        log.append("ack", agent="mel", cursor=message - 1)
        log.append("ack", agent="mel", cursor=message)
        assert log.state() is before

    @pytest.mark.parametrize("outcome", OUTCOMES)
    def test_what_a_watcher_reported_stands(self, outcome: str) -> None:
        log = PureLog()
        message = log.message()
        wake = start(log, 0, message)
        log.finish(wake, outcome)
        before = log.state()
        for again in OUTCOMES:
            log.finish(wake, again)
        assert log.state() is before

    def test_a_report_after_the_bus_closed_the_wake_is_counted_as_one_failure(self) -> None:
        log = PureLog()
        message = log.message()
        wake = start(log, 0, message)
        log.finish(wake, "interrupted", by="bus")
        log.finish(wake, "failed")
        state = log.state()
        assert state.failures == 1
        assert state.wake is not None
        assert (state.wake.outcome, state.wake.reported) == ("failed", True)

    def test_pausing_and_resuming(self) -> None:
        log = PureLog()
        log.append("agent.paused", agent="mel", by="admin")
        paused = log.state()
        log.append("agent.paused", agent="mel", by="admin")
        assert paused.paused
        assert log.state() is paused
        log.append("agent.resumed", agent="mel", by="admin")
        assert not log.state().paused


def test_a_lease_is_the_time_to_start_to_run_and_to_stop() -> None:
    assert Limits(timeout_s=300, start_within_s=30).lease_s == 300 + 30 + STOP_S


def test_the_ids_whose_times_matter_are_those_that_the_state_names() -> None:
    log = PureLog()
    message = log.message()
    wake = start(log, 0, message)
    assert log.state().clock_ids() == {wake}
    log.finish(wake, "ok")
    assert log.state().clock_ids() == {wake, len(log.events)}


def test_a_state_that_was_read_again_is_written_as_before() -> None:
    log = PureLog()
    first, second = log.message(), log.message()
    log.ack(first)
    acked = log.state()
    log.finish(start(log, first, second), "failed")
    for state in (acked, log.state()):
        written = msgspec.json.encode(state)
        assert msgspec.json.encode(msgspec.json.decode(written, type=AgentState)) == written
