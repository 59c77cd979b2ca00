"""The bus itself, as it is served by default, with tokens."""

import json
import platform
import re
import sqlite3
import sys
import urllib.request
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.contenders.base import TEXT, Contender
from benchmarks.load import follow, send
from benchmarks.load.drive import ROOT
from benchmarks.peers import Cache
from benchmarks.program import Program


class Bus(Contender):
    """`eventlog serve`. After its start `token` is an agent's, `admin` the administrator's, `url` its address."""

    name: ClassVar[str] = "bus"
    durability: ClassVar[str] = "SQLite WAL, synchronous=FULL, answer after the commit"

    def __init__(self, cache: Cache, options: Sequence[str] = ()) -> None:
        super().__init__(cache)
        self._options = list(options)
        self.token = self.admin = self.url = ""

    def version(self) -> str:
        """The distribution's, with Python's, SQLite's and the server's."""
        parts = [f"Python {platform.python_version()}", f"SQLite {sqlite3.sqlite_version}"]
        parts += [f"{name} {version(name)}" for name in ("uvicorn", "starlette")]
        try:
            parts.append(f"uvloop {version('uvloop')}")
        except PackageNotFoundError:
            parts.append("no uvloop")
        return f"{version('agent-eventlog')} ({', '.join(parts)})"

    def start(self, folder: Path) -> None:
        """Start it on the log in `folder`, which may be there already, and make a token."""
        self._program = self.launch(folder)
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.program.said)
        if found is None:
            raise RuntimeError(f"the bus does not listen: {self.program.log.read_text()[-500:]}")
        self.url, self.port = found[0], int(found[1])
        self.admin = (folder / "admin.token").read_text().strip()
        if not self.token:
            self.token = self.call("POST", "/api/tokens", {"name": "bench", "kind": "agent"})["token"]

    def launch(self, folder: Path) -> Program:
        """Start it."""
        folder.mkdir(parents=True, exist_ok=True)
        where: list[str | Path] = ["--data-dir", folder, "--port", "0", "--log-level", "warning"]
        return Program(
            [sys.executable, "-m", "eventlog.cli", "serve", *where, *self._options],
            log=folder / "bus.log",
            env={"XDG_CONFIG_HOME": str(folder / "config"), "PYTHONPATH": str(ROOT)},
            listens=True,
        )

    def call(self, method: str, path: str, body: Any = None, *, token: str = "") -> Any:
        """One request as the administrator, or with `token`; the decoded answer. Raises OSError."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token or self.admin}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return json.loads(answer.read())

    def sending(
        self, connections: int, seconds: float, *, batch: int = 1, rate: float = 0.0, to_agent: str = "mel"
    ) -> send.Plan:
        """POST /api/send by an agent: one message, or an array of them."""
        one = {"to_agent": to_agent, "payload": {"text": TEXT}}
        body = json.dumps(one if batch == 1 else [one] * batch)
        request = self.http("POST", "/api/send", body, f"Authorization: Bearer {self.token}\r\n")
        return self.http_sending(request, connections, seconds, rate)

    def following(self, followers: int, *, query: str = "after=latest") -> follow.Plan:
        """GET /api/stream by the administrator."""
        request = self.http("GET", f"/api/stream?{query}", headers=f"Authorization: Bearer {self.admin}\r\n")
        return follow.Plan("127.0.0.1", self.port, request, followers=followers, ready="\nid: ")
