"""The judges of the crash tests, judged: each says so when something is wrong, and nothing about a good run."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.checkers import follower_problems, log_problems, reply_problems, run_problems

Events = list[dict[str, Any]]
START = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = {"ack": "agent", "ack_within_s": 600, "max_attempts": 2}


def at(events: Events, seconds: float, kind: str, **fields: Any) -> dict[str, Any]:
    """An event `seconds` after the start, with the next id, added to `events`."""
    time = (START + timedelta(seconds=seconds)).isoformat()
    events.append({"id": len(events) + 1, "event": kind, "time": time, **fields})
    return events[-1]


def message(events: Events, seconds: float, **fields: Any) -> int:
    """A message from tony to mel; its id."""
    told = {"from_agent": "tony", "to_agent": "mel", "type": "MESSAGE", "payload": "x", **fields}
    return int(at(events, seconds, "message", **told)["id"])


def wake(events: Events, seconds: float, after: int, through: int, attempt: int = 1, **fields: Any) -> int:
    """A wake of mel; its id."""
    told = {"agent": "mel", "key": f"key-{len(events)}", "after": after, "through": through, "attempt": attempt}
    return int(at(events, seconds, "wake.started", **told, **LIMITS, **fields)["id"])


def ended(events: Events, seconds: float, number: int, outcome: str = "ok", by: str = "watcher") -> None:
    at(events, seconds, "wake.finished", wake=number, agent="mel", outcome=outcome, by=by)


def ack(events: Events, seconds: float, cursor: int) -> None:
    at(events, seconds, "ack", agent="mel", cursor=cursor)


def dead(events: Events, seconds: float, number: int, attempts: int) -> None:
    """A dead letter and its notice."""
    at(events, seconds, "dead_letter", message_id=number, agent="mel", reason="max_attempts", attempts=attempts)
    message(events, seconds, from_agent="bus", to_agent="tony", type="DEAD_LETTER", reply_to=number)


def good_run() -> Events:
    """Read at the second wake, after the first was lost; then a dead letter; then one read at once."""
    events: Events = []
    first = message(events, 0)
    ended(events, 20, wake(events, 1, 0, first), "interrupted", "bus")
    second = wake(events, 40, 0, first, 2)
    ack(events, 41, first)
    ended(events, 42, second)
    lost = message(events, 50)
    for attempt in (1, 2):
        ended(events, 51 + 20 * attempt, wake(events, 50 + 20 * attempt, first, lost, attempt), "failed")
    dead(events, 200, lost, 2)
    last = message(events, 300)
    third = wake(events, 301, lost, last)
    ack(events, 302, last)
    ended(events, 303, third)
    return events


def good_runs(events: Events) -> list[dict[str, Any]]:
    """What the commands of that run wrote; the first was ended before its end."""
    wakes = [event["id"] for event in events if event["event"] == "wake.started"]
    runs: list[dict[str, Any]] = [{"did": "start", "agent": "mel", "wake": number, "alone": True} for number in wakes]
    for number, read in ((wakes[1], 1), (wakes[-1], events[-4]["id"])):
        runs += [{"did": "read", "agent": "mel", "wake": number, "ids": [read]}]
        runs += [{"did": "end", "agent": "mel", "wake": number}]
    return runs


def test_nothing_is_said_of_a_good_run() -> None:
    events = good_run()
    assert log_problems(events, accepted=[1], read_by=["Mel"]) == []
    assert run_problems(events, good_runs(events), ["mel"]) == []


def said(events: Events, **evidence: Any) -> str:
    return "\n".join(log_problems(events, **evidence))


class TestTheLog:
    def test_an_accepted_message_is_missing(self) -> None:
        assert "accepted and is not in the log" in said(good_run(), accepted=[999])

    def test_an_id_was_given_twice(self) -> None:
        assert "given to 2 messages" in said(good_run(), accepted=[1, 1])

    def test_ids_that_do_not_rise(self) -> None:
        events = good_run()
        assert "comes after" in said([events[0], *events])

    def test_a_message_is_neither_read_nor_dead(self) -> None:
        events = good_run()
        message(events, 400)
        assert "neither read nor dead" in said(events, read_by=["mel"])

    def test_a_wake_is_still_in_flight(self) -> None:
        events = good_run()
        wake(events, 401, 0, message(events, 400))
        assert "still in flight" in said(events, read_by=["mel"])

    def test_two_wakes_at_once(self) -> None:
        events: Events = []
        number = message(events, 0)
        wake(events, 1, 0, number)
        wake(events, 2, 0, number, 2)
        assert "was in flight" in said(events)

    def test_a_key_twice(self) -> None:
        events = good_run()
        number = message(events, 400)
        events.append({**events[1], "id": 99, "after": 0, "through": number, "attempt": 1})
        assert "used before" in said(events)

    def test_a_wake_for_nothing(self) -> None:
        events = good_run()
        wake(events, 400, 0, events[0]["id"])
        assert "covers no unread message" in said(events)

    def test_a_wrong_attempt(self) -> None:
        events: Events = []
        wake(events, 1, 0, message(events, 0), 2)
        assert "says it is attempt 2" in said(events)

    def test_a_wake_of_its_own_too_many(self) -> None:
        events: Events = []
        number = message(events, 0)
        for attempt in (1, 2, 3):
            ended(events, attempt * 100 + 1, wake(events, attempt * 100, 0, number, attempt), "failed")
        assert "whose wakes are used up" in said(events)

    @pytest.mark.parametrize(("later_s", "wrong"), [(599, True), (601, False)])
    def test_covered_again_within_the_ack_deadline(self, later_s: float, wrong: bool) -> None:
        events: Events = []
        number = message(events, 0)
        ended(events, 10, wake(events, 1, 0, number))
        wake(events, 10 + later_s, 0, number, 2)
        assert ("within its ack deadline" in said(events)) is wrong

    @pytest.mark.parametrize(("later_s", "wrong"), [(1000, True), (1101, False)])
    def test_a_sign_of_life_moves_the_deadline(self, later_s: float, wrong: bool) -> None:
        events: Events = []
        number = message(events, 0)
        ended(events, 0, wake(events, 0, 0, number))
        message(events, 500, from_agent="mel", to_agent="tony")
        wake(events, later_s, 0, number, 2)
        assert ("within its ack deadline" in said(events)) is wrong

    def test_finished_twice_by_the_watcher(self) -> None:
        events: Events = []
        number = wake(events, 1, 0, message(events, 0))
        ended(events, 2, number, "failed")
        ended(events, 3, number)
        assert "was finished again" in said(events)

    def test_a_late_report_of_the_watcher_is_good_as_long_as_no_newer_wake_started(self) -> None:
        events: Events = []
        number = message(events, 0)
        first = wake(events, 1, 0, number)
        ended(events, 20, first, "interrupted", "bus")
        ended(events, 21, first)
        assert said(events) == ""
        second = wake(events, 700, 0, number, 2)
        ended(events, 701, first)
        assert f"after wake {second} had started" in said(events)

    def test_finished_and_not_started(self) -> None:
        events: Events = []
        ended(events, 0, 77)
        assert "was not started" in said(events)

    @pytest.mark.parametrize("cursor", [0, 1, 99])
    def test_an_ack_that_does_not_move_the_cursor_forward_to_what_is_there(self, cursor: int) -> None:
        events: Events = []
        ack(events, 1, message(events, 0))
        ack(events, 2, cursor)
        assert "moves the cursor" in said(events)

    def test_dead_twice(self) -> None:
        events = good_run()
        dead(events, 400, next(e["message_id"] for e in events if e["event"] == "dead_letter"), 2)
        assert "dead letter twice" in said(events)
        assert "was told 2 times" in said(events, read_by=["mel"])

    def test_dead_too_early(self) -> None:
        events: Events = []
        number = message(events, 0)
        ended(events, 2, wake(events, 1, 0, number), "failed")
        dead(events, 3, number, 1)
        assert "dead letter after 1 wakes" in said(events)

    def test_dead_though_read(self) -> None:
        events = good_run()
        dead(events, 400, 1, 2)
        assert "though it was read" in said(events)

    def test_the_sender_of_a_dead_message_was_not_told(self) -> None:
        events = [event for event in good_run() if event.get("type") != "DEAD_LETTER"]
        assert "was told 0 times" in said(events, read_by=["mel"])

    def test_not_started_does_not_count(self) -> None:
        events: Events = []
        number = message(events, 0)
        ended(events, 2, wake(events, 1, 0, number), "not_started")
        wake(events, 20, 0, number)
        assert said(events) == ""


class TestTheRuns:
    def told(self, runs: list[dict[str, Any]]) -> str:
        return "\n".join(run_problems(good_run(), runs, ["mel"]))

    def runs(self) -> list[dict[str, Any]]:
        return good_runs(good_run())

    def test_started_twice(self) -> None:
        assert "was started 2 times" in self.told([self.runs()[0], *self.runs()])

    def test_two_at_once(self) -> None:
        assert "while another command" in self.told([{**self.runs()[0], "alone": False}, *self.runs()[1:]])

    def test_started_without_a_grant(self) -> None:
        stray = {"did": "start", "agent": "mel", "wake": 77, "alone": True}
        assert "which it was not granted" in self.told([*self.runs(), stray])

    def test_ok_without_a_run(self) -> None:
        assert "no command came to its end" in self.told(self.runs()[:-1])

    def test_never_read(self) -> None:
        assert "was never read" in self.told([run for run in self.runs() if run["did"] != "read"])

    def test_a_run_that_was_reported_as_none(self) -> None:
        events = [{**e, "outcome": "not_started"} if e.get("outcome") == "failed" else e for e in good_run()]
        assert "its command did start" in "\n".join(run_problems(events, self.runs(), ["mel"]))

    def test_a_good_run_that_was_reported_as_failed(self) -> None:
        events = [{**e, "outcome": "failed"} if e.get("outcome") == "ok" else e for e in good_run()]
        assert "was reported failed" in "\n".join(run_problems(events, self.runs(), ["mel"]))


class TestFollowers:
    """What a follower saw, against the log."""

    @pytest.mark.parametrize(
        ("seen", "said"),
        [
            ([2, 3], []),
            ([2], ["a follower did not see 3"]),
            ([2, 3, 3], ["a follower saw 3 2 times"]),
            ([3, 2], ["a follower saw 2 after 3"]),
            ([1, 2, 3], ["a follower saw 1, which was not for it"]),
        ],
    )
    def test_every_id_after_its_cursor_once_and_in_order(self, seen: list[int], said: list[str]) -> None:
        events: Events = []
        for _ in range(3):
            message(events, 0)
        assert follower_problems(seen, events, after=1) == said

    def test_of_its_agent_alone(self) -> None:
        events: Events = []
        message(events, 0, to_agent="ann")
        message(events, 0)
        assert follower_problems([2], events, agent="mel") == []
        assert follower_problems([1, 2], events, agent="mel") == ["a follower saw 1, which was not for it"]


@pytest.mark.parametrize(("ran_s", "problems"), [(19.9, 0), (1.0, 1)])
def test_a_command_may_be_cut_between_its_last_word_and_its_exit_when_its_time_is_up(
    ran_s: float, problems: int
) -> None:
    events: Events = []
    number = message(events, 0)
    woken = wake(events, 1, 0, number, timeout_s=20)
    ended(events, 21, woken, "timeout")
    said = {"agent": "mel", "wake": woken}
    runs = [
        {"did": "start", "at": 5.0, "alone": True, **said},
        {"did": "read", "at": 6.0, "ids": [number], **said},
        {"did": "end", "at": 5.0 + ran_s, **said},
    ]
    assert len(run_problems(events, runs, ["mel"])) == problems


class TestReplies:
    """One good run and one answer for each message that was run; neither for a dead one."""

    def answered(self, *outcomes: str, answers: int = 1, death: bool = False) -> list[str]:
        """What is said of a message with runs that ended so, and so many answers."""
        events: Events = []
        sent = message(events, 0)
        for attempt, outcome in enumerate(outcomes, 1):
            ended(events, 20 * attempt, wake(events, 20 * attempt - 1, 0, sent, attempt), outcome)
        for _ in range(answers):
            message(events, 100, from_agent="mel", to_agent="tony", reply_to=sent)
        if death:
            dead(events, 200, sent, len(outcomes))
        message(events, 300, to_agent="somebody-without-runs")
        return reply_problems(events, ["Mel"])

    def test_nothing_is_said_of_what_is_right(self) -> None:
        assert self.answered("failed", "interrupted", "ok") == []
        assert self.answered("failed", "failed", answers=0, death=True) == []

    def test_two_good_runs_two_answers_or_none_are_wrong(self) -> None:
        assert self.answered("ok", "ok") == ["message 1 has 2 good runs and 1 answers"]
        assert self.answered("ok", answers=2) == ["message 1 has 1 good runs and 2 answers"]
        assert self.answered("ok", answers=0) == ["message 1 has 1 good runs and 0 answers"]
        assert self.answered("failed", answers=0) == ["message 1 has 0 good runs and 0 answers"]
        assert self.answered("failed", answers=1, death=True) == ["message 1 has 0 good runs and 1 answers"]
