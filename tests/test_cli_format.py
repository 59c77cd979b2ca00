"""Lines for people: what each kind of event says, and that nothing in them steers the terminal."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog import cli_format

TIME = "2026-11-22T10:20:30.123456Z"


def plain(event: dict[str, Any]) -> str:
    import click

    return click.unstyle(cli_format.event_line({"id": 7, "time": TIME, **event}))


def test_a_message_tells_who_wrote_to_whom_and_what() -> None:
    line = plain({"event": "message", "from_agent": "tony", "to_agent": "mel", "type": "TASK", "payload": {"n": 1}})
    assert line == '     7  2026-11-22 10:20:30  tony -> mel  TASK  {"n": 1}'


@pytest.mark.parametrize("mark", ["dead", "expired"])
def test_a_message_that_wakes_nobody_is_marked(mark: str) -> None:
    assert plain({"event": "message", "payload": "x", mark: True}).endswith(f"x  [{mark}]")


def test_a_redacted_message_shows_no_payload() -> None:
    assert plain({"event": "message", "redacted": True}).endswith("(redacted)")


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"event": "ack", "agent": "mel", "cursor": 5}, "ack  mel up to 5"),
        (
            {"event": "wake.started", "agent": "mel", "after": 3, "through": 5, "attempt": 1, "watcher": "pi"},
            "wake.started  mel  (3, 5]  attempt 1  by pi",
        ),
        (
            {"event": "wake.finished", "agent": "mel", "wake": 6, "outcome": "failed", "detail": "exit 1"},
            "wake.finished  mel  wake 6  failed  exit 1",
        ),
        (
            {"event": "dead_letter", "agent": "mel", "message_id": 5, "reason": "max_attempts", "attempts": 10},
            "dead_letter  message 5 to mel: max_attempts after 10 attempts",
        ),
        ({"event": "agent.paused", "agent": "mel", "by": "admin", "hash": "00"}, "agent.paused  agent=mel  by=admin"),
        ({"event": "reset", "reason": "past_head", "log": "L"}, "reset  reason=past_head  log=L"),
    ],
)
def test_every_other_kind_says_what_happened(event: dict[str, Any], said: str) -> None:
    assert plain(event) == f"     7  2026-11-22 10:20:30  {said}"


def test_a_long_payload_is_cut() -> None:
    assert len(cli_format.payload_text({"payload": "x" * 10_000})) == cli_format.PAYLOAD_CHARS


@given(st.text(), st.text(), st.text())
def test_nothing_that_an_agent_wrote_steers_the_terminal(payload: str, kind: str, name: str) -> None:
    messages: list[dict[str, Any]] = [
        {"event": "message", "from_agent": name, "to_agent": name, "type": kind, "payload": payload, "time": payload},
        {"event": "message", "payload": {kind: payload}},
        {"event": "wake.finished", "agent": name, "detail": payload},
        {"event": "token.created", "name": name, "peer": payload},
    ]
    assert all(plain(message).isprintable() for message in messages)


AGENT: dict[str, Any] = {
    "name": "mel",
    "unread": 2,
    "cursor": 3,
    "paused": False,
    "next_wake": {"due": False, "why": "backoff", "in_s": 9.6},
    "watchers": [{"watcher": "pi", "node": "n1", "connected": True, "last_seen": TIME, "agents": ["mel"]}],
    "last_wake": {
        "id": 6, "after": 3, "through": 5, "attempt": 1, "watcher": "pi", "node": "n1", "time": TIME,
        "outcome": "failed", "detail": "exit\n1",
    },
    "last_seen": TIME,
}  # fmt: skip


def test_why_says_what_was_and_what_comes_next_in_one_screen() -> None:
    lines = list(cli_format.why_lines(AGENT))
    assert lines[0] == "mel: 2 unread after cursor 3"
    assert "last wake: 6" in lines[1]
    assert "failed" in lines[1]
    assert lines[2] == "  it said: exit\\n1"
    assert "next: the last wake failed; waiting before the next (looked at again in 10 s)" in lines
    assert "watcher: pi on node n1: connected" in lines
    assert len(lines) < 20


def test_why_names_an_agent_that_nobody_serves() -> None:
    lines = list(
        cli_format.why_lines({**AGENT, "watchers": [], "last_wake": None, "next_wake": {"due": True, "why": "due"}})
    )
    assert "never woken" in lines
    assert "next: a wake is due" in lines
    assert any(line.startswith("watcher: none serves this agent; name it in") for line in lines)


def test_why_says_when_an_agent_never_asked_anything_itself() -> None:
    unseen = {name: value for name, value in AGENT.items() if name != "last_seen"}
    assert list(cli_format.why_lines(unseen))[-1] == "last request of its own: none since the bus started"


@pytest.mark.parametrize(
    ("waited", "said"),
    [
        ("reached", ""),
        ("dead", "message 5 is a dead letter; `eventlog dead show 5` tells why"),
        ("expired", "message 5 expired before anybody read it"),
        ("time_over", "the time is over, and message 5 has not come as far as read; `eventlog why mel` tells why"),
        ("stopping", "the bus is stopping, and message 5 has not come as far as read; `eventlog why mel` tells why"),
    ],
)
def test_a_wait_that_ended_early_says_why_and_where_to_look(waited: str, said: str) -> None:
    message = {"id": 5, "to_agent": "mel", "receipt": {"waited": waited}}
    assert cli_format.wait_ended(message, "read") == said


def test_a_closed_dead_letter_tells_how_and_why() -> None:
    letter = {
        "message_id": 5, "died": TIME, "from_agent": "you", "agent": "mel", "type": "TASK",
        "reason": "max_attempts", "attempts": 1,
    }  # fmt: skip
    told = "     5  2026-11-22 10:20:30  you -> mel  TASK  max_attempts after 1 attempt"
    assert cli_format.letter_line(letter) == told
    closed = {"how": "dropped", "reason": "not wanted\n"}
    assert cli_format.letter_line({**letter, "closed": closed}) == told + "  [dropped: not wanted\\n]"
    assert cli_format.letter_line({**letter, "closed": {"how": "retried", "retry": 9}}) == told + "  [retried as 9]"


def test_an_agents_line_tells_who_serves_it() -> None:
    assert cli_format.agent_line(AGENT).endswith("served by pi")
    assert cli_format.agent_line({**AGENT, "watchers": []}).endswith("no watcher connected")


def test_a_receipt_tells_every_step() -> None:
    receipt = {
        "status": "replied",
        "accepted": {"id": 5, "time": TIME},
        "wakes": [{"wake": 6, "time": TIME, "attempt": 1, "watcher": "pi", "node": "n"}],
        "read": {"id": 8, "time": TIME},
        "replies": [{"id": 9, "time": TIME}],
    }
    lines = list(cli_format.receipt_lines({"receipt": receipt}))
    assert lines[0] == "status: replied"
    assert lines[1] == f"  accepted  {TIME}"
    assert lines[2] == f"  wake 6  {TIME}  attempt 1  by pi  in flight"
    assert lines[3] == f"  read at 8  {TIME}"
    assert lines[4] == f"  replied by 9  {TIME}"


def test_a_receipt_tells_what_times_the_message_has() -> None:
    times = {"expires": "2099", "deadline": "2098", "awaits": "replied"}
    assert list(cli_format.receipt_lines({"receipt": {"status": "accepted"}, **times})) == [
        "status: accepted",
        "  expires  2099",
        "  deadline  2098  to be replied",
    ]


def test_a_receipt_tells_a_run_from_its_end() -> None:
    wake = {"wake": 6, "time": TIME, "attempt": 1, "watcher": "pi", "node": "n"}
    (_, told) = cli_format.receipt_lines({"receipt": {"running": {"id": 6, "time": TIME}, "wakes": [wake]}})
    assert told.endswith("by pi  running")
    over = {"dead": {"id": 9, "time": TIME, "reason": "max_attempts", "attempts": 2}}
    wakes = [wake | {"outcome": "failed", "finished": "later"}]
    (_, told, dead) = cli_format.receipt_lines({"receipt": {"status": "dead", "wakes": wakes, **over}})
    assert told.endswith("failed  later")
    assert dead == f"  dead at 9  {TIME}  max_attempts after 2 attempts"


def test_a_payload_is_shown_whole_but_steers_no_terminal() -> None:
    assert cli_format.whole_payload({"payload": "a\n\tb\x1b[2J"}) == "a\n\tb\\x1b[2J"
    assert cli_format.whole_payload({"payload": {"a": ["ü"]}}) == '{"a": ["ü"]}'
    assert cli_format.whole_payload({"redacted": True}) == "(redacted)"
