"""The programs of the two write-ups, unchanged but for address and token: the fleet's watcher, the pair's curl."""

import json
import os
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.foreign import Foreign
from tests.support import ROOT, BusProcess, clean_environment, until

pytestmark = pytest.mark.e2e


@pytest.fixture
def admin(bus: BusProcess) -> Foreign:
    return Foreign(bus.url, bus.admin_token)


class FleetWatcher:
    """The fleet's 15 lines, with a wake command that notes whom it woke."""

    def __init__(self, bus: BusProcess, token: str, folder: Path) -> None:
        self._noted = folder / "woken"
        command = folder / "wake"
        command.write_text(f'#!/bin/sh\necho "$1" >> {self._noted}\n')
        command.chmod(0o700)
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "examples" / "fleet_watcher.py", "probe,mel,tony", command],
            env=clean_environment(folder, {"EVENTLOG_URL": bus.url, "EVENTLOG_TOKEN": token}),
            stdin=subprocess.DEVNULL,
        )

    @property
    def woken(self) -> list[str]:
        """Whom it woke, in order, but for the probe."""
        return [name for name in self._all() if name != "probe"]

    def wait_connected(self, admin: Foreign) -> None:
        """Until it hears: it starts at now, whenever that is."""
        until(lambda: admin.send("probe") and "probe" in self._all())

    def _all(self) -> list[str]:
        return self._noted.read_text().split() if self._noted.exists() else []


class TestFleet:
    def test_its_watcher_wakes_the_agents_that_live_there(
        self, bus: BusProcess, admin: Foreign, tmp_path: Path
    ) -> None:
        watcher = FleetWatcher(bus, admin.create_token("minipc-1", "watcher").token, tmp_path)
        try:
            watcher.wait_connected(admin)
            tony = admin.create_token("tony", "agent")
            tony.send("mel", "line one\nline two\u2028line three \U0001f600 data: {}")
            until(lambda: watcher.woken == ["mel"])
            tony.send("somebody-elsewhere")
            admin.call("POST", "/api/inbox/ack", {"agent": "mel", "cursor": 1})
            admin.send("tony", {"deep": [1, 2, {"to_agent": "mel"}]})
            until(lambda: watcher.woken == ["mel", "tony"])
            # The bus is stopped: the stream ends cleanly, the script with it, and systemd would start it again.
            assert bus.stop() == 0
            assert watcher.process.wait(10) == 0
        finally:
            watcher.process.kill()
            watcher.process.wait()

    def test_its_routes_take_and_give_what_they_did(self, admin: Foreign) -> None:
        tony, mel = admin.create_token("tony", "agent"), admin.create_token("mel", "agent")
        sent = tony.call("POST", "/api/send", {"from_agent": "tony", "to_agent": "mel", "message": "the notes, please"})
        assert sent.status == 201, sent
        (message,) = mel.call("GET", "/api/inbox?agent=mel").body["messages"]
        assert message["id"] == sent.body["id"]
        assert (message["from_agent"], message["to_agent"]) == ("tony", "mel")
        assert message["payload"] == "the notes, please"


@pytest.fixture
def owner(shared_bus: BusProcess) -> Foreign:
    return Foreign(shared_bus.url, shared_bus.admin_token)


@dataclass(frozen=True)
class Pair:
    """Two agents that call each other, of which one does here: its client, and their names."""

    alpha: Foreign
    name: str
    peer: str


class TestPair:
    @pytest.fixture
    def pair(self, owner: Foreign, request: pytest.FixtureRequest) -> Pair:
        number = zlib.crc32(request.node.name.encode())
        body = {"name": f"alpha-{number}", "kind": "agent", "peer": f"beta-{number}"}
        token = owner.call("POST", "/api/tokens", body).body["token"]
        return Pair(owner.with_token(token), f"alpha-{number}", f"beta-{number}")

    @pytest.mark.parametrize(("route", "status"), [("/message", "received"), ("/send", "sent")])
    def test_its_curl_command_is_answered_at_once_and_exactly(
        self, owner: Foreign, pair: Pair, route: str, status: str
    ) -> None:
        began = time.monotonic()
        answer = curl(
            pair.alpha.url + route, pair.alpha.token, '{"type":"TASK","payload":{"goal":"build it"},"thread":"t-1"}'
        )
        assert time.monotonic() - began < 5, "their handler awaited the agent's turn; this one must not"
        assert answer == (200, "application/json", f'{{"status":"{status}"}}')
        (message,) = owner.inbox(pair.peer)["messages"]
        assert (message["from_agent"], message["to_agent"], message["type"]) == (pair.name, pair.peer, "TASK")
        assert message["payload"] == {"goal": "build it", "thread": "t-1"}, "further fields are kept"

    @pytest.mark.parametrize("route", ["/message", "/send"])
    @pytest.mark.parametrize("token", ["", "wrong"])
    def test_a_wrong_secret_is_refused_in_its_words(self, pair: Pair, route: str, token: str) -> None:
        status, kind, body = curl(pair.alpha.url + route, token, '{"type":"TASK","payload":1}')
        assert (status, kind) == (401, "application/problem+json")
        assert {"code": "unauthorized", "detail": "unauthorized"}.items() <= json.loads(body).items()

    @pytest.mark.parametrize("route", ["/message", "/send"])
    @pytest.mark.parametrize("body", ['{"payload":1}', '{"type":"","payload":1}', '{"type":null}', "{}"])
    def test_a_missing_type_is_refused_in_its_words(self, owner: Foreign, pair: Pair, route: str, body: str) -> None:
        status, kind, told = curl(pair.alpha.url + route, pair.alpha.token, body)
        assert (status, kind) == (400, "application/problem+json")
        assert {"code": "missing_type", "detail": "missing type"}.items() <= json.loads(told).items()
        assert owner.inbox(pair.peer)["messages"] == []

    def test_who_has_no_peer_must_name_one(self, owner: Foreign) -> None:
        lonely = owner.create_token("lonely", "agent")
        status, _, told = curl(lonely.url + "/message", lonely.token, '{"type":"TASK","payload":1}')
        assert (status, json.loads(told)["code"]) == (400, "no_recipient")
        answer = curl(lonely.url + "/message", lonely.token, '{"type":"TASK","payload":1,"to_agent":"gamma"}')
        assert answer == (200, "application/json", '{"status":"received"}')
        assert len(owner.inbox("gamma")["messages"]) == 1

    def test_a_repeat_with_its_key_is_one_message(self, owner: Foreign, pair: Pair) -> None:
        for _ in range(3):
            answer = curl(
                pair.alpha.url + "/message", pair.alpha.token, '{"type":"TASK"}', "-H", "Idempotency-Key: once"
            )
            assert answer == (200, "application/json", '{"status":"received"}')
        assert len(owner.inbox(pair.peer)["messages"]) == 1


def test_the_reference_s_curl_command_works(shared_bus: BusProcess, owner: Foreign) -> None:
    text = (ROOT / "docs" / "reference" / "http.md").read_text()
    command = text.split("```sh\n", 1)[1].split("```", 1)[0].replace("http://127.0.0.1:8091", shared_bus.url)
    env = os.environ | {"TOKEN": owner.token}
    told = subprocess.run(["sh", "-c", command], env=env, capture_output=True, check=True, timeout=30).stdout
    assert json.loads(told)["status"] == "accepted"
    assert len(owner.inbox("mel")["messages"]) == 1


def curl(url: str, secret: str, body: str, *more: str) -> tuple[int, str, str]:
    """The pair's command: status, content type and body of the answer."""
    command = ["curl", "-s", "-X", "POST", url, "-H", "Content-Type: application/json", "-d", body, *more]
    if secret:
        command += ["-H", f"X-Shared-Secret: {secret}"]
    command += ["-w", "\n%{http_code} %{content_type}"]
    done: Any = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    told, _, last = done.stdout.rpartition("\n")
    status, _, kind = last.partition(" ")
    return int(status), kind, told
