"""Agents that misbehave, each in its way, woken by one real watcher at the same time; none of it tells a secret."""

import base64
import hmac
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from eventlog.wakes import BACKOFF_FIRST_S, BACKOFF_JITTER
from tests.e2e.hooks import HOOKS_TOKEN, Hooks
from tests.scene import CommandLines, Scene
from tests.support import BusProcess, WatcherProcess, clean_environment, run_eventlog, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

#: What no log, no argument and no pointer may hold.
TEXT = "the-text-of-the-message"
WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"a secret that signs").decode()

#: Each command that misbehaves, as a line of shell; FOLDER is the scene's.
SHELL = {
    "hangs": "echo so far; exec sleep 300",
    "stubborn": "trap '' TERM; while :; do sleep 0.2; done",
    "forks": "sleep 300 & echo $! >FOLDER/forks.pid",
    "closes": "exec <&- >&- 2>&-; sleep 0.5",
    "loud": "head -c 30000000 /dev/zero | tr '\\0' x; head -c 30000000 /dev/zero | tr '\\0' y >&2; exit 3",
    "binary": "head -c 3000 /dev/urandom >&2; exit 1",
    "fails": "echo out of ideas >&2; exit 1",
    "later": "exit 75",
    "killed": "kill -9 $$",
    "tells": "cat $EVENTLOG_TOKEN_FILE; env >&2; cat $EVENTLOG_TOKEN_FILE >&2; exit 1",
}
#: Each answer of a webhook that is not a good one.
HOOKS = ("200", "302", "404", "429", "500", "early", "garbage", "hangs")


class World:
    """One bus and one watcher with all the agents, each of which was sent one message."""

    def __init__(self, scene: Scene, hooks: Hooks, folder: Path) -> None:
        self.scene = scene
        self.hooks = hooks
        (folder / "hooks-token").write_text(HOOKS_TOKEN)
        (folder / "secret").write_text(WEBHOOK_SECRET)
        self.watcher = WatcherProcess(
            folder / "watcher",
            scene.bus.url,
            scene.watcher_token,
            "[limits]\nmax_wakes = 50\n" + self._tables(folder),
            env={"BUS_WATCHER_LOG_LEVEL": "debug", "EVENTLOG_TOKEN": scene.watcher_token},
        )
        self.command_lines = CommandLines()
        self.agents = [line[8:-1] for line in self.watcher.config.read_text().splitlines() if line[:8] == "[agents."]

    def _tables(self, folder: Path) -> str:
        agent = self.scene.agent
        tables = [agent(name="good"), agent(name="missing", command=["no-such-program"])]
        tables.append(agent(name="homeless", command=["true"], cwd="/no/such/folder"))
        for name, line in SHELL.items():
            timeout = 1 if name in ("hangs", "stubborn") else 30
            line = line.replace("FOLDER", str(self.scene.folder))
            tables.append(agent(name=name, command=["sh", "-c", line], timeout=timeout))
        files = {"token_file": str(folder / "hooks-token"), "secret_file": str(folder / "secret")}
        for how in HOOKS:
            hook = {
                "waker": "webhook",
                "url": f"{self.hooks.url}/{how}",
                "timeout": 2 if how == "hangs" else 30,
                **files,
            }
            tables.append(agent(name=f"hook-{how}", **hook))
        tables.append(agent(name="hook-down", waker="webhook", url="http://127.0.0.1:1/"))
        claw = {"waker": "openclaw", "url": self.hooks.url, "min_interval": 0}
        tables.append(agent(name="claw", token_file=files["token_file"], **claw))
        tables.append(agent(name="claw-stranger", token_file=files["secret_file"], **claw))
        return "".join(tables)

    def wakes(self, name: str, kind: str = "wake.finished") -> list[dict[str, Any]]:
        """How an agent's wakes ended, or that they started; the first one is waited for."""
        until(lambda: self.scene.events_of(name, kind), why=lambda: self.watcher.log_text[-2000:])
        return self.scene.events_of(name, kind)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Everything running; the messages are sent."""
    folder = tmp_path_factory.mktemp("agents")
    with Hooks() as hooks, BusProcess(folder / "bus", env={"EVENTLOG_LOG_LEVEL": "debug"}) as bus:
        world = World(Scene(bus, folder), hooks, folder)
        with world.command_lines, world.watcher:
            body = [{"to_agent": name, "payload": TEXT} for name in world.agents]
            assert world.scene.boss.call("POST", "/api/send", body).status == 201
            yield world


def outcome(world: World, name: str) -> tuple[str, str]:
    """How the first wake of an agent ended, and what was told of it."""
    ended = world.wakes(name)[0]
    assert ended["by"] == "watcher"
    return ended["outcome"], ended.get("detail", "")


# ---- commands -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ended", "said"),
    [
        ("missing", "not_started", "cannot run no-such-program"),
        ("homeless", "not_started", "cannot run /no/such/folder"),
        ("hangs", "timeout", "limit of 1"),
        ("forks", "ok", ""),
        ("closes", "ok", ""),
        ("loud", "failed", "exit code 3: yyy"),
        ("binary", "failed", "exit code 1: "),
        ("fails", "failed", "exit code 1: out of ideas"),
        ("later", "not_started", "exit code 75"),
        ("killed", "failed", "SIGKILL"),
        ("stubborn", "timeout", "limit of 1"),
    ],
)
def test_a_command_that_misbehaves_is_reported_as_what_it_did(world: World, name: str, ended: str, said: str) -> None:
    told = outcome(world, name)
    assert told[0] == ended
    assert said in told[1]
    assert len(told[1].encode()) <= 2048


def test_the_end_of_what_a_command_said_is_told(world: World) -> None:
    assert "so far" in outcome(world, "hangs")[1]


def test_a_command_that_does_not_hear_sigterm_is_killed_ten_seconds_later(world: World) -> None:
    (ended, *_) = world.wakes("stubborn")
    assert 11_000 <= ended["duration_ms"] < 12_900
    assert ended["exit_code"] == 128 + signal.SIGKILL
    assert world.wakes("hangs")[0]["duration_ms"] < 3000


def test_what_a_command_left_running_is_left_alone(world: World) -> None:
    ended = world.wakes("forks")[0]
    pid = int((world.scene.folder / "forks.pid").read_text())
    assert ended["duration_ms"] < 5000
    os.kill(pid, signal.SIGTERM)


def test_what_kept_a_turn_from_beginning_is_seen_and_tried_again_without_counting(world: World) -> None:
    ended = world.wakes("missing")[0]
    status = until(lambda: backing_off(world, "missing"))
    assert status is not None
    assert (status["last"]["outcome"], status["last"]["exit_code"]) == ("not_started", 127)
    assert status["last"]["wake"] in {event["wake"] for event in world.wakes("missing")}
    assert seconds(status["next_ask"]) > seconds(ended["time"])
    env = {"EVENTLOG_URL": world.scene.bus.url, "EVENTLOG_TOKEN": world.scene.bus.admin_token}
    why = run_eventlog("why", "missing", home=world.scene.folder, env=env).out
    assert "not_started" in why
    assert "no-such-program" in why
    starts = until(lambda: (found := world.wakes("missing", "wake.started"))[1:] and found)
    assert [start["attempt"] for start in starts[:2]] == [1, 1]
    waited_s = seconds(starts[1]["time"]) - seconds(ended["time"])
    assert BACKOFF_FIRST_S * (1 - BACKOFF_JITTER) <= waited_s < BACKOFF_FIRST_S * (1 + BACKOFF_JITTER) + 2


def test_a_wake_that_failed_counts(world: World) -> None:
    starts = until(lambda: (found := world.wakes("fails", "wake.started"))[1:] and found)
    assert [start["attempt"] for start in starts[:2]] == [1, 2]


def backing_off(world: World, name: str) -> dict[str, Any] | None:
    """What `bus-watcher status` says of an agent, if that is that it waits for a backoff to end."""
    called = world.watcher.status()
    assert called.code == 0
    agent: dict[str, Any] = called.json["agents"][name]
    return agent if (agent["state"], agent["why"]) == ("waiting", "backoff") else None


def seconds(text: str) -> float:
    """An event's time."""
    return datetime.fromisoformat(text).timestamp()


# ---- webhooks and OpenClaw ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ended", "said"),
    [
        ("hook-200", "ok", ""),
        ("hook-302", "failed", "302"),
        ("hook-404", "failed", "404"),
        ("hook-429", "not_started", "429"),
        ("hook-500", "not_started", "500"),
        ("hook-early", "failed", ""),
        ("hook-garbage", "failed", ""),
        ("hook-hangs", "timeout", "limit of 2"),
        ("hook-down", "not_started", "no connection"),
        ("claw", "ok", ""),
        ("claw-stranger", "not_started", "401"),
    ],
)
def test_what_a_webhook_or_gateway_answers_decides_the_outcome(world: World, name: str, ended: str, said: str) -> None:
    told = outcome(world, name)
    assert told[0] == ended
    assert said in told[1]


def test_a_webhook_is_sent_what_a_command_is_given_signed_and_with_the_wakes_key(world: World) -> None:
    (wake,) = world.wakes("hook-200", "wake.started")
    world.wakes("hook-200")
    ((headers, body),) = world.hooks.sent["/200"]  # and nobody followed the redirect
    assert headers["idempotency-key"] == wake["key"]
    assert headers["authorization"] == f"Bearer {HOOKS_TOKEN}"
    assert body["wake"]["id"] == wake["id"]
    assert [message["payload"] for message in body["messages"]] == [TEXT]
    assert body["truncated"] is False
    stamp, signature = headers["webhook-timestamp"], headers["webhook-signature"]
    raw = json.dumps(body, separators=(",", ":")).encode()
    signed = hmac.digest(b"a secret that signs", f"{headers['webhook-id']}.{stamp}.".encode() + raw, "sha256")
    assert signature == f"v1,{base64.b64encode(signed).decode()}"
    assert abs(time.time() - int(stamp)) < 60


def test_openclaw_is_sent_a_pointer_and_never_a_message(world: World) -> None:
    world.wakes("claw")
    headers, body = next(sent for sent in world.hooks.sent["/hooks/wake"] if sent[1]["agentId"] == "claw")
    assert headers["authorization"] == f"Bearer {HOOKS_TOKEN}"
    assert body["mode"] == "now"
    assert "1 unread message on the message bus" in body["text"]
    assert "eventlog inbox claw" in body["text"]
    assert TEXT not in json.dumps(body)


def test_the_pointer_that_openclaw_is_sent_works_as_it_is(world: World) -> None:
    world.wakes("claw")
    text = next(sent for sent in world.hooks.sent["/hooks/wake"] if sent[1]["agentId"] == "claw")[1]["text"]
    read, ack = (line for line in text.split("`")[1::2])
    inbox = shell(world, read)
    assert TEXT in inbox
    assert world.scene.events_of("claw", "ack") == []
    cursor = world.scene.admin.inbox("claw")["cursor"]
    shell(world, ack.replace("CURSOR", str(cursor)))
    assert world.scene.events_of("claw", "ack")[0]["cursor"] == cursor


def shell(world: World, line: str) -> str:
    """What a line of shell prints, as an agent would run it."""
    environ = clean_environment(world.scene.folder)
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    done = subprocess.run(["sh", "-c", line], env=environ, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- secrets --------------------------------------------------------------------------------------------------------


def test_no_secret_is_in_any_log_or_command_line(world: World) -> None:
    """Runs last: it looks at all that the others did."""
    scene = world.scene
    auditor = scene.admin.create_token("auditor", "auditor")
    with urllib.request.urlopen(f"{scene.bus.url}/api/stream?token={auditor.token}&after=0", timeout=10) as stream:
        stream.read(1)
    for name in world.agents:
        world.wakes(name)
    tokens = {path.name: path.read_text().strip() for path in (world.watcher.state_dir / "tokens").iterdir()}
    assert len(tokens) >= len(world.agents)
    secrets = {
        "the administrator's": scene.admin.token,
        "the watcher's": scene.watcher_token,
        "the sender's": scene.boss.token,
        "the auditor's": auditor.token,
        "the gateway's": HOOKS_TOKEN,
        "the webhooks'": WEBHOOK_SECRET,
        "the signing key": (scene.bus.data_dir / "wake.key").read_text().strip(),
        **{f"wake {number}'s": token for number, token in tokens.items()},
    }
    lines = b"\n".join(world.command_lines.seen).decode(errors="replace")
    assert "starter.py" in lines
    assert "no-such-program" in world.watcher.log_text + scene.bus.log_text + json.dumps(scene.events())
    places = {
        "a command line": lines,
        "the watcher's log": world.watcher.log_text,
        "the watcher's status": world.watcher.status().out,
        "the bus's log": scene.bus.log_text,
        "the event log": json.dumps(scene.events()),
        "a grant": "".join(path.read_text() for path in world.watcher.state_dir.glob("agents/*/*/grant")),
    }
    told = [
        f"{whose} token is in {where}" for where, text in places.items() for whose, it in secrets.items() if it in text
    ]
    assert told == []
    assert not any(TEXT in text for where, text in places.items() if where not in ("the event log", "a grant"))


def test_a_token_that_a_command_prints_is_kept_out_of_its_report(world: World) -> None:
    assert "[token]" in outcome(world, "tells")[1]
