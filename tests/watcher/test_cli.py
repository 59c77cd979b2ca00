"""`bus-watcher` as a process: starting, stopping, being killed, and what it tells people and systemd."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support import UNWRITABLE, clean_environment
from tests.watcher.fake_bus import FakeBus
from tests.watcher.support import DEADLINE_S, alive, pids_in, until
from watcher import show
from watcher.state import State

pytestmark = pytest.mark.anyio

HELD = "echo $$ >> pids; while [ ! -e go ]; do sleep 0.02; done"

Run = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
async def run(config_file: Callable[..., Path], tmp_path: Path) -> AsyncIterator[Run]:
    """Starts watchers in processes of their own, on one state folder."""
    started: list[subprocess.Popen[bytes]] = []

    def start(
        agents: str, *, env: Mapping[str, str] | None = None, under: Sequence[str] = ()
    ) -> "subprocess.Popen[bytes]":
        arguments = ["--config", str(config_file(agents)), "--state-dir", str(tmp_path / "state")]
        with (tmp_path / "watcher.log").open("ab") as log:
            process = subprocess.Popen(
                [*under, sys.executable, "-m", "watcher.cli", "run", *arguments],
                stdin=subprocess.DEVNULL,
                stderr=log,
                env=clean_environment(tmp_path, env),
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def call(tmp_path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """One call of `bus-watcher`, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "watcher.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=clean_environment(tmp_path),
        check=False,
    )


def ended(process: "subprocess.Popen[bytes]") -> Callable[[], bool]:
    return lambda: process.poll() is not None


async def test_told_to_stop_it_ends_at_once_and_leaves_its_wake_running(bus: FakeBus, run: Run, tmp_path: Path) -> None:
    process = run(HELD)
    bus.post("mel")
    (command,) = await until(lambda: pids_in(tmp_path / "pids"))
    began = time.monotonic()
    process.terminate()
    await until(ended(process))
    assert process.returncode == 0
    assert time.monotonic() - began < 5, "it is to end within a second; machines may be busy"
    assert alive(command)
    (tmp_path / "go").touch()
    run(HELD)
    await until(lambda: bus.outcomes == ["ok"])
    assert len(bus.reports) == 1


@pytest.mark.fault
async def test_a_command_survives_the_kill_of_its_watcher_and_is_reported_once(
    bus: FakeBus, run: Run, tmp_path: Path
) -> None:
    process = run(HELD)
    bus.post("mel")
    (command,) = await until(lambda: pids_in(tmp_path / "pids"))
    process.kill()
    process.wait()
    assert alive(command)
    run(HELD)
    await until(lambda: len(bus.streams) == 2)
    (tmp_path / "go").touch()
    await until(lambda: bus.outcomes == ["ok"])
    await until(lambda: bus.asks and bus.asks[-1]["key"] != bus.reports[0][1]["key"])
    assert len(bus.reports) == 1
    assert len(pids_in(tmp_path / "pids")) == 1


@pytest.mark.fault
async def test_killed_again_and_again_it_loses_no_message_and_starts_no_wake_twice(
    bus: FakeBus, run: Run, tmp_path: Path
) -> None:
    script = "echo $WAKE_ID >> started; sleep 0.$(( $WAKE_ID % 4 ))"
    for delay_ms in (5, 40, 80, 120, 160, 200, 250, 300):
        seen = len(bus.streams), len(bus.asks)
        process = run(script)
        last = bus.post("mel")
        await until(lambda: (len(bus.streams), len(bus.asks)) > seen or process.poll() is not None)  # noqa: B023
        await asyncio.sleep(delay_ms / 1000)
        process.kill()
        process.wait()
    run(script)
    await until(lambda: bus.read["mel"] >= last)
    wakes = Counter((tmp_path / "started").read_text().split())
    assert set(wakes.values()) == {1}
    assert set(wakes) == {str(wake.id) for wake in bus.wakes.values() if wake.outcome == "ok"}


async def test_a_command_has_none_of_the_watchers_credentials(bus: FakeBus, run: Run, tmp_path: Path) -> None:
    secret = {"EVENTLOG_TOKEN": "the-admins", "EVENTLOG_TOKEN_FILE": "/admin.token", "CREDENTIALS_DIRECTORY": "/run/c"}
    run("env > env", env={**secret, "LISTEN_FDS": "1", "KEPT": "this"})
    bus.post("mel")
    await until(lambda: bus.outcomes)
    env = dict(line.partition("=")[::2] for line in (tmp_path / "env").read_text().splitlines())
    assert env["KEPT"] == "this"
    assert env["EVENTLOG_TOKEN_FILE"].startswith(str(tmp_path / "state" / "tokens"))
    assert not {"EVENTLOG_TOKEN", "CREDENTIALS_DIRECTORY", "LISTEN_FDS"} & set(env)


async def test_a_command_runs_in_the_home_folder_unless_told_otherwise(bus: FakeBus, run: Run, tmp_path: Path) -> None:
    run(f"[agents.mel]\ncommand = ['/bin/sh', '-c', 'pwd > {tmp_path}/where']")
    bus.post("mel")
    await until(lambda: bus.outcomes)
    assert (tmp_path / "where").read_text().strip() == str(tmp_path)


async def test_a_second_watcher_on_the_same_folder_is_refused(bus: FakeBus, run: Run, tmp_path: Path) -> None:
    first = run("true")
    await until(lambda: bus.asks)
    second = run("true")
    await until(ended(second))
    assert second.returncode == 69
    assert f"another watcher (process {first.pid}) runs on" in (tmp_path / "watcher.log").read_text()


async def test_log_lines_are_json_where_no_terminal_is(bus: FakeBus, run: Run, tmp_path: Path) -> None:
    run("true")
    await until(lambda: bus.asks)
    lines = [json.loads(line) for line in (tmp_path / "watcher.log").read_text().splitlines()]
    assert lines[0]["event"] == "watching"
    assert lines[0]["agents"] == ["mel"]


@pytest.mark.parametrize("under", UNWRITABLE.values(), ids=UNWRITABLE)
async def test_a_log_line_that_cannot_be_written_is_dropped(bus: FakeBus, run: Run, under: list[str]) -> None:
    process = run("true", under=under)
    await until(lambda: bus.asks or process.poll() is not None)
    bus.post("mel")
    await until(lambda: bus.outcomes == ["ok"] or process.poll() is not None)
    process.terminate()
    await until(ended(process))
    assert (process.returncode, bus.outcomes) == (0, ["ok"])


async def test_it_tells_systemd_that_it_is_ready_and_alive_and_stops(bus: FakeBus, run: Run, tmp_path: Path) -> None:
    await bus.stop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(DEADLINE_S)
        process = run("true", env={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"})
        told = [await asyncio.to_thread(listener.recv, 100) for _ in range(4)]
        assert told.count(b"READY=1") == 1, "ready also while the bus is away"
        assert told.count(b"WATCHDOG=1") == 3
        process.terminate()
        while await asyncio.to_thread(listener.recv, 100) != b"STOPPING=1":
            pass


async def test_status_shows_connection_lag_agents_and_wakes(bus: FakeBus, run: Run, tmp_path: Path) -> None:
    state = ["--state-dir", str(tmp_path / "state")]
    before = await asyncio.to_thread(call, tmp_path, "status", *state)
    assert before.returncode == 1
    assert "no watcher runs" in before.stdout
    process = run(HELD)
    message_id = bus.post("mel")
    await until(lambda: pids_in(tmp_path / "pids"))

    def shown() -> dict[str, Any]:
        return show.read(tmp_path / "state")

    await until(lambda: shown().get("agents", {}).get("mel", {}).get("wake"))
    done = await asyncio.to_thread(call, tmp_path, "status", "--json", *state)
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert (found["running"], found["connection"], found["pid"]) == (True, "connected", process.pid)
    assert (found["url"], found["log"], found["lag"]) == (bus.url, "log-1", 0)
    assert found["agents"]["mel"]["state"] == "running"
    assert found["agents"]["mel"]["wake"]["id"] in bus.wakes
    (tmp_path / "go").touch()
    await until(lambda: (shown()["agents"]["mel"]["last"] or {}).get("outcome") == "ok")
    await until(lambda: shown()["agents"]["mel"]["why"] == "nothing_unread")
    text = (await asyncio.to_thread(call, tmp_path, "status", *state)).stdout
    assert f"cursor  {found['cursor']} of log log-1, 0 behind the head" in text
    assert "mel (command): waiting (nothing_unread), next ask at" in text
    assert "ok, exit code 0" in text
    assert message_id <= found["cursor"]


def test_status_answers_quickly_because_it_loads_little(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['bus-watcher', 'status', '--state-dir', '/nonexistent']\n"
        "from watcher import cli\n"
        "try: cli.main()\n"
        "except SystemExit: print(*sorted(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"structlog", "asyncio", "sqlite3", "starlette"} & set(done.stderr.split())


def test_status_of_a_watcher_that_has_just_started(tmp_path: Path) -> None:
    with State(tmp_path):
        assert list(show.lines(show.read(tmp_path))) == ["a watcher has just started"]


def test_status_says_why_a_wake_went_wrong(tmp_path: Path) -> None:
    with State(tmp_path) as state:
        last = {
            "wake": 7,
            "message": None,
            "outcome": "failed",
            "exit_code": 1,
            "at": "now",
            "detail": "exit code 1: answered 400\n\x1b[1mno",
        }
        agent = {
            "waker": "openclaw",
            "runs": False,
            "state": "waiting",
            "why": "",
            "next_ask": None,
            "wake": None,
            "last": last,
        }
        told = {"watcher": "w", "pid": 1, "node": "n", "url": "u", "connection": "c", "since": "s", "detail": ""}
        state.write_status({**told, "cursor": None, "agents": {"mel": agent}})
        assert list(show.lines(show.read(tmp_path)))[-1].strip() == "it said: exit code 1: answered 400 [1mno"


def test_check_names_the_line_and_the_mend(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[defaults]\ntiemout = 3\n[agents.mel]\ncommand = ['no-such-program']\n")
    done = call(tmp_path, "check", "--config", str(path))
    assert done.returncode == 78
    assert f"{path}:2: unknown key 'tiemout'; did you mean 'timeout'?" in done.stderr
    assert "warning: agent 'mel': no-such-program is not a program" in done.stderr
    found = json.loads(call(tmp_path, "check", "--json", "--config", str(path)).stdout)
    assert [(problem["line"], problem["key"]) for problem in found["problems"]] == [(2, "defaults.tiemout")]


def test_check_tells_of_a_command_that_wakes_nobody_any_more(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[agents.mel]\ncommand = ['sh', '-c', 'openclaw cron wake mel --mode=now || true']\n")
    done = call(tmp_path, "check", "--config", str(path))
    assert done.returncode == 0
    assert "warning: agent 'mel': the command calls `openclaw cron wake`" in done.stderr
    assert "bus-watcher init openclaw" in done.stderr


@pytest.mark.parametrize(("deliver", "warns"), [("each", True), ("all", False)])
def test_check_warns_of_a_pointer_that_would_acknowledge(tmp_path: Path, deliver: str, warns: bool) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'[defaults]\ndeliver = "each"\n[agents.mel]\nwaker = "openclaw"\ndeliver = "{deliver}"\n')
    said = call(tmp_path, "check", "--config", str(path)).stderr
    assert ("would acknowledge the message unread" in said) is warns


def test_check_tells_of_a_secret_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"[defaults]\nwaker = 'openclaw'\ntoken_file = '{tmp_path}/hooks'\n[agents.mel]\n")
    assert (
        f"warning: agent 'mel': cannot read {tmp_path}/hooks" in call(tmp_path, "check", "--config", str(path)).stderr
    )
    (tmp_path / "hooks").write_text("abc")
    assert "agent 'mel'" not in call(tmp_path, "check", "--config", str(path)).stderr


def test_init_writes_a_configuration_for_openclaws_agents(tmp_path: Path) -> None:
    theirs = tmp_path / ".openclaw" / "openclaw.json"
    theirs.parent.mkdir()
    theirs.write_text("{ hooks: { enabled: true, token: 'abc-def' }, agents: { entries: { mel: {} } } }")
    done = call(tmp_path, "init", "openclaw")
    assert done.returncode == 0, done.stderr
    config = tmp_path / ".config" / "bus-watcher" / "config.toml"
    assert f"wrote {config}: wakes mel of {theirs} at http://127.0.0.1:18789" in done.stdout
    assert "next: bus-watcher check" in done.stdout
    assert "abc-def" not in done.stdout
    again = call(tmp_path, "init", "openclaw")
    assert (again.returncode, again.stderr.count("\n")) == (78, 1)
    assert "is there already" in again.stderr
    forced = json.loads(call(tmp_path, "init", "openclaw", "--force", "--json", "--agent", "mel").stdout)
    assert forced["written"] == [str(config), str(config.with_name("hooks-token"))]
    assert (forced["agents"], forced["warnings"]) == (["mel"], [])
    config.with_name("token").write_text("a-token")
    assert call(tmp_path, "check").returncode == 0


def test_check_says_who_gets_runs(tmp_path: Path) -> None:
    agents = "[agents.mel]\ncommand = ['true']\n[agents.tony]\ncommand = ['true']\ndeliver = 'each'\n"
    path = tmp_path / "config.toml"
    path.write_text(f'name = "minipc"\n{agents}')
    done = call(tmp_path, "check", "--config", str(path))
    assert (done.returncode, done.stdout) == (0, f"{path}: good; watcher minipc wakes mel, tony (runs)\n")


def test_check_finds_a_token_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'[bus]\ntoken_file = "{tmp_path}/token"\n[agents.mel]\ncommand = ["true"]\n')
    done = call(tmp_path, "check", "--config", str(path))
    assert done.returncode == 78
    assert f"{path}:2: no token can be read" in done.stderr
    (tmp_path / "token").write_text("a-token")
    done = call(tmp_path, "check", "--config", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "wakes mel" in done.stdout


@pytest.mark.parametrize("junk", [b"eventlog: no bus answers\n", b"\xff\xfe\n", None], ids=["words", "bytes", "folder"])
def test_a_token_file_that_holds_no_token_is_told_of_in_one_line(tmp_path: Path, junk: bytes | None) -> None:
    path, token = tmp_path / "config.toml", tmp_path / "token"
    path.write_text(f'[bus]\ntoken_file = "{token}"\n[agents.mel]\ncommand = ["true"]\n')
    token.mkdir() if junk is None else token.write_bytes(junk)
    for command, begins in (("check", f"{path}:2: "), ("run", "bus-watcher: ")):
        done = call(tmp_path, command, "--config", str(path))
        assert (done.returncode, done.stderr.count("\n")) == (78, 1), done.stderr
        assert done.stderr.startswith(begins)
        assert str(token) in done.stderr


def test_a_home_folder_that_is_not_there_is_told_of_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    (tmp_path / "token").write_text("a-token")
    agent = '[agents.mel]\ncommand = ["true"]\ncwd = "~nosuchuser/x"\n'
    path.write_text(f'{agent}[bus]\ntoken_file = "{tmp_path}/token"\n')
    for command in ("check", "run", "install"):
        done = call(tmp_path, command, "--config", str(path))
        assert (done.returncode, done.stderr.count("\n")) == (78, 1), done.stderr
        assert f"{path}:3: agent 'mel': cwd ~nosuchuser/x is in a home folder that is not there; write" in done.stderr


@pytest.mark.parametrize("command", [["run"], ["install"]])
def test_a_wrong_configuration_ends_with_78_and_one_line(tmp_path: Path, command: list[str]) -> None:
    done = call(tmp_path, *command, "--config", str(tmp_path / "none.toml"))
    assert done.returncode == os.EX_CONFIG
    assert done.stderr.startswith(f"bus-watcher: {tmp_path}/none.toml: cannot be read")
    assert done.stderr.count("\n") == 1


def test_a_wrong_call_ends_with_2(tmp_path: Path) -> None:
    assert call(tmp_path, "rum").returncode == 2


def test_install_writes_the_unit_and_says_how_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[agents.mel]\ncommand = ['true']\n")
    done = call(tmp_path, "install", "--config", str(path))
    assert done.returncode == 0, done.stderr
    assert f"wrote {tmp_path}/.config/systemd/user/bus-watcher.service" in done.stdout
    assert "next: systemctl --user enable --now bus-watcher.service" in done.stdout
    again = json.loads(call(tmp_path, "install", "--json", "--config", str(path)).stdout)
    assert again["written"] == []
