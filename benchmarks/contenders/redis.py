"""Redis streams with a durable append-only file."""

from pathlib import Path
from typing import ClassVar

from benchmarks.contenders.base import MESSAGE, Contender
from benchmarks.load import send
from benchmarks.peers import version_of
from benchmarks.program import Program


class Redis(Contender):
    """XADD over RESP; a batch is as many commands in one write."""

    name: ClassVar[str] = "redis"
    durability: ClassVar[str] = "append-only file, appendfsync always"

    def prepare(self) -> None:
        """The server."""
        self.cache.debian("redis-server")

    def version(self) -> str:
        """The server's."""
        return version_of([self.cache.debian("redis-server"), "--version"], self.cache.libraries())

    def launch(self, folder: Path) -> Program:
        """A server without snapshots."""
        folder.mkdir(parents=True)
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(folder),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "auto-aof-rewrite-percentage": "0",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return Program(
            [self.cache.debian("redis-server"), *words], log=folder / "redis.log", env=self.cache.libraries()
        )

    def sending(self, connections: int, seconds: float, *, batch: int = 1, rate: float = 0.0) -> send.Plan:
        """XADD to one stream."""
        words = ["XADD", "stream", "*", "message", MESSAGE]
        command = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        return send.Plan(
            "127.0.0.1",
            self.port,
            "resp",
            command * batch,
            connections=connections,
            seconds=seconds,
            answers=batch,
            rate=rate,
        )
