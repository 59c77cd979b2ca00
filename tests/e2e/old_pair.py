"""A stand-in for one of the pair's two programs: its handlers, which run the agent in the request and wait for it."""

import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

PAIR = str(Path(__file__).with_name("pair.py"))
#: How long it waits for the other: then it was 60 s, and turns were lost.
PATIENCE_S = 60


class OldProgram:
    """A context manager. `post_to` and `secret` are what it sends to its peer; what it accepts stays as it is."""

    def __init__(self, name: str, folder: Path, accepts: str) -> None:
        self.name = name
        self.folder = folder
        self.accepts = accepts
        self.post_to, self.secret = "", accepts
        self._secret_file = folder / f"{name}.secret"
        self._secret_file.write_text(accepts)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self.take))
        self.port = self._server.server_port

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Nobody listens from then on."""
        self._server.shutdown()
        self._server.server_close()

    def take(self, path: str, secret: str | None, body: dict[str, Any]) -> tuple[int, dict[str, str]]:
        """What one of its routes does, and answers."""
        if secret != self.accepts:
            return 401, {"error": "unauthorized"}
        if path == "/send":
            self.post(body)
            return 200, {"status": "sent"}
        self._run({"to_agent": self.name, "type": body["type"], "payload": body.get("payload")})
        return 200, {"status": "received"}

    def post(self, body: dict[str, Any]) -> None:
        """Send to its peer."""
        headers = {"X-Shared-Secret": self.secret, "Content-Type": "application/json"}
        content = json.dumps({"type": body["type"], "payload": body.get("payload")}).encode()
        request = urllib.request.Request(f"{self.post_to}/message", content, headers)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            assert json.load(answer) == {"status": "received"}

    def _run(self, message: dict[str, Any]) -> None:
        """The agent's whole turn; it calls back here."""
        subprocess.run(
            [sys.executable, PAIR, str(self.folder), str(self._secret_file)],
            env=os.environ | {"EVENTLOG_URL": f"http://127.0.0.1:{self.port}"},
            input=json.dumps(message).encode(),
            check=True,
            timeout=PATIENCE_S,
        )


def _handler(
    take: Callable[[str, str | None, dict[str, Any]], tuple[int, dict[str, str]]],
) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = take(self.path, self.headers["X-Shared-Secret"], body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
