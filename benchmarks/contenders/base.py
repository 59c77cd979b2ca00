"""Contender: one thing that is measured, and how to speak with it."""

import json
from pathlib import Path
from typing import ClassVar

from benchmarks.load import follow, send
from benchmarks.load.wire import STAMP
from benchmarks.peers import Cache
from benchmarks.program import Program, free_port

#: The text of every message: 200 characters, the time of its sending among them.
TEXT = (STAMP.decode() + " " + "x" * 200)[:200]
#: A message as JSON, where a contender has no shape of its own for it.
MESSAGE = json.dumps({"to_agent": "mel", "from_agent": "bench", "payload": {"text": TEXT}})


class Contender:
    """A program to be measured. `durability` says what of an acknowledged message survives a power cut.

    `prepare` raises Missing, with the reason, if it cannot be had here.
    """

    name: ClassVar[str]
    durability: ClassVar[str]

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.port = 0
        self._program: Program | None = None

    @property
    def program(self) -> Program:
        """The running program."""
        assert self._program is not None, f"{self.name} was not started"
        return self._program

    def prepare(self) -> None:
        """Get what it takes."""

    def version(self) -> str:
        """Its version, with those of its parts that matter."""
        raise NotImplementedError

    def start(self, folder: Path) -> None:
        """Start it with its data in `folder`, and wait until it takes connections."""
        self.port = free_port()
        self._program = self.launch(folder)
        self._program.wait_port(self.port)
        self.ready()

    def launch(self, folder: Path) -> Program:
        """Start it on `self.port`."""
        raise NotImplementedError

    def ready(self) -> None:
        """What has to be done once it takes connections."""

    def stop(self) -> None:
        """End it."""
        if self._program is not None:
            self._program.stop()
            self._program = None

    def sending(self, connections: int, seconds: float, *, batch: int = 1, rate: float = 0.0) -> send.Plan | None:
        """How to append messages, `batch` with each request; None if it has no batches."""
        raise NotImplementedError

    def following(self, followers: int) -> follow.Plan | None:
        """How to follow what is appended from now on; None if it cannot be followed by server-sent events."""
        return None

    def http(self, method: str, path: str, body: str = "", headers: str = "") -> str:
        """A request as text; `headers` are whole lines."""
        length = f"Content-Length: {len(body.encode())}\r\nContent-Type: application/json\r\n" if body else ""
        return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n{headers}{length}\r\n{body}"

    def http_sending(self, request: str, connections: int, seconds: float, rate: float) -> send.Plan:
        """Such a request again and again."""
        return send.Plan("127.0.0.1", self.port, "http", request, connections=connections, seconds=seconds, rate=rate)
