"""The wake decision: each rule of DESIGN section 8 on a log in memory, with a clock that moves only when told to."""

import itertools
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog.agents import Limits, Segment
from eventlog.wakes import BACKOFF_FIRST_S, BACKOFF_JITTER, BACKOFF_MAX_S, Grant, Nothing, backoff_s
from tests.pure_log import PureLog

LIMITS = Limits(timeout_s=100, start_within_s=30, ack_within_s=600, max_attempts=3)
LEASE_S = LIMITS.lease_s
PAUSE_S = BACKOFF_FIRST_S * (1 + BACKOFF_JITTER)


@pytest.fixture
def log() -> PureLog:
    return PureLog()


def fail(log: PureLog, limits: Limits = LIMITS, outcome: str = "failed") -> int:
    """One wake that does not end ok, and the pause after it."""
    wake = log.ask(limits, f"k{len(log.events)}")
    log.finish(wake, outcome)
    log.now += BACKOFF_MAX_S * (1 + BACKOFF_JITTER)
    return wake


class TestGranting:
    def test_one_wake_covers_a_burst(self, log: PureLog) -> None:
        first, _, last = log.message(), log.message(), log.message()
        assert log.decide(LIMITS) == Grant(0, last, 1)
        assert first < last

    def test_after_is_the_cursor_or_the_message_before(self, log: PureLog) -> None:
        old = log.message()
        log.message(to="someone-else")
        log.ack(old)
        new = log.message()
        assert log.decide(LIMITS) == Grant(old, new, 1)

    def test_nothing_unread(self, log: PureLog) -> None:
        log.ack(log.message())
        assert log.decide(LIMITS) == Nothing("nothing_unread", 300)

    def test_one_wake_of_an_agent_at_a_time(self, log: PureLog) -> None:
        log.message()
        log.ask(LIMITS, "k1")
        log.message()
        log.now += 45
        assert log.decide(LIMITS) == Nothing("in_flight", LEASE_S - 45)

    def test_each_hands_over_one_message_in_order(self, log: PureLog) -> None:
        each = Limits(deliver="each", ack="exit")
        first, second = log.message(), log.message()
        wake = log.ask(each, "k1")
        assert log.events[wake - 1].fields["through"] == first
        log.finish(wake, "ok")
        log.ack(first)
        assert log.decide(each) == Grant(first, second, 1)

    def test_each_goes_on_past_a_message_whose_ack_is_due(self, log: PureLog) -> None:
        each = Limits(deliver="each")
        first, second = log.message(), log.message()
        log.finish(log.ask(each, "k1"), "ok")
        assert log.decide(each) == Grant(first, second, 1)

    def test_a_run_waits_for_a_message_before_its_own_whose_ack_is_due(self, log: PureLog) -> None:
        """Its exit would acknowledge that one, too."""
        each = Limits(deliver="each", ack="exit")
        first = log.message()
        log.finish(log.ask(LIMITS, "k1"), "ok")
        log.message()
        assert log.decide(each) == Nothing("ack_pending", 300)
        log.now += LIMITS.ack_within_s
        assert log.decide(each) == Grant(0, first, 2)

    def test_a_run_passes_what_wanted_no_ack_and_what_is_dead(self, log: PureLog) -> None:
        each = Limits(deliver="each", ack="exit", max_attempts=1)
        settled = log.message()
        log.finish(log.ask(Limits(ack="none"), "k1"), "ok")
        second = log.message()
        assert log.decide(each) == Grant(settled, second, 1)
        fail(log, each)
        log.settle(each)
        third = log.message()
        assert log.decide(each) == Grant(second, third, 1)

    def test_a_wake_that_wants_no_ack_is_never_due_again(self, log: PureLog) -> None:
        limits = Limits(ack="none")
        covered = log.message()
        log.finish(log.ask(limits, "k1"), "ok")
        log.now += 10 * limits.ack_within_s
        assert log.decide(limits) == Nothing("ack_pending", 300)
        assert log.decide(Limits()) == Nothing("ack_pending", 300)
        new = log.message()
        assert log.decide(limits) == Grant(covered, new, 1)

    def test_settled_messages_stay_one_segment(self, log: PureLog) -> None:
        each = Limits(ack="none", deliver="each")
        for n in range(20):
            log.message()
            log.finish(log.ask(each, f"k{n}"), "ok")
        assert len(log.state().segments) == 1


class TestAckDeadline:
    def test_unread_past_the_deadline_is_covered_again(self, log: PureLog) -> None:
        log.message()
        log.finish(log.ask(LIMITS, "k1"), "ok")
        log.now += LIMITS.ack_within_s - 1
        assert log.decide(LIMITS) == Nothing("ack_pending", 1)
        log.now += 1
        assert log.decide(LIMITS) == Grant(0, 1, 2)

    def test_a_message_of_the_agent_moves_it(self, log: PureLog) -> None:
        log.message()
        log.finish(log.ask(LIMITS, "k1"), "ok")
        log.now += 500
        log.message(to="tony", sender="mel")
        log.now += 599
        assert log.why(LIMITS) == "ack_pending"
        log.now += 1
        assert isinstance(log.decide(LIMITS), Grant)

    def test_an_ack_of_something_else_moves_it(self, log: PureLog) -> None:
        first, second = log.message(), log.message()
        log.finish(log.ask(LIMITS, "k1"), "ok")
        log.now += 500
        log.ack(first)
        log.now += 599
        assert log.why(LIMITS) == "ack_pending"
        log.now += 1
        assert log.decide(LIMITS) == Grant(first, second, 1), "a moved cursor zeroes the attempts of what stays unread"

    def test_at_most_to_four_times_its_length(self, log: PureLog) -> None:
        log.message()
        log.finish(log.ask(LIMITS, "k1"), "ok")
        for _ in range(5):
            log.now += 479
            log.message(to="tony", sender="mel")
        assert log.why(LIMITS) == "ack_pending"
        log.now += 4 * 600 - 5 * 479
        assert isinstance(log.decide(LIMITS), Grant)

    def test_it_counts_anew_after_a_restart_of_the_bus(self, log: PureLog) -> None:
        log.message()
        log.finish(log.ask(LIMITS, "k1"), "ok")
        log.now += 599
        log.restart()
        log.now += 599
        assert log.why(LIMITS) == "ack_pending"
        log.now += 1
        assert isinstance(log.decide(LIMITS), Grant)


class TestBackoff:
    @pytest.mark.parametrize("outcome", ["failed", "timeout", "interrupted", "not_started"])
    def test_a_pause_after_every_wake_that_did_not_end_ok(self, log: PureLog, outcome: str) -> None:
        log.message()
        log.finish(log.ask(LIMITS, "k1"), outcome)
        decision = log.decide(LIMITS)
        assert isinstance(decision, Nothing)
        assert decision.why == "backoff"
        assert BACKOFF_FIRST_S * (1 - BACKOFF_JITTER) <= decision.retry_after_s <= PAUSE_S
        log.now += decision.retry_after_s
        assert isinstance(log.decide(LIMITS), Grant)

    def test_it_doubles_up_to_its_longest(self, log: PureLog) -> None:
        log.message()
        limits = Limits(max_attempts=100)
        pauses = []
        for _ in range(10):
            fail(log, limits)
            pauses.append(backoff_s(log.state()))
        nominal = [min(BACKOFF_FIRST_S * 2**n, BACKOFF_MAX_S) for n in range(10)]
        for pause, expected in zip(pauses, nominal, strict=True):
            assert abs(pause - expected) <= expected * BACKOFF_JITTER
        assert len({p / n for p, n in zip(pauses, nominal, strict=True)}) > 1, "no jitter"

    def test_an_ack_ends_it(self, log: PureLog) -> None:
        first, _ = log.message(), log.message()
        log.finish(log.ask(LIMITS, "k1"), "failed")
        log.ack(first)
        assert isinstance(log.decide(LIMITS), Grant)

    def test_an_ok_starts_it_anew(self, log: PureLog) -> None:
        log.message()
        fail(log)
        log.finish(log.ask(LIMITS, "k"), "ok")
        log.message()
        wake = log.ask(LIMITS, "k'")
        log.finish(wake, "failed")
        assert backoff_s(log.state()) <= PAUSE_S

    def test_it_goes_on_by_the_wall_clock_over_a_restart(self, log: PureLog) -> None:
        log.message()
        log.finish(log.ask(LIMITS, "k1"), "failed")
        log.now += 5
        log.restart()
        decision = log.decide(LIMITS)
        assert isinstance(decision, Nothing)
        assert decision.retry_after_s == pytest.approx(backoff_s(log.state()) - 5, abs=0.01)

    def test_for_at_most_its_full_length_when_the_wall_clock_went_back(self, log: PureLog) -> None:
        log.message()
        log.finish(log.ask(LIMITS, "k1"), "failed")
        log.wall_ahead = timedelta(days=-3650)
        log.restart()
        log.now += PAUSE_S
        assert isinstance(log.decide(LIMITS), Grant)


class TestHoldingBack:
    def test_paused_alone_and_with_everyone(self, log: PureLog) -> None:
        log.message()
        assert log.decide(LIMITS, paused=True) == Nothing("paused", 15)
        log.append("agent.paused", agent="mel", by="admin")
        assert log.why(LIMITS) == "paused"
        log.append("agent.resumed", agent="mel", by="admin")
        assert isinstance(log.decide(LIMITS), Grant)

    def test_min_interval_counts_from_the_last_start(self, log: PureLog) -> None:
        limits = Limits(min_interval_s=60)
        log.message()
        wake = log.ask(limits, "k1")
        log.now += 20
        log.finish(wake, "ok")
        log.message()
        assert log.decide(limits) == Nothing("min_interval", 40)
        log.now += 40
        assert isinstance(log.decide(limits), Grant)

    def test_min_interval_does_not_count_a_wake_that_never_began(self, log: PureLog) -> None:
        limits = Limits(min_interval_s=10_000)
        log.message()
        fail(log, limits, "not_started")
        assert isinstance(log.decide(limits), Grant)

    def test_an_hours_wakes_are_counted_from_the_first_of_them(self, log: PureLog) -> None:
        limits = Limits(max_wakes_per_hour=2, ack="exit")
        for pause_s in (0, 3500):
            log.now += pause_s
            message = log.message()
            log.finish(log.ask(limits, f"k{pause_s}"), "ok")
            log.ack(message)
        log.message()
        assert log.decide(limits) == Nothing("wakes_per_hour", 100)
        log.restart()
        assert log.decide(limits) == Nothing("wakes_per_hour", 100)
        assert log.decide(Limits(max_wakes_per_hour=1)) == Nothing("wakes_per_hour", 300)
        log.now += 100
        assert isinstance(log.decide(limits), Grant)
        assert log.decide(Limits(max_wakes_per_hour=1)) == Nothing("wakes_per_hour", 300)

    def test_an_hours_wakes_do_not_count_one_that_never_began(self, log: PureLog) -> None:
        limits = Limits(max_wakes_per_hour=1)
        log.message()
        fail(log, limits, "not_started")
        assert isinstance(log.decide(limits), Grant)
        fail(log, limits)
        assert log.why(limits) == "wakes_per_hour"

    def test_min_interval_comes_before_the_hours_wakes(self, log: PureLog) -> None:
        limits = Limits(max_wakes_per_hour=1, min_interval_s=60, ack="exit")
        message = log.message()
        log.finish(log.ask(limits, "k1"), "ok")
        log.ack(message)
        log.message()
        assert log.why(limits) == "min_interval"
        log.now += 60
        assert log.why(limits) == "wakes_per_hour"

    def test_retry_after_is_never_longer_than_five_minutes(self, log: PureLog) -> None:
        limits = Limits(timeout_s=100_000)
        log.message()
        log.ask(limits, "k1")
        assert log.decide(limits) == Nothing("in_flight", 300)


class TestDeadLetters:
    def test_after_exactly_max_attempts_wakes(self, log: PureLog) -> None:
        log.message()
        for _ in range(3):
            fail(log)
        assert log.why(LIMITS) == "nothing_unread"
        assert log.dead() == [1]

    def test_not_started_is_no_attempt(self, log: PureLog) -> None:
        log.message()
        for _ in range(5):
            fail(log, outcome="not_started")
        assert log.decide(LIMITS) == Grant(0, 1, 1)

    def test_a_dead_message_is_neither_covered_nor_counted_again(self, log: PureLog) -> None:
        log.message()
        for _ in range(3):
            fail(log)
        log.settle(LIMITS)
        new = log.message()
        assert log.decide(LIMITS) == Grant(1, new, 1)

    def test_an_ack_that_moves_the_cursor_zeroes_attempts(self, log: PureLog) -> None:
        first, second = log.message(), log.message()
        fail(log)
        fail(log)
        log.ack(first)
        assert log.decide(LIMITS) == Grant(first, second, 1)

    def test_a_failure_of_a_wake_that_an_ack_overtook_does_not_count(self, log: PureLog) -> None:
        first, second = log.message(), log.message()
        wake = log.ask(LIMITS, "k1")
        log.ack(first)
        log.finish(wake, "not_started")
        log.now += PAUSE_S
        assert log.decide(LIMITS) == Grant(first, second, 1)

    def test_only_the_sweep_that_is_told_so_buries(self, log: PureLog) -> None:
        log.message()
        for _ in range(3):
            fail(log)
        log.append("agent.paused", agent="mel", by="admin")
        assert log.why(LIMITS) == "paused"
        assert log.dead() == []


class TestRunsOfTheModel:
    """The bus's share of the runs in which leaving out one rule does harm."""

    def test_r7_the_outcome_reported_first_stands(self, log: PureLog) -> None:
        log.message()
        wake = log.ask(LIMITS, "k1")
        log.finish(wake, "not_started")
        before = log.state()
        log.finish(wake, "interrupted")
        assert log.state() == before

    def test_r8_an_ok_without_an_ack_counts_as_an_attempt(self, log: PureLog) -> None:
        log.message()
        for n in range(3):
            log.finish(log.ask(LIMITS, f"k{n}"), "ok")
            log.now += LIMITS.ack_within_s
        assert log.why(LIMITS) == "nothing_unread"
        assert log.dead() == [1]

    def test_r9_a_message_becomes_a_dead_letter_once(self, log: PureLog) -> None:
        log.message()
        for n in range(3):
            log.ask(LIMITS, f"k{n}")
            log.now += LEASE_S
            log.settle(LIMITS)
            log.now += BACKOFF_MAX_S
        for _ in range(3):
            log.settle(LIMITS)
        assert log.dead() == [1]

    def test_r9a_a_wake_leaves_out_messages_whose_deadline_still_runs(self, log: PureLog) -> None:
        first = log.message()
        wake = log.ask(LIMITS, "k1")
        second = log.message()
        log.finish(wake, "ok")
        assert log.decide(LIMITS) == Grant(first, second, 1)

    def test_r9a_what_lies_between_ends_the_run(self, log: PureLog) -> None:
        first, second, third = log.message(), log.message(), log.message()
        limits = Limits(deliver="each")
        wake = log.ask(limits, "k1")
        log.finish(wake, "failed")
        log.now += PAUSE_S
        # The middle one alone was covered by an ok wake.
        log.finish(log.grant(Grant(first, second, 1), limits, "k2"), "ok")
        assert log.decide(LIMITS) == Grant(0, first, 2)
        assert third == log.messages()[-1]

    def test_r11_attempts_are_counted_for_each_message(self, log: PureLog) -> None:
        limits = Limits(max_attempts=2)
        log.message()
        wake = log.ask(limits, "k1")
        second = log.message()
        log.finish(wake, "failed")
        log.now += PAUSE_S
        fail(log, limits)
        assert log.settle(limits) == Grant(1, second, 2)
        assert log.dead() == [1]

    def test_r12_a_wake_closed_by_the_bus_takes_a_late_report(self, log: PureLog) -> None:
        log.message()
        wake = log.ask(LIMITS, "k1")
        log.now += LEASE_S
        assert log.why(LIMITS) == "backoff"
        log.finish(wake, "ok")
        assert log.why(LIMITS) == "ack_pending"
        assert log.state().failures == 0

    def test_r14_a_lease_counts_anew_after_a_restart_of_the_bus(self, log: PureLog) -> None:
        log.message()
        log.ask(LIMITS, "k1")
        log.now += LEASE_S - 1
        log.restart()
        log.now += LEASE_S - 1
        assert log.why(LIMITS) == "in_flight"

    def test_r14a_and_ends(self, log: PureLog) -> None:
        log.message()
        log.ask(LIMITS, "k1")
        log.restart()
        log.now += LEASE_S
        assert log.why(LIMITS) == "backoff"
        assert log.state().in_flight is None

    def test_r15_a_jump_of_the_wall_clock_ends_no_lease(self, log: PureLog) -> None:
        log.message()
        log.ask(LIMITS, "k1")
        log.wall_ahead = timedelta(days=3650)
        assert log.why(LIMITS) == "in_flight"

    def test_r16_after_a_restore_nothing_is_granted_for_a_while(self, log: PureLog) -> None:
        log.message()
        assert log.why(LIMITS, quiet_s=600) == "quiet"
        log.now += 599
        assert log.decide(LIMITS, quiet_s=600) == Nothing("quiet", 1)
        assert log.why(Limits(timeout_s=1000), quiet_s=600) == "quiet"
        log.now += 1
        assert isinstance(log.decide(LIMITS, quiet_s=600), Grant)
        assert log.why(Limits(timeout_s=1000), quiet_s=600) == "quiet", "as long as the lease that this ask would get"

    def test_r16_as_long_as_the_longest_lease_in_the_log(self, log: PureLog) -> None:
        long = Limits(timeout_s=5000)
        log.message()
        log.finish(log.ask(long, "k1"), "ok")
        log.message()
        log.restart()
        log.now += 5000
        assert log.why(LIMITS, quiet_s=600) == "quiet"
        log.now += 45
        assert isinstance(log.decide(LIMITS, quiet_s=600), Grant)


@given(st.data())
def test_segments_stay_ordered_and_say_the_same_as_a_count_message_by_message(data: st.DataObject) -> None:
    """Whatever happens, an agent's few segments give each message the attempts that counting one by one gives."""
    log, limits = PureLog(), Limits(max_attempts=4, ack_within_s=60)
    attempts: dict[int, int] = {}
    covered: list[int] = []
    wake = 0
    for n in range(data.draw(st.integers(1, 40))):
        step = data.draw(st.sampled_from(["message", "ask", "ask each", "ok", "failed", "not_started", "ack", "time"]))
        if step == "message":
            attempts[log.message()] = 0
        elif step.startswith("ask"):
            chosen = Limits(max_attempts=4, ack_within_s=60, deliver="each") if step == "ask each" else limits
            decision = log.settle(chosen)
            if isinstance(decision, Grant):
                covered = [i for i in log.living() if decision.after < i <= decision.through]
                assert decision.attempt == 1 + max(attempts[i] for i in covered)
                for i in covered:
                    attempts[i] += 1
                wake = log.grant(decision, chosen, f"k{n}")
        elif step == "ack" and log.messages():
            cursor = data.draw(st.sampled_from(log.messages()))
            if cursor > log.state().cursor:
                log.ack(cursor)
                attempts = dict.fromkeys(attempts, 0)
                covered = []
        elif step == "time":
            log.now += data.draw(st.sampled_from([1, 30, 1000]))
        elif log.state().in_flight is not None:
            log.finish(wake, step)
            if step == "not_started":
                for i in covered:
                    attempts[i] -= 1
        segments = log.state().segments
        assert all(s.after < s.through for s in segments)
        assert all(a.through <= b.after for a, b in itertools.pairwise(segments))
        for i in log.living():
            held = next((s for s in segments if s.after < i <= s.through), Segment(0, 0))
            assert held.attempts == attempts[i]
            assert not held.dead
    assert len(log.dead()) == len(set(log.dead()))
