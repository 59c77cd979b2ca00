"""A stand-in for webhooks that answer in every way, and for OpenClaw's gateway."""

import http.server
import json
import threading
from typing import Any

#: What the gateway lets in.
HOOKS_TOKEN = "hooks-token-of-the-gateway"


class Hooks(http.server.ThreadingHTTPServer):
    """Stands in for webhooks, and for OpenClaw's `POST /hooks/wake`; keeps what it was sent, by path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hook)
        self.sent: dict[str, list[tuple[dict[str, str], Any]]] = {}
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "Hooks":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()


class _Hook(http.server.BaseHTTPRequestHandler):
    server: Hooks

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.sent.setdefault(self.path, []).append((headers, body))
        how = self.path.strip("/")
        if how == "early":
            return
        if how == "hangs":
            self.server.released.wait()
            return
        if how == "garbage":
            self.wfile.write(b"what is this\r\n\r\n")
            return
        known = headers.get("authorization") == f"Bearer {HOOKS_TOKEN}"
        status = int(how) if how.isdigit() else 200 if known else 401
        answer = json.dumps({"ok": status == 200, "mode": "now", "eventOutcome": "queued"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        if status == 302:
            self.send_header("Location", "/200")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass
