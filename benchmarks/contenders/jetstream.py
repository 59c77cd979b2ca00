"""NATS JetStream, one server, every message synced before its acknowledgement."""

import json
import socket
from pathlib import Path
from typing import ClassVar

from benchmarks.contenders.base import MESSAGE, Contender
from benchmarks.load import send
from benchmarks.peers import version_of
from benchmarks.program import Program

_CONNECT = 'CONNECT {"verbose":false,"pedantic":false}\r\n'


class JetStream(Contender):
    """Publishing with a reply subject; a batch is as many publishes in one write."""

    name: ClassVar[str] = "jetstream"
    durability: ClassVar[str] = "file store, sync_interval: always"

    def prepare(self) -> None:
        """The server."""
        self.cache.venv("nats-server")

    def version(self) -> str:
        """The server's."""
        return version_of([self.cache.venv("nats-server"), "--version"])

    def launch(self, folder: Path) -> Program:
        """A server with a file store."""
        folder.mkdir(parents=True)
        config = folder / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{folder}", sync_interval: always, max_file_store: 100GB }}\n'
        )
        return Program([self.cache.venv("nats-server"), "-c", config], log=folder / "nats.log")

    def ready(self) -> None:
        """Make the stream."""
        body = json.dumps({"name": "bench", "subjects": ["bench.>"], "storage": "file", "retention": "limits"})
        with socket.create_connection(("127.0.0.1", self.port), 10) as sock:
            said = f"{_CONNECT}SUB made 1\r\nPUB $JS.API.STREAM.CREATE.bench made {len(body)}\r\n{body}\r\n"
            sock.sendall(said.encode())
            answer = b""
            while b"stream_create_response" not in answer or not answer.endswith(b"\r\n"):
                answer += sock.recv(65_536)
        if b'"error"' in answer:
            raise RuntimeError(f"JetStream made no stream: {answer!r}")

    def sending(self, connections: int, seconds: float, *, batch: int = 1, rate: float = 0.0) -> send.Plan:
        """PUB with an inbox of the connection's own."""
        command = f"PUB bench.mel ack.{{n}} {len(MESSAGE)}\r\n{MESSAGE}\r\n"
        return send.Plan(
            "127.0.0.1",
            self.port,
            "nats",
            command * batch,
            connections=connections,
            seconds=seconds,
            answers=batch,
            rate=rate,
            hello=_CONNECT + "SUB ack.{n} 1\r\nPING\r\n",
            hello_ends="PONG\r\n",
        )
