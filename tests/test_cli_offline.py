"""Running the bus, and working on the files of a log that no bus has open."""

import json
import os
import pty
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import BusProcess, Called, CommandLine, clean_environment, run_eventlog

Run = Callable[..., Called]


@pytest.fixture
def run(bus: BusProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line on the bus's data folder, whether the bus has it open or not."""
    for name, value in clean_environment(bus.home).items():
        monkeypatch.setenv(name, value)
    for name in [name for name in os.environ if name.startswith("EVENTLOG_")]:
        monkeypatch.delenv(name)
    eventlog = CommandLine(capsys)
    return lambda *args: eventlog(*args, "--data-dir", bus.data_dir)


def sent(run: Run, to: str, text: str) -> int:
    done = run("send", to, text, "--json")
    assert done.code == 0, done.err
    number = done.json["id"]
    assert isinstance(number, int)
    return number


# ---- serve ----------------------------------------------------------------------------------------------------------


def test_serve_makes_a_private_folder_with_an_administrators_token(bus: BusProcess) -> None:
    assert stat.S_IMODE(bus.data_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((bus.data_dir / "admin.token").stat().st_mode) == 0o600


def test_serve_stops_cleanly(bus: BusProcess) -> None:
    assert bus.stop() == 0


def test_serve_says_its_address_as_json(tmp_path: Path) -> None:
    with BusProcess(tmp_path / "bus", options=["--json"]) as running:
        assert run_eventlog("agents", "--json", home=running.home).code == 0


def test_a_folder_has_one_owner(bus: BusProcess, run: Run) -> None:
    second = run("serve", "--port", "0")
    assert second.code == 69
    assert f"is owned by process {bus.process.pid}" in second.err
    assert bus.url in second.err
    assert second.err.count("\n") == 1


def test_the_configuration_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "bus.toml"
    file.write_text("prot = 1\n")
    done = run_eventlog("serve", "--config", file, "--data-dir", tmp_path / "d", home=tmp_path)
    assert done.code == 78
    assert "did you mean 'port'" in done.err
    assert not (tmp_path / "d").exists()


def test_no_auth_is_refused_on_an_open_address(tmp_path: Path) -> None:
    done = run_eventlog("serve", "--no-auth", "--host", "0.0.0.0", "--data-dir", tmp_path / "d", home=tmp_path)
    assert done.code == 78
    assert "no_auth is refused" in done.err


# ---- replay ---------------------------------------------------------------------------------------------------------


def test_replay_is_the_same_through_the_bus_and_from_the_files(bus: BusProcess, run: Run) -> None:
    ids = [sent(run, name, f"{n}\u2028") for n, name in enumerate(["ann", "bob", "ann"])]
    run("ack", "ann", str(ids[0]))

    def replays() -> list[str]:
        chosen = [
            [],
            ["--agent", "ANN"],
            ["--event", "ack"],
            ["--after", str(ids[0]), "--before", str(ids[2])],
            ["--thread", str(ids[1])],
        ]
        done = [run("replay", *one) for one in chosen]
        assert [one.code for one in done] == [0] * len(done), [one.err for one in done]
        return [one.out for one in done]

    through_the_bus = replays()
    bus.stop()
    assert replays() == through_the_bus
    shown = [[json.loads(line)["id"] for line in one.split("\n")[:-1]] for one in through_the_bus]
    assert shown[1:] == [[ids[0], ids[2], ids[2] + 1], [ids[2] + 1], [ids[1]], [ids[1]]]
    assert all("hash" in json.loads(line) for line in through_the_bus[0].split("\n")[:-1])


def test_a_reader_of_replay_may_go_away(bus: BusProcess, run: Run) -> None:
    for _ in range(5):
        sent(run, "ann", "x" * 100_000)
    command = f"{sys.executable} -m eventlog.cli replay --data-dir {bus.data_dir} | head -c 10; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], env=clean_environment(bus.home), capture_output=True, text=True, check=False
    )
    assert (done.stdout.split("\n")[-2][-3:], done.stderr) == ("141", "")


@pytest.mark.parametrize(("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_replay_is_lines_for_people_on_a_terminal(
    bus: BusProcess, run: Run, environ: dict[str, str], coloured: bool
) -> None:
    sent(run, "ann", "hello\x1b[31m there")
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "eventlog.cli", "replay", "--event", "message", "--data-dir", bus.data_dir],
        env=clean_environment(bus.home, {"TERM": "xterm", **environ}),
        stdout=theirs,
        check=True,
    )
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "-> ann" in shown
    assert "hello\\x1b[31m there" in shown
    assert ("\x1b[" in shown) is coloured


# ---- verify, rebuild ------------------------------------------------------------------------------------------------


def test_verify_is_well_through_the_bus_and_from_the_files(bus: BusProcess, run: Run) -> None:
    sent(run, "ann", "x")
    anchor = run("anchor").out.strip()
    sent(run, "ann", "y")
    through_the_bus = run("verify", "--anchor", anchor)
    assert through_the_bus.out.startswith("ok: 3 events up to id ")
    bus.stop()
    assert run("verify", "--anchor", anchor).out == through_the_bus.out


@pytest.mark.parametrize("serving", [True, False])
def test_verify_tells_a_log_that_is_not_the_anchors(bus: BusProcess, run: Run, serving: bool) -> None:
    number = sent(run, "ann", "x")
    if not serving:
        bus.stop()
    done = run("verify", "--anchor", f"{number}:{'0' * 64}")
    assert done.code == 1
    assert done.out.startswith(f"damaged at id {number}: ")


@pytest.mark.parametrize("serving", [True, False])
def test_verify_names_the_id_of_a_changed_byte(bus: BusProcess, run: Run, serving: bool) -> None:
    ids = [sent(run, "ann", f"message {n} of five") for n in range(5)]
    bus.stop()
    file = bus.data_dir / "eventlog.db"
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = file.read_bytes()
    file.write_bytes(content.replace(b"message 3 of five", b"message 3 of fivf"))
    if serving:
        bus.start()
    done = run("verify", "--json")
    assert done.code == 1
    assert done.json["id"] == ids[3]


def test_rebuild_leaves_the_log_as_it_was(bus: BusProcess, run: Run) -> None:
    number = sent(run, "ann", "x")
    run("ack", "ann", str(number))
    refused = run("rebuild")
    assert (refused.code, bus.url in refused.err) == (69, True)
    bus.stop()
    assert run("rebuild").out == "rebuilt from 3 events\n"
    assert run("verify").code == 0
    bus.start()
    assert run("why", "ann", "--json").json["cursor"] == number


# ---- backup, restore ------------------------------------------------------------------------------------------------


def test_a_backup_restores_to_another_log_with_the_same_history(bus: BusProcess, run: Run, tmp_path: Path) -> None:
    sent(run, "ann", "before")
    copy = tmp_path / "copy.db"
    assert run("backup", copy).code == 0
    sent(run, "ann", "after")
    assert run_eventlog("verify", copy, home=bus.home).code == 0
    refused = run("restore", copy)
    assert (refused.code, "stop it first" in refused.err) == (69, True)

    bus.stop()
    present = run("restore", copy)
    assert present.code == 78
    assert "--replace" in present.err
    restored = run("restore", copy, "--replace", "--json")
    assert restored.code == 0, restored.err
    assert Path(restored.json["moved"]).exists()
    bus.start()
    events = [json.loads(line) for line in run("replay", "--event", "message").out.splitlines()]
    assert [event["payload"] for event in events] == ["before"]
    assert sent(run, "ann", "new") > events[-1]["id"] + 1_000_000 - 1


def test_what_is_no_backup_is_refused(bus: BusProcess, run: Run, tmp_path: Path) -> None:
    bus.stop()
    junk = tmp_path / "junk"
    junk.write_bytes(b"x" * 10_000)
    done = run("restore", junk, "--replace")
    assert done.code == 78
    assert str(junk) in done.err
    assert run("verify").code == 0


@pytest.mark.parametrize("command", [["rebuild"], ["restore", "tests/support.py"]])
def test_work_on_files_needs_a_folder(command: list[str], tmp_path: Path) -> None:
    done = run_eventlog(*command, home=tmp_path)
    assert done.code == 78
    assert "--data-dir" in done.err


@pytest.mark.parametrize("command", ["verify", "rebuild", "replay"])
def test_a_folder_without_a_log_is_not_made_one(command: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    done = run_eventlog(command, "--data-dir", tmp_path / "d", home=tmp_path)
    assert done.code == 78
    assert "there is no log" in done.err
    assert not (tmp_path / "d" / "eventlog.db").exists()


# ---- token ----------------------------------------------------------------------------------------------------------


def test_a_token_made_on_the_files_is_good_on_the_bus(bus: BusProcess, run: Run, tmp_path: Path) -> None:
    bus.stop()
    made = run("token", "create", "ann", "--kind", "agent")
    assert (made.code, made.out.count("\n")) == (0, 1)
    again = run("token", "create", "ann", "--kind", "agent")
    assert (again.code, again.out) == (65, "")
    assert run("token", "list").out.split()[-3:] == ["ann", "agent", "ann"]
    bus.start()
    file = tmp_path / "token"
    file.write_text(made.out)
    assert run_eventlog("inbox", "ann", "--url", bus.url, "--token-file", file, home=tmp_path).code == 1
    bus.stop()
    assert run("token", "revoke", "ann").code == 0
    assert run("token", "revoke", "ann").code == 1
    bus.start()
    assert run_eventlog("inbox", "ann", "--url", bus.url, "--token-file", file, home=tmp_path).code == 77


# ---- doctor ---------------------------------------------------------------------------------------------------------


def test_doctor_finds_nothing_wrong_with_a_fresh_bus(bus: BusProcess, run: Run) -> None:
    done = run("doctor", "--json")
    assert done.code == 0, done.out
    checks = {finding["check"] for finding in done.json["findings"]}
    assert {"version", "lock", "disk", "permissions", "reach", "clock", "token"} <= checks


def test_doctor_says_what_is_wrong_and_exits_1(bus: BusProcess, run: Run) -> None:
    (bus.data_dir / "admin.token").chmod(0o644)
    bus.kill(signal.SIGTERM)
    done = run("doctor")
    assert done.code == 1
    assert "BAD  permissions" in done.out
    assert "BAD  reach" in done.out
    assert "eventlog serve --data-dir" in done.out
