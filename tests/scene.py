"""The scene of tests with everything real: a bus, watchers, and wake commands that write down what they do."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from tests.checkers import log_problems, run_problems
from tests.e2e.foreign import Foreign
from tests.support import DEADLINE_S, WAKE_AGENT, BusProcess, WatcherProcess, until

#: Makes a watcher of a scene's bus from the agents' tables and a name.
Watch = Callable[..., WatcherProcess]


class Scene:
    """A bus, whoever speaks to it, and the folder in which the wake commands write what they do."""

    def __init__(self, bus: BusProcess, folder: Path) -> None:
        self.bus = bus
        self.folder = folder
        self.admin = Foreign(bus.url, bus.admin_token)
        self.boss = self.admin.create_token("boss", "agent")
        self.watcher_token = self.admin.create_token("minipcs", "watcher").token

    def agent(self, *options: str, name: str = "mel", **settings: Any) -> str:
        """One agent's table of the watcher's configuration."""
        values = {"command": [*WAKE_AGENT, str(self.folder), *options], "timeout": 30, "start_within": 5, **settings}
        return f"[agents.{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())

    def runs(self, did: str = "", agent: str = "mel") -> list[dict[str, Any]]:
        """What the commands of an agent, or of all of them (""), wrote of themselves."""
        path = self.folder / "runs.ndjson"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if agent in ("", line["agent"]) and did in ("", line["did"])]

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        """The log."""
        return [event for event in self.admin.events() if kind in ("", event["event"])]

    def events_of(self, agent: str, kind: str) -> list[dict[str, Any]]:
        """An agent's events of one kind."""
        return self.admin.events(f"&agent={agent}&event={kind}")

    def at_rest(self, *agents: str, deadline_s: float = DEADLINE_S) -> list[dict[str, Any]]:
        """The log, as soon as the agents have nothing unread and no wake in flight."""

        def rests() -> bool:
            views = [self.admin.call("GET", f"/api/agents/{name}").body for name in agents or ("mel",)]
            return all(view["unread"] == 0 and not view.get("wake") for view in views)

        until(rests, deadline_s, why=lambda: json.dumps(self.events()[-5:]))
        return self.events()

    def judge(self, *agents: str, accepted: Iterable[int] = (), deadline_s: float = DEADLINE_S) -> list[dict[str, Any]]:
        """The log at rest, after both checkers found nothing wrong."""
        names = agents or ("mel",)
        events = self.at_rest(*names, deadline_s=deadline_s)
        runs = [run for name in names for run in self.runs(agent=name)]
        problems = log_problems(events, accepted=accepted, read_by=names) + run_problems(events, runs, names)
        assert not problems, problems
        return events

    def release(self) -> None:
        """Let the commands go on that hold."""
        (self.folder / "release").touch()


class CommandLines:
    """A context manager that collects the command line of every process of the machine, as often as it can."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._collect, daemon=True)

    def _collect(self) -> None:
        while not self._over.wait(0.01):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    self.seen.add(path.read_bytes())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
