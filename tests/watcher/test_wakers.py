"""The wakers: what reaches the other side, and what its answer means for the wake."""

import base64
import hashlib
import hmac
import http.server
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.watcher.support import make_folder
from watcher import wakers
from watcher.settings import AgentSettings
from watcher.wake import Granted, grant
from watcher.wakers import NotStarted, command, openclaw, webhook
from watcher.wakers.__main__ import main

MESSAGE = {"id": 5, "payload": "a confidential text"}
REQUEST = {"wake": {"id": 7, "agent": "tony", "timeout_s": 60.0}, "messages": [MESSAGE], "truncated": False}
SECRET = base64.b64encode(b"a secret of 24 bytes....").decode()


class Receiver(http.server.BaseHTTPRequestHandler):
    """Answers every POST with the server's `status` and remembers it."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, dict(self.headers), body))  # type: ignore[attr-defined]
        busy = self.server.busy.pop(0) if self.server.busy else None  # type: ignore[attr-defined]
        self.send_response(429 if busy else self.server.status)  # type: ignore[attr-defined]
        if busy:
            self.send_header("Retry-After", busy)
        self.send_header("Location", "http://127.0.0.1:1/")
        self.end_headers()
        self.wfile.write(b"said by the receiver")

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class Server(http.server.ThreadingHTTPServer):
    """Where a wake goes."""

    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.busy: list[str] = []
        """The Retry-After of each of the next answers, which are 429."""
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def settings(server: Server, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "token").write_text("hooks-token\n")
    (tmp_path / "secret").write_text(f"whsec_{SECRET}\n")
    return {
        "url": f"{server.url}/hooks?a=1",
        "token_file": str(tmp_path / "token"),
        "secret_file": str(tmp_path / "secret"),
        "agent_id": "",
        "key": "the-key",
    }


def test_a_webhook_gets_the_request_with_its_key_and_signature(server: Server, settings: dict[str, Any]) -> None:
    webhook.wake(REQUEST, settings)
    ((path, headers, body),) = server.got
    assert path == "/hooks?a=1"
    assert json.loads(body) == REQUEST
    assert headers["Content-Type"] == "application/json"
    assert headers["Idempotency-Key"] == headers["webhook-id"] == "the-key"
    assert headers["Authorization"] == "Bearer hooks-token"
    signed = f"the-key.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.digest(base64.b64decode(SECRET), signed, hashlib.sha256)
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"


def test_a_signature_is_that_of_the_standards_own_example() -> None:
    headers = webhook.signed(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_webhook_without_files_is_neither_signed_nor_authorized(server: Server, settings: dict[str, Any]) -> None:
    webhook.wake(REQUEST, {**settings, "token_file": "", "secret_file": ""})
    headers = server.got[0][1]
    assert not {"Authorization", "webhook-signature"} & set(headers)


def test_a_secret_that_is_none_starts_nothing(server: Server, settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("not base64!")
    with pytest.raises(NotStarted, match="base64"):
        webhook.wake(REQUEST, settings)
    (tmp_path / "secret").unlink()
    with pytest.raises(NotStarted, match="cannot read"):
        webhook.wake(REQUEST, settings)
    assert not server.got


def test_openclaw_gets_a_pointer_and_never_a_messages_text(
    server: Server, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTLOG_URL", "http://bus:8091")
    monkeypatch.setenv("EVENTLOG_TOKEN_FILE", "/state/tokens/7")
    openclaw.wake(REQUEST, {**settings, "url": f"{server.url}/"})
    ((path, headers, body),) = server.got
    said = json.loads(body)
    assert path == "/hooks/wake"
    assert headers["Authorization"] == "Bearer hooks-token"
    assert (said["mode"], said["agentId"]) == ("now", "tony")
    assert said["text"].startswith("You have 1 unread message on the message bus. Read: `EVENTLOG_URL=http://bus:8091 ")
    assert "EVENTLOG_TOKEN_FILE=/state/tokens/7 eventlog inbox tony`" in said["text"]
    assert b"confidential" not in body


@pytest.mark.parametrize(
    ("count", "truncated", "said"),
    [(2, False, "have 2 unread messages"), (9, True, "more than 9 unread messages")],
)
def test_the_pointer_names_how_many_wait(count: int, truncated: bool, said: str) -> None:
    request = {"wake": {"agent": "tony"}, "messages": [MESSAGE] * count, "truncated": truncated}
    assert said in openclaw.pointer(request)


def test_openclaw_may_know_the_agent_by_another_id(server: Server, settings: dict[str, Any]) -> None:
    openclaw.wake(REQUEST, {**settings, "url": server.url, "agent_id": "tony-2"})
    assert json.loads(server.got[0][2])["agentId"] == "tony-2"


def test_openclaws_hooks_may_have_another_path(server: Server, settings: dict[str, Any]) -> None:
    openclaw.wake(REQUEST, {**settings, "url": f"{server.url}/claw/"})
    assert server.got[0][0] == "/claw/wake"


def test_openclaw_is_asked_again_when_it_says_so(
    server: Server, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("watcher.wakers.openclaw.time.sleep", slept.append)
    server.busy = ["3", "7"]
    openclaw.wake(REQUEST, {**settings, "url": server.url})
    assert (slept, len(server.got)) == ([3, 7], 3)


@pytest.mark.parametrize("busy", ["60", "tomorrow"])
def test_openclaw_is_not_waited_for_beyond_the_wakes_time(server: Server, settings: dict[str, Any], busy: str) -> None:
    server.busy = [busy]
    with pytest.raises(NotStarted, match="answered 429"):
        openclaw.wake(REQUEST, {**settings, "url": server.url})
    assert len(server.got) == 1


def woken(tmp_path: Path, settings: AgentSettings) -> dict[str, Any]:
    """The outcome of a wake with these settings, run as the watcher would."""
    folder = make_folder(tmp_path)
    wake = Granted(7, folder.path.name, "tony", 0, 5, 1, 60, "t", [MESSAGE])
    latest = json.loads((folder.path / "grant").read_text())["latest_start"]
    token_file = tmp_path / "token-7"
    folder.write(
        "grant",
        grant(wake, settings, latest_start=latest, url="http://bus", folder=folder.path, token_file=token_file),
    )
    return folder.run()


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, "ok"),
        (202, "ok"),
        (301, "failed"),
        (400, "failed"),
        (404, "failed"),
        (413, "failed"),
        (401, "not_started"),
        (429, "not_started"),
        (500, "not_started"),
        (503, "not_started"),
    ],
)
@pytest.mark.parametrize("waker", ["webhook", "openclaw"])
def test_an_answer_decides_the_outcome(
    server: Server, settings: dict[str, Any], tmp_path: Path, waker: str, status: int, outcome: str
) -> None:
    server.status = status
    agent = AgentSettings(waker=waker, url=server.url, token_file=settings["token_file"])
    result = woken(tmp_path, agent)
    assert result["outcome"] == outcome
    if status >= 300:
        assert f"answered {status}" in result["detail"]
    assert len(server.got) == 1


def test_a_refused_connection_is_not_started(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        result = woken(tmp_path, AgentSettings(waker="webhook", url=url))
    assert (result["outcome"], result["exit_code"]) == ("not_started", 75)
    assert "no connection" in result["detail"]


def test_an_answer_that_does_not_come_is_a_failure(tmp_path: Path) -> None:
    """The turn may have begun."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert woken(tmp_path, AgentSettings(waker="webhook", url=url))["outcome"] == "failed"


class EntryPoint:
    """An installed waker, as importlib.metadata tells of it."""

    def __init__(self, waker: Any) -> None:
        self._waker = waker

    def load(self) -> Any:
        return self._waker


def run_own(waker: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> int:
    """Run a waker of one's own, as the waker's process does; its exit code."""

    def entry_points(group: str, name: str) -> list[EntryPoint]:
        return [EntryPoint(waker)] if (group, name) == ("bus_watcher.wakers", "mine") else []

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    (tmp_path / "grant").write_text(json.dumps({"settings": {"key": "the-key", "room": "42"}}))
    (tmp_path / "request").write_text(json.dumps(REQUEST))
    monkeypatch.setenv("WAKE_GRANT_FILE", str(tmp_path / "grant"))
    with (tmp_path / "request").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        return main("mine")


def test_a_waker_of_ones_own_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Any] = []
    assert run_own(lambda request, settings: seen.extend([request, settings]), monkeypatch, tmp_path) == 0
    assert seen == [REQUEST, {"key": "the-key", "room": "42"}]


def test_a_waker_of_ones_own_may_be_async_and_may_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def busy(_request: object, _settings: object) -> None:
        raise NotStarted("the room is full")

    async def broken(_request: object, _settings: object) -> None:
        raise ValueError("no such room")

    assert run_own(busy, monkeypatch, tmp_path) == 75
    assert run_own(broken, monkeypatch, tmp_path) == 1
    assert capsys.readouterr().err == "the room is full\nValueError: no such room\n"


def test_a_waker_is_looked_for_wherever_the_watcher_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told = wakers.environment(AgentSettings(waker="mine"), tmp_path / "grant")
    assert told["PYTHONPATH"].split(os.pathsep)[1:] == [str(tmp_path)]


def test_a_waker_that_is_not_installed_starts_nothing() -> None:
    with pytest.raises(NotStarted, match="not installed"):
        wakers.load("no-such-waker")


def test_settings_of_a_command_are_not_in_its_grant_and_others_hold_no_secret(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    wake = Granted(7, "k", "tony", 0, 5, 1, 60, "the-wakes-token", [MESSAGE])
    for agent in (AgentSettings(command=("true",)), AgentSettings(waker="webhook", token_file=settings["token_file"])):
        stored = grant(wake, agent, latest_start=0, url="u", folder=tmp_path, token_file=tmp_path / "t")
        text = json.dumps(stored)
        assert "the-wakes-token" not in text
        assert "hooks-token" not in text
        assert bool(stored["settings"]) == (agent.waker == "webhook")


def test_what_every_wake_has_in_its_environment_cannot_be_set_otherwise(tmp_path: Path) -> None:
    agent = AgentSettings(command=("true",), env={"WAKE_ID": "0", "LANG": "C"})
    wake = Granted(7, "k", "tony", 0, 5, 1, 60, "t", [])
    env = grant(wake, agent, latest_start=0, url="u", folder=tmp_path, token_file=tmp_path / "t")["env"]
    assert (env["WAKE_ID"], env["LANG"]) == ("7", "C")


def test_a_command_may_begin_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/mel")
    assert command.argv(["~/wake", "~/a", "b~", "~c"]) == ["/home/mel/wake", "/home/mel/a", "b~", "~c"]


def test_a_command_that_could_not_be_run_is_told_beforehand(tmp_path: Path) -> None:
    (tmp_path / "wake").write_text("#!/bin/sh\n")
    assert "not on PATH" in command.missing(["no-such-program"], "~", {})
    assert "there is no folder" in command.missing(["true"], str(tmp_path / "gone"), {})
    assert command.missing(["./wake"], str(tmp_path), {})
    (tmp_path / "wake").chmod(0o755)
    assert command.missing(["./wake"], str(tmp_path), {}) == ""
    assert command.missing(["wake"], "~", {"PATH": str(tmp_path)}) == ""


@pytest.mark.parametrize(
    "words",
    [
        ["openclaw", "cron", "wake", "mel", "--mode=now"],
        ["sh", "-c", "openclaw cron wake $WAKE_AGENT --mode=now || true"],
        ["bash", "-lc", "cd ~ && /usr/local/bin/openclaw --profile ops cron wake mel"],
    ],
)
def test_a_command_that_openclaw_has_no_more_is_told(words: list[str]) -> None:
    assert command.gone(words, "~") == "the command"


def test_a_script_that_uses_what_openclaw_has_no_more_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "wake-mel"
    script.write_text("#!/bin/sh\nopenclaw cron wake mel --mode=now || true\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert command.gone(["wake-mel"], "~") == command.gone(["./wake-mel"], str(tmp_path)) == str(script)
    assert command.gone(["sh", str(script)], "~") == str(script)
    script.write_text("openclaw cron wake mel")
    assert command.gone(["wake-mel"], "~") == "", "not a script"


@pytest.mark.parametrize(
    "words",
    [["openclaw", "agent", "--agent", "mel"], ["sh", "-c", "openclaw status; cron wake"], ["true", "a\nb" * 9999]],
)
def test_other_commands_are_let_be(words: list[str]) -> None:
    assert command.gone(words, "~") == ""
