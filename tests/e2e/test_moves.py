"""The pages that lead here from another arrangement: after each of their steps the old programs still work."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import pytest

from tests.e2e.old_bus import OldBus
from tests.e2e.old_pair import PAIR, OldProgram
from tests.e2e.pages import ADDRESS, Reader
from tests.support import DEADLINE_S, ROOT, clean_environment, free_port, until

pytestmark = pytest.mark.e2e

#: The wake command of an agent of the fleet: answers what it has not answered yet, and notes the last id that it saw.
WAKE = """#!/bin/sh
# wake AGENT
cd "$HOME"
auth="Authorization: Bearer $(cat tokens/$1 2>/dev/null)"
last=$(cat "last-$1" 2>/dev/null || echo 0)
curl -sf "{url}/api/inbox?agent=$1" -H "$auth" |
  jq -c ".messages[] | select(.id > $last and (.payload | startswith(\\"done: \\") | not))" |
  while read -r message; do
    echo "$message" | jq -c "{{from_agent: \\"$1\\", to_agent: .from_agent, message: \\"done: \\(.payload)\\"}}" |
      curl -sf "{url}/api/send" -H "$auth" -H 'Content-Type: application/json' -d @- > /dev/null
    echo "$message" | jq .id > "last-$1.$$" && mv "last-$1.$$" "last-$1"  # it may be stopped at any moment
    if [ -e acks ]; then echo "$message" | jq -c "{{agent: \\"$1\\", cursor: .id}}" |
      curl -sf "{url}/api/inbox/ack" -H "$auth" -H 'Content-Type: application/json' -d @- > /dev/null; fi
  done
"""


@pytest.fixture(autouse=True)
def _programs() -> None:
    """What the old programs are made of."""
    for program in ("curl", "jq"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


class Fleet:
    """The old programs: the script under a stand-in of systemd (it starts it again), mel, and the client tony."""

    def __init__(self, home: Path, url: str) -> None:
        self.home = home
        self.url = url
        self._script: subprocess.Popen[bytes] | None = None
        wake = home / "wake"
        wake.write_text(WAKE.format(url=url))
        wake.chmod(0o700)

    def start(self) -> None:
        """The script that wakes mel, with the token that there is for it."""
        self.stop()
        loop = 'while :; do "$0" "$@"; sleep 0.5; done'
        script = [sys.executable, str(ROOT / "examples" / "fleet_watcher.py"), "mel", str(self.home / "wake")]
        self._script = subprocess.Popen(
            ["sh", "-c", loop, *script],
            env=clean_environment(self.home, {"EVENTLOG_URL": self.url, "EVENTLOG_TOKEN": self._token("minipc-1")}),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # it ends with a traceback where there is no bus
            start_new_session=True,
        )

    def stop(self) -> None:
        """As systemd stops it, with all that it started."""
        if self._script is not None:
            os.killpg(self._script.pid, signal.SIGKILL)
            self._script.wait()
            self._script = None

    def works(self) -> None:
        """tony asks mel, who is woken, reads and answers. A script that has just come back heard nothing: ask again."""
        asked: list[str] = []
        ask_again = 0.0

        def is_answered() -> bool:
            nonlocal ask_again
            if time.monotonic() > ask_again:
                asked.append(f"at {time.monotonic()}")
                self.curl("/api/send", {"from_agent": "tony", "to_agent": "mel", "message": asked[-1]})
                ask_again = time.monotonic() + 1.5
            return not {f"done: {text}" for text in asked}.isdisjoint(self.told())

        until(is_answered, DEADLINE_S)

    def told(self) -> list[str]:
        """What tony was told."""
        return [message["payload"] for message in self.curl("/api/inbox?agent=tony&limit=1000")["messages"]]

    def curl(self, path: str, body: Any = None) -> Any:
        """A request of tony's; what it was answered."""
        command = ["curl", "-sSf", self.url + path, "-H", f"Authorization: Bearer {self._token('tony')}"]
        if body is not None:
            command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def _token(self, name: str) -> str:
        path = self.home / "tokens" / name
        return path.read_text().strip() if self.has_tokens and path.exists() else "none"

    has_tokens = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def test_from_the_flask_bus(tmp_path: Path) -> None:
    home, ports = tmp_path / "home", {port: str(free_port()) for port in ("8091", "8092", "8093")}
    home.mkdir()
    page = Reader("how-to/from-flask-bus.md", home, ports)
    with OldBus(int(ports["8091"])) as old, Fleet(home, f"http://127.0.0.1:{ports['8091']}") as fleet, page:
        fleet.start()
        fleet.works()

        page.do("1. Start the new bus beside the old one")
        page.do("2. Make tokens")
        fleet.works()

        fleet.has_tokens = True  # step 3
        fleet.start()
        fleet.works()

        old.send({"from_agent": "tony", "to_agent": "mel", "payload": "not read before the move"})
        old.move(int(ports["8093"]))  # step 4
        page.interrupt(1)
        (home / "last-mel").unlink()
        page.do("5. Put the new bus in its place")
        fleet.works()
        until(lambda: "done: not read before the move" in fleet.told())

        fleet.stop()
        fleet.curl("/api/send", {"from_agent": "tony", "to_agent": "mel", "message": "while no script ran"})
        page.do("6. Let a real watcher wake them")
        until(lambda: "done: while no script ran" in fleet.told())
        fleet.works()

        page.do("7. Let the agents acknowledge")
        fleet.works()
        (home / "acks").touch()  # the wake command's new line
        page.type("sed -i '/^ack = /d' ~/.config/bus-watcher/config.toml && bus-watcher check")
        page.interrupt(3)
        page.open_terminal("bus-watcher run")
        fleet.works()
        until(lambda: json.loads(page.type("eventlog agents --json"))["agents"][0]["unread"] == 0)


class OldPair:
    """planner and builder, which call each other's handlers; what their agents did stands in `turns`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "release").touch()
        self.planner = OldProgram("planner", folder, "the-old-secret")
        self.builder = OldProgram("builder", folder, "the-old-secret")
        self.planner.post_to = f"http://127.0.0.1:{self.builder.port}"
        self.builder.post_to = f"http://127.0.0.1:{self.planner.port}"
        self._talks = 0

    def talks(self) -> None:
        """planner sends a TASK, and they talk until builder has said that the work is ready."""
        self._talks += 1
        self.planner.post({"type": "TASK", "payload": self._talks})
        until(lambda: self.turns().count("planner ends PR_READY") == self._talks, why=lambda: "\n".join(self.turns()))

    def turns(self) -> list[str]:
        """What the agents noted."""
        path = self.folder / "turns"
        return path.read_text().splitlines() if path.exists() else []


def test_from_the_in_handler_call(tmp_path: Path) -> None:
    home, work, port = tmp_path / "home", tmp_path / "work", str(free_port())
    work.mkdir()
    pair = OldPair(work)
    swaps = {ADDRESS: f"127.0.0.1:{port}", "9001": str(pair.planner.port), "9002": str(pair.builder.port)}
    page = Reader("how-to/from-in-handler-calls.md", home, swaps, env={"EVENTLOG_PORT": port})
    with pair.planner, pair.builder, page:
        pair.talks()
        page.do("1. Start the bus")
        page.do("2. Let a watcher call the handlers")
        pair.talks()

        page.do("3. Send through the bus")
        for program in (pair.planner, pair.builder):  # one after the other
            program.post_to = f"http://127.0.0.1:{port}"
            program.secret = (home / "pair" / f"{program.name}.token").read_text().strip()
            pair.talks()

        # The handlers' agent, as a command.
        agent = home / "pair" / "agent"
        agent.write_text(f'#!/bin/sh\nexec {sys.executable} {PAIR} {work} "$1"\n')
        agent.chmod(0o700)
        page.interrupt(2)
        pair.builder.stop()
        pair.planner.stop()
        page.do("4. Let the watcher run the agents")
        pair.talks()
        page.interrupt(3)
        page.do("5. Take the secret out of the prompt")
        pair.talks()
