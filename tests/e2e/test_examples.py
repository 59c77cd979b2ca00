"""The examples run for real: the demo, the run, and the two small watchers."""

import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.foreign import Foreign
from tests.support import ROOT, BusProcess, clean_environment

pytestmark = pytest.mark.e2e

EXAMPLES = ROOT / "examples"
DEADLINE_S = 60.0


@contextmanager
def running(*command: str | Path, home: Path, env: dict[str, str] | None = None) -> Iterator["subprocess.Popen[str]"]:
    """A program and what it starts, ended at the end of the block."""
    process = subprocess.Popen(
        [str(word) for word in command],
        env=clean_environment(home, env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(DEADLINE_S)
        assert process.stdout is not None
        process.stdout.close()


def said_until(process: "subprocess.Popen[str]", last: str) -> str:
    """What a program says, up to the line that holds `last`."""
    assert process.stdout is not None
    deadline, said = time.monotonic() + DEADLINE_S, b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while last.encode() not in said and selector.select(max(0.0, deadline - time.monotonic())):
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                break
            said += chunk
    assert last.encode() in said, said.decode()
    return said.decode()


def wait_until(reached: Any) -> Any:
    """Look until there is something, and give that."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := reached()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
    return found


def events_of(admin: Foreign) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = admin.call("GET", "/api/events?limit=1000").body["events"]
    return events


# ---- make demo, make run --------------------------------------------------------------------------------------------


def test_the_demo_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, EXAMPLES / "demo.py"],
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n0 lost, 0 duplicated\n" in done.stdout
    assert done.stdout.count("SIGKILL") == 2
    assert time.monotonic() - began < 30


def test_a_run_shows_the_conversation_ends_cleanly_and_goes_on_next_time(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with running(sys.executable, EXAMPLES / "run.py", folder, home=tmp_path) as process:
        said = said_until(process, "mel -> you  DONE  release notes: done")
        assert "eventlog send mel" in said
        assert "tony is woken" in said
        process.send_signal(signal.SIGINT)
        assert "stopped; the log is in" in said_until(process, "goes on with it")
        assert process.wait(DEADLINE_S) == 0
    with running(sys.executable, EXAMPLES / "run.py", folder, home=tmp_path) as process:
        said = said_until(process, "Ctrl-C ends it")
        assert "(head 0)" not in said
        url = said.split("bus: ")[1].split()[0]
        admin = Foreign(url, (folder / "bus" / "admin.token").read_text().strip())
        sent = admin.call("POST", "/api/send", {"from_agent": "you", "to_agent": "mel", "payload": "a poem"}).body
        assert sent["watched"] in (True, False)
        said = said_until(process, "mel -> you  DONE  a poem: done")
        assert "release notes" not in said
    assert list(tmp_path.iterdir()) == [folder], "something was written into the home folder"


def test_a_run_takes_another_port_if_its_own_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of the ports that an earlier bus left behind
        try:
            taken.bind(("127.0.0.1", 8091))
        except OSError:
            pass  # somebody else has taken it: as good
        else:
            taken.listen()
        with running(sys.executable, EXAMPLES / "run.py", tmp_path / "run", home=tmp_path) as process:
            said = said_until(process, "Ctrl-C ends it")
    assert said.startswith("port 8091 is taken")
    assert ":8091 " not in said


# ---- the small watchers ---------------------------------------------------------------------------------------------


@pytest.fixture
def admin(bus: BusProcess) -> Foreign:
    return Foreign(bus.url, bus.admin_token)


def start_in_shell(bus: BusProcess, admin: Foreign, command: list[str | Path], tmp_path: Path) -> Any:
    for program in ("curl", "jq"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}")
    token = admin.create_token("shell", "watcher", "tony").token
    env = {"EVENTLOG_URL": bus.url, "EVENTLOG_TOKEN": token, "AGENT_RECORD": str(tmp_path / "starts")}
    return running(EXAMPLES / "watcher.sh", "tony", *command, home=tmp_path, env=env)


def send(admin: Foreign, text: str) -> int:
    answer = admin.call("POST", "/api/send", {"from_agent": "you", "to_agent": "tony", "payload": text})
    assert answer.status == 201
    accepted: int = answer.body["id"]
    return accepted


def outcomes(admin: Foreign) -> list[str]:
    return [event["outcome"] for event in events_of(admin) if event["event"] == "wake.finished"]


def test_a_watcher_of_twenty_lines_wakes_an_agent_through_a_restart_of_the_bus(
    bus: BusProcess, admin: Foreign, tmp_path: Path
) -> None:
    command: list[str | Path] = [sys.executable, EXAMPLES / "tony.py"]
    first = send(admin, "before there is a watcher")
    with start_in_shell(bus, admin, command, tmp_path):
        wait_until(lambda: admin.call("GET", "/api/agents/tony").body["cursor"] >= first)
        second = send(admin, "while it follows")
        wait_until(lambda: admin.call("GET", "/api/agents/tony").body["cursor"] >= second)
        wait_until(lambda: outcomes(admin) == ["ok", "ok"])
        bus.kill()
        bus.start()
        third = send(admin, "after a kill of the bus")
        wait_until(lambda: admin.call("GET", "/api/agents/tony").body["cursor"] >= third)
        wait_until(lambda: outcomes(admin) == ["ok", "ok", "ok"])
    starts = [json.loads(line)["wake"] for line in (tmp_path / "starts").read_text().splitlines()]
    wakes = [event["id"] for event in events_of(admin) if event["event"] == "wake.started"]
    assert starts == wakes
    assert len(admin.call("GET", "/api/inbox?agent=you").body["messages"]) == 3


@pytest.mark.parametrize(("code", "outcome"), [(1, "failed"), (75, "not_started")])
def test_a_watcher_of_twenty_lines_reports_what_a_command_ends_with(
    bus: BusProcess, admin: Foreign, tmp_path: Path, code: int, outcome: str
) -> None:
    send(admin, "in vain")
    with start_in_shell(bus, admin, ["sh", "-c", f"exit {code}"], tmp_path):
        assert wait_until(lambda: outcomes(admin))[0] == outcome


def test_a_watcher_of_twenty_lines_gives_its_command_what_the_protocol_says(
    bus: BusProcess, admin: Foreign, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    sent = send(admin, "what it is about")
    script = f'env > {seen}.env; cat "$EVENTLOG_TOKEN_FILE" > {seen}.token; cat > {seen}.part; mv {seen}.part {seen}'
    with start_in_shell(bus, admin, ["sh", "-c", script], tmp_path):
        wait_until(seen.exists)
        given = json.loads(seen.read_text())
        env = dict(line.split("=", 1) for line in Path(f"{seen}.env").read_text().splitlines() if "=" in line)
        assert sorted(given) == ["messages", "truncated", "wake"]
        assert [message["id"] for message in given["messages"]] == [sent]
        assert "token" not in given["wake"]
        assert (env["WAKE_AGENT"], env["WAKE_THROUGH"], env["WAKE_ATTEMPT"]) == ("tony", str(sent), "1")
        assert "EVENTLOG_TOKEN" not in env
        agent = Foreign(bus.url, Path(f"{seen}.token").read_text().strip())
        assert agent.call("GET", "/api/inbox").body["agent"] == "tony"


def test_the_watcher_in_shell_has_twenty_lines() -> None:
    lines = (EXAMPLES / "watcher.sh").read_text().splitlines()
    assert len([line for line in lines if not line.startswith("#")]) <= 20


def test_the_fleets_watcher_works_unchanged(bus: BusProcess, admin: Foreign, tmp_path: Path) -> None:
    woken = tmp_path / "woken"
    env = {"EVENTLOG_URL": bus.url, "EVENTLOG_TOKEN": admin.create_token("fleet", "watcher", "mel", "tony").token}
    script = f'echo "$0" >> {woken}'
    with running(sys.executable, EXAMPLES / "fleet_watcher.py", "tony,mel", "sh", "-c", script, home=tmp_path, env=env):
        # It begins at the newest message and does not say when: send until it hears.
        wait_until(lambda: send(admin, "are you there?") and woken.exists())
    assert set(woken.read_text().split()) == {"tony"}
