"""What agents do on the command line, against a real bus: send, inbox, ack, follow, show."""

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.foreign import Foreign
from tests.support import BusProcess, CommandLine, clean_environment, run_eventlog


def test_a_message_is_sent_read_acknowledged_and_shown(eventlog: CommandLine) -> None:
    sent = eventlog("send", "ann", "hello there", "--type", "TASK", "--from", "bob")
    assert sent.code == 0
    number = sent.out.split()[2].rstrip(",")
    assert sent.out == f"accepted: id {number}, thread {number}\n"

    read = eventlog("inbox", "ann")
    assert read.code == 0
    assert "bob -> ann  TASK  hello there" in read.out

    assert eventlog("ack", "ann", number).out == f"ann: cursor {number}\n"
    assert eventlog("inbox", "ann").code == 1

    shown = eventlog("show", number)
    assert "hello there" in shown.out
    assert "status: read" in shown.out


def test_json_is_what_the_bus_said(eventlog: CommandLine) -> None:
    sent = eventlog("send", "ben", "--payload", '{"n": [1, 2]}', "--json").json
    assert sent["status"] == "accepted"
    page = eventlog("inbox", "ben", "--json").json
    assert page["messages"][0]["payload"] == {"n": [1, 2]}
    assert page["cursor"] == sent["id"]
    assert eventlog("show", sent["id"], "--json").json["receipt"]["status"] == "accepted"
    assert eventlog("ack", "ben", sent["id"], "--json").json == {"agent": "ben", "cursor": sent["id"]}


def test_text_may_come_from_standard_input(eventlog: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"two\nlines\n")))
    number = eventlog("send", "cat", "-", "--json").json["id"]
    assert eventlog("show", number, "--json").json["payload"] == "two\nlines\n"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["send", "cat", "-"], 65),
        (["send", "cat", "caf\udce9"], 65),
        (["inbox", "caf\udce9"], 65),
        (["why", "caf\udce9"], 65),
        (["send", "cat", "--payload", '"caf\udce9"'], 2),
        (["send", "cat", "--payload", '{"x": NaN}'], 2),
        (["send", "cat", "--payload", '{"x": 1e999}'], 2),
        (["send", "cat", "x", "--expires", "5x"], 2),
        (["inbox", "cat", "--wait", "nan"], 2),
    ],
)
def test_what_is_no_text_number_or_time_is_refused_in_one_line(
    eventlog: CommandLine, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), errors="surrogateescape"))
    refused = eventlog(*words)
    assert refused.code == code
    assert refused.err.startswith("eventlog: ")
    assert refused.err.count("\n") == 1


def test_a_reply_is_of_its_parents_thread(eventlog: CommandLine) -> None:
    first = eventlog("send", "dan", "q", "--from", "eve", "--json").json["id"]
    reply = eventlog("send", "eve", "a", "--from", "dan", "--reply-to", first, "--json").json
    assert reply["thread_id"] == first
    thread = eventlog("show", first, "--thread")
    assert [line.split()[0] for line in thread.out.splitlines()] == [str(first), str(reply["id"])]
    assert "status: replied" in eventlog("show", first).out


def test_several_recipients_get_one_message_each(eventlog: CommandLine) -> None:
    answers = eventlog("send", "fay,gus", "hi", "--json").json
    assert len({answer["id"] for answer in answers}) == 2
    assert eventlog("inbox", "gus").code == 0


def test_an_unknown_agent_is_pointed_out_with_the_nearest_name(eventlog: CommandLine) -> None:
    eventlog("send", "harriet", "x", "--from", "harriet")
    sent = eventlog("send", "hariet", "x")
    assert sent.code == 0
    assert "no agent hariet is known yet" in sent.err
    assert "did you mean harriet?" in sent.err


def test_of_several_recipients_the_unknown_one_is_pointed_out(eventlog: CommandLine) -> None:
    eventlog("send", "iris", "x", "--from", "iris")
    sent = eventlog("send", "iris,irsi", "x")
    assert sent.err == "eventlog: no agent irsi is known yet; the message waits for it (did you mean iris?)\n"


def test_a_repeated_key_is_one_message_and_another_text_is_refused(eventlog: CommandLine) -> None:
    first = eventlog("send", "ian", "x", "--key", "k", "--json").json
    assert eventlog("send", "ian", "x", "--key", "k", "--json").json["id"] == first["id"]
    other = eventlog("send", "ian", "y", "--key", "k")
    assert other.code == 65
    assert "[key_reused]" in other.err


def test_inbox_pages_and_says_how_to_go_on(eventlog: CommandLine) -> None:
    ids = [eventlog("send", "jan", str(n), "--json").json["id"] for n in range(3)]
    page = eventlog("inbox", "jan", "--limit", "2")
    assert f"eventlog inbox jan --after {ids[1]}" in page.err
    assert [message["id"] for message in eventlog("inbox", "jan", "--after", ids[1], "--json").json["messages"]] == ids[
        2:
    ]


def test_a_wake_needs_not_say_whose_inbox(eventlog: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    eventlog("send", "kim", "x")
    monkeypatch.setenv("WAKE_AGENT", "kim")
    assert "-> kim" in eventlog("inbox").out


def test_inside_a_wake_an_ack_needs_only_the_cursor(eventlog: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    number = eventlog("send", "kit", "x", "--json").json["id"]
    wrong = eventlog("ack", number)
    assert (wrong.code, "eventlog ack AGENT CURSOR" in wrong.err) == (2, True)
    monkeypatch.setenv("WAKE_AGENT", "kit")
    assert eventlog("ack", number).out == f"kit: cursor {number}\n"
    assert eventlog("ack", "ann").code == 2
    assert eventlog("ack", "ann", number).out.startswith("ann: cursor "), "who is named counts"


def test_waiting_for_mail_ends_empty_with_1(eventlog: CommandLine) -> None:
    started = time.monotonic()
    assert eventlog("inbox", "nobody-writes", "--wait", "0.3").code == 1
    assert 0.3 <= time.monotonic() - started < 5


def test_a_message_that_is_not_there_exits_1(eventlog: CommandLine) -> None:
    missing = eventlog("show", 10**9)
    assert (missing.code, missing.out) == (1, "")
    assert "[not_found]" in missing.err


def test_a_wrong_token_exits_77_and_is_not_repeated(eventlog: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTLOG_TOKEN", "evt_wrong")
    refused = eventlog("inbox", "ann")
    assert refused.code == 77
    assert "--token-file" in refused.err, "what to type, not which header to send"
    assert "evt_wrong" not in refused.err


@contextmanager
def running(bus: BusProcess, *args: str) -> Iterator["subprocess.Popen[str]"]:
    """The command line in a process of its own, piped, as the administrator; ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "eventlog.cli", *args],
        env=clean_environment(bus.home, {"EVENTLOG_URL": bus.url, "EVENTLOG_TOKEN": bus.admin_token}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_waiting_for_mail_outlasts_a_restart_of_the_bus(bus: BusProcess) -> None:
    with running(bus, "inbox", "lea", "--wait", "60") as waiting:
        bus.kill()
        bus.start()
        sent = run_eventlog("send", "lea", "at last", "--data-dir", bus.data_dir, home=bus.home)
        assert sent.code == 0, sent.err
        out, _ = waiting.communicate(timeout=30)
    assert waiting.returncode == 0
    assert "at last" in out


def test_follow_prints_json_lines_when_piped_and_outlasts_a_restart(bus: BusProcess) -> None:
    ids = []
    with running(bus, "follow", "--agent", "max", "--after", "earliest", "--heartbeat", "1") as following:
        assert following.stdout is not None
        for restart in (False, True):
            if restart:
                bus.kill()
                bus.start()
            sent = run_eventlog("send", "max", "hi", "--json", "--data-dir", bus.data_dir, home=bus.home)
            ids.append(sent.json["id"])
            event = json.loads(following.stdout.readline())
            assert (event["id"], event["to_agent"], event["payload"]) == (ids[-1], "max", "hi")
        following.send_signal(signal.SIGINT)
        assert following.wait(30) == 130
    assert ids == sorted(set(ids))


def test_the_clients_file_is_all_that_is_needed_on_the_bus_own_machine(bus: BusProcess) -> None:
    done = run_eventlog("agents", home=bus.home)
    assert (done.code, done.err) == (
        0,
        "eventlog: no agent is here yet; one is from its first message, token or watcher on\n",
    )


def test_no_secret_is_in_a_process_arguments_or_the_log(bus: BusProcess, tmp_path: Path) -> None:
    made = run_eventlog("token", "create", "nia", "--kind", "agent", "--data-dir", bus.data_dir, home=bus.home)
    token = made.out.strip()
    file = tmp_path / "token"
    file.write_text(token)
    done = run_eventlog("send", "nia", "hi", "--url", bus.url, "--token-file", file, home=tmp_path)
    assert done.code == 0, done.err
    for secret in (token, bus.admin_token):
        assert secret not in bus.log_text
        assert secret not in Path(f"/proc/{bus.process.pid}/cmdline").read_text()


# ---- waiting for a receipt ------------------------------------------------------------------------------------------


def test_waiting_for_a_reply_prints_the_reply_alone(bus: BusProcess) -> None:
    with running(bus, "send", "oda", "a question", "--from", "pat", "--wait", "replied", "--timeout", "60") as sending:
        read = run_eventlog("inbox", "oda", "--wait", "30", "--json", "--data-dir", bus.data_dir, home=bus.home)
        asked = read.json["messages"][0]["id"]
        answer = ("send", "pat", "an answer\nof two lines", "--from", "oda", "--reply-to", asked)
        run_eventlog(*map(str, answer), "--data-dir", bus.data_dir, home=bus.home)
        out, err = sending.communicate(timeout=30)
    assert (sending.returncode, out) == (0, "an answer\nof two lines\n")
    assert f"accepted: id {asked}" in err


def test_a_wait_outlasts_a_restart_of_the_bus(bus: BusProcess) -> None:
    with running(bus, "send", "oda", "x", "--wait", "read", "--timeout", "60", "--json") as sending:
        read = run_eventlog("inbox", "oda", "--wait", "30", "--json", "--data-dir", bus.data_dir, home=bus.home)
        for stop in (bus.kill, bus.stop):
            stop()
            bus.start()
        run_eventlog("ack", "oda", str(read.json["cursor"]), "--data-dir", bus.data_dir, home=bus.home)
        out, err = sending.communicate(timeout=30)
    assert sending.returncode == 0, err
    assert json.loads(out)["receipt"]["status"] == "read"
    assert f"accepted: id {json.loads(out)['id']}" in err


def test_the_exit_code_says_what_came_of_a_wait(eventlog: CommandLine) -> None:
    late = eventlog("send", "quinn", "x", "--wait", "read", "--timeout", "0.1")
    assert (late.code, late.out.splitlines()[0]) == (5, "status: accepted")
    assert "has not come as far as read" in late.err
    gone = eventlog("send", "quinn", "x", "--expires", "2020-01-01T00:00:00Z", "--wait", "replied")
    assert (gone.code, gone.out.splitlines()[0]) == (4, "status: accepted  (expired)")
    number = eventlog("send", "quinn", "x", "--json").json["id"]
    assert eventlog("show", number, "--wait", "read", "--timeout", "0").code == 5
    eventlog("ack", "quinn", number)
    shown = eventlog("show", number, "--wait", "read")
    assert (shown.code, "status: read" in shown.out) == (0, True)
    assert eventlog("show", number, "--wait", "read", "--json").json["receipt"]["waited"] == "reached"


def test_a_dead_letter_ends_a_wait_with_3(eventlog: CommandLine, shared_bus: BusProcess) -> None:
    admin = Foreign(shared_bus.url, shared_bus.admin_token)
    number = eventlog("send", "ruth", "x", "--from", "sam", "--json").json["id"]
    wake = admin.ask("dead-1", "ruth", max_attempts=1, ack_within_s=0).body["wake"]
    admin.report(wake["id"], "dead-1", "ok")
    shown = eventlog("show", number, "--wait", "replied", "--timeout", "60")
    assert (shown.code, shown.out.splitlines()[1]) == (3, "status: dead")
    assert f"`eventlog dead show {number}`" in shown.err
    assert "max_attempts after 1 attempt\n" in shown.out


@pytest.mark.parametrize(
    "args",
    [
        ("send", "a,b", "x", "--wait", "read"),
        ("send", "*", "x", "--wait", "read"),
        ("send", "a", "x", "--timeout", "1"),
        ("show", "1", "--timeout", "1"),
        ("show", "1", "--thread", "--wait", "read"),
    ],
)
def test_a_wait_that_cannot_be_is_a_wrong_command_line(eventlog: CommandLine, args: tuple[str, ...]) -> None:
    assert eventlog(*args).code == 2
