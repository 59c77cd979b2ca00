"""Durable Streams' Node.js server, with its files."""

import json
from http.client import HTTPConnection
from pathlib import Path
from typing import ClassVar

from benchmarks.contenders.base import MESSAGE, Contender
from benchmarks.load import follow, send
from benchmarks.peers import NPM, version_of
from benchmarks.program import Program

_SERVER = """
import {{ DurableStreamTestServer }} from "{module}"
const server = new DurableStreamTestServer({{
  port: {port}, host: "127.0.0.1", dataDir: "{folder}/streams", compression: false
}})
await server.start()
process.on("SIGTERM", () => process.exit(0))
"""


class DurableStreams(Contender):
    """POST of a JSON array to one stream."""

    name: ClassVar[str] = "durable-streams"
    durability: ClassVar[str] = "files, fsync before the answer"

    def prepare(self) -> None:
        """The npm package."""
        self.cache.npm()

    def version(self) -> str:
        """The package's, and Node's."""
        package = json.loads((self._package() / "package.json").read_text())
        return f"{package['version']} (Node {version_of(['node', '--version'])})"

    def _package(self) -> Path:
        return self.cache.npm() / "node_modules" / NPM

    def launch(self, folder: Path) -> Program:
        """A server with its data in `folder`."""
        folder.mkdir(parents=True)
        script = folder / "server.mjs"
        module = self._package() / "dist" / "index.js"
        script.write_text(_SERVER.format(module=module, port=self.port, folder=folder))
        return Program(["node", script], log=folder / "node.log")

    def ready(self) -> None:
        """Make the stream."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("PUT", "/bench", headers={"Content-Type": "application/json"})
        status = connection.getresponse().status
        connection.close()
        if status not in (200, 201):
            raise RuntimeError(f"no stream could be made: {status}")

    def sending(self, connections: int, seconds: float, *, batch: int = 1, rate: float = 0.0) -> send.Plan:
        """POST to the stream."""
        body = MESSAGE if batch == 1 else f"[{','.join([MESSAGE] * batch)}]"
        return self.http_sending(self.http("POST", "/bench", body), connections, seconds, rate)

    def following(self, followers: int) -> follow.Plan:
        """Its live mode of server-sent events."""
        request = self.http("GET", "/bench?offset=now&live=sse", headers="Accept: text/event-stream\r\n")
        return follow.Plan("127.0.0.1", self.port, request, followers=followers)
